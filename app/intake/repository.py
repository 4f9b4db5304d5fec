"""SQL for erasure requests, their subject keys and their sealed identifiers."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session, aliased

from app.models import (
    Action,
    Artifact,
    ErasureRequest,
    RequestKey,
    RequestSubject,
    SuppressedRecord,
    Suppression,
)


def add_request(
    session: Session, request: ErasureRequest, wrapped_key: bytes, keys: Iterable[UUID]
) -> None:
    """Insert a request with its key and its subjects."""
    session.add(request)
    session.flush()
    session.add(RequestKey(request_id=request.id, wrapped_key=wrapped_key))
    session.add_all(RequestSubject(request_id=request.id, subject_key=key) for key in set(keys))
    session.flush()


def open_request_of(session: Session, portal_id: UUID, subject_set: bytes) -> UUID | None:
    """Return the open request of this portal for exactly these subject keys."""
    return session.scalar(
        select(ErasureRequest.id).where(
            ErasureRequest.portal_id == portal_id,
            ErasureRequest.subject_set == subject_set,
            ErasureRequest.closed_at.is_(None),
        )
    )


def locked(session: Session, request_id: UUID) -> ErasureRequest | None:
    """Return the request, locked until the transaction ends."""
    return session.get(ErasureRequest, request_id, with_for_update=True, populate_existing=True)


def find(session: Session, request_id: UUID, portal_id: UUID | None) -> ErasureRequest | None:
    """Return the request; for a portal only if it is its own."""
    query = select(ErasureRequest).where(ErasureRequest.id == request_id)
    if portal_id is not None:
        query = query.where(ErasureRequest.portal_id == portal_id)
    return session.scalar(query)


def page(
    session: Session, portal_id: UUID | None, after: UUID | None, limit: int
) -> Sequence[ErasureRequest]:
    """Return requests by id, a portal's own only."""
    query = select(ErasureRequest).order_by(ErasureRequest.id).limit(limit)
    if portal_id is not None:
        query = query.where(ErasureRequest.portal_id == portal_id)
    if after is not None:
        query = query.where(ErasureRequest.id > after)
    return session.scalars(query).all()


def subject_keys(session: Session, request_id: UUID) -> list[UUID]:
    """Return the subject keys the request names."""
    query = select(RequestSubject.subject_key).where(RequestSubject.request_id == request_id)
    return list(session.scalars(query.order_by(RequestSubject.subject_key)))


def linked(session: Session, request_id: UUID) -> list[UUID]:
    """Return other open requests that share a subject key with this one."""
    mine, other = aliased(RequestSubject), aliased(RequestSubject)
    query = (
        select(ErasureRequest.id)
        .distinct()
        .join(other, other.request_id == ErasureRequest.id)
        .join(mine, mine.subject_key == other.subject_key)
        .where(
            mine.request_id == request_id,
            ErasureRequest.id != request_id,
            ErasureRequest.closed_at.is_(None),
        )
        .order_by(ErasureRequest.id)
    )
    return list(session.scalars(query))


def actions(session: Session, request_id: UUID) -> Sequence[tuple[Action, Artifact]]:
    """Return the request's actions with the artifacts they act on."""
    query = (
        select(Action, Artifact)
        .join(Artifact, Artifact.id == Action.artifact_id)
        .where(Action.request_id == request_id)
        .order_by(Action.id)
    )
    return [(action, artifact) for action, artifact in session.execute(query)]


def request_key(session: Session, request_id: UUID) -> bytes | None:
    """Return the wrapped key of an open request."""
    row = session.get(RequestKey, request_id)
    return None if row is None else row.wrapped_key


def destroy_key(session: Session, request: ErasureRequest, now: datetime) -> None:
    """Forget the identifiers: the sealed bytes and the only key that opens them."""
    session.execute(delete(RequestKey).where(RequestKey.request_id == request.id))
    request.sealed_identifiers = None
    request.closed_at = now
    session.flush()


def has_begun(session: Session, request_id: UUID) -> bool:
    """Say whether a run carries out, or has carried out, an action of the request."""
    begun = exists().where(
        Action.request_id == request_id,
        Action.run_id.is_not(None),
        Action.state.not_in(["planned", "failed", "not_reachable"]),
    )
    return bool(session.scalar(select(begun)))


def lift_suppressions(session: Session, request_id: UUID, now: datetime) -> None:
    """Let the person's records be trained on again: the request was called off."""
    for table in (Suppression, SuppressedRecord):
        session.execute(
            update(table)
            .where(table.request_id == request_id, table.lifted_at.is_(None))
            .values(lifted_at=now)
        )
