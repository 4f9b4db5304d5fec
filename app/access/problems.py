"""Every error as an RFC 9457 problem with advice, and never with a value that was sent."""

import re
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from app.core.errors import AppError
from app.core.identifiers import InvalidIdentifier
from app.core.lifecycle import IllegalMove

MEDIA_TYPE = "application/problem+json"
FIELD = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,40}$")
log = structlog.get_logger()

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "advice": {"type": "string", "description": "What to do next"},
    },
    "required": ["type", "title", "status", "detail", "advice"],
}


def problem(
    status: int, slug: str, detail: str, advice: str, extra: dict[str, Any] | None = None
) -> JSONResponse:
    """Render one problem."""
    body = {
        "type": f"/problems/{slug}",
        "title": slug.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "advice": advice,
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(body | (extra or {}), status, headers=headers, media_type=MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Register one handler per family of errors."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(InvalidIdentifier, _invalid_identifier)
    app.add_exception_handler(IllegalMove, _illegal_move)
    app.add_exception_handler(OperationalError, _no_database)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def _app_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, AppError):
        raise error
    return problem(error.status, error.slug, error.detail, error.next_step, error.extra)


def _invalid_body(_request: Request, error: Exception) -> JSONResponse:
    # pydantic's own error repeats the input; a key of the body may be an identifier as well.
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    fields = [
        {"field": ".".join(_shown(part) for part in one["loc"]), "problem": one["type"]}
        for one in errors[:20]
    ]
    first = fields[0] if fields else {"field": "body", "problem": "invalid"}
    return problem(
        422,
        "invalid-input",
        f"The field {first['field']} is not valid: {first['problem']}.",
        "Compare the request with /docs, correct the fields named, and send it again.",
        {"errors": fields},
    )


def _shown(part: object) -> str:
    text = str(part)
    return text if isinstance(part, int) or FIELD.match(text) else "…"


def _invalid_identifier(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, InvalidIdentifier):
        raise error
    return problem(
        422, "invalid-identifier", f"An identifier of type {error.type} is malformed.", error.advice
    )


def _illegal_move(_request: Request, error: Exception) -> JSONResponse:
    return problem(
        409, "illegal-move", f"{error}.", "Read the request's present state; see its timeline."
    )


def _no_database(_request: Request, error: Exception) -> JSONResponse:
    log.error("database_unreachable", error=type(error).__name__)
    return problem(
        503,
        "database-unreachable",
        "The database does not answer; nothing was stored.",
        "Send the same request again, with the same Idempotency-Key, in a minute.",
    )


def _http_error(_request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    slugs = {404: "not-found", 405: "method-not-allowed", 400: "malformed-request"}
    return problem(
        status,
        slugs.get(status, "http-error"),
        "The address or the method is not one of this service's.",
        "See /docs for every address and method.",
    )


def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected_error", error=type(error).__name__)
    return problem(
        500,
        "internal",
        "Something went wrong inside the service; the transaction was rolled back.",
        "Send it again; if it happens again, look at the service's log.",
    )
