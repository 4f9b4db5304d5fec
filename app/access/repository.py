"""SQL for API keys and idempotent calls."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.security import NewApiKey, Role
from app.models import ApiKey, IdempotentCall


def add_api_key(session: Session, key: NewApiKey, name: str, role: Role, now: datetime) -> ApiKey:
    """Store a new key's hash."""
    row = ApiKey(id=key.id, name=name, role=role, secret_hash=key.secret_hash, created_at=now)
    session.add(row)
    session.flush()
    return row


def active_api_key(session: Session, key_id: UUID) -> ApiKey | None:
    """Return the key unless it was revoked."""
    return session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)))


def api_keys(session: Session, after: UUID | None, limit: int) -> Sequence[ApiKey]:
    """Return keys by id, revoked ones too."""
    query = select(ApiKey).order_by(ApiKey.id).limit(limit)
    return session.scalars(query if after is None else query.where(ApiKey.id > after)).all()


def begin_call(
    session: Session, api_key_id: UUID, key: str, digest: bytes, now: datetime
) -> IdempotentCall | None:
    """Claim an Idempotency-Key; return the earlier call when it was claimed before.

    A second caller with the same key waits here until the first transaction has ended.
    """
    claimed = session.execute(
        insert(IdempotentCall)
        .values(api_key_id=api_key_id, key=key, request_digest=digest, created_at=now)
        .on_conflict_do_nothing()
        .returning(IdempotentCall.key)
    ).scalar()
    return None if claimed is not None else session.get_one(IdempotentCall, (api_key_id, key))


def call(session: Session, api_key_id: UUID, key: str) -> IdempotentCall:
    """Return a claimed call."""
    return session.get_one(IdempotentCall, (api_key_id, key))
