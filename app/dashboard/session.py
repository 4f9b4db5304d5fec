"""Who is looking at the dashboard: a signed cookie, and a token in every form.

The cookie holds the API key's id, when it ends and a signature; nothing of it is stored here. The
key is looked up at each page, so revoking it ends its sessions at once. Signing out only makes the
browser forget the cookie: a copy of it lasts until its time is over or the key is revoked.
"""

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Form, Request, Response

from app.access import repository
from app.access.dependencies import SessionDep, SettingsDep
from app.access.service import Caller
from app.core.clock import utc_now
from app.core.errors import ForbiddenError, UnauthenticatedError
from app.core.security import Role, message_code

COOKIE: Final = "lethe_session"
LIFETIME: Final = timedelta(hours=8)
READERS: Final = frozenset({Role.DPO, Role.AUDITOR, Role.ADMIN})
_SESSION, _FORM = "dashboard-session", "dashboard-form"


class SignInNeededError(UnauthenticatedError):
    """Nobody is signed in, or the session has ended."""

    advice = "Sign in at /dashboard/sign-in."


class ForeignFormError(ForbiddenError):
    """The form does not belong to this session; nothing was done."""

    advice = "Go back, load the page again and send the form once more."


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is signed in, and the token that each of their forms must carry."""

    caller: Caller
    form_token: str

    @property
    def decides(self) -> bool:
        """Whether they may decide, and see whom a request is about."""
        return self.caller.role == Role.DPO


def open_session(response: Response, request: Request, vault_secret: str, key_id: UUID) -> None:
    """Set the cookie of a session of eight hours for the holder of an API key."""
    response.set_cookie(
        COOKIE,
        sign_session(vault_secret, key_id, utc_now()),
        max_age=int(LIFETIME.total_seconds()),
        path="/dashboard",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def close_session(response: Response) -> None:
    """Have the browser forget the session."""
    response.delete_cookie(COOKIE, path="/dashboard", httponly=True, samesite="strict")


def sign_session(vault_secret: str, key_id: UUID, now: datetime) -> str:
    """Return a fresh session's cookie value: `<key id>.<end>.<random>.<signature>`."""
    ends = int((now + LIFETIME).timestamp())
    said = f"{key_id.hex}.{ends}.{secrets.token_hex(16)}"
    return f"{said}.{_signature(vault_secret, said)}"


def read_session(vault_secret: str, cookie: str, now: datetime) -> UUID | None:
    """Return the API key's id of a session that holds at `now`, else None."""
    said, _, signature = cookie.rpartition(".")
    expected = _signature(vault_secret, said)
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        return None
    key_id, ends, _ = said.split(".")
    return UUID(hex=key_id) if now.timestamp() < int(ends) else None


def _signature(vault_secret: str, said: str) -> str:
    return message_code(vault_secret, _SESSION, said.encode()).hex()


def get_visitor(request: Request, session: SessionDep, settings: SettingsDep) -> Visitor:
    """Return who is signed in.

    Raises:
        SignInNeededError: nobody, the session has ended, or its API key was revoked.
    """
    cookie = request.cookies.get(COOKIE, "")
    vault_secret = settings.vault_secret.get_secret_value()
    key_id = read_session(vault_secret, cookie, utc_now())
    row = None if key_id is None else repository.active_api_key(session, key_id)
    if row is None:
        raise SignInNeededError
    return Visitor(
        Caller(row.id, row.name, Role(row.role)),
        message_code(vault_secret, _FORM, cookie.encode()).hex(),
    )


VisitorDep = Annotated[Visitor, Depends(get_visitor)]


def get_sender(visitor: VisitorDep, form_token: Annotated[str, Form()] = "") -> Visitor:
    """Return who sent a form of this session.

    Raises:
        ForeignFormError: the form lacks the session's token.
    """
    if not hmac.compare_digest(form_token.encode(), visitor.form_token.encode()):
        raise ForeignFormError
    return visitor


SenderDep = Annotated[Visitor, Depends(get_sender)]


def get_decider(sender: SenderDep) -> Visitor:
    """Return the data protection officer who sent a form.

    Raises:
        ForbiddenError: another role sent it.
    """
    if not sender.decides:
        raise ForbiddenError(
            "Only a data protection officer decides; this session is read-only.",
            advice="Sign in with an API key of the role dpo.",
        )
    return sender


DeciderDep = Annotated[Visitor, Depends(get_decider)]
