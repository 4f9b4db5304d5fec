"""Rows into what the overview and one request's page show. Values and `now` in, values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from app.core.identifiers import Identifier
from app.core.lifecycle import RequestState
from app.dashboard.repository import ClosedCounts, ListedRequest
from app.dashboard.run_views import RunView
from app.dashboard.words import ACCEPTANCE_NEEDED, METHODS, WHAT_NEXT
from app.intake.schemas import ErasureRequestOut, TimelineEntry
from app.models import Action, Artifact, Commitment, ErasureRequest
from app.sla.rules import Clock, Sla, SlaStatus, sla

_S = RequestState
WAITS_FOR_A_PERSON: Final = frozenset({_S.AWAITING_IDENTITY, _S.AWAITING_APPROVAL, _S.FAILED})
REFUSABLE: Final = WAITS_FOR_A_PERSON | {_S.PAUSED}
MOVING: Final = frozenset(
    {_S.RECEIVED, _S.TRACED, _S.PLANNED, _S.APPROVED, _S.EXECUTING, _S.VERIFYING, _S.PROMOTING}
)
STAGES: Final = (
    _S.RECEIVED,
    _S.TRACED,
    _S.PLANNED,
    _S.APPROVED,
    _S.EXECUTING,
    _S.VERIFYING,
    _S.PROMOTING,
    _S.COMPLETED,
)
_STANDS_AT: Final = {
    _S.AWAITING_IDENTITY: _S.RECEIVED,
    _S.AWAITING_APPROVAL: _S.PLANNED,
    _S.PARTIALLY_COMPLETED: _S.COMPLETED,
}
_TOLD_FACTS: Final = ("method", "guarantee", "regime", "state", "verdict", "revision")
DEFAULT_PROMISE: Final = timedelta(days=30)


def short_id(row_id: UUID | str) -> str:
    """Return the last eight digits: the first ones are the time, and alike for many."""
    return str(row_id)[-8:]


# The overview.


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
    """Return how a request stands against the deadline stored with it, without counting it again."""
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


# One request.


@dataclass(frozen=True, slots=True)
class Stage:
    """A state on the way, and whether the request has passed it (`done`) or stands there (`now`)."""

    name: str
    standing: str


@dataclass(frozen=True, slots=True)
class CandidateView:
    """A method that was considered."""

    method: str
    guarantee: str
    meaning: str
    predicted_seconds: float | None
    finishes_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class ActionView:
    """What is done to one artifact, and why not otherwise."""

    artifact: str
    kind: str
    state: str
    method: str
    meaning: str
    guarantee: str
    reason: str
    predicted_seconds: float | None
    finishes_at: datetime | None
    commitment_due_at: datetime | None
    others: tuple[CandidateView, ...]
    tried: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry of the log about the request."""

    event: str
    at: datetime
    index: int | None
    facts: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """Which decisions the request is open for, to someone who may decide."""

    identity: bool
    approve: bool
    reject: bool
    retry: bool
    accept: bool
    promise_by: datetime

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.identity or self.approve or self.reject or self.retry or self.accept


@dataclass(frozen=True, slots=True)
class RequestView:
    """All that a request's page shows."""

    request: ErasureRequestOut
    short_id: str
    clock: Clock
    extended: bool
    decision_reason: str | None
    what_next: str
    waits: bool
    stages: tuple[Stage, ...]
    trace: Mapping[str, Any] | None
    actions: tuple[ActionView, ...]
    ended: int
    runs: tuple[RunView, ...]
    timeline: tuple[EntryView, ...]
    promises: tuple[PromiseView, ...]
    identifiers: tuple[Identifier, ...]
    certified: bool
    decisions: Decisions
    refresh: bool


