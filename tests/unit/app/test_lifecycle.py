from collections.abc import Mapping
from enum import StrEnum
from itertools import combinations_with_replacement, product

import pytest

from app.core.lifecycle import (
    ACTION_MOVES,
    END_REQUEST_STATES,
    OPEN_REQUEST_STATES,
    REQUEST_MOVES,
    RUN_MOVES,
    STEP_MOVES,
    ActionState,
    IllegalMove,
    RequestState,
    RunState,
    State,
    StepState,
    move,
    request_state_for,
)

Table = Mapping[StrEnum, frozenset[StrEnum]]
TABLES = [
    (RequestState, REQUEST_MOVES, RequestState.RECEIVED),
    (ActionState, ACTION_MOVES, ActionState.PLANNED),
    (RunState, RUN_MOVES, RunState.QUEUED),
    (StepState, STEP_MOVES, StepState.PENDING),
]


def reachable(table: Table, start: StrEnum) -> set[StrEnum]:
    found, waiting = {start}, [start]
    while waiting:
        following = table[waiting.pop()] - found
        found |= following
        waiting.extend(following)
    return found


@pytest.mark.parametrize(("states", "table", "start"), TABLES)
def test_table_is_whole(states: type[StrEnum], table: Table, start: StrEnum) -> None:
    assert set(table) == set(states)
    assert reachable(table, start) == set(states)
    ends = {state for state in states if not table[state]}
    for state in states:
        assert state not in table[state]
        assert all(type(new) is states for new in table[state])
        assert reachable(table, state) & ends


def assert_move_follows(states: type[State], table: Mapping[State, frozenset[State]]) -> None:
    for current, new in product(states, states):
        if new in table[current]:
            assert move(current, new) is new
        else:
            with pytest.raises(IllegalMove, match=f"{current} cannot become {new}"):
                move(current, new)


def test_move_follows_the_tables() -> None:
    assert_move_follows(RequestState, REQUEST_MOVES)
    assert_move_follows(ActionState, ACTION_MOVES)
    assert_move_follows(RunState, RUN_MOVES)
    assert_move_follows(StepState, STEP_MOVES)


def test_move_refuses_states_of_different_things() -> None:
    with pytest.raises(TypeError, match="RunState cannot become a ActionState"):
        move(RunState.QUEUED, ActionState.RUNNING)  # type: ignore[type-var]


def test_illegal_move_names_both_ends() -> None:
    with pytest.raises(IllegalMove, match="A step that is done") as caught:
        move(StepState.DONE, StepState.RUNNING)
    assert (caught.value.current, caught.value.new) == (StepState.DONE, StepState.RUNNING)


def test_the_way_of_a_request() -> None:
    state = RequestState.RECEIVED
    for word in ("traced", "planned", "approved", "executing", "verifying", "promoting"):
        state = move(state, RequestState(word))
    state = move(state, RequestState.COMPLETED)
    assert state in END_REQUEST_STATES


def test_the_way_of_an_action() -> None:
    for end in ("done", "committed"):
        state = ActionState.PLANNED
        for word in ["queued", "running", "verifying", "promoting", end]:
            state = move(state, ActionState(word))


def test_ends_of_a_request() -> None:
    assert {"completed", "partially_completed", "rejected", "cancelled"} == END_REQUEST_STATES
    assert all(not REQUEST_MOVES[state] for state in END_REQUEST_STATES)
    assert all(REQUEST_MOVES[state] for state in OPEN_REQUEST_STATES)
    assert set(RequestState) == OPEN_REQUEST_STATES | END_REQUEST_STATES
    assert RequestState.FAILED in OPEN_REQUEST_STATES


@pytest.mark.parametrize(
    ("current", "new"),
    [
        ("awaiting_identity", "approved"),
        ("awaiting_identity", "traced"),
        ("received", "approved"),
        ("received", "executing"),
        ("traced", "approved"),
        ("planned", "executing"),
        ("awaiting_approval", "executing"),
        ("executing", "rejected"),
        ("executing", "cancelled"),
        ("promoting", "paused"),
        ("awaiting_identity", "completed"),
        ("planned", "completed"),
        ("completed", "executing"),
        ("rejected", "received"),
    ],
)
def test_what_a_request_may_never_do(current: str, new: str) -> None:
    with pytest.raises(IllegalMove):
        move(RequestState(current), RequestState(new))


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ("", "completed"),
        ("done", "completed"),
        ("done committed", "completed"),
        ("done not_reachable committed", "partially_completed"),
        ("not_reachable", "partially_completed"),
        ("done promoting not_reachable", "promoting"),
        ("promoting verifying", "verifying"),
        ("verifying running", "executing"),
        ("verifying queued", "executing"),
        ("running planned done", "approved"),
        ("running failed planned", "failed"),
    ],
)
def test_a_request_stands_where_its_least_advanced_action_stands(
    actions: str, expected: str
) -> None:
    assert request_state_for(ActionState(word) for word in actions.split()) == expected


def test_every_standing_can_be_reached_from_every_other_while_actions_go_on() -> None:
    working = ("approved", "executing", "verifying", "promoting", "failed")
    standings = {
        request_state_for(actions)
        for count in range(4)
        for actions in combinations_with_replacement(ActionState, count)
    }
    for current, new in product(map(RequestState, working), standings):
        if current is not new:
            assert move(current, new) is new
