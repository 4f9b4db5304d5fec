"""Builds the FastAPI application: the one place where its parts are put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app.access import problems
from app.access.limits import BodyLimit
from app.access.routes import router as access
from app.audit.routes import router as audit
from app.certificate.routes import router as certificate
from app.core.config import Settings, load_settings
from app.core.db import Database
from app.core.logging import configure_logging
from app.core.queue import CeleryDoorbell, Doorbell, celery_app
from app.core.signing import SigningKeys, load_signing_keys
from app.dashboard.pages import add_error_pages
from app.dashboard.routes import router as dashboard
from app.decisions.routes import router as decisions
from app.health.routes import router as health
from app.intake.routes import router as intake
from app.inventory.routes import router as inventory
from app.lineage.routes import router as lineage
from app.planning.routes import router as planning
from app.runs.routes import router as runs
from app.sla.routes import router as sla

DESCRIPTION = """
Carries a person's request to be erased all the way into the trained models.

Errors are RFC 9457 problems with `advice`. Every call that creates takes an `Idempotency-Key`, but
`POST /v1/api-keys`, which refuses one: a token is told once and stored nowhere.
Authenticate with `Authorization: Bearer <api key>`.
"""
ROUTERS = (
    intake,
    decisions,
    planning,
    certificate,
    runs,
    inventory,
    lineage,
    sla,
    audit,
    access,
    health,
    dashboard,
)


def create_app(
    settings: Settings | None = None,
    *,
    database: Database | None = None,
    signing_keys: SigningKeys | None = None,
) -> FastAPI:
    """Build the application; what is not given is made from the environment's settings."""
    configure_logging()
    settings = settings or load_settings()
    keys = signing_keys or load_signing_keys(settings.signing_keys, settings.log_origin)
    own = database or Database(settings.database_url.get_secret_value(), _doorbell(settings))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        own.dispose()

    app = FastAPI(
        title="Lethe",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        responses={
            "4XX": {
                "description": "A problem, with advice",
                "content": {problems.MEDIA_TYPE: {"schema": problems.PROBLEM_SCHEMA}},
            }
        },
    )
    app.state.settings, app.state.database, app.state.signing_keys = settings, own, keys
    app.add_middleware(BodyLimit)
    problems.add_handlers(app)
    add_error_pages(app)
    for router in ROUTERS:
        app.include_router(router)
    _describe_problems(app)
    return app


def _doorbell(settings: Settings) -> Doorbell:
    return CeleryDoorbell(celery_app(settings.redis_url.get_secret_value()))


def _describe_problems(app: FastAPI) -> None:
    """Say in the OpenAPI document what is true: a 422 is a problem, not FastAPI's own shape."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        for path in document["paths"].values():
            for operation in path.values():
                operation.get("responses", {}).pop("422", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
