"""What the methods ask of a recipe: how its model is built, fed and scored, and nothing else.

A method never sees rows, columns or files. It sees tensors of records and one distribution per
prediction, from which losses and accuracies follow in one way for every kind of model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lethe.recipes.training import TrainingParams

Examples = dict[str, Tensor]
"""Records as tensors: each of shape (n, ...), the first dimension counting records."""

IGNORED = -100
"""The target of a place where there is nothing to predict (padding)."""


Ask = Callable[[Tensor, slice], Tensor]
"""Is given the log probabilities (m, K) of some of the predictions that count and which they are,
record after record, and answers for each: (m, ...). It may be asked twice about the same."""


class Task(Protocol):
    """A registered way to train a model, bound to its parameters.

    Scoring asks for at least one record.
    """

    @property
    def training(self) -> TrainingParams:
        """How the model is trained."""

    def build(self, seed: int) -> nn.Module:
        """Make a fresh model on the CPU: the same weights for the same seed."""

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into examples, each row by itself; no rows give tensors with n = 0.

        Raises:
            ValueError: a row does not fit; names the column, never its value.
        """

    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of the T predictions of each record over K classes: (n, T, K)."""

    def targets(self, examples: Examples) -> Tensor:
        """The right class of each prediction: (n, T), `IGNORED` where there is none."""

    def losses(self, model: nn.Module, examples: Examples) -> Tensor:
        """Mean negative log likelihood of each record's predictions in nats: (n,).

        Differentiable.
        """

    def accuracies(self, model: nn.Module, examples: Examples) -> Tensor:
        """Share of each record's predictions that are right, in [0, 1]: (n,)."""


@runtime_checkable
class Chunked(Protocol):
    """A task that need not hold the log probabilities of all predictions at once."""

    def per_prediction(self, model: nn.Module, examples: Examples, ask: Ask) -> Tensor:
        """The promise of the function `per_prediction`, chunk by chunk."""


@runtime_checkable
class Fitted(Protocol):
    """A task that learns a slice by means of its own, without steps down a gradient."""

    def learn(self, model: nn.Module, slices: Sequence[Examples], r: int, seed: str) -> None:
        """Learn slice r in place, the model having learnt slices[:r].

        What comes of it depends on slices[: r + 1], the seed and the recipe alone.
        """


@dataclass(frozen=True)
class Removed:
    """What came of taking records out.

    Attributes:
        within: the guarantee holds; where it does not, the model is what it was.
        spent: of the budget, after this removal; 0 for an exact one.
        budget: all that may be spent before the model is trained again; 0 for an exact one.
        reason: in words for a report.
    """

    within: bool
    spent: float
    budget: float
    reason: str


@runtime_checkable
class Removable(Protocol):
    """A task whose stored state can take records out again."""

    def remove(self, model: nn.Module, forget: Examples, retain: Examples) -> Removed:
        """Take the records of `forget` out in place; those of `retain` are all that stay.

        Whether records were in the state cannot be told from it: the caller knows.
        """


def mean_nll(log_distribution: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log likelihood per record.

    Args:
        log_distribution: (n, T, K) log probabilities.
        targets: (n, T) classes; places marked `IGNORED` do not count.

    Returns:
        (n,) nats; 0 for a record with nothing to predict.
    """
    counted = targets != IGNORED
    chosen = targets.where(counted, 0).unsqueeze(-1)
    log_likelihood = log_distribution.gather(-1, chosen).squeeze(-1)
    total = log_likelihood.where(counted, 0.0).sum(-1)
    return -total / counted.sum(-1).clamp(min=1)


def per_prediction(task: Task, model: nn.Module, examples: Examples, ask: Ask) -> Tensor:
    """Ask about each prediction that counts, in one forward pass.

    Returns:
        What `ask` answered, record after record: (predictions, ...); differentiable.
    """
    if isinstance(task, Chunked):
        return task.per_prediction(model, examples, ask)
    rows = task.log_distribution(model, examples)[task.targets(examples) != IGNORED]
    return ask(rows, slice(0, len(rows)))


def mean_per_record(each: Tensor, counted: Tensor) -> Tensor:
    """Average over each record's predictions.

    Args:
        each: a number for each prediction that counts, record after record.
        counted: (n, T) whether a prediction counts.

    Returns:
        (n,); 0 for a record with nothing to predict.
    """
    total = torch.zeros(len(counted), dtype=each.dtype, device=each.device)
    total = total.index_add(0, counted.nonzero()[:, 0], each)
    return total / counted.sum(-1).clamp(min=1)


def nll_of(task: Task, model: nn.Module, examples: Examples) -> Tensor:
    """`mean_nll` of the predictions that a model gives, asked for by `per_prediction`: (n,)."""
    targets = task.targets(examples)
    counted = targets != IGNORED
    right = targets[counted].unsqueeze(-1)
    each = per_prediction(
        task, model, examples, lambda now, part: -now.gather(-1, right[part]).squeeze(-1)
    )
    return mean_per_record(each, counted)


def each_nll(task: Task, model: nn.Module, examples: Examples) -> Tensor:
    """`nll_of` at least one record, without dropout, in batches of the task's batch size.

    Returns:
        (n,) nats, on the CPU.
    """
    model.eval()
    device = next(model.parameters()).device
    batches = torch.split(torch.arange(count(examples)), task.training.batch_size)
    with torch.inference_mode():
        return torch.cat(
            [nll_of(task, model, take(examples, batch, device)).cpu() for batch in batches]
        )


def share_right(log_distribution: Tensor, targets: Tensor) -> Tensor:
    """Share of predictions whose most probable class is the target.

    Args:
        log_distribution: (n, T, K) log probabilities.
        targets: (n, T) classes; places marked `IGNORED` do not count.

    Returns:
        (n,) in [0, 1]; 0 for a record with nothing to predict.
    """
    counted = targets != IGNORED
    right = (log_distribution.argmax(-1) == targets) & counted
    return right.sum(-1) / counted.sum(-1).clamp(min=1)


def mean_confidence(log_distribution: Tensor, targets: Tensor) -> Tensor:
    """Probability of the most probable class, averaged over a record's predictions.

    Args:
        log_distribution: (n, T, K) log probabilities.
        targets: (n, T) classes; places marked `IGNORED` do not count.

    Returns:
        (n,) in [0, 1]; 0 for a record with nothing to predict.
    """
    counted = targets != IGNORED
    highest = log_distribution.amax(-1).exp().where(counted, 0.0)
    return highest.sum(-1) / counted.sum(-1).clamp(min=1)


def count(examples: Examples) -> int:
    """Number of records.

    Raises:
        ValueError: there is no tensor, or the tensors disagree.
    """
    sizes = {len(tensor) for tensor in examples.values()}
    if len(sizes) != 1:
        raise ValueError("examples need at least one tensor, all with the same number of records")
    return sizes.pop()


def take(examples: Examples, indices: Tensor, device: torch.device) -> Examples:
    """The records at `indices` (k,), in that order, on `device`."""
    return {name: tensor[indices].to(device) for name, tensor in examples.items()}


def join(parts: Sequence[Examples]) -> Examples:
    """All records of `parts`, in order.

    Raises:
        ValueError: there is no part, or the parts do not have the same tensors.
    """
    if not parts or any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError("examples can be joined only where all have the same tensors")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
