"""What one request's page shows. Values and `now` in, values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.core.identifiers import Identifier
from app.core.lifecycle import RequestState
from app.dashboard.run_views import RunView
from app.dashboard.views import WAITS_FOR_A_PERSON, PromiseView, short_id
from app.dashboard.words import ACCEPTANCE_NEEDED, WHAT_NEXT, method_words
from app.intake.schemas import ErasureRequestOut, TimelineEntry
from app.models import Action, Artifact, ErasureRequest
from app.sla.rules import Clock

_S = RequestState
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


@dataclass(frozen=True, slots=True)
class Stage:
    """A state on the way: `done`, `now` or `to come`."""

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
    resume: bool
    accept: bool
    promise_by: datetime

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return (
            self.identity or self.approve or self.reject or self.retry or self.resume or self.accept
        )


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
        reject=state in WAITS_FOR_A_PERSON and not (state == RequestState.FAILED and begun),
        retry=state == RequestState.FAILED,
        resume=state == RequestState.PAUSED,
        accept=awaits_acceptance,
        promise_by=max([*promised, now + timedelta(days=1)]) if promised else now + DEFAULT_PROMISE,
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
        meaning=method_words(action.method),
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
        meaning=method_words(one["method"]),
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
