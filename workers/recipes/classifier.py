"""Recipe `classifier`: a multilayer perceptron or a small convolutional network over numbers.

Nothing is fitted to the data before training: inputs are scaled by constants that the recipe
names, since a mean or a variance taken over all records would leak each of them into every shard.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from lethe.recipes.classifier import ClassifierParams, ImageColumns
from lethe.recipes.training import TrainingParams
from workers.recipes.columns import as_number, label, number
from workers.recipes.one_prediction import OnePrediction
from workers.unlearn.task import Examples


@dataclass(frozen=True)
class Classifier(OnePrediction):
    """The classifier as a task; examples hold x (n, inputs) float32 and y (n,) int64."""

    params: ClassifierParams

    @property
    def training(self) -> TrainingParams:
        """How the model is trained."""
        return self.params.training

    def build(self, seed: int) -> nn.Module:
        """Make a fresh network with PyTorch's default initialisation, drawn from `seed`."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            if self.params.network == "cnn" and self.params.image is not None:
                return _cnn(self.params, self.params.image)
            return _mlp(self.params)

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into scaled inputs and labels.

        Raises:
            ValueError: a column is missing, is no finite number of 32 bits, or a label is no
                class; never tells the value.
        """
        read = self._reader()
        inputs = torch.tensor([read(row) for row in rows], dtype=torch.float64)
        inputs = inputs.reshape(len(rows), self.params.inputs)
        offset = torch.tensor(self.params.offset, dtype=torch.float64)
        scale = torch.tensor(self.params.scale, dtype=torch.float64)
        labels = [label(row, self.params.label, self.params.classes) for row in rows]
        x = ((inputs - offset) / scale).to(torch.float32)
        large = x.isinf().any(0).nonzero().flatten().tolist()
        if large:
            raise ValueError(
                f"column {self.params.column_of(large[0])!r} has a number that is too large for 32 "
                "bits after offset and scale: drop the record, or set these to the usual range"
            )
        return {"x": x, "y": torch.tensor(labels, dtype=torch.int64)}

    @override
    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of the classes, as the one prediction per record: (n, 1, classes)."""
        logits: Tensor = model(examples["x"])
        return logits.log_softmax(-1).unsqueeze(1)

    def _reader(self) -> Callable[[Mapping[str, object]], list[float]]:
        image = self.params.image
        if image is not None and image.column is not None:
            column, pixels = image.column, image.pixels
            return lambda row: _pixels(row, column, pixels)
        if image is not None:
            columns: Sequence[str] = [f"{image.prefix}{i}" for i in range(image.pixels)]
        else:
            columns = self.params.features or ()
        return lambda row: [number(row, column) for column in columns]


def _mlp(params: ClassifierParams) -> nn.Module:
    layers: list[nn.Module] = []
    width = params.inputs
    for hidden in params.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, params.classes))


def _cnn(params: ClassifierParams, image: ImageColumns) -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (image.channels, image.height, image.width))]
    planes, height, width = image.channels, image.height, image.width
    for channels in params.channels:
        # Strides instead of pooling: the gradient of pooling is not deterministic on every device.
        layers += [nn.Conv2d(planes, channels, kernel_size=3, stride=2, padding=1), nn.ReLU()]
        planes, height, width = channels, (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(planes * height * width, params.classes))


def _pixels(row: Mapping[str, object], column: str, pixels: int) -> list[float]:
    values = row.get(column)
    numbers = [as_number(value, column) for value in values] if isinstance(values, Iterable) else []
    if len(numbers) != pixels:
        raise ValueError(f"column {column!r} must hold a list of {pixels} numbers in every record")
    return numbers
