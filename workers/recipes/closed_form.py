"""Recipe `closed_form`: frozen features and a head solved from integer sums.

Nothing but the head depends on the records, and the head only through the sums, so a record is
taken out by subtraction. Features are whole numbers by definition, computed by steps that are each
exact in float64: a record has the same features in every batch, which rounding a float product
could not promise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from lethe.recipes.classifier import ClassifierParams
from lethe.recipes.closed_form import ClosedFormParams, FourierFeatures, FrozenFeaturesParams
from lethe.recipes.training import TrainingParams
from workers.recipes.classifier import Classifier
from workers.recipes.columns import label
from workers.recipes.one_prediction import OnePrediction
from workers.recipes.transformer import Backbone, make_backbone
from workers.unlearn.closed_form_head import UNIT, integer_sums, most_records, solve
from workers.unlearn.task import Examples, Removed, count

INPUT_RANGE = 64
"""Largest size of an input, of numbers after offset and scale; keeps every product below 2^53."""

ONCE = TrainingParams(epochs=1, batch_size=1024)
"""What a recipe without a gradient loop says of its training; the batch size is for scoring."""

_TURN = 2**16
_FREQUENCY_UNIT = 2**16
_EXACT = 2**53


class FrozenFeatures(nn.Module):
    """The features of a record as whole numbers in `UNIT`, the constant one last.

    Fourier features are cos(w.x + p) with w ~ N(0, 1 / length_scale^2) and p uniform on the circle,
    where x is rounded to 1 / `UNIT`, w to 2^-16 turns and the angle down to 2^-16 turns.

    Raises:
        ValueError: too many inputs for so short a length scale.
    """

    def __init__(self, params: FrozenFeaturesParams) -> None:
        super().__init__()
        self._fourier = params.fourier is not None
        if params.fourier is not None:
            for name, tensor in _draw(params.fourier, params.inputs).items():
                self.register_buffer(name, tensor, persistent=False)

    @property
    def largest(self) -> int:
        """Largest size of a feature."""
        return UNIT if self._fourier else UNIT * INPUT_RANGE

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, inputs) to features (n, d), float64."""
        units = x.to(torch.float64).mul(UNIT).round()
        if self._fourier:
            angles = (units @ self.get_buffer("frequencies")).div(UNIT * _FREQUENCY_UNIT // _TURN)
            steps = (angles.floor() + self.get_buffer("phases")).remainder(_TURN)
            units = self.get_buffer("cosine")[steps.to(torch.int64)]
        return nn.functional.pad(units, (0, 1), value=UNIT)


class ClosedFormHead(nn.Module):
    """Scores of records, and the integer sums that the weights were solved from.

    The last row of the sums counts: records in the Gram matrix, records per class in the moments.
    """

    def __init__(self, params: ClosedFormParams) -> None:
        super().__init__()
        width, classes = params.width, params.classes
        self.features = FrozenFeatures(params)
        self.weights = nn.Parameter(torch.zeros(width, classes, dtype=torch.float64))
        self.gram: Tensor
        self.moments: Tensor
        self.register_buffer("gram", torch.zeros(width, width, dtype=torch.int64))
        self.register_buffer("moments", torch.zeros(width, classes, dtype=torch.int64))

    @property
    def records(self) -> int:
        """Records in the sums."""
        return int(self.gram[-1, -1]) // UNIT**2

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, inputs) to scores (n, classes), near 1 for the right class; float64."""
        scores: Tensor = self.features(x).div(UNIT) @ self.weights
        return scores


@dataclass(frozen=True)
class ClosedForm(OnePrediction):
    """The head as a task; examples hold x (n, inputs) float32 and y (n,) int64.

    The backbone belongs to the task and not to its models, so that it is in no state that is
    stored; it is None where the parameters name no text.
    """

    params: ClosedFormParams
    backbone: Backbone | None = None

    @property
    def training(self) -> TrainingParams:
        """One pass."""
        return ONCE

    def build(self, seed: int) -> nn.Module:  # noqa: ARG002 - nothing is drawn from it
        """Make a head of zeros; the features come from the public seed of the parameters."""
        return ClosedFormHead(self.params)

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into scaled inputs and labels.

        Raises:
            ValueError: as `encode_frozen`.
        """
        return encode_frozen(self.params, self.backbone, rows)

    @override
    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of the classes, as the one prediction per record: (n, 1, classes)."""
        scores: Tensor = model(examples["x"])
        return scores.div(self.params.temperature).log_softmax(-1).unsqueeze(1)

    def learn(self, model: nn.Module, slices: Sequence[Examples], r: int, seed: str) -> None:  # noqa: ARG002 - nothing is drawn from it
        """Add slice r to the sums of the slices before it and solve.

        The state is a function of the records alone: neither their order nor their slices matter.

        Raises:
            ValueError: more records than the sums can hold, or as `closed_form_head.solve`.
        """
        head = _head(model)
        most = most_records(head.features.largest)
        if head.records + count(slices[r]) > most:
            raise ValueError(f"the sums hold at most {most} records: train in more shards")
        gram, moments = self._sums(head, slices[r])
        self._settle(head, head.gram + gram, head.moments + moments)

    def remove(self, model: nn.Module, forget: Examples, retain: Examples) -> Removed:  # noqa: ARG002 - the sums stand for it
        """Subtract records from the sums and solve: the state of a training without them.

        Removing all records leaves the model that has learned nothing. That the records were among
        those learned is for the caller to know: sums cannot tell, unless they would turn negative.

        Raises:
            ValueError: more records of a class than were learned; the model is what it was.
        """
        head = _head(model)
        gram, moments = self._sums(head, forget)
        gram, moments = head.gram - gram, head.moments - moments
        if gram.diagonal().min() < 0 or moments[-1].min() < 0:
            raise ValueError("records to remove are not among those that the model has learned")
        self._settle(head, gram, moments)
        return Removed(
            within=True,
            spent=0.0,
            budget=0.0,
            reason=f"{count(forget)} records were subtracted from the integer sums, and the "
            "weights solved again from what is left",
        )

    def _sums(self, head: ClosedFormHead, examples: Examples) -> tuple[Tensor, Tensor]:
        device = head.gram.device
        labels = nn.functional.one_hot(examples["y"].to(device), self.params.classes)
        features = head.features(examples["x"].to(device))
        return integer_sums(features, labels.to(torch.float64), head.features.largest)

    def _settle(self, head: ClosedFormHead, gram: Tensor, moments: Tensor) -> None:
        weights = solve(gram, moments, self.params.ridge)
        with torch.no_grad():
            head.weights.copy_(weights)
        head.gram.copy_(gram)
        head.moments.copy_(moments)


def make_closed_form(params: ClosedFormParams) -> ClosedForm:
    """Bind the recipe to its parameters and load the backbone that they name, if any.

    Raises:
        FileNotFoundError, ValueError: as `make_backbone`.
    """
    return ClosedForm(params, backbone_of(params))


def backbone_of(params: FrozenFeaturesParams) -> Backbone | None:
    """Load the backbone that the parameters name; None where they name no text.

    Raises:
        FileNotFoundError, ValueError: as `make_backbone`.
    """
    return None if params.text is None else make_backbone(params.text)


def encode_frozen(
    params: FrozenFeaturesParams,
    backbone: Backbone | None,
    rows: Sequence[Mapping[str, object]],
) -> Examples:
    """Turn rows into inputs and labels: numbers as they are, texts by the backbone.

    What the backbone makes of a text is brought to mean 0 and variance 1 (Ba et al. 2016, arXiv
    1607.06450, equation 3, without parameters), cut to `INPUT_RANGE` and rounded to 1 / `UNIT`.

    Raises:
        ValueError: as `encode_within_range` and `Backbone.mean_states`, or the label column holds
            no class; names the column, never its value.
    """
    if backbone is None:
        return encode_within_range(params.columns, rows)
    labels = [label(row, params.label, params.classes) for row in rows]
    means = backbone.mean_states(rows)
    x = nn.functional.layer_norm(means, means.shape[1:]).clamp(-INPUT_RANGE, INPUT_RANGE)
    return {"x": x.mul(UNIT).round().div(UNIT), "y": torch.tensor(labels, dtype=torch.int64)}


def encode_within_range(
    columns: ClassifierParams, rows: Sequence[Mapping[str, object]]
) -> Examples:
    """Encode as the recipe `classifier` does, where no input is above `INPUT_RANGE` in size.

    Raises:
        ValueError: as there, or an input is out of range; names the column, never its value.
    """
    examples = Classifier(columns).encode(rows)
    far = (examples["x"].abs() > INPUT_RANGE).any(0).nonzero().flatten().tolist()
    if far:
        raise ValueError(
            f"column {columns.column_of(far[0])!r} must lie between -{INPUT_RANGE} and "
            f"{INPUT_RANGE} after offset and scale: set these to the column's usual range"
        )
    return examples


def _head(model: nn.Module) -> ClosedFormHead:
    if not isinstance(model, ClosedFormHead):
        raise ValueError("the model is not one that this recipe has built")
    return model


def _draw(fourier: FourierFeatures, inputs: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(fourier.seed)
    shape = (inputs, fourier.width)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    turns = normal / (2 * math.pi * fourier.length_scale)
    frequencies = turns.mul(_FREQUENCY_UNIT).round()
    if inputs * UNIT * INPUT_RANGE * float(frequencies.abs().max()) >= _EXACT:
        raise ValueError("length_scale is too short for so many inputs: raise it")
    phases = torch.randint(_TURN, (fourier.width,), generator=generator).to(torch.float64)
    steps = torch.arange(_TURN, dtype=torch.float64)
    cosine = (steps * (2 * math.pi / _TURN)).cos().mul(UNIT).round()
    return {"frequencies": frequencies, "phases": phases, "cosine": cosine}
