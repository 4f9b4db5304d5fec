"""Fifty erasures one after another on one model: what it can still do, and what it still shows.

    python -m benchmarks.bench_sequential [--quick] [--figures docs/figures]

The same people leave models of the digits recipe, in the same order: one in shards, erased by
`sisa`, and two in a single shard, erased by the two approximate methods that are used by default
(`gradient_ascent` for models like this, `impair_repair` for language models), with their defaults
under the guards. Beside them stands the single model trained again without the people. The
never-seen level is each model's own loss on records that nobody trained on.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.plot import Axis, Series, write_chart
from benchmarks.sharded import CPU, Data, Split, Trained, digits, train
from workers.unlearn import run_method
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.task import Examples, count, take

SHARDS, SLICES = 5, 5
ROWS_EACH = 5
LEFT = (0, 1, 10, 20, 30, 40, 50)
"""After how many erasures the table shows the figures."""


@dataclass(frozen=True)
class Shown:
    """A model after some erasures.

    Attributes:
        accuracy: share of right answers on records that nobody trained on.
        forget: mean loss of all people erased so far, in never-seen levels: 1 is as if never seen.
        latest: the same of the person erased last.
        retain: mean loss of the people who stay, in nats.
        outcome: how the last erasure ended.
    """

    accuracy: float
    forget: float
    latest: float
    retain: float
    outcome: str


class Sisa:
    """A model in shards."""

    def __init__(self, data: Data, split: Split) -> None:
        self._trained = train(data.plain(), split, SHARDS, SLICES)

    def erase(self, owner: str, gone: Tensor) -> str:  # noqa: ARG002 - the shards know the others
        """Train again what held the person."""
        forgotten = self._trained.forget(owner)
        rows = list(self._trained.rows)
        rows[forgotten.shard] = forgotten.rows
        checkpoints = self._trained.checkpoints | forgotten.checkpoints
        self._trained = replace(self._trained, rows=rows, checkpoints=checkpoints)
        return "exact"

    def model(self) -> Ensemble:
        """Return the members together."""
        return self._trained.model()

    def equals(self, other: Trained) -> bool:
        """Say whether all checkpoints are, bit for bit, those of another training."""
        return all(
            torch.equal(tensor, other.checkpoints[place].tensors()[name])
            for place, state in self._trained.checkpoints.items()
            for name, tensor in state.tensors().items()
        )


class Approximate:
    """A single model, and an approximate method with its defaults."""

    def __init__(self, method: str, data: Data, split: Split, holdout: Examples) -> None:
        self._method, self._split, self._holdout = method, split, holdout
        trained = train(data.plain(), split, 1, 1)
        self._task, ((_, self._network),) = trained.task, trained.members()

    def erase(self, owner: str, gone: Tensor) -> str:
        """Unlearn the person's records, retain those of the people who stay."""
        own = torch.tensor([one == owner for one in self._split.owners])
        unlearned = run_method(
            self._method,
            self._task,
            self._network,
            forget=rows_of(self._split, own),
            retain=rows_of(self._split, ~gone),
            holdout=self._holdout,
            parameters={},
            seed=owner,
            on_progress=lambda _: None,
            cancelled=lambda: False,
        )
        return unlearned.status

    def model(self) -> Ensemble:
        """Return the model."""
        return Ensemble(self._task, (self._network,))


class Retrained:
    """The single model trained again without the people."""

    def __init__(self, data: Data, split: Split) -> None:
        self._trained = train(data.plain(), split, 1, 1)

    def erase(self, owner: str, gone: Tensor) -> str:  # noqa: ARG002 - all who left are named
        """Train again without all who left so far."""
        left = replace(self._trained, rows=[[(~gone).nonzero()[:, 0]]])
        self._trained = replace(left, checkpoints=left.train_shard(left.rows[0], 0, 0))
        return "exact"

    def model(self) -> Ensemble:
        """Return the model."""
        return self._trained.model()


