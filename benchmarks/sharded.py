"""Digits and adult trained in shards, for the figures on accuracy and cost.

Digits are scikit-learn's, filed under people of 20 rows. Adult is the census extract at
`$LETHE_TEST_DATA/adult.csv` (default `../shared/data`), one row per person. People fall into shards
by the bucket of their owner, as everywhere. Each seed draws another split, another key for the
buckets and other weights.
"""

import csv
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

from app.core.identifiers import owner_bucket
from app.manifest.rules import shard_of, slice_of
from lethe.recipes.classifier import ClassifierParams
from lethe.recipes.training import Aggregation
from workers.recipes.classifier import Classifier
from workers.unlearn.aggregate import Ensemble, ensemble
from workers.unlearn.sisa import epochs_per_slice, restore, train_shard
from workers.unlearn.state import TrainingState
from workers.unlearn.task import Examples, Task, count, take

ROWS_EACH = 20
DIGITS_HELD_OUT, ADULT_HELD_OUT = 297, 5_000
REPOSITORY = Path(__file__).parent.parent
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Split:
    """What one seed trains on and is tested on."""

    seed: int
    records: Examples
    owners: tuple[str, ...]
    test: Examples

    def without(self, first: int) -> "Split":
        """Return the split whose first records are not trained on."""
        rest = {name: tensor[first:] for name, tensor in self.records.items()}
        return Split(self.seed, rest, self.owners[first:], self.test)

    def place(self, owner: str, shards: int, slices: int) -> tuple[int, int]:
        """Return an owner's shard and slice, as the workers compute them."""
        bucket = owner_bucket(self.seed.to_bytes(32, "big"), owner)
        return shard_of(bucket, shards), slice_of(bucket, shards, slices)


@dataclass(frozen=True)
class Data:
    """Records with their owners.

    Attributes:
        recipe: the parameters of the classifier that serves as the plain version.
        rows_each: how many records an owner has.
        public: how many records a warm start declares public.
        length_scale: of the random features of the closed form.
    """

    name: str
    recipe: Mapping[str, Any]
    records: Examples
    held_out: int
    rows_each: int
    public: int
    length_scale: float

    def classifier(self, training: Mapping[str, object], hidden: Sequence[int]) -> Classifier:
        """Return the plain classifier, trained or shaped in another way."""
        params = {**self.recipe, "training": {**self.recipe["training"], **training}}
        return Classifier(ClassifierParams.model_validate({**params, "hidden": hidden}))

    def plain(self) -> Classifier:
        """Return the plain classifier."""
        return Classifier(ClassifierParams.model_validate(self.recipe))

    def split(self, seed: int) -> Split:
        """Draw a split."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(count(self.records), generator=generator)
        kept = len(order) - self.held_out
        owners = tuple(f"person-{row // self.rows_each}" for row in range(kept))
        train, test = (take(self.records, part, CPU) for part in (order[:kept], order[kept:]))
        return Split(seed, train, owners, test)


@dataclass(frozen=True)
class Trained:
    """A sharded model with its checkpoints.

    Attributes:
        rows: which records of the split each slice of each shard holds.
        seconds: of CPU time, that training took.
    """

    task: Task
    split: Split
    rows: list[list[Tensor]]
    checkpoints: dict[tuple[int, int], TrainingState] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def seed(self) -> str:
        """The seed of the model version."""
        return f"seed {self.split.seed}"

    def model(self, aggregation: Aggregation = "mean_probabilities") -> Ensemble:
        """Return the members together."""
        return ensemble(self.task, self.members(), aggregation)

    def members(self) -> list[tuple[int, nn.Module]]:
        """Return the records and the model of each shard."""
        return [
            (sum(map(len, rows)), self._member(shard, len(rows) - 1))
            for shard, rows in enumerate(self.rows)
        ]

    def forget(self, owner: str) -> "Forgotten":
        """Train again what held an owner's records; the trained model stays as it is."""
        shard, first = self.split.place(owner, len(self.rows), len(self.rows[0]))
        own = torch.tensor([one == owner for one in self.split.owners])
        rows = [part[~own[part]] for part in self.rows[shard]]
        start = time.process_time()
        states = self.train_shard(rows, shard, first)
        return Forgotten(shard, rows, states, time.process_time() - start, self.passes(rows, first))

    def train_shard(
        self, rows: Sequence[Tensor], shard: int, first: int
    ) -> dict[tuple[int, int], TrainingState]:
        """Train a shard with these records from a slice on; return its new checkpoints."""
        states: dict[tuple[int, int], TrainingState] = {}

        def keep(r: int, state: TrainingState) -> None:
            states[shard, r] = state

        train_shard(
            self.task,
            [take(self.split.records, part, CPU) for part in rows],
            seed=self.seed,
            shard=shard,
            resume=None if first == 0 else (first - 1, self.checkpoints[shard, first - 1]),
            on_checkpoint=keep,
            on_progress=lambda _: None,
            cancelled=lambda: False,
        )
        return states

    def passes(self, rows: Sequence[Tensor], first: int) -> int:
        """Count the record passes of training a shard with these records from a slice on."""
        sizes = list(map(len, rows))
        epochs = epochs_per_slice(self.task.training.epochs, len(sizes))
        return epochs * sum(sum(sizes[: last + 1]) for last in range(first, len(sizes)))

    def _member(self, shard: int, last: int) -> nn.Module:
        return restore(self.task, self.checkpoints[shard, last], seed=self.seed, shard=shard)


