"""Line charts as SVG, for the figures in the docs: axes, lines, points and a legend, no more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 62, 50
COLOURS = ("#0b6e99", "#c1440e", "#4a7c23", "#7a4ea3")
TICKS = 6
"""About as many marks as an axis has."""


@dataclass(frozen=True)
class Series:
    """One line: its name and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """What an axis shows; a logarithmic one needs values above 0."""

    label: str
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value stands on the axis, in the axis' own units."""
        return math.log10(value) if self.logarithmic else value

    def value(self, place: float) -> float:
        """Return the value that stands at a place."""
        return 10**place if self.logarithmic else place


def write_chart(path: Path, title: str, x: Axis, y: Axis, series: Sequence[Series]) -> None:
    """Write a chart of at least one point, at most as many series as there are colours."""
    across = _Scale(x, [px for one in series for px, _ in one.points], LEFT, WIDTH - RIGHT)
    up = _Scale(y, [py for one in series for _, py in one.points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 20, title, size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x.label),
        f'<g transform="rotate(-90 15 {HEIGHT / 2:.0f})">{_text(15, HEIGHT / 2, y.label)}</g>',
    ]
    for value in across.ticks():
        parts.append(_line(across.at(value), TOP, across.at(value), HEIGHT - BOTTOM))
        parts.append(_text(across.at(value), HEIGHT - BOTTOM + 16, f"{value:.3g}"))
    for value in up.ticks():
        parts.append(_line(LEFT, up.at(value), WIDTH - RIGHT, up.at(value)))
        parts.append(_text(LEFT - 6, up.at(value) + 4, f"{value:.3g}", anchor="end"))
    for number, (one, colour) in enumerate(zip(series, COLOURS, strict=False)):
        places = [(across.at(px), up.at(py)) for px, py in one.points]
        path_points = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in places
        ]
        middle = LEFT + (number + 0.5) * (WIDTH - LEFT - RIGHT) / len(series)
        parts.append(_text(middle, 44, one.name, colour=colour))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


class _Scale:
    """From values to pixels; the values fill the axis with a margin."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        places = [axis.place(value) for value in values]
        margin = 0.05 * (max(places) - min(places)) or 0.5
        self._axis, self._low, self._high = axis, min(places) - margin, max(places) + margin
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = (self._axis.place(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Return round values along the axis: 1, 2 or 5 times a power of ten apart, or in turn."""
        if self._axis.logarithmic:
            powers = range(math.floor(self._low), math.ceil(self._high) + 1)
            every = [head * 10.0**power for power in powers for head in (1, 2, 5)]
            return [one for one in every if self._low <= math.log10(one) <= self._high]
        rough = (self._high - self._low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(head * power for head in (1, 2, 5, 10) if head * power >= rough)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [number * step for number in range(first, last + 1)]


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, colour: str = "black"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#ddd"/>'
