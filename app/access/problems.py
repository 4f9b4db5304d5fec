"""Every error as an RFC 9457 problem with advice, and never with a value that was sent."""

import re
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg.errors import DeadlockDetected, SerializationFailure
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException

from app.core.errors import AppError, Problem, problem
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


def answer(problem: Problem) -> JSONResponse:
    """Render one problem."""
    status = int(problem["status"])
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(problem, status, headers=headers, media_type=MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Register one handler per family of errors."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(InvalidIdentifier, _invalid_identifier)
    app.add_exception_handler(IllegalMove, _illegal_move)
    app.add_exception_handler(OperationalError, _no_database)
    app.add_exception_handler(DataError, _not_storable)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def _app_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, AppError):
        raise error
    return answer(error.problem)


def _invalid_body(_request: Request, error: Exception) -> JSONResponse:
    # pydantic's own error repeats the input; a key of the body may be an identifier as well.
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    fields = [
        {"field": _place(one["loc"], one["type"]), "problem": one["type"]} for one in errors[:20]
    ]
    first = fields[0] if fields else {"field": "body", "problem": "invalid"}
    detail = f"The field {first['field']} is not valid: {first['problem']}."
    advice = "Compare the request with /docs, correct the fields named, and send it again."
    return answer(problem("invalid-input", 422, detail, advice) | {"errors": fields})


def _place(parts: Sequence[object], kind: str) -> str:
    # The name of a field that nobody expects is the caller's own word, perhaps an identifier.
    known = parts[:-1] if kind == "extra_forbidden" else parts
    return ".".join([*map(_shown, known), *["…"] * (len(parts) - len(known))])


def _shown(part: object) -> str:
    text = str(part)
    return text if isinstance(part, int) or FIELD.match(text) else "…"


def _invalid_identifier(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, InvalidIdentifier):
        raise error
    detail = f"An identifier of type {error.type} is malformed."
    return answer(problem("invalid-identifier", 422, detail, f"Please {error.advice}."))


def _illegal_move(_request: Request, error: Exception) -> JSONResponse:
    advice = "Read the request's present state; see its timeline."
    return answer(problem("illegal-move", 409, f"{error}.", advice))


def _no_database(_request: Request, error: Exception) -> JSONResponse:
    cause = error.orig if isinstance(error, OperationalError) else None
    if isinstance(cause, DeadlockDetected | SerializationFailure):
        detail = "Two calls stood in each other's way, and this one was rolled back."
        return answer(problem("try-again", 503, detail, "Send the same request again."))
    log.error("database_unreachable", error=type(error).__name__)
    detail = "The database does not answer; nothing was stored."
    advice = "Send the same request again, with the same Idempotency-Key, in a minute."
    return answer(problem("database-unreachable", 503, detail, advice))


def _not_storable(_request: Request, error: Exception) -> JSONResponse:
    log.warning("value_not_storable", error=type(error).__name__)
    detail = "A value of the request cannot be stored: a NUL character, NaN or an infinite number."
    advice = "Send text without NUL and half surrogates, and finite numbers."
    return answer(problem("invalid-input", 422, detail, advice))


NO_SUCH_CALL = (
    "The address or the method is not one of this service's.",
    "See /docs for every address and method.",
)
HTTP_ERRORS = {
    400: (
        "malformed-request",
        "The body cannot be read as JSON.",
        "Send one JSON object, nested no deeper than /docs shows, in UTF-8.",
    ),
    404: ("not-found", *NO_SUCH_CALL),
    405: ("method-not-allowed", *NO_SUCH_CALL),
}


def _http_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    told = HTTP_ERRORS.get(error.status_code, ("http-error", *NO_SUCH_CALL))
    slug, detail, advice = told
    response = answer(problem(slug, error.status_code, detail, advice))
    # RFC 9110 §15.5.6: a 405 names the methods that are allowed.
    response.headers.update(error.headers or {})
    return response


def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected_error", error=type(error).__name__)
    detail = "Something went wrong inside the service; the transaction was rolled back."
    return answer(problem("internal", 500, detail, AppError.advice))
