"""What the overview shows: requests and promises by date. Values and `now` in, values out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.core.lifecycle import RequestState
from app.dashboard.repository import ClosedCounts, ListedRequest
from app.models import Commitment
from app.sla.rules import Clock, Sla, SlaStatus, sla

WAITS_FOR_A_PERSON: Final = frozenset(
    {
        RequestState.AWAITING_IDENTITY,
        RequestState.AWAITING_APPROVAL,
        RequestState.PAUSED,
        RequestState.FAILED,
    }
)


def short_id(row_id: UUID | str) -> str:
    """Return the last eight digits: the first ones are the time, and alike for many."""
    return str(row_id)[-8:]


@dataclass(frozen=True, slots=True)
class ListedView:
    """One line of the overview: never the person."""

    id: UUID
    short_id: str
    reference: str | None
    state: str
    regime: str
    received_at: datetime
    due_at: datetime
    closed_at: datetime | None
    status: SlaStatus
    days_left: int
    ended: int
    actions: int
    waits: bool


@dataclass(frozen=True, slots=True)
class ClockCounts:
    """How many requests stand how against their clock."""

    on_track: int
    at_risk: int
    breached: int
    met: int
    late: int

    @property
    def open(self) -> int:
        """How many are open."""
        return self.on_track + self.at_risk + self.breached


@dataclass(frozen=True, slots=True)
class PromiseView:
    """A dated promise of exact retraining."""

    model: str
    request_id: UUID
    short_id: str
    reason: str
    starts_at: datetime
    due_at: datetime
    kept_at: datetime | None
    overdue: bool
    days_left: int


def listed(row: ListedRequest, now: datetime) -> ListedView:
    """Return one line of the overview."""
    request = row.request
    standing = stored_sla(request.received_at, request.due_at, now, request.closed_at)
    return ListedView(
        id=request.id,
        short_id=short_id(request.id),
        reference=request.reference,
        state=request.state,
        regime=request.regime,
        received_at=request.received_at,
        due_at=request.due_at,
        closed_at=request.closed_at,
        status=standing.status,
        days_left=standing.days_left,
        ended=row.ended,
        actions=row.actions,
        waits=row.awaits_acceptance or request.state in WAITS_FOR_A_PERSON,
    )


def stored_sla(
    received_at: datetime, due_at: datetime, now: datetime, closed_at: datetime | None = None
) -> Sla:
    """Return how a request stands against the deadline that is stored with it."""
    stored = Clock(received_at, due_at, due_at, None, False, law="", explanation="")
    return sla(stored, now, closed_at=closed_at)


def clock_counts(
    clocks: Sequence[tuple[datetime, datetime]], closed: ClosedCounts, now: datetime
) -> ClockCounts:
    """Count open requests, given as (received at, due at), and closed ones."""
    standing = [stored_sla(received_at, due_at, now).status for received_at, due_at in clocks]
    return ClockCounts(
        standing.count("on_track"),
        standing.count("at_risk"),
        standing.count("breached"),
        closed.met,
        closed.late,
    )


def promise(commitment: Commitment, model: str, now: datetime) -> PromiseView:
    """Return a promise as it is shown."""
    return PromiseView(
        model=model,
        request_id=commitment.request_id,
        short_id=short_id(commitment.request_id),
        reason=commitment.reason,
        starts_at=commitment.starts_at,
        due_at=commitment.due_at,
        kept_at=commitment.kept_at,
        overdue=commitment.kept_at is None and commitment.due_at < now,
        days_left=(commitment.due_at - now) // timedelta(days=1),
    )
