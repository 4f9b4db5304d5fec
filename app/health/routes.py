"""`/health/live`, `/health/ready` and `/metrics`: the only open calls besides the docs."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from app.access.dependencies import SessionDep
from app.core.clock import utc_now
from app.health import repository

router = APIRouter(tags=["Health"])
ROLES = ("control", "compute")


@router.get("/health/live")
def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/health/ready", responses={503: {"description": "A part is missing"}})
def ready(session: SessionDep) -> JSONResponse:
    """Say whether the database answers and a worker of each role was heard from."""
    alive = repository.workers_alive(session, utc_now())
    missing = [role for role in ROLES if role not in alive]
    body: dict[str, Any] = {"database": "ok", "workers": {role: role in alive for role in ROLES}}
    return JSONResponse(body, 503 if missing else 200)


@router.get("/metrics", response_class=Response)
def metrics(session: SessionDep) -> Response:
    """Return counts of requests, runs and steps by state, for Prometheus."""
    registry = CollectorRegistry()
    for name, counts in repository.counts(session).items():
        gauge = Gauge(f"lethe_{name}", f"Number of {name} by state", ["state"], registry=registry)
        for state, number in counts.items():
            gauge.labels(state=state).set(number)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
