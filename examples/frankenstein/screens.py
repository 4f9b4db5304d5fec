"""What the story shows: both ways side by side while they happen, and how all of it ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from examples.frankenstein.duel import METHOD, End, Frame, Side
from examples.frankenstein.model import Reading

ROWS_SHOWN = frozenset({0, 1, 2, 5, 10, 20, 30, 40, 60, 80, 100})
SAID_CHARACTERS = 150
LINES_BESIDE_ROWS = 10
"""Of a panel: its frame, the table's head, how it ended, and what the model says."""
NOTHING = "(nothing: its numbers are not numbers)"


@dataclass(frozen=True)
class Row:
    """One line of the last table."""

    name: str
    end: End


class Duels:
    """Both sides side by side, growing while the context is open; call it with the frames."""

    def __init__(self, console: Console, precision: str, start: str, bound: float) -> None:
        """Take what every frame is shown with.

        Args:
            console: Where they are shown.
            precision: What the weights are kept in.
            start: The beginning of the passage that is given.
            bound: The retain loss, in nats, over which a model counts as damaged.
        """
        self._precision, self._start, self._bound = precision, start, bound
        self._frames: list[Frame] = []
        self._live = Live(console=console, refresh_per_second=8)

    def __enter__(self) -> "Duels":
        self._live.start()
        return self

    def __exit__(self, *_ended: object) -> None:
        self._live.stop()
        if not self._live.console.is_terminal:  # there it ends its last line by itself
            self._live.console.line()

    def __call__(self, frame: Frame) -> None:
        """Show a frame."""
        self._frames.append(frame)
        self._live.update(self.screen())

    def screen(self) -> Table:
        """Return both sides as they stand."""
        grid = Table.grid(expand=True)
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        notebook = _rows([frame.notebook for frame in self._frames])
        guarded = _rows([frame.guarded for frame in self._frames])
        height = max(len(notebook), len(guarded)) + LINES_BESIDE_ROWS
        grid.add_row(
            self._side(f"the notebook, {self._precision}", notebook, height),
            self._side(f"{METHOD} under guard, {self._precision}", guarded, height),
        )
        return grid

    def _side(self, title: str, sides: Sequence[Side], height: int) -> Panel:
        table = Table(box=SIMPLE_HEAD, header_style="dim", show_edge=False, pad_edge=False)
        for column in ("step", "forget loss", "retain loss"):
            table.add_column(column, justify="right")
        for side in sides:
            reading = side.reading
            table.add_row(str(side.step), _loss(reading.forget_loss), self._retain(reading))
        last = sides[-1]
        ended = Text("" if last.stopped is None else f"ended: {last.stopped}", "bold")
        said = Text.assemble((f"{self._start} ", "dim"), _said(last.reading))
        return Panel(Group(table, ended, Text(), said), title=title, box=ROUNDED, height=height)

    def _retain(self, reading: Reading) -> Text:
        # A comparison with NaN is false.
        fine = reading.retain_loss <= self._bound
        return Text(_loss(reading.retain_loss), "green" if fine else "bold red")


def _rows(sides: Sequence[Side]) -> list[Side]:
    """Return the sides to show: some steps, and the last one."""
    shown = {side.step: side for side in sides if side.step in ROWS_SHOWN}
    shown[sides[-1].step] = sides[-1]
    return list(shown.values())


def end_table(rows: Sequence[Row], bound: float) -> Table:
    """Show how each model ended, by numbers."""
    table = Table(box=SIMPLE_HEAD, header_style="dim", show_edge=False, pad_edge=False)
    table.add_column("Model")
    for column in (
        "forget\nloss",
        "never-seen\nlevel",
        "retain\nloss",
        "word for\nword",
        "next token\nright",
        "of never\nseen",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        reading = row.end.reading
        fine = reading.retain_loss <= bound
        table.add_row(
            row.name,
            _loss(reading.forget_loss),
            _loss(row.end.never_seen),
            Text(_loss(reading.retain_loss), "green" if fine else "bold red"),
            f"{reading.verbatim:.0%}",
            f"{reading.recalled:.0%}",
            f"{row.end.never_seen_right:.0%}",
        )
    return table


def completions_table(rows: Sequence[Row], start: str, elsewhere: str) -> Table:
    """Show what each model says, to the passage's beginning and to one it has never seen."""
    table = Table(box=SIMPLE_HEAD, header_style="dim", show_edge=False, pad_edge=False)
    table.add_column("Model", no_wrap=True)
    table.add_column(f"“{start} …”", ratio=1)
    table.add_column(f"“{elsewhere} …”", ratio=1)
    for row in rows:
        reading = row.end.reading
        table.add_row(row.name, _said(reading), _short(row.end.elsewhere), end_section=True)
    return table


def _said(reading: Reading) -> Text:
    if not reading.finite:
        return Text(NOTHING, "bold red")
    return _short(reading.completion)


def _short(said: str) -> Text:
    if not said:
        return Text(NOTHING, "bold red")
    cut = said if len(said) <= SAID_CHARACTERS else f"{said[:SAID_CHARACTERS].rstrip()} …"
    return Text(cut, "italic")


def _loss(nats: float) -> str:
    return f"{nats:.2f}"
