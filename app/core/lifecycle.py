"""Where requests, actions, runs and steps may stand, and every move that is allowed.

One table for each; nothing else in the service decides whether a state may change. It moves nothing
itself: callers compare-and-set the row.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, TypeVar


class RequestState(StrEnum):
    """States of an erasure request (DESIGN.md, HTTP contract)."""

    RECEIVED = "received"
    AWAITING_IDENTITY = "awaiting_identity"
    TRACED = "traced"
    PLANNED = "planned"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    EXECUTING = "executing"
    VERIFYING = "verifying"
    PROMOTING = "promoting"
    PAUSED = "paused"
    FAILED = "failed"
    COMPLETED = "completed"
    PARTIALLY_COMPLETED = "partially_completed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


class ActionState(StrEnum):
    """States of what one request means for one artifact (DESIGN decision 11)."""

    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
    PROMOTING = "promoting"
    DONE = "done"
    COMMITTED = "committed"
    NOT_REACHABLE = "not_reachable"
    FAILED = "failed"


class RunState(StrEnum):
    """States of one job that carries out the actions of many requests on one model."""

    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
    PROMOTING = "promoting"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    """States of one claimed piece of a run."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


State = TypeVar("State", RequestState, ActionState, RunState, StepState)

END_REQUEST_STATES: Final = frozenset(
    {
        RequestState.COMPLETED,
        RequestState.PARTIALLY_COMPLETED,
        RequestState.REJECTED,
        RequestState.CANCELLED,
    }
)
OPEN_REQUEST_STATES: Final = frozenset(RequestState) - END_REQUEST_STATES

_R = RequestState
_BEFORE_EXECUTION: Final = frozenset(
    {_R.RECEIVED, _R.TRACED, _R.PLANNED, _R.AWAITING_APPROVAL, _R.APPROVED}
)
# After approval a request stands where its least advanced action stands, which can go forward by
# several states at once and back again (a stronger method, an artifact found late).
_FOLLOWS_ACTIONS: Final = frozenset({_R.APPROVED, _R.EXECUTING, _R.VERIFYING, _R.PROMOTING})
_CLOSED_BY_ACTIONS: Final = frozenset({_R.COMPLETED, _R.PARTIALLY_COMPLETED})
_CALLED_OFF: Final = frozenset({_R.REJECTED, _R.CANCELLED})
_WORKING: Final = _BEFORE_EXECUTION | _FOLLOWS_ACTIONS


def _early(*following: RequestState) -> frozenset[RequestState]:
    return frozenset(following) | _CALLED_OFF | {_R.PAUSED, _R.FAILED}


def _derived(*others: RequestState) -> frozenset[RequestState]:
    return _FOLLOWS_ACTIONS | _CLOSED_BY_ACTIONS | {_R.FAILED} | frozenset(others)


REQUEST_MOVES: Final[Mapping[RequestState, frozenset[RequestState]]] = {
    _R.RECEIVED: _early(_R.AWAITING_IDENTITY, _R.TRACED),
    _R.AWAITING_IDENTITY: _CALLED_OFF | {_R.RECEIVED},
    _R.TRACED: _early(_R.PLANNED),
    _R.PLANNED: _early(_R.AWAITING_APPROVAL, _R.APPROVED),
    _R.AWAITING_APPROVAL: _early(_R.APPROVED),
    _R.APPROVED: (_derived(_R.PAUSED) | _CALLED_OFF) - {_R.APPROVED},
    # What has been erased cannot be called off: from here on a request ends by its actions.
    _R.EXECUTING: _derived(_R.PAUSED) - {_R.EXECUTING},
    _R.VERIFYING: _derived(_R.PAUSED) - {_R.VERIFYING},
    # Neither paused: deployments would be left half switched.
    _R.PROMOTING: _derived() - {_R.PROMOTING},
    _R.PAUSED: (_WORKING - {_R.PROMOTING}) | _CALLED_OFF,
    _R.FAILED: _WORKING | _CALLED_OFF | _CLOSED_BY_ACTIONS,
    _R.COMPLETED: frozenset(),
    _R.PARTIALLY_COMPLETED: frozenset(),
    _R.REJECTED: frozenset(),
    _R.CANCELLED: frozenset(),
}