@dataclass(frozen=True)
class Forgotten:
    """What came of forgetting a person: the shard without them, and what it took in CPU time."""

    shard: int
    rows: list[Tensor]
    checkpoints: dict[tuple[int, int], TrainingState]
    seconds: float
    passes: int


def train(task: Task, split: Split, shards: int, slices: int) -> Trained:
    """Train all shards."""
    places = torch.tensor([split.place(owner, shards, slices) for owner in split.owners])
    rows = [
        [(places == torch.tensor([s, r])).all(1).nonzero()[:, 0] for r in range(slices)]
        for s in range(shards)
    ]
    trained = Trained(task, split, rows)
    start = time.process_time()
    for shard in range(shards):
        trained.checkpoints.update(trained.train_shard(rows[shard], shard, 0))
    return replace(trained, seconds=time.process_time() - start)


def accuracy(model: Ensemble, split: Split) -> float:
    """Return the share of right answers on the test records."""
    return model.accuracies(split.test).mean().item()


def all_data() -> list[Data]:
    """Return digits, and adult where its file is; say so where it is not."""
    path = Path(os.environ.get("LETHE_TEST_DATA", REPOSITORY / "../shared/data")) / "adult.csv"
    if not path.is_file():
        Console().print("adult is left out: there is no adult.csv in the folder LETHE_TEST_DATA")
        return [digits()]
    return [digits(), adult(path)]


def digits() -> Data:
    """Return scikit-learn's digits: 1,500 to train on, 297 to test on."""
    source = load_digits()
    recipe = {
        "image": {"column": "pixels", "height": 8, "width": 8},
        "label": "digit",
        "classes": 10,
        "hidden": [128],
        "scale": 16.0,
        "training": {"epochs": 20, "batch_size": 16},
    }
    records = {
        "x": torch.tensor(source.data / 16.0, dtype=torch.float32),
        "y": torch.tensor(source.target, dtype=torch.int64),
    }
    return Data("digits", recipe, records, DIGITS_HELD_OUT, ROWS_EACH, 300, 2.0)


def adult(path: Path) -> Data:
    """Return the census extract with every column, words as one input per word of the column.

    The words are those of the census' code book, which is public; here they are read off the file.
    """
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    label, inputs = "salary-class", []
    names = [name for name in rows[0] if name not in ("person_id", label)]
    for name in names:
        cells = [row[name] for row in rows]
        if name == "age":
            inputs.append(torch.tensor([(float(cell) - 40) / 20 for cell in cells])[:, None])
            continue
        words = sorted(set(cells))
        numbers = torch.tensor([words.index(cell) for cell in cells])
        inputs.append(nn.functional.one_hot(numbers, len(words)).to(torch.float32))
    x = torch.cat(inputs, dim=1)
    recipe = {
        "features": [f"input-{place}" for place in range(x.shape[1])],
        "label": label,
        "classes": 2,
        "hidden": [64],
        "training": {"epochs": 10, "batch_size": 128, "learning_rate": 0.003},
    }
    y = torch.tensor([int(row[label].strip() == ">50K") for row in rows])
    return Data("adult", recipe, {"x": x, "y": y}, ADULT_HELD_OUT, 1, 2_500, 6.0)
