"""When runs start: never too late, inside the window, at once when the batch is full."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.runs.rules import (
    DEFAULT_SECONDS_PER_RECORD_PASS,
    Rate,
    StartPolicy,
    Waiting,
    Window,
    predicted_rate,
    rates_of_steps,
    start_policy,
    starts_at,
)

# A Friday.
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
DAY = timedelta(days=1)
NIGHT = Window(time(22), time(5))


def waiting(
    *,
    method: str = "sisa",
    requests: int = 1,
    due_at: datetime | None = NOW + 30 * DAY,
    predicted_seconds: float = 3600.0,
) -> Waiting:
    return Waiting(method, requests, NOW, due_at, predicted_seconds)


def is_open(window: Window, moment: datetime) -> bool:
    """Whether a window is open, minute by minute as a porter would say it."""
    clock = moment.time()
    if window.opens < window.closes:
        return window.opens <= clock < window.closes and moment.weekday() in window.weekdays
    yesterday = (moment.weekday() - 1) % 7
    return (clock >= window.opens and moment.weekday() in window.weekdays) or (
        clock < window.closes and yesterday in window.weekdays
    )


minutes = st.builds(time, st.integers(0, 23), st.integers(0, 59))
windows = st.builds(
    lambda times, days: Window(times[0], times[1], days),
    st.tuples(minutes, minutes).filter(lambda times: times[0] != times[1]),
    st.frozensets(st.integers(0, 6), min_size=1),
)
moments = st.integers(0, 20 * 24 * 60).map(lambda number: NOW + timedelta(minutes=number))


@given(windows, moments)
def test_a_window_opens_at_the_first_open_minute(window: Window, moment: datetime) -> None:
    walked = moment
    while not is_open(window, walked):
        walked += timedelta(minutes=1)
    assert window.at_or_after(moment) == walked


def test_a_window_is_read_in_utc() -> None:
    berlin = datetime.fromisoformat("2026-11-20T23:30:00+01:00")
    assert NIGHT.at_or_after(berlin) == berlin
    assert NIGHT.at_or_after(berlin - timedelta(hours=1)) == berlin - timedelta(minutes=30)


@pytest.mark.parametrize("wrong", [(time(5), time(5), {0}), (time(5), time(6), set())])
def test_a_window_that_never_opens_is_refused(wrong: tuple[time, time, set[int]]) -> None:
    with pytest.raises(ValueError, match="two different times and a weekday"):
        Window(wrong[0], wrong[1], frozenset(wrong[2]))


def test_without_a_policy_a_run_starts_at_once() -> None:
    assert starts_at(StartPolicy(), waiting()) == NOW
    assert starts_at(StartPolicy(), waiting(requests=0, due_at=None)) == NOW


def test_a_run_waits_for_others_until_the_batch_is_full_or_time_is_up() -> None:
    policy = StartPolicy(batch_size=20, max_wait=6 * DAY)
    assert starts_at(policy, waiting(requests=19)) == NOW + 6 * DAY
    assert starts_at(policy, waiting(requests=20)) == NOW
    assert starts_at(StartPolicy(max_wait=6 * DAY), waiting(requests=500)) == NOW + 6 * DAY


def test_a_batch_size_alone_waits_as_long_as_the_deadline_allows() -> None:
    latest = NOW + 29 * DAY - timedelta(hours=2)
    assert starts_at(StartPolicy(batch_size=2), waiting()) == latest
    assert starts_at(StartPolicy(batch_size=2), waiting(requests=2)) == NOW


def test_exact_training_waits_for_its_window_and_others_do_not() -> None:
    policy = StartPolicy(window=NIGHT)
    tonight = NOW.replace(hour=22)
    assert starts_at(policy, waiting()) == tonight
    assert starts_at(policy, waiting(method="retrain", requests=0, due_at=None)) == tonight
    weekend = StartPolicy(window=Window(time(1), time(5), frozenset({6})))
    assert starts_at(weekend, waiting()) == datetime(2026, 11, 22, 1, tzinfo=UTC)
    for method in ("gradient_ascent", "adapter_sharding"):
        assert starts_at(policy, waiting(method=method)) == NOW
    # Full at ten in the morning: no more waiting for others, and the night comes first.
    full = StartPolicy(window=NIGHT, batch_size=2, max_wait=DAY)
    assert starts_at(full, waiting(requests=2)) == tonight
    assert starts_at(full, waiting(requests=1)) == tonight + DAY


def test_a_deadline_comes_before_window_and_company() -> None:
    soon = waiting(due_at=NOW + DAY + timedelta(hours=5))
    assert starts_at(StartPolicy(window=NIGHT), soon) == NOW + timedelta(hours=3)
    assert starts_at(StartPolicy(max_wait=DAY), soon) == NOW + timedelta(hours=3)
    overdue = waiting(due_at=NOW - DAY)
    assert starts_at(StartPolicy(window=NIGHT, batch_size=9), overdue) < NOW


def test_switching_off_waits_for_nobody() -> None:
    policy = StartPolicy(window=NIGHT, batch_size=9, max_wait=DAY)
    assert starts_at(policy, waiting(method="adapter_sharding")) == NOW


def test_exact_training_on_request_stays_after_its_day_and_a_promise_has_its_own() -> None:
    policy = StartPolicy(exact_not_before=NOW + 60 * DAY)
    assert starts_at(policy, waiting()) == NOW + 60 * DAY
    assert starts_at(policy, waiting(requests=0)) == NOW
    for method in ("gradient_ascent", "adapter_sharding", "closed_form_head"):
        assert starts_at(policy, waiting(method=method)) == NOW


@given(
    st.none() | windows,
    st.none() | st.integers(1, 5),
    st.none() | st.floats(0.01, 2000).map(lambda hours: timedelta(hours=hours)),
    st.sampled_from(["sisa", "retrain", "gradient_ascent", "adapter_sharding"]),
    st.integers(0, 6),
    st.integers(-40 * 24, 90 * 24),
    st.integers(0, 10**6),
)
def test_no_policy_makes_a_run_late(
    window: Window | None,
    batch_size: int | None,
    max_wait: timedelta | None,
    method: str,
    requests: int,
    due_hours: int,
    seconds: int,
) -> None:
    policy = StartPolicy(window, batch_size, max_wait)
    due_at = NOW + timedelta(hours=due_hours)
    start = starts_at(
        policy, waiting(method=method, requests=requests, due_at=due_at, predicted_seconds=seconds)
    )
    needs = timedelta(seconds=seconds)
    # In time with room for another attempt; where that is past already, at once.
    assert start + 2 * needs + DAY <= due_at or start <= NOW
    if window is None and batch_size is not None and requests >= batch_size:
        assert start <= NOW
    exact_training = method in {"sisa", "retrain"}
    if window is not None and exact_training and start + 2 * needs + DAY < due_at:
        assert window.at_or_after(start) == start
    if max_wait is not None and (window is None or not exact_training):
        assert start <= NOW + max_wait


def test_a_stored_policy_says_what_was_given() -> None:
    assert start_policy({}) == StartPolicy()
    said = {
        "window": {"start": "22:00", "end": "05:30", "weekdays": ["sat", "sun"]},
        "batch_size": 20,
        "max_wait_hours": 12.5,
        "exact_not_before": "2027-01-01T00:00:00Z",
    }
    assert start_policy(said) == StartPolicy(
        Window(time(22), time(5, 30), frozenset({5, 6})),
        20,
        timedelta(hours=12.5),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    every = start_policy({"window": {"start": "22:00", "end": "05:00", "weekdays": None}})
    assert every == StartPolicy(NIGHT)


def rate(seconds: float, *, mine: bool = True, device: str = "cpu", days: int = 0) -> Rate:
    return Rate(mine, device, seconds, NOW + days * DAY)


def test_the_newest_rate_of_the_model_where_the_run_may_be_done() -> None:
    measured = (
        rate(1.0),
        rate(2.0, days=1),
        rate(9.0, mine=False, days=2),
        rate(0.1, device="H100"),
        rate(0.3, mine=False, device="A100"),
    )
    assert predicted_rate(measured, frozenset({"cpu"})) == 2.0
    assert predicted_rate(measured, frozenset({"H100"})) == 0.1
    # Of the recipe where the model has none there; the default where nobody has.
    assert predicted_rate(measured, frozenset({"A100"})) == 0.3
    assert predicted_rate(measured, frozenset({"T4"})) == DEFAULT_SECONDS_PER_RECORD_PASS
    # Any worker may take it: the slowest counts.
    assert predicted_rate(measured, frozenset({"cpu", "H100"})) == 2.0
    # No worker is heard: wherever the model was trained last.
    assert predicted_rate(measured, frozenset()) == 2.0
    assert predicted_rate((), frozenset()) == DEFAULT_SECONDS_PER_RECORD_PASS


def test_a_runs_steps_are_measured_per_class_of_worker() -> None:
    steps = (
        {"record_passes": 100, "seconds": 10.0, "device": "cpu"},
        {"record_passes": 300, "seconds": 10.0, "device": "cpu"},
        {"record_passes": 1000, "seconds": 1.0, "device": "H100"},
        {"record_passes": 0, "seconds": 0.5, "device": "A100"},
        {"shard": 1},
    )
    assert rates_of_steps(steps) == {"cpu": 0.05, "H100": 0.001}