_A = ActionState
ACTION_MOVES: Final[Mapping[ActionState, frozenset[ActionState]]] = {
    _A.PLANNED: frozenset({_A.QUEUED, _A.COMMITTED, _A.NOT_REACHABLE, _A.FAILED}),
    _A.QUEUED: frozenset({_A.PLANNED, _A.RUNNING, _A.NOT_REACHABLE, _A.FAILED}),
    _A.RUNNING: frozenset({_A.QUEUED, _A.VERIFYING, _A.FAILED}),
    # Back to planned or queued: the verdict asks for a stronger method (DESIGN decision 9).
    _A.VERIFYING: frozenset({_A.PLANNED, _A.QUEUED, _A.PROMOTING, _A.FAILED}),
    _A.PROMOTING: frozenset({_A.DONE, _A.COMMITTED, _A.FAILED}),
    _A.FAILED: frozenset({_A.PLANNED, _A.QUEUED, _A.NOT_REACHABLE}),
    _A.COMMITTED: frozenset({_A.DONE}),
    _A.DONE: frozenset(),
    _A.NOT_REACHABLE: frozenset(),
}

RUN_MOVES: Final[Mapping[RunState, frozenset[RunState]]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.FAILED, RunState.CANCELLED}),
    # Straight to done: a first training has nothing to forget and nothing to replace.
    RunState.RUNNING: frozenset(
        {RunState.VERIFYING, RunState.DONE, RunState.FAILED, RunState.CANCELLED}
    ),
    RunState.VERIFYING: frozenset({RunState.PROMOTING, RunState.FAILED, RunState.CANCELLED}),
    RunState.PROMOTING: frozenset({RunState.DONE, RunState.FAILED}),
    RunState.FAILED: frozenset({RunState.QUEUED, RunState.CANCELLED}),
    RunState.DONE: frozenset(),
    RunState.CANCELLED: frozenset(),
}

STEP_MOVES: Final[Mapping[StepState, frozenset[StepState]]] = {
    StepState.PENDING: frozenset({StepState.RUNNING, StepState.CANCELLED}),
    # Back to pending: the lease was lost, another worker may claim it under the next epoch.
    StepState.RUNNING: frozenset(
        {StepState.PENDING, StepState.DONE, StepState.FAILED, StepState.CANCELLED}
    ),
    StepState.FAILED: frozenset({StepState.PENDING, StepState.CANCELLED}),
    StepState.DONE: frozenset(),
    StepState.CANCELLED: frozenset(),
}


def _pairs(table: Mapping[State, frozenset[State]]) -> frozenset[tuple[StrEnum, StrEnum]]:
    return frozenset((current, new) for current, following in table.items() for new in following)


# By kind, because members of different enums with the same word are equal and hash alike.
_MOVES: Final[Mapping[type[StrEnum], frozenset[tuple[StrEnum, StrEnum]]]] = {
    RequestState: _pairs(REQUEST_MOVES),
    ActionState: _pairs(ACTION_MOVES),
    RunState: _pairs(RUN_MOVES),
    StepState: _pairs(STEP_MOVES),
}


class IllegalMove(ValueError):
    """The lifecycle has no such move."""

    def __init__(self, current: StrEnum, new: StrEnum) -> None:
        self.current = current
        self.new = new
        kind = type(current).__name__.removesuffix("State").lower()
        super().__init__(f"A {kind} that is {current} cannot become {new}")


def move(current: State, new: State) -> State:
    """Returns `new` when the table allows the move from `current`.

    Staying is no move: a caller for whom it is fine compares first.

    Raises:
        IllegalMove: the table has no such move.
        TypeError: the two are states of different things.
    """
    if type(current) is not type(new):
        raise TypeError(f"A {type(current).__name__} cannot become a {type(new).__name__}")
    if (current, new) not in _MOVES[type(current)]:
        raise IllegalMove(current, new)
    return new


# Least advanced first.
_REQUEST_STANDS: Final[tuple[tuple[frozenset[ActionState], RequestState], ...]] = (
    (frozenset({_A.FAILED}), _R.FAILED),
    (frozenset({_A.PLANNED}), _R.APPROVED),
    (frozenset({_A.QUEUED, _A.RUNNING}), _R.EXECUTING),
    (frozenset({_A.VERIFYING}), _R.VERIFYING),
    (frozenset({_A.PROMOTING}), _R.PROMOTING),
    (frozenset({_A.NOT_REACHABLE}), _R.PARTIALLY_COMPLETED),
)


def request_state_for(actions: Iterable[ActionState]) -> RequestState:
    """Returns where an approved request stands, given the states of all its actions.

    That is where the least advanced one stands (DESIGN decision 11). A failed one comes before all:
    it waits for a person. When all have ended the request is completed, or partially completed if
    one was not reachable; a promise that is dated (`committed`) counts as ended. A request without
    actions, of a person found nowhere, is completed.
    """
    standing = frozenset(actions)
    for states, request_state in _REQUEST_STANDS:
        if states & standing:
            return request_state
    return RequestState.COMPLETED