def request_view(
    row: ErasureRequest,
    request: ErasureRequestOut,
    clock: Clock,
    *,
    actions: Sequence[tuple[Action, Artifact]],
    runs: Sequence[RunView],
    timeline: Sequence[TimelineEntry],
    promises: Sequence[PromiseView],
    identifiers: Sequence[Identifier],
    certified: bool,
    now: datetime,
) -> RequestView:
    """Return a request's page. `identifiers` are empty for whoever may not see them."""
    state = RequestState(row.state)
    awaits_acceptance = any(one.awaits_acceptance for one in runs)
    open_to = decisions(state, [one for one, _ in actions], awaits_acceptance, now)
    return RequestView(
        request=request,
        short_id=short_id(row.id),
        clock=clock,
        extended=row.extended,
        decision_reason=row.decision_reason,
        what_next=ACCEPTANCE_NEEDED if open_to.accept else WHAT_NEXT[state],
        waits=open_to.accept or state in WAITS_FOR_A_PERSON,
        stages=stages(state, [entry.event for entry in timeline]),
        trace=row.trace,
        actions=tuple(action_view(*one) for one in actions),
        ended=sum(one.state in {"done", "committed", "not_reachable"} for one, _ in actions),
        runs=tuple(runs),
        timeline=tuple(entry_view(entry) for entry in timeline),
        promises=tuple(promises),
        identifiers=tuple(identifiers),
        certified=certified,
        decisions=open_to,
        # A page that loads itself again would empty a form that is being filled in.
        refresh=state in MOVING and not open_to.any,
    )


def decisions(
    state: RequestState, actions: Sequence[Action], awaits_acceptance: bool, now: datetime
) -> Decisions:
    """Return which decisions fit a request's state; what has begun cannot be refused any more."""
    begun = any(one.state in {"done", "committed", "promoting"} for one in actions)
    promised = [one.commitment_due_at for one in actions if one.commitment_due_at is not None]
    return Decisions(
        identity=state == RequestState.AWAITING_IDENTITY,
        approve=state == RequestState.AWAITING_APPROVAL,
        reject=state in REFUSABLE and not (state == RequestState.FAILED and begun),
        retry=state == RequestState.FAILED,
        accept=awaits_acceptance,
        promise_by=max([*promised, now + timedelta(days=1)])
        if promised
        else now + DEFAULT_PROMISE,
    )


def stages(state: RequestState, events: Sequence[str]) -> tuple[Stage, ...]:
    """Return the way of a request; one that left it stands where the log last saw it."""
    at = _STANDS_AT.get(state, state)
    if at not in STAGES:
        passed = [one for one in STAGES if f"request_{one}" in events]
        at = passed[-1] if passed else RequestState.RECEIVED
    place, ended = STAGES.index(at), at == RequestState.COMPLETED
    return tuple(
        Stage(one, "done" if number < place or ended else "now" if number == place else "to come")
        for number, one in enumerate(STAGES)
    )


def action_view(action: Action, artifact: Artifact) -> ActionView:
    """Return an action with the method chosen and, of each other one, the reason against it."""
    candidates: list[dict[str, Any]] = action.plan["candidates"]
    chosen = next((one for one in candidates if one["chosen"]), None)
    return ActionView(
        artifact=f"{artifact.name}@{artifact.version}" if artifact.version else artifact.name,
        kind=action.kind,
        state=action.state,
        method=action.method,
        meaning=METHODS.get(action.method, ""),
        guarantee=action.guarantee,
        reason=action.reason,
        predicted_seconds=None if chosen is None else chosen["predicted_seconds"],
        finishes_at=None if chosen is None else _time(chosen["finishes_at"]),
        commitment_due_at=action.commitment_due_at,
        others=tuple(_candidate(one) for one in candidates if not one["chosen"]),
        tried=tuple(one["method"] for one in action.plan.get("tried", [])),
    )


def _candidate(one: Mapping[str, Any]) -> CandidateView:
    return CandidateView(
        method=one["method"],
        guarantee=one["guarantee"],
        meaning=METHODS.get(one["method"], ""),
        predicted_seconds=one["predicted_seconds"],
        finishes_at=_time(one["finishes_at"]),
        reason=one["reason"],
    )


def _time(said: str | None) -> datetime | None:
    return None if said is None else datetime.fromisoformat(said)


def entry_view(entry: TimelineEntry) -> EntryView:
    """Return a log entry with those of its facts that are words or counts."""
    told = [f"{name} {entry.facts[name]}" for name in _TOLD_FACTS if name in entry.facts]
    facts = ", ".join(told).replace("_", " ")
    return EntryView(entry.event.replace("_", " ").capitalize(), entry.at, entry.index, facts)