def main() -> None:
    """Erase people from each model, print the figures, draw them where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ten erasures")
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    options = parser.parse_args()
    deterministic()
    data = replace(digits(), rows_each=ROWS_EACH)
    split = data.split(0)
    # One half of the test records sets the guards, the other measures.
    half = count(split.test) // 2
    holdout = {name: tensor[:half] for name, tensor in split.test.items()}
    split = replace(split, test={name: tensor[half:] for name, tensor in split.test.items()})
    leaving = list(dict.fromkeys(split.owners))[: 10 if options.quick else 50]
    sisa = Sisa(data, split)
    approximate = {
        method: Approximate(method, data, split, holdout)
        for method in ("impair_repair", "gradient_ascent")
    }
    retrained = Retrained(data, split)
    shown = {
        "sisa": leave(sisa.erase, sisa.model, split, leaving),
        **{
            method: leave(one.erase, one.model, split, leaving)
            for method, one in approximate.items()
        },
        "retrain": leave(retrained.erase, retrained.model, split, leaving),
    }
    report(shown, bits=sisa.equals(train(data.plain(), without(split, leaving), SHARDS, SLICES)))
    if options.figures:
        draw(options.figures, shown)


def leave(
    erase: Callable[[str, Tensor], str],
    model: Callable[[], Ensemble],
    split: Split,
    leaving: Sequence[str],
) -> list[Shown]:
    """Erase people one after another, and look at the model before the first and after each."""
    gone = torch.zeros(len(split.owners), dtype=torch.bool)
    shown = [look(model(), split, gone, gone, "")]
    for owner in leaving:
        own = torch.tensor([one == owner for one in split.owners])
        gone = gone | own
        outcome = erase(owner, gone)
        shown.append(look(model(), split, gone, own, outcome))
    return shown


def look(model: Ensemble, split: Split, gone: Tensor, latest: Tensor, outcome: str) -> Shown:
    """Measure a model from which some people are gone."""
    test = model.scores(split.test)
    losses, level = model.losses(split.records), test.losses.mean().item()
    return Shown(
        accuracy=test.accuracies.mean().item(),
        forget=losses[gone].mean().item() / level,
        latest=losses[latest].mean().item() / level,
        retain=losses[~gone].mean().item(),
        outcome=outcome,
    )


def rows_of(split: Split, chosen: Tensor) -> Examples:
    """Return the chosen records of a split."""
    return take(split.records, chosen.nonzero()[:, 0], CPU)


def without(split: Split, leaving: Sequence[str]) -> Split:
    """Return the split as if some people had never been in it."""
    stay = torch.tensor([one not in set(leaving) for one in split.owners])
    owners = tuple(one for one in split.owners if one not in set(leaving))
    return replace(split, records=rows_of(split, stay), owners=owners)


def report(shown: dict[str, list[Shown]], *, bits: bool) -> None:
    """Print the figures of each model."""
    table = Table(title="digits, people of five rows erased one after another")
    for name in ("model", "erased", "accuracy %", "forget loss", "of the last", "retain loss"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name, steps in shown.items():
        for erased in LEFT:
            if erased < len(steps):
                one = steps[erased]
                table.add_row(
                    name,
                    str(erased),
                    f"{100 * one.accuracy:.1f}",
                    f"{one.forget:.2f}" if erased else "",
                    f"{one.latest:.2f}" if erased else "",
                    f"{one.retain:.4f}",
                    end_section=erased == LEFT[-1],
                )
    console = Console(width=100)
    console.print(table)
    console.print(
        "Forget losses are in never-seen levels: the model's own loss on the test records."
    )
    console.print(f"sisa's states are bit for bit those of people never seen: {bits}")
    for name, steps in shown.items():
        ends = [one.outcome for one in steps[1:]]
        console.print(name, {end: ends.count(end) for end in sorted(set(ends))})


def draw(folder: Path, shown: dict[str, list[Shown]]) -> None:
    """Draw utility and the earlier erasures over the number of erasures."""
    erased = Axis("people erased, one after another")
    write_chart(
        folder / "sequential-accuracy.svg",
        "What the model can still do",
        erased,
        Axis("accuracy, %"),
        [
            Series(name, [(float(n), 100 * one.accuracy) for n, one in enumerate(steps)])
            for name, steps in shown.items()
        ],
    )
    write_chart(
        folder / "sequential-forgotten.svg",
        "What it still shows of all erased so far",
        erased,
        Axis("forget loss (1: never seen)"),
        [
            Series(name, [(float(n), one.forget) for n, one in enumerate(steps) if n])
            for name, steps in shown.items()
        ],
    )


if __name__ == "__main__":
    main()
