"""Watching the clocks: each open request against its deadline, each promise against its date."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core.config import Settings
from app.core.errors import NotFoundError
from app.models import Action, Commitment, ErasureRequest, ModelVersion
from app.sla import repository
from app.sla.rules import REGIMES, Clock, Sla, clock, sla

log = structlog.get_logger()
RETRY_PROMISED_AFTER = timedelta(days=1)


def clock_of(settings: Settings, request: ErasureRequest) -> Clock:
    """Return a request's clock in the controller's country and time zone."""
    return clock(
        request.regime,
        request.received_at,
        country=settings.controller_country,
        extended=request.extended,
        time_zone=ZoneInfo(settings.controller_time_zone),
    )


def sla_of(settings: Settings, request: ErasureRequest, now: datetime) -> Sla:
    """Return how a request stands, or stood when it closed."""
    return sla(clock_of(settings, request), now, closed_at=request.closed_at)


def watch(session: Session, settings: Settings, now: datetime) -> int:
    """Mark open requests that became at risk or breached; return how many changed."""
    changed = 0
    for request in repository.open_requests(session):
        status = sla_of(settings, request, now).status
        if status != request.sla_status:
            request.sla_status = status
            changed += 1
            audit.record(session, f"clock_{status}", now, request_id=request.id)
            if status in {"at_risk", "breached"}:
                log.warning("request_clock", request=str(request.id), status=status)
    return changed


def summary(session: Session, settings: Settings, now: datetime) -> dict[str, Any]:
    """Return how many requests stand where, by clock and by state, and the promises."""
    requests = repository.requests(session)
    standing = [sla_of(settings, one, now) for one in requests]
    return {
        "by_status": dict(Counter(one.status for one in standing)),
        "by_state": dict(Counter(one.state for one in requests)),
        "regimes": sorted(REGIMES),
        "commitments": commitments(session, now),
    }


def commitments(session: Session, now: datetime) -> list[dict[str, Any]]:
    """Return every dated promise, earliest due first."""
    return [
        _describe_commitment(one, model.name, now) for one, model in repository.commitments(session)
    ]


def _describe_commitment(one: Commitment, model: str, now: datetime) -> dict[str, Any]:
    """Return a promise as the API shows it."""
    overdue = one.kept_at is None and one.due_at < now
    return {
        "id": str(one.id),
        "request": str(one.request_id),
        "model": model,
        "kind": one.kind,
        "reason": one.reason,
        "starts_at": one.starts_at.isoformat(),
        "due_at": one.due_at.isoformat(),
        "state": "kept" if one.kept_at else "overdue" if overdue else "open",
        "kept_at": one.kept_at.isoformat() if one.kept_at else None,
    }


def promise(
    session: Session,
    action: Action,
    *,
    reason: str,
    starts_at: datetime,
    due_at: datetime,
    now: datetime,
) -> Commitment:
    """Make the dated promise that the next exact retraining leaves the records out."""
    version = session.get_one(ModelVersion, action.model_version_id)
    commitment = Commitment(
        request_id=action.request_id,
        action_id=action.id,
        model_id=version.model_id,
        kind="exact_retraining",
        reason=reason,
        starts_at=min(starts_at, due_at),
        due_at=due_at,
        created_at=now,
    )
    session.add(commitment)
    session.flush()
    audit.record(
        session,
        "commitment_made",
        now,
        request_id=action.request_id,
        action=action.id,
        commitment=commitment.id,
    )
    return commitment


def bring_forward(session: Session, commitment_id: UUID, now: datetime) -> Commitment:
    """Let a promise's retraining start now.

    Raises:
        NotFoundError: no open promise has this id.
    """
    commitment = session.get(Commitment, commitment_id, with_for_update=True)
    if commitment is None or commitment.kept_at is not None:
        raise NotFoundError("No open commitment has this id.")
    commitment.starts_at = min(commitment.starts_at, now)
    audit.record(
        session,
        "commitment_brought_forward",
        now,
        request_id=commitment.request_id,
        commitment=commitment.id,
    )
    return commitment


def unkept(session: Session) -> Sequence[Commitment]:
    """Return every open promise, earliest due first."""
    return repository.unkept_commitments(session)


def promised_by(session: Session, model_id: UUID | None) -> datetime | None:
    """Return the earliest date of a model's open promises."""
    return None if model_id is None else repository.promised_by(session, model_id)


def open_commitments(session: Session, model_id: UUID | None) -> Sequence[Commitment]:
    """Return a model's open promises, locked."""
    return () if model_id is None else repository.open_commitments(session, model_id)


def postpone(session: Session, model_id: UUID | None, now: datetime) -> None:
    """Try a model's promised retraining again tomorrow, after a run of it failed."""
    for commitment in open_commitments(session, model_id):
        commitment.starts_at = max(commitment.starts_at, now + RETRY_PROMISED_AFTER)
    log.error("promised_retraining_failed", model=str(model_id))


def keep(session: Session, commitment: Commitment, version_id: UUID | None, now: datetime) -> None:
    """Close a promise by the version that leaves the records out."""
    commitment.kept_at, commitment.kept_by_version_id = now, version_id
    audit.record(
        session,
        "commitment_kept",
        now,
        request_id=commitment.request_id,
        commitment=commitment.id,
    )
