"""When a run starts, and how fast training was where it was measured. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Any, Final

from lethe.methods import METHODS

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DEFAULT_SECONDS_PER_RECORD_PASS: Final = 1e-3
# Room for one more attempt: a verdict that is no pass, a worker that is lost, a person who looks.
_PREDICTIONS: Final = 2
_MARGIN: Final = timedelta(days=1)
_NEVER: Final = datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """The hours in which training may start: from `opens` to `closes` in UTC, over midnight too.

    `weekdays` are the days on which it opens, Monday is 0.

    Raises:
        ValueError: it never opens, or closes when it opens.
    """

    opens: time
    closes: time
    weekdays: frozenset[int] = frozenset(range(7))

    def __post_init__(self) -> None:
        """Refuses a window that nothing fits in."""
        if self.opens == self.closes or not self.weekdays:
            raise ValueError("a window needs two different times and a weekday")

    def at_or_after(self, moment: datetime) -> datetime:
        """Returns `moment` where it lies within the window, or else when the window opens next."""
        moment = moment.astimezone(UTC)
        # Yesterday's may still be open; a week on, each weekday has come up.
        days = (moment.date() + timedelta(days=number) for number in range(-1, 9))
        spans = (self._on(day) for day in days if day.weekday() in self.weekdays)
        return next(max(moment, opens) for opens, closes in spans if moment < closes)

    def _on(self, day: date) -> tuple[datetime, datetime]:
        opening, closing = (datetime.combine(day, one, UTC) for one in (self.opens, self.closes))
        return opening, closing if opening < closing else closing + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class StartPolicy:
    """When the runs of a model start; by default at once.

    Attributes:
        window: where training by an exact method starts, unless the deadline would be missed.
        batch_size: so many requests in one run need not wait for more.
        max_wait: how long a run waits for more requests; with a batch size alone, until it is full.
        exact_not_before: before this no exact training starts, whatever the deadline.
    """

    window: Window | None = None
    batch_size: int | None = None
    max_wait: timedelta | None = None
    exact_not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that has not started.

    Attributes:
        method: by which it unlearns.
        requests: that it serves; 0 where it only keeps a promise.
        queued_at: when the first of them came.
        due_at: the earliest deadline among them and the promises; None where there are neither.
        predicted_seconds: of the whole run.
    """

    method: str
    requests: int
    queued_at: datetime
    due_at: datetime | None
    predicted_seconds: float


def starts_at(policy: StartPolicy, waiting: Waiting) -> datetime:
    """Returns when a run may start; a time that has passed means now.

    1. It waits for more requests, until there are enough of them or it has waited long enough.
       Switching off waits for nobody: it costs nothing.
    2. Training by an exact method waits for its window.
    3. Neither past the time that leaves the deadline twice what is predicted and a day more.
    4. Exact training on request stays after the day that policy names, since it may be impossible
       before. A promise has a day of its own.
    """
    spec = METHODS[waiting.method]
    latest, start = _latest(waiting), waiting.queued_at
    if waiting.requests and spec.way != "switch_off":
        start = _with_others(policy, waiting, latest)
    if policy.window is not None and spec.guarantee == "exact" and spec.way == "train":
        start = policy.window.at_or_after(start)
    start = min(start, latest)
    if waiting.requests and spec.guarantee == "exact" and spec.way == "train":
        start = max(start, policy.exact_not_before or start)
    return start


def _with_others(policy: StartPolicy, waiting: Waiting, latest: datetime) -> datetime:
    if policy.batch_size is not None and waiting.requests >= policy.batch_size:
        return waiting.queued_at
    if policy.max_wait is not None:
        return waiting.queued_at + policy.max_wait
    return waiting.queued_at if policy.batch_size is None else latest


def _latest(waiting: Waiting) -> datetime:
    if waiting.due_at is None:
        return _NEVER
    return waiting.due_at - timedelta(seconds=_PREDICTIONS * waiting.predicted_seconds) - _MARGIN


def start_policy(said: Mapping[str, Any]) -> StartPolicy:
    """Returns what a model's policy, as it is stored, says of starting."""
    window, not_before = said.get("window"), said.get("exact_not_before")
    hours = said.get("max_wait_hours")
    return StartPolicy(
        window=None if window is None else _window(window),
        batch_size=said.get("batch_size"),
        max_wait=None if hours is None else timedelta(hours=hours),
        exact_not_before=None if not_before is None else datetime.fromisoformat(not_before),
    )


def _window(said: Mapping[str, Any]) -> Window:
    opens, closes = (time.fromisoformat(said[name]) for name in ("start", "end"))
    weekdays = said.get("weekdays") or WEEKDAYS
    return Window(opens, closes, frozenset(WEEKDAYS.index(day) for day in weekdays))


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured rate: of which model (or another one of its recipe), on what, and when."""

    of_this_model: bool
    device: str
    seconds_per_record_pass: float
    measured_at: datetime


def predicted_rate(measured: tuple[Rate, ...], devices: frozenset[str]) -> float:
    """Returns the seconds that one pass over one record takes where the run may be done.

    For each class of worker that is there (`devices`; of none is heard: wherever it was measured)
    the newest rate of the model, else the newest of its recipe, else the default; and of those the
    slowest, since any worker may take it.
    """
    if not devices:
        return _newest(measured)
    return max(
        _newest(tuple(one for one in measured if one.device == device)) for device in devices
    )


def _newest(measured: tuple[Rate, ...]) -> float:
    newest = max(measured, key=lambda one: (one.of_this_model, one.measured_at), default=None)
    return DEFAULT_SECONDS_PER_RECORD_PASS if newest is None else newest.seconds_per_record_pass


def rates_of_steps(results: tuple[Mapping[str, Any], ...]) -> Mapping[str, float]:
    """Returns device → seconds per record pass that a run's training steps measured there."""
    totals: dict[str, tuple[float, float]] = {}
    for one in results:
        if one.get("record_passes") and "device" in one:
            seconds, passes = totals.get(one["device"], (0.0, 0.0))
            totals[one["device"]] = seconds + one["seconds"], passes + one["record_passes"]
    return MappingProxyType(
        {device: seconds / passes for device, (seconds, passes) in totals.items()}
    )
