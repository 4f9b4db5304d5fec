"""What every route declares: a session that commits before the answer, and who may call."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any
from uuid import UUID

import http_sf
from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from app.access import repository
from app.access.service import Caller, authenticate
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import ForbiddenError, InvalidInputError, UnauthenticatedError
from app.core.security import Role, keyed_digest

MAX_PAGE = 200
bearer = HTTPBearer(auto_error=False, description="An API key: `lethe_<id>_<secret>`")


def get_settings(request: Request) -> Settings:
    """Return the settings the application was built with."""
    settings: Settings = request.app.state.settings
    return settings


def get_session(request: Request) -> Iterator[Session]:
    """Open the request's one transaction; it commits before the response is built."""
    database: Database = request.app.state.database
    with database.transaction() as session:
        yield session


SettingsDep = Annotated[Settings, Depends(get_settings)]
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def get_caller(
    session: SessionDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    """Authenticate the bearer token."""
    if credentials is None:
        raise UnauthenticatedError
    return authenticate(session, credentials.credentials)


def require(*roles: Role) -> Callable[[Caller], Caller]:
    """Return the dependency that lets only these roles through."""

    def allowed(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
        if caller.role not in roles:
            names = " or ".join(roles)
            raise ForbiddenError(f"This call needs the role {names}; the key is {caller.role}.")
        return caller

    return allowed


def portal_of(caller: Caller) -> UUID | None:
    """Return the portal whose requests a caller is limited to, or None for every other role."""
    return caller.id if caller.role == Role.PORTAL else None


async def get_body(request: Request) -> bytes:
    """Return the raw body, for the digest that binds an Idempotency-Key to it."""
    return await request.body()


class Once:
    """Runs a creating call once per Idempotency-Key and gives the same answer again."""

    def __init__(self, session: Session, settings: Settings, key: str | None, digest: bytes):
        self._session, self._settings = session, settings
        self._key, self._digest = key, digest

    def answer(
        self, caller: Caller, status: int, create: Callable[[], tuple[Any, str | None]]
    ) -> Response:
        """Return what `create` returned as (JSON body, Location), now or at the first call.

        Raises:
            InvalidInputError: the key was used before with another body.
        """
        if self._key is None:
            body, location = create()
            return _json(status, body, location)
        earlier = repository.begin_call(
            self._session, caller.id, self._key, self._digest, utc_now()
        )
        if earlier is None:
            body, location = create()
            call = repository.call(self._session, caller.id, self._key)
            call.status, call.body, call.location = status, body, location
            return _json(status, body, location)
        if earlier.request_digest != self._digest:
            raise InvalidInputError(
                "This Idempotency-Key was used before with another body.",
                advice="Use a fresh key for a new request; repeat a request byte for byte.",
            )
        return _json(earlier.status or status, earlier.body, earlier.location)


def get_once(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    body: Annotated[bytes, Depends(get_body)],
    idempotency_key: Annotated[
        str | None,
        Header(description='A quoted string, e.g. `"7f3c…"` (draft-ietf-httpapi-idempotency-key)'),
    ] = None,
) -> Once:
    """Read the Idempotency-Key, a structured-field string (RFC 9651 §3.3.3)."""
    secret = settings.vault_secret.get_secret_value()
    key = None
    if idempotency_key is not None:
        # Kept for good, and portals make keys of what they have at hand: an e-mail, a phone number.
        key = keyed_digest(secret, _parse_key(idempotency_key).encode()).hex()
    told_apart = f"{request.method} {request.url.path}\n".encode() + body
    return Once(session, settings, key, keyed_digest(secret, told_apart))


OnceDep = Annotated[Once, Depends(get_once)]


def refuse_once(
    idempotency_key: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> None:
    """Refuse an Idempotency-Key where the answer holds a secret, which is not kept to be repeated.

    Raises:
        InvalidInputError: one was sent.
    """
    if idempotency_key is not None:
        raise InvalidInputError(
            "This call takes no Idempotency-Key: a token is told once, so nothing can repeat it.",
            advice="Send it without the header. If an answer was lost, list the keys and revoke "
            "the one that nobody holds.",
        )


def _parse_key(header: str) -> str:
    try:
        parsed: Any = http_sf.parse(header.encode(), tltype="item")
        value = parsed[0]
    except (http_sf.StructuredFieldError, ValueError):
        value = None
    if not isinstance(value, str) or not 1 <= len(value) <= 128:
        raise InvalidInputError(
            "The Idempotency-Key header is not a quoted string of 1 to 128 characters.",
            advice='Send it quoted: Idempotency-Key: "<uuid>"',
        )
    return value


def _json(status: int, body: object, location: str | None) -> JSONResponse:
    return JSONResponse(body, status, headers={} if location is None else {"Location": location})


class Page:
    """Keyset pagination over ids: `after` is the last id of the page before."""

    def __init__(
        self,
        cursor: Annotated[
            UUID | None, Query(description="`next_cursor` of the page before")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    ) -> None:
        self.after, self.limit = cursor, limit

    def of(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the page's JSON form; a full page names where the next one starts."""
        full = len(items) == self.limit
        return {"items": items, "next_cursor": items[-1]["id"] if full else None}


PageDep = Annotated[Page, Depends()]


def as_json(model: Any) -> Any:
    """Return a pydantic model as the JSON value it is sent as."""
    return json.loads(model.model_dump_json())
