"""Boosted trees: erasing one person from a shard of five slices against training the shard anew.

    python -m benchmarks.bench_gbdt [--quick]

One shard, 20 trees per class and slice, one thread, CPU seconds. Both ways end in the same bytes,
which is checked for each person. Beside them, the same number of trees grown in one slice.
"""

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from benchmarks.sharded import Data, accuracy, all_data, train
from lethe.recipes.gbdt import GbdtParams
from workers.recipes.gbdt import Gbdt
from workers.unlearn.seeds import deterministic
from workers.unlearn.state import TrainingState
from workers.weights import dump_tensors

SLICES, TREES = 5, 20


@dataclass
class Measured:
    """One data set.

    Attributes:
        anew: CPU seconds of training the shard anew, person by person.
        resumed: CPU seconds of erasing a person, by their slice.
        equal: people for whom both ended in the same bytes.
        unsliced: CPU seconds of growing as many trees in one slice.
        accuracies: with slices, and grown in one.
        megabytes: all checkpoints together.
    """

    unsliced: float
    accuracies: tuple[float, float]
    megabytes: float
    anew: list[float] = field(default_factory=list)
    resumed: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    equal: int = 0


def main() -> None:
    """Print one table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="digits only, 5 people")
    options = parser.parse_args()
    deterministic()
    for data in all_data()[: 1 if options.quick else None]:
        report(data.name, measure(data, people=5 if options.quick else 25))


def measure(data: Data, people: int) -> Measured:
    """Erase people one by one, each from the same trained shard, in both ways."""
    split = data.split(0)
    trained = train(forest(data, TREES), split, 1, SLICES)
    single = train(forest(data, TREES * SLICES), split, 1, 1)
    measured = Measured(
        unsliced=single.seconds,
        accuracies=(accuracy(trained.model(), split), accuracy(single.model(), split)),
        megabytes=sum(len(written(state)) for state in trained.checkpoints.values()) / 1e6,
    )
    for owner in list(dict.fromkeys(split.owners))[:people]:
        forgotten = trained.forget(owner)
        _, first = split.place(owner, 1, SLICES)
        measured.resumed[first].append(forgotten.seconds)
        start = time.process_time()
        anew = trained.train_shard(forgotten.rows, 0, 0)
        measured.anew.append(time.process_time() - start)
        last = (0, SLICES - 1)
        measured.equal += written(anew[last]) == written(forgotten.checkpoints[last])
    return measured


def forest(data: Data, trees_per_slice: int) -> Gbdt:
    """Return the recipe for a data set, every input a column of numbers."""
    params = GbdtParams(
        features=tuple(f"input-{place}" for place in range(data.records["x"].shape[1])),
        label="label",
        classes=data.recipe["classes"],
        trees_per_slice=trees_per_slice,
    )
    return Gbdt(params)


def written(state: TrainingState) -> bytes:
    """Return a checkpoint as it is stored."""
    return dump_tensors(state.tensors())


def report(name: str, measured: Measured) -> None:
    """Print the means."""
    people, anew = len(measured.anew), statistics.mean(measured.anew)
    erased = [seconds for figures in measured.resumed.values() for seconds in figures]
    table = Table(title=f"{name}: one shard, {SLICES} slices, {people} people")
    for column in ("what", "CPU seconds", "times less"):
        table.add_column(column, justify="right")
    rows = [("the shard anew", anew), ("one person erased, mean", statistics.mean(erased))]
    rows += [
        (f"person of slice {first} ({len(figures)})", statistics.mean(figures))
        for first, figures in sorted(measured.resumed.items())
    ]
    for what, seconds in [*rows, ("as many trees in one slice", measured.unsliced)]:
        table.add_row(what, f"{seconds:.3f}", f"{anew / seconds:.2f}")
    sliced, whole = (100 * share for share in measured.accuracies)
    table.caption = (
        f"accuracy {sliced:.1f} %, grown in one slice {whole:.1f} %; same bytes for"
        f" {measured.equal} of {people}; checkpoints {measured.megabytes:.1f} MB"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
