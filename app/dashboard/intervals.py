"""The geometry of an interval drawn against its margin. Numbers in, coordinates out."""

from dataclasses import dataclass
from typing import Final

from app.verification.checks import Family

WIDTH: Final = 320.0
_AUC: Final = frozenset({"membership", "extraction", "recovery", "shift"})
_EDGE: Final = 24.0
_LABEL_GAP: Final = 34.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on the axis."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class IntervalPlot:
    """An interval as coordinates in a drawing `WIDTH` wide; `band` is where a check may lie."""

    low: float
    high: float
    estimate: float
    reference: float
    band: tuple[float, float] | None
    ticks: tuple[Tick, ...]
    description: str


@dataclass(frozen=True, slots=True)
class _Axis:
    first: float
    last: float
    reference: float
    band: tuple[float, float] | None

    def x(self, value: float) -> float:
        share = (value - self.first) / (self.last - self.first)
        return round(_EDGE + min(1.0, max(0.0, share)) * (WIDTH - 2 * _EDGE), 1)


def plot_interval(
    family: Family,
    estimate: float | None,
    low: float | None,
    high: float | None,
    *,
    membership_margin: float | None,
    utility_drop: float | None,
) -> IntervalPlot | None:
    """Return the drawing of a check that has an estimate and an interval, else None.

    An attack's estimate is an AUC from 0 to 1, with the band 0.5 ± margin; all else is drawn around
    0, utility with the drop that is still allowed. Without a margin there is no band, and none for
    a shift, which is no attack.
    """
    if estimate is None or low is None or high is None:
        return None
    if family in _AUC:
        band = (
            None
            if membership_margin is None or family == "shift"
            else (0.5 - membership_margin, 0.5 + membership_margin)
        )
        axis = _Axis(0.0, 1.0, 0.5, band)
    else:
        drop = utility_drop if family == "utility" else None
        reach = 1.15 * max(abs(low), abs(high), 1.5 * (drop or 0.0)) or 1.0
        axis = _Axis(-reach, reach, 0.0, None if drop is None else (-drop, reach))
    return IntervalPlot(
        low=axis.x(low),
        high=axis.x(high),
        estimate=axis.x(estimate),
        reference=axis.x(axis.reference),
        band=None if axis.band is None else (axis.x(axis.band[0]), axis.x(axis.band[1])),
        ticks=_ticks(axis),
        description=_description(estimate, low, high, axis.band),
    )


def _ticks(axis: _Axis) -> tuple[Tick, ...]:
    wanted = [axis.reference, *(axis.band or ()), axis.first, axis.last]
    ticks: list[Tick] = []
    for value in wanted:
        x = axis.x(value)
        if all(abs(x - tick.x) >= _LABEL_GAP for tick in ticks):
            ticks.append(Tick(x, f"{value:.2g}"))
    return tuple(sorted(ticks, key=lambda tick: tick.x))


def _description(estimate: float, low: float, high: float, band: tuple[float, float] | None) -> str:
    said = f"Estimate {estimate:.3g}, interval {low:.3g} to {high:.3g}"
    return said if band is None else f"{said}; allowed from {band[0]:.3g} to {band[1]:.3g}"
