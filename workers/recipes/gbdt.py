"""Recipe `gbdt`: gradient-boosted trees by XGBoost, which learn slice after slice.

The trees of earlier slices are kept; each slice adds trees that are boosted on all records up to
it, as Bourtoule et al. 2021 (arXiv 1912.03817, section IV) carry weights on. Nothing is drawn by
chance: no rows or columns are sampled, and the bounds between which a column is split are computed
anew for each slice from the records up to it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xgboost
from torch import Tensor, nn
from typing_extensions import override

from lethe.recipes.gbdt import GbdtParams
from lethe.recipes.training import TrainingParams
from workers.recipes.closed_form import ONCE
from workers.recipes.columns import label, number
from workers.recipes.one_prediction import OnePrediction
from workers.unlearn.task import Examples, count, join

_LARGEST = float(np.finfo(np.float32).max)


class Trees(nn.Module):
    """All trees so far, as XGBoost's JSON in a buffer; it is empty before the first record.

    JSON, since a damaged model in the library's binary format can crash the process.
    """

    def __init__(self, params: GbdtParams) -> None:
        super().__init__()
        self._params = params
        # Callers learn from the first parameter where a model is. Frozen, so it is never stored.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self.trees: Tensor
        self.register_buffer("trees", torch.empty(0, dtype=torch.uint8))
        self._read: tuple[Tensor, xgboost.Booster] | None = None

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, columns) to log probabilities (n, classes); the same for all without trees.

        Raises:
            ValueError: the trees cannot be read.
        """
        if not self.trees.numel():
            return x.new_zeros(len(x), self._params.classes).log_softmax(-1)
        margins = self._booster().predict(self._matrix(x), output_margin=True)
        logits = torch.from_numpy(margins).reshape(len(x), -1).to(x.device)
        if self._params.classes == 2:  # the trees say how far class 1 is above class 0
            logits = nn.functional.pad(logits, (1, 0))
        return logits.log_softmax(-1)

    def boost(self, examples: Examples) -> None:
        """Add `trees_per_slice` trees per class that lower the loss of these records.

        Raises:
            ValueError: the trees so far cannot be read.
        """
        matrix = self._matrix(examples["x"], examples["y"])
        # Read from the bytes also where they have just been written: then a training that resumes
        # goes on from all that an unbroken one has.
        if self.trees.numel():
            booster = _parse(self._params, self.trees)
        else:
            booster = xgboost.Booster(_settings(self._params), [matrix])
        first = booster.num_boosted_rounds()
        for iteration in range(first, first + self._params.trees_per_slice):
            booster.update(matrix, iteration)
        written = torch.frombuffer(booster.save_raw("json"), dtype=torch.uint8)
        self.trees = written.clone().to(self.place.device)

    def _booster(self) -> xgboost.Booster:
        # Whoever restores a state writes into the buffer, so its bytes tell what was read.
        if self._read is None or not torch.equal(self._read[0], self.trees):
            self._read = self.trees.clone(), _parse(self._params, self.trees)
        return self._read[1]

    def _matrix(self, x: Tensor, y: Tensor | None = None) -> xgboost.DMatrix:
        kinds = ["q"] * len(self._params.features) + ["c"] * len(self._params.categories)
        return xgboost.DMatrix(
            x.numpy(force=True),
            label=None if y is None else y.numpy(force=True),
            feature_types=kinds,
            enable_categorical=True,
            nthread=1,
        )


@dataclass(frozen=True)
class Gbdt(OnePrediction):
    """The trees as a task.

    Examples hold x (n, columns) float32, where a category is its place in the recipe's list and a
    missing value is NaN, and y (n,) int64.
    """

    params: GbdtParams

    @property
    def training(self) -> TrainingParams:
        """One pass."""
        return ONCE

    def build(self, seed: int) -> nn.Module:  # noqa: ARG002 - nothing is drawn from it
        """Make a model without trees."""
        return Trees(self.params)

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into inputs and labels; an input may be missing, a label may not.

        Raises:
            ValueError: a column holds what is no number, or a category that the recipe does not
                list, or a label is no class; names the column, never its value.
        """
        places: dict[str, dict[object, int]] = {
            column: {value: i for i, value in enumerate(values)}
            for column, values in self.params.categories.items()
        }
        inputs = [
            [_input(row, column, places.get(column)) for column in self.params.columns]
            for row in rows
        ]
        labels = [label(row, self.params.label, self.params.classes) for row in rows]
        return {
            "x": torch.tensor(inputs, dtype=torch.float32).reshape(-1, len(self.params.columns)),
            "y": torch.tensor(labels, dtype=torch.int64),
        }

    def learn(self, model: nn.Module, slices: Sequence[Examples], r: int, seed: str) -> None:  # noqa: ARG002 - nothing is drawn from it
        """Keep the trees so far and boost on, on the records of the slices 0..r.

        An empty slice adds trees from the records before it; no record at all adds none. The
        order of the records counts: by digest, say.

        Raises:
            ValueError: the trees so far cannot be read.
        """
        union = join(slices[: r + 1])
        if count(union):
            _trees(model).boost(union)

    @override
    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of the classes, as the one prediction per record: (n, 1, classes)."""
        log_probabilities: Tensor = model(examples["x"])
        return log_probabilities.unsqueeze(1)


def _settings(params: GbdtParams) -> dict[str, str | int | float]:
    # The score before the first tree is fixed: computed from the first slice's labels, it would
    # only make the trees of a shard depend on one slice more than on the others.
    two: dict[str, str | int | float] = {"objective": "binary:logistic", "base_score": 0.5}
    more: dict[str, str | int | float] = {
        "objective": "multi:softprob",
        "base_score": 0.0,
        "num_class": params.classes,
    }
    return {
        **(two if params.classes == 2 else more),
        "device": "cpu",
        "nthread": 1,
        "verbosity": 0,
        "tree_method": "hist",
        "max_depth": params.max_depth,
        "learning_rate": params.learning_rate,
        "reg_lambda": params.l2,
        "min_child_weight": params.min_leaf_hessian,
        "max_bin": params.max_bins,
    }


def _parse(params: GbdtParams, trees: Tensor) -> xgboost.Booster:
    try:
        return xgboost.Booster(_settings(params), model_file=bytearray(trees.numpy(force=True)))
    except xgboost.core.XGBoostError:
        # `from None`: the library's error holds a part of the file.
        raise ValueError(
            "the trees of the model cannot be read: restore the checkpoint, or train the shard "
            "again from the one before it"
        ) from None


def _trees(model: nn.Module) -> Trees:
    if not isinstance(model, Trees):
        raise ValueError("the model is not one that this recipe has built")
    return model


def _input(row: Mapping[str, object], column: str, places: Mapping[object, int] | None) -> float:
    value = row.get(column)
    if value is None or value != value:  # NaN alone differs from itself
        return math.nan
    if places is None:
        found = number(row, column)
        if abs(found) > _LARGEST:
            raise ValueError(f"column {column!r} must hold numbers that fit into 32 bits")
        return found
    place = places.get(value) if isinstance(value, str | int | float) else None
    if place is None:
        raise ValueError(
            f"column {column!r} holds a category that the recipe does not list: add it there and "
            "train a new version"
        )
    return place
