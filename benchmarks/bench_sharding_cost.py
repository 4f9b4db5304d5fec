"""Accuracy and cost over shards and slices: what to forget one person takes.

    python -m benchmarks.bench_sharding_cost [--quick] [--figures docs/figures]

Costs are shares of training the same recipe as one model (one shard, one slice) in the same run:
record passes as the mean over all people, CPU seconds over a few.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.plot import Axis, Series, write_chart
from benchmarks.sharded import Data, Split, Trained, accuracy, all_data, train
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import epochs_per_slice
from workers.weights import dump_tensors

SHARDS, SLICES = (1, 2, 5, 10, 20), (1, 5)
TIMED = 2
"""People whose erasure is timed, per seed and layout."""


@dataclass(frozen=True)
class Measured:
    """One layout with one seed; both costs in units of the single model's training."""

    accuracy: float
    passes: float
    seconds: float
    megabytes: float


def main() -> None:
    """Print one table for each data set; write the figure, where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="digits only, one seed")
    parser.add_argument("--figures", type=Path, help="folder for the figure")
    options = parser.parse_args()
    deterministic()
    everything = {
        data.name: measure(data, seeds=1 if options.quick else 5)
        for data in all_data()[: 1 if options.quick else None]
    }
    for name, curve in everything.items():
        report(name, curve)
    if options.figures:
        draw(options.figures / "sharding-cost.svg", everything)


Curve = dict[tuple[int, int], list[Measured]]


def measure(data: Data, seeds: int) -> Curve:
    """Train every layout with every seed, and forget people of each."""
    curve: Curve = {}
    for seed in range(seeds):
        split = data.split(seed)
        single = train(data.plain(), split, 1, 1)
        for shards in SHARDS:
            for slices in SLICES:
                layout = (shards, slices)
                trained = single if layout == (1, 1) else train(data.plain(), split, *layout)
                curve.setdefault(layout, []).append(figures(trained, split, single))
    return curve


def figures(trained: Trained, split: Split, single: Trained) -> Measured:
    """Measure one trained layout beside the single model."""
    people = list(dict.fromkeys(split.owners))
    timed = [trained.forget(owner) for owner in people[:TIMED]]
    stored = sum(len(dump_tensors(one.tensors())) for one in trained.checkpoints.values())
    return Measured(
        accuracy=accuracy(trained.model(), split),
        passes=mean_passes(trained, split, len(people)) / single.passes(single.rows[0], 0),
        seconds=statistics.mean(one.seconds for one in timed) / single.seconds,
        megabytes=stored / 1e6,
    )


def mean_passes(trained: Trained, split: Split, people: int) -> float:
    """Return the record passes that forgetting a person takes, as the mean over all people."""
    rows_each, total = len(split.owners) / people, 0.0
    for rows in trained.rows:
        epochs = epochs_per_slice(trained.task.training.epochs, len(rows))
        for first, part in enumerate(rows):
            # A person of this slice is missing from its union and from all after it.
            missing = epochs * (len(rows) - first) * rows_each
            total += len(part) / rows_each * (trained.passes(rows, first) - missing)
    return total / people


def report(name: str, curve: Curve) -> None:
    """Print means over the seeds."""
    seeds = len(curve[1, 1])
    table = Table(title=f"{name}, {seeds} seeds; costs in units of training one model")
    columns = ("S", "R", "accuracy %", "record passes", "times fewer", "CPU time", "stored MB")
    for column in columns:
        table.add_column(column, justify="right")
    for (shards, slices), measured in curve.items():
        accuracies = [100 * one.accuracy for one in measured]
        deviation = statistics.stdev(accuracies) if seeds > 1 else 0.0
        passes = statistics.mean(one.passes for one in measured)
        table.add_row(
            str(shards),
            str(slices),
            f"{statistics.mean(accuracies):.1f} ± {deviation:.1f}",
            f"{passes:.4f}",
            f"{1 / passes:.1f}",
            f"{statistics.mean(one.seconds for one in measured):.4f}",
            f"{statistics.mean(one.megabytes for one in measured):.1f}",
        )
    Console().print(table)


def draw(path: Path, everything: dict[str, Curve]) -> None:
    """Draw the points lost to sharding over the cost of forgetting one person."""
    series = [
        Series(f"{name}, {slices} slices", points_lost(curve, slices))
        for name, curve in everything.items()
        for slices in SLICES
    ]
    write_chart(
        path,
        "1, 2, 5, 10, 20 shards, from the right: cost of an erasure against accuracy",
        Axis("record passes to forget one person, as a share of training", logarithmic=True),
        Axis("points of accuracy lost"),
        series,
    )


def points_lost(curve: Curve, slices: int) -> list[tuple[float, float]]:
    """Return (cost, points lost against the single model), by number of shards."""
    usual = statistics.mean(one.accuracy for one in curve[1, 1])
    return [
        (
            statistics.mean(one.passes for one in curve[shards, slices]),
            100 * (usual - statistics.mean(one.accuracy for one in curve[shards, slices])),
        )
        for shards in SHARDS
    ]


if __name__ == "__main__":
    main()
