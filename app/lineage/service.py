"""Tracing a person to every artifact they reached."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.lineage import repository
from app.lineage.rules import Trace


def trace_subject(session: Session, keys: Sequence[UUID]) -> Trace:
    """Return everything that the subject keys reached, over the whole history."""
    return Trace(
        datasets=repository.found_records(session, keys),
        models=repository.found_models(session, keys),
        derived=repository.found_derived(session, keys),
        unknown=repository.unknown_lineage(session),
    )


def suppress(
    session: Session, request_id: UUID, keys: Sequence[UUID], received_at: datetime, now: datetime
) -> None:
    """Put the person on the suppression list, so that no manifest made from now on holds them."""
    repository.lock_manifests(session)
    repository.suppress(session, request_id, keys, received_at, now)
