"""The geometry of an attack's two plots: ROC and scores. Numbers in, coordinates out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from typing import Final, Literal

from app.dashboard.intervals import Tick

WIDTH: Final = 400.0
HEIGHT: Final = 270.0
LEFT: Final = 52.0
RIGHT: Final = 388.0
TOP: Final = 34.0
BOTTOM: Final = 222.0
LOWEST_RATE: Final = 1e-3
_LETTER: Final = 6.0
_KEY_GAP: Final = 34.0
_TICKS: Final = 5

Point = tuple[float, float]
Curves = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or with `filled` one outline that ends on the axis, with its place in the key."""

    kind: Literal["after", "before", "chance", "forget", "holdout"]
    name: str
    points: tuple[Point, ...]
    filled: bool
    key_x: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot in a drawing `WIDTH` by `HEIGHT`, its frame from `LEFT`, `TOP` to `RIGHT`, `BOTTOM`.

    The x of a vertical tick is its y.
    """

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


def plot_roc(curves: Curves) -> Chart | None:
    """Return how many of the forgotten an attack calls members at each rate of false alarms.

    The rate is on a logarithmic axis from `LOWEST_RATE` to 1, since an attack that is surely right
    about a few shows on its left. None where no curve was kept.
    """
    rates, after = curves.get("false_alarms", ()), curves.get("hits_after", ())
    before = curves.get("hits_before", ())
    shown = [at for at, rate in enumerate(rates) if rate >= LOWEST_RATE]
    if not shown or len(after) != len(rates):
        return None

    def line(hits: Sequence[float]) -> tuple[Point, ...]:
        return tuple((_rate_x(rates[at]), _share_y(hits[at])) for at in shown)

    drawn: list[tuple[Literal["after", "before", "chance"], str, tuple[Point, ...]]] = [
        ("after", "after", line(after))
    ]
    if len(before) == len(rates):
        drawn.append(("before", "before unlearning", line(before)))
    drawn.append(("chance", "chance", line(rates)))
    places = _key([name for _, name, _ in drawn])
    found = [hits for rate, hits in zip(rates, after, strict=True) if rate <= 0.01]
    at_one_percent = max(found, default=0.0)
    return Chart(
        title="Found, by rate of false alarms",
        description="Share of the forgotten that the attack calls members, by its rate of false "
        f"alarms. At a rate of 1 % it finds {100 * at_one_percent:.3g} % after unlearning.",
        x_label="rate of false alarms (logarithmic)",
        y_label="share found",
        x_ticks=tuple(Tick(_rate_x(10.0**power), f"{10.0**power:.4g}") for power in range(-3, 1)),
        y_ticks=tuple(Tick(_share_y(at / 4), f"{at / 4:g}") for at in range(5)),
        lines=tuple(
            Line(kind, name, points, False, x)
            for (kind, name, points), x in zip(drawn, places, strict=True)
        ),
    )


def plot_scores(curves: Curves) -> Chart | None:
    """Return how the attack's scores are spread, of the forgotten and of people never seen.

    `edges` bound the bins; the shares of each group sum to 1. None where no shares were kept.
    """
    edges = curves.get("edges", ())
    rows = [curves.get("holdout_shares", ()), curves.get("forget_shares", ())]
    if len(edges) < 2 or any(len(row) != len(edges) - 1 for row in rows):
        return None
    if not edges[0] < edges[-1]:
        return None
    top = _round_up(max(max(row) for row in rows)) or 1.0
    first, last = edges[0], edges[-1]

    def x(score: float) -> float:
        return round(LEFT + (score - first) / (last - first) * (RIGHT - LEFT), 1)

    def outline(row: Sequence[float]) -> tuple[Point, ...]:
        corners = [(x(first), BOTTOM)]
        for (low, high), share in zip(pairwise(edges), row, strict=True):
            y = _share_y(share / top)
            corners += [(x(low), y), (x(high), y)]
        return (*corners, (x(last), BOTTOM))

    names = ("never seen", "forgotten")
    places = _key(names)
    return Chart(
        title="Scores of both groups",
        description="How the attack's scores are spread: the more alike the two shapes, the less "
        "it can tell the forgotten from people never seen.",
        x_label="score: the higher, the more like a record trained on",
        y_label="share of the group",
        x_ticks=tuple(Tick(x(score), f"{score:.4g}") for score in _ticks(first, last)),
        y_ticks=tuple(Tick(_share_y(at / 4), f"{at / 4 * top:.3g}") for at in range(5)),
        lines=(
            Line("holdout", names[0], outline(rows[0]), True, places[0]),
            Line("forget", names[1], outline(rows[1]), True, places[1]),
        ),
    )


def _rate_x(rate: float) -> float:
    share = 1 - log10(rate) / log10(LOWEST_RATE)
    return round(LEFT + share * (RIGHT - LEFT), 1)


def _share_y(share: float) -> float:
    return round(BOTTOM - share * (BOTTOM - TOP), 1)


def _key(names: Sequence[str]) -> list[float]:
    """Return where each name of the key begins, one after the other."""
    places = [LEFT]
    for name in names[:-1]:
        places.append(round(places[-1] + _KEY_GAP + _LETTER * len(name), 1))
    return places


def _round_up(share: float) -> float:
    """Return the next of 1, 2, 4, 6 or 8 times a power of ten: quarters of it read well."""
    if share <= 0:
        return 0.0
    power = 10.0 ** floor(log10(share))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= share * (1 - 1e-12))


def _ticks(first: float, last: float) -> list[float]:
    """Return at most `_TICKS` round numbers from first to last."""
    rough = (last - first) / _TICKS
    power = 10.0 ** floor(log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough - 1e-12 * power)
    places = range(ceil(first / step - 1e-9), floor(last / step + 1e-9) + 1)
    return [at * step for at in places]
