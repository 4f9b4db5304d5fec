"""The accuracy lost to ten shards, and what wins it back.

    python -m benchmarks.bench_sharding_accuracy [--quick]

Each option is compared over several seeds with the same option in one shard, and with the plain
recipe in one shard.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.sharded import Data, Split, Trained, accuracy, all_data, train
from lethe.recipes.closed_form import ClosedFormParams, FourierFeatures
from workers.recipes.classifier import Classifier
from workers.recipes.closed_form import ClosedForm
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.state import write_model

SHARDS = 10
AGGREGATIONS = ("mean_probabilities", "mean_logits", "vote", "unweighted")
WEIGHT_DECAY = 0.3
WIDER, FEATURES = 8, 1024
RIDGE = 1.0


@dataclass(frozen=True)
class WarmClassifier(Classifier):
    """A classifier that begins with given weights, trained on public records."""

    start: Mapping[str, Tensor] = field(default_factory=dict)

    @override
    def build(self, seed: int) -> nn.Module:
        """Make the network with the public weights, whatever the seed."""
        model = super().build(seed)
        write_model(model, self.start)
        return model


Option = Callable[[Data, Split, int], Trained]
"""Trains a split in so many shards."""


def plain(data: Data, split: Split, shards: int) -> Trained:
    """Train the recipe as it is."""
    return train(data.plain(), split, shards, 1)


def decayed(data: Data, split: Split, shards: int) -> Trained:
    """Train with weight decay."""
    task = data.classifier({"weight_decay": WEIGHT_DECAY}, data.recipe["hidden"])
    return train(task, split, shards, 1)


def longer(data: Data, split: Split, shards: int) -> Trained:
    """Train for three times the epochs, in any number of shards."""
    return train(data.classifier(_three_times(data), data.recipe["hidden"]), split, shards, 1)


def wider(data: Data, split: Split, shards: int) -> Trained:
    """Train a network of eight times the units for three times the epochs."""
    hidden = [WIDER * units for units in data.recipe["hidden"]]
    return train(data.classifier(_three_times(data), hidden), split, shards, 1)


def warm(data: Data, split: Split, shards: int) -> Trained:
    """Begin each shard with the recipe trained on public records, which no shard holds.

    In one shard the comparison is the plain recipe on all records, public ones too.
    """
    if shards == 1:
        return plain(data, split, 1)
    public = {name: tensor[: data.public] for name, tensor in split.records.items()}
    owners = split.owners[: data.public]
    base = train(data.plain(), Split(split.seed, public, owners, split.test), 1, 1)
    task = WarmClassifier(data.plain().params, base.checkpoints[0, 0].model)
    return train(task, split.without(data.public), shards, 1)


def closed_form(data: Data, split: Split, shards: int) -> Trained:
    """Solve a ridge head on 1,024 frozen random Fourier features."""
    columns = {
        name: data.recipe[name] for name in data.recipe if name not in ("hidden", "training")
    }
    fourier = FourierFeatures(width=FEATURES, length_scale=data.length_scale, seed=split.seed)
    params = ClosedFormParams.model_validate({**columns, "fourier": fourier, "ridge": RIDGE})
    return train(ClosedForm(params), split, shards, 1)


OPTIONS: dict[str, Option] = {
    "plain recipe": plain,
    f"weight decay {WEIGHT_DECAY}": decayed,
    "3 × epochs": longer,
    f"3 × epochs, {WIDER} × units": wider,
    "warm start from public records": warm,
    "closed-form head": closed_form,
}


def _three_times(data: Data) -> dict[str, int]:
    return {"epochs": 3 * data.recipe["training"]["epochs"]}


def main() -> None:
    """Print one table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="digits only, one seed")
    quick = parser.parse_args().quick
    deterministic()
    for data in all_data()[: 1 if quick else None]:
        report(data, seeds=1 if quick else 5)


def report(data: Data, seeds: int) -> None:
    """Train every option in one shard and in ten, and print accuracies and losses in points."""
    table = Table("option", title=f"{data.name}: {SHARDS} shards, {seeds} seeds, mean ± spread")
    for name in (
        "one shard %",
        *(f"{one} %" for one in AGGREGATIONS),
        "points lost",
        "points below plain",
    ):
        table.add_column(name.replace("_", " "), justify="right")
    splits = [data.split(seed) for seed in range(seeds)]
    usual = [accuracy(plain(data, split, 1).model(), split) for split in splits]
    for name, option in OPTIONS.items():
        one, ten = [], []
        for split in splits:
            one.append(accuracy(option(data, split, 1).model(), split))
            ten.append([accuracy(model, split) for model in joined(option(data, split, SHARDS))])
        lost = [whole - parts[0] for whole, parts in zip(one, ten, strict=True)]
        below = [whole - parts[0] for whole, parts in zip(usual, ten, strict=True)]
        cells = [one, *map(list, zip(*ten, strict=True)), lost, below]
        table.add_row(name, *(spread(values) for values in cells))
    Console(width=150).print(table)


def joined(trained: Trained) -> list[Ensemble]:
    """Return the members together in each of the ways of `AGGREGATIONS`."""
    members = tuple(model for records, model in trained.members() if records)
    return [
        trained.model("mean_probabilities"),
        trained.model("mean_logits"),
        trained.model("vote"),
        Ensemble(trained.task, members),
    ]


def spread(shares: list[float]) -> str:
    """Write shares as percent: mean ± standard deviation."""
    deviation = statistics.stdev(shares) if len(shares) > 1 else 0.0
    return f"{100 * statistics.mean(shares):.1f} ± {100 * deviation:.1f}"


if __name__ == "__main__":
    main()
