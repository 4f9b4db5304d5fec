"""What the story shows: the measurements and the papers as tables. No calls, no decisions."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from demo.screens import COLOURS, day
from examples.insurance.attack import Attacked
from lethe.client import JsonObject

BAR = 24
"""Characters from AUC 0 to AUC 1."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What was served at one time, and what was measured on it.

    Attributes:
        when: The stage's name.
        version: The model version.
        attacked: The attack on its weights.
        metrics: The service's own measurement of it: loss and accuracy by set.
    """

    when: str
    version: int
    attacked: Attacked
    metrics: JsonObject


def attack_table(stages: Sequence[Stage]) -> Table:
    """Show the attack on each version, the interval drawn on a line from 0 to 1."""
    table = _table("Served", "AUC", "95 % interval", "0        chance         1", "Loss")
    for stage in stages:
        seen = stage.attacked
        table.add_row(
            _named(stage),
            f"{seen.auc:.2f}",
            f"{seen.low:.2f} to {seen.high:.2f}",
            _interval(seen),
            f"{seen.loss:.2f}",
        )
    return table


def retained_table(stages: Sequence[Stage]) -> Table:
    """Show what each version still does for the others, as the service measured it."""
    sets = ("retained", "never seen")
    table = _table("Served", *(f"{what},\n{one}" for what in ("Accuracy", "Loss") for one in sets))
    for stage in stages:
        accuracy, loss = stage.metrics["accuracy"], stage.metrics["loss"]
        table.add_row(
            _named(stage),
            f"{accuracy['retain']:.1%}",
            f"{accuracy['holdout']:.1%}",
            f"{loss['retain']:.2f}",
            f"{loss['holdout']:.2f}",
        )
    return table


def certificates_table(predicates: Sequence[JsonObject]) -> Table:
    """Show both certificates beside each other."""
    table = _table("", *(f"Certificate {one['revision']}" for one in predicates))
    table.columns[0].style = "dim"
    done = [_model_of(one) for one in predicates]
    table.add_row("method", *(one["method"] for one in done))
    table.add_row("guarantee", *(_coloured(one["guarantee"]) for one in done))
    table.add_row("verdict", *(_coloured(one["verdict"]) for one in done))
    table.add_row("promise", *(_promise(one) for one in predicates))
    table.add_row("supersedes", *(_superseded(one) for one in predicates))
    table.add_row("not guaranteed", *(str(len(one["not_guaranteed"])) for one in predicates))
    return table


def promise_table(commitment: JsonObject) -> Table:
    """Show a promise as it stands."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("promised", str(commitment["kind"]).replace("_", " "))
    table.add_row("may start", day(commitment["starts_at"]))
    table.add_row("due", day(commitment["due_at"]))
    table.add_row("state", _coloured(commitment["state"]))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="dim", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _named(stage: Stage) -> Text:
    return Text.assemble((f"v{stage.version} ", "dim"), stage.when)


def _interval(seen: Attacked) -> Text:
    low, at, high = (round(share * BAR) for share in (seen.low, seen.auc, seen.high))
    drawn = Text()
    for place in range(BAR + 1):
        inside = low <= place <= high
        mark = "●" if place == at else "━" if inside else "┊" if place == BAR // 2 else "·"
        clear = seen.low > 1 / 2 or seen.high < 1 / 2
        drawn.append(mark, ("red" if clear else "green") if inside else "dim")
    return drawn


def _model_of(predicate: JsonObject) -> JsonObject:
    (done,) = (one for one in predicate["done"] if one["kind"] == "model_version")
    return dict(done)


def _promise(predicate: JsonObject) -> str:
    (commitment,) = predicate["commitments"]
    kept = commitment["fulfilled_at"]
    due = f"{str(commitment['promise']).replace('_', ' ')} by {day(commitment['due_at'])}"
    return f"{due}, kept on {day(kept)}" if kept else f"{due}, open"


def _superseded(predicate: JsonObject) -> str:
    digest = predicate["supersedes"]
    return "nothing" if digest is None else f"{str(digest).removeprefix('sha256:')[:16]}…"


def _coloured(word: object) -> Text:
    return Text(str(word), COLOURS.get(str(word), ""))
