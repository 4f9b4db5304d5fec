"""What an erasure costs a SISA model: one person's wall time, and twenty people in one run.

    python -m benchmarks.bench_sisa [--quick]

Jobs are what a compute worker is given, done by its warm child over a real file and a real store;
only the database is left out, so no lease is renewed and no checkpoint row is written. All shards
are trained in the same child in the same run.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from typing_extensions import override

from app.core.identifiers import owner_bucket
from app.manifest.rules import (
    EvaluateJob,
    Job,
    ModelJob,
    SliceRef,
    SourceJob,
    TrainShardJob,
    shard_of,
    slice_of,
)
from workers.compute import ChildWork
from workers.messages import Done
from workers.runner import Lease
from workers.steps import Result
from workers.unlearn.sisa import epochs_per_slice

SHARDS, SLICES, EPOCHS = 20, 5, 20
PEOPLE, ROWS_EACH = 75, 20
CUSTOMERS, AT_ONCE = 1_000, 20
KEY = b"the key of a benchmark's dataset"
RECIPE = {
    "image": {"column": "pixels", "height": 8, "width": 8},
    "label": "digit",
    "classes": 10,
    "hidden": [128],
    "scale": 16.0,
    "training": {"epochs": EPOCHS, "batch_size": 16},
}


class Unheard(Lease):
    """A hold on a step that nobody else wants: there is no database to tell."""

    def __init__(self) -> None:
        self.beat_seconds = 60.0

    @override
    def renew(self, progress: float) -> None:
        """Tell nobody."""

    @override
    def save_checkpoint(self, values: Result) -> None:
        """Tell nobody."""


@dataclass(frozen=True)
class Cost:
    """What was spent: seconds of wall time, records times epochs, shards trained."""

    seconds: float
    passes: int
    shards: int

    def __add__(self, other: "Cost") -> "Cost":
        """Spend both."""
        return Cost(
            self.seconds + other.seconds, self.passes + other.passes, self.shards + other.shards
        )


class Worker:
    """A model trained shard by shard, and people taken out of it, by one warm child."""

    def __init__(self, work: ChildWork, model: ModelJob) -> None:
        self._work, self._model = work, model
        self._checkpoints: dict[int, dict[str, str]] = {}
        self._slices: dict[int, list[SliceRef]] = {}

    def train(self) -> Cost:
        """Train all shards from scratch, and keep what they stored."""
        total = Cost(0.0, 0, 0)
        for shard in range(self._model.shards):
            cost, result = self._shard(self._model, shard, {})
            self._checkpoints[shard] = {
                one["chain"]: one["object_digest"] for one in result["slices"]
            }
            self._slices[shard] = refs(result)
            total = total + cost
        return total

    def warm_up(self) -> None:
        """Train one shard and keep nothing, so that the child has read the file."""
        self._shard(self._model, 0, {})

    def anew(self) -> "Worker":
        """Return the same worker with a model of its own over the same file."""
        return Worker(self._work, dataclasses.replace(self._model, model_id=uuid.uuid4()))

    def forget(self, records: Sequence[int], owners: Iterable[str]) -> Cost:
        """Train again what held the records, from the trained model, which stays as it is."""
        (source,) = self._model.sources
        left = dataclasses.replace(source, excluded=tuple(records))
        model = dataclasses.replace(self._model, sources=(left,))
        first, total = first_slices(place_of(owner) for owner in owners), Cost(0.0, 0, 0)
        for shard, piece in first.items():
            cost, result = self._shard(model, shard, self._checkpoints[shard])
            if result["resumed_after"] != piece - 1:
                message = "the shard was not resumed from the checkpoint before the records"
                raise RuntimeError(message)
            total = total + cost
        return total

    def evaluate(self) -> float:
        """Score the trained model as after its training; return the seconds."""
        after = tuple(one for slices in self._slices.values() for one in slices)
        job = EvaluateJob(
            model=self._model,
            before=(),
            after=after,
            forget=(),
            erased_digests=(),
            method="retrain",
            removals=(),
            requests=(),
            verification={},
            alpha=0.01,
            margin=0.15,
            share=0.1,
        )
        return self._do(job)[0]

    def _shard(
        self, model: ModelJob, shard: int, checkpoints: dict[str, str]
    ) -> tuple[Cost, Result]:
        seconds, result = self._do(TrainShardJob(model, shard, checkpoints))
        return Cost(seconds, result["record_passes"], 1), result

    def _do(self, job: Job) -> tuple[float, Result]:
        start = time.perf_counter()
        outcome = self._work(job, Unheard())
        seconds = time.perf_counter() - start
        if not isinstance(outcome, Done):
            raise RuntimeError(outcome.problem["detail"])
        return seconds, outcome.result


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer people and fewer draws")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        wall_time(Path(folder), people=5 if quick else 50, scattered=1 if quick else 5)
    batching(draws=20 if quick else 200)


def wall_time(folder: Path, people: int, scattered: int) -> None:
    """Time the erasure of one person against training all shards, for both ways to file rows."""
    work = ChildWork(f"file://{folder}/artifacts")
    title = f"{PEOPLE * ROWS_EACH:,} digits of {PEOPLE} people, {SHARDS} shards of {SLICES} slices"
    table = Table("what", title=title)
    for name in ("seconds", "times faster", "record passes", "times fewer", "shards"):
        table.add_column(name, justify="right")
    uri = write_digits(folder / "digits.jsonl")
    try:
        for owner, count in (("person", people), ("row", scattered)):
            add_rows(table, Worker(work, model_of(uri, owner)), owner, count)
    finally:
        work.end()
    Console(width=110).print(table)


def add_rows(table: Table, worker: Worker, owner: str, people: int) -> None:
    """Train, take people out one at a time, and put the figures in the table."""
    worker.anew().warm_up()
    full, costs = worker.train(), []
    for person in Random(0).sample(range(PEOPLE), people):
        records = range(person * ROWS_EACH, (person + 1) * ROWS_EACH)
        costs.append(worker.forget(records, {owner_of(owner, one) for one in records}))
    # Trained twice, before and after the erasures, lest a busy machine favour either side.
    full_seconds = statistics.mean([full.seconds, worker.anew().train().seconds])
    seconds = statistics.mean(one.seconds for one in costs)
    passes = statistics.mean(one.passes for one in costs)
    filed = "each person in one shard" if owner == "person" else "rows wherever they fall"
    table.add_row(
        f"{filed}: train all", f"{full_seconds:.3f}", "", f"{full.passes:,}", "", f"{full.shards}"
    )
    table.add_row(
        f"forget one person, mean of {people}",
        f"{seconds:.3f}",
        f"{full_seconds / seconds:.1f}",
        f"{passes:,.0f}",
        f"{full.passes / passes:.1f}",
        f"{statistics.mean(one.shards for one in costs):.1f}",
    )
    table.add_row("score the model, once per run", f"{worker.evaluate():.3f}", end_section=True)


def write_digits(path: Path) -> str:
    """Write scikit-learn's digits as the records of made-up people; return the file's URI."""
    digits = load_digits()
    with path.open("w") as lines:
        for record in range(PEOPLE * ROWS_EACH):
            row = {
                "person": owner_of("person", record),
                "row": owner_of("row", record),
                "pixels": digits.data[record].tolist(),
                "digit": int(digits.target[record]),
            }
            lines.write(json.dumps(row) + "\n")
    return f"file://{path}"


def owner_of(column: str, record: int) -> str:
    """Return whom a record is filed under: its person, or nobody but itself."""
    return f"person-{record // ROWS_EACH}" if column == "person" else f"row-{record}"


def model_of(uri: str, owner_column: str) -> ModelJob:
    """Return a model over all records of a file."""
    source = SourceJob(1, uri, "jsonl", KEY, owner_column, "customer_id", (), ())
    return ModelJob(
        model_id=uuid.uuid4(),
        recipe="classifier",
        parameters=RECIPE,
        seed="benchmark",
        shards=SHARDS,
        slices=SLICES,
        holdout_from=1 << 16,
        default_phone_region=None,
        sources=(source,),
    )


def refs(result: Result) -> list[SliceRef]:
    """Return what training a shard stored, as the service keeps it."""
    return [SliceRef(shard=result["shard"], **one) for one in result["slices"]]


def batching(draws: int) -> None:
    """Count what twenty erasures cost one by one and joined into one run, over many draws."""
    source, single, joined = Random(0), [], []
    places = {one: place_of(f"customer-{one}") for one in range(CUSTOMERS)}
    for _ in range(draws):
        leaving = source.sample(range(CUSTOMERS), AT_ONCE)
        single.append(retrainings(places, [[one] for one in leaving]))
        joined.append(retrainings(places, [leaving]))
    everything = Counter(places.values())
    full = sum(passes_of(everything, shard, 0) for shard in range(SHARDS))
    table = Table("what", title=f"{AT_ONCE} of {CUSTOMERS:,} people at once, mean of {draws} draws")
    for name in ("shards trained", "share of full training", "promotions"):
        table.add_column(name, justify="right")
    for what, costs, runs in (("one by one", single, AT_ONCE), ("joined in one run", joined, 1)):
        shards = statistics.mean(one for one, _ in costs)
        share = statistics.mean(passes for _, passes in costs) / full
        table.add_row(what, f"{shards:.2f}", f"{share:.3f}", f"{runs}")
    theory = SHARDS * (1 - (1 - 1 / SHARDS) ** AT_ONCE)
    table.add_row("joined, by theory: S (1 - (1 - 1/S)^k)", f"{theory:.2f}")
    Console(width=110).print(table)


def place_of(owner: str) -> tuple[int, int]:
    """Return the shard and slice of an owner, as the workers compute it."""
    bucket = owner_bucket(KEY, owner)
    return shard_of(bucket, SHARDS), slice_of(bucket, SHARDS, SLICES)


def retrainings(
    places: dict[int, tuple[int, int]], runs: Sequence[Sequence[int]]
) -> tuple[int, int]:
    """Count the shards trained and the record passes of some runs, one after another."""
    left, shards, passes = Counter(places.values()), 0, 0
    for leaving in runs:
        left.subtract(places[one] for one in leaving)
        for shard, first in first_slices(places[one] for one in leaving).items():
            shards += 1
            passes += passes_of(left, shard, first)
    return shards, passes


def first_slices(places: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return the shards to train again, each with the slice to begin at."""
    first: dict[int, int] = {}
    for shard, piece in places:
        first[shard] = min(piece, first.get(shard, piece))
    return first


def passes_of(records: Counter[tuple[int, int]], shard: int, first: int) -> int:
    """Count the record passes that a shard's training makes from a slice on."""
    return epochs_per_slice(EPOCHS, SLICES) * sum(
        records[shard, piece] for last in range(first, SLICES) for piece in range(last + 1)
    )


if __name__ == "__main__":
    main()
