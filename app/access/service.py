"""API keys: making, checking and revoking them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.access import repository
from app.audit import service as audit
from app.core.errors import NotFoundError, UnauthenticatedError
from app.core.security import Role, new_api_key, parse_token, secret_matches


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling: the API key's id, name and role."""

    id: UUID
    name: str
    role: Role


def create_api_key(session: Session, name: str, role: Role, now: datetime) -> tuple[Caller, str]:
    """Make a key; return its holder and the token, which is shown this once."""
    key = new_api_key()
    row = repository.add_api_key(session, key, name, role, now)
    audit.record(session, "api_key_created", now, api_key=row.id, role=str(role))
    return Caller(row.id, row.name, role), key.token


def authenticate(session: Session, token: str) -> Caller:
    """Return the caller behind a bearer token.

    Raises:
        UnauthenticatedError: the token has another form, is unknown, or was revoked.
    """
    parsed = parse_token(token)
    if parsed is None:
        raise UnauthenticatedError
    key_id, secret = parsed
    row = repository.active_api_key(session, key_id)
    if row is None or not secret_matches(secret, row.secret_hash):
        raise UnauthenticatedError
    return Caller(row.id, row.name, Role(row.role))


def revoke_api_key(session: Session, key_id: UUID, now: datetime) -> None:
    """Revoke a key from now on."""
    row = repository.active_api_key(session, key_id)
    if row is None:
        raise NotFoundError
    row.revoked_at = now
    audit.record(session, "api_key_revoked", now, api_key=key_id)
