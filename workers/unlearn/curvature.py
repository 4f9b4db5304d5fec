"""Products with the curvature of a mean loss, and its inverse, without ever writing it down.

A vector here is flat: the given weights one after another, as `flat` joins them. Dropout is off.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.unlearn.seeds import seed_for
from workers.unlearn.task import IGNORED, Examples, Task, count, take

Product = Callable[[Tensor], Tensor]
"""From a vector (d,) to a vector (d,), linear."""

TOLERANCE = 1e-6
"""Conjugate gradients end where what is left of the right side is below this share of it."""


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors, one per weight, into a vector (d,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflat(vector: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `flat`: parts of `vector` in the weights' shapes."""
    parts = torch.split(vector, [weight.numel() for weight in weights])
    return [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def sample(examples: Examples, size: int, seed: str) -> Examples:
    """At most `size` of the records, drawn from `seed`, on the CPU."""
    generator = torch.Generator().manual_seed(seed_for(seed, "sample"))
    order = torch.randperm(count(examples), generator=generator)
    return take(examples, order[:size], torch.device("cpu"))


@dataclass(frozen=True)
class MeanLoss:
    """The mean loss of some records, as a function of the model's trainable parameters.

    Raises:
        ValueError: there is no record.
    """

    task: Task
    model: nn.Module
    examples: Examples

    def __post_init__(self) -> None:
        if not count(self.examples):
            raise ValueError("a gradient or a curvature needs at least one record")

    def gradient(self) -> Tensor:
        """The gradient in nats per unit of weight: (d,)."""
        return self._mean(_flat_gradient)

    def hessian_product(self, vector: Tensor) -> Tensor:
        """H · vector, H the matrix of second derivatives (Pearlmutter 1994): (d,)."""

        def product(loss: Tensor, weights: list[nn.Parameter]) -> Tensor:
            gradient = _flat_gradient(loss, weights, create_graph=True)
            return _flat_gradient(gradient @ vector, weights)

        return self._mean(product)

    def gauss_newton_product(self, vector: Tensor) -> Tensor:
        """G · vector, G the generalised Gauss-Newton matrix (Schraudolph 2002): (d,).

        For a log-likelihood over classes G is also the Fisher information: with J the derivative
        of the log probabilities and p the probabilities, Jᵀ diag(p) J, since what the logits add to
        it cancels. Averaged over each record's predictions, then over records.
        """
        total = torch.zeros_like(vector)
        weights = trainable(self.model)
        for part in self.parts():
            counted = self.task.targets(part) != IGNORED
            each = self.task.log_distribution(self.model, part)[counted]
            shares = (1 / counted.sum(-1).clamp(min=1))[counted.nonzero()[:, 0]].unsqueeze(-1)
            # The gradient is linear in `dual`, so its derivative by `dual` is J · vector.
            dual = torch.zeros_like(each, requires_grad=True)
            gradient = _flat_gradient(each, weights, dual, create_graph=True)
            forward = torch.autograd.grad(gradient @ vector, dual, retain_graph=True)[0]
            total += _flat_gradient(each, weights, shares * each.detach().exp() * forward)
        return total / count(self.examples)

    def parts(self) -> Iterator[Examples]:
        """The records in batches of the task's batch size, on the model's device, dropout off."""
        self.model.eval()
        device = next(self.model.parameters()).device
        for part in torch.split(torch.arange(count(self.examples)), self.task.training.batch_size):
            yield take(self.examples, part, device)

    def _mean(self, ask: Callable[[Tensor, list[nn.Parameter]], Tensor]) -> Tensor:
        weights = trainable(self.model)
        answers = [ask(self.task.losses(self.model, part).sum(), weights) for part in self.parts()]
        return torch.stack(answers).sum(0) / count(self.examples)


def conjugate_gradients(
    product: Product, right: Tensor, precondition: Product, iterations: int
) -> Tensor:
    """Solve A x = right, A symmetric and positive (Hestenes and Stiefel 1952).

    Args:
        product: with A.
        right: (d,).
        precondition: product with about the inverse of A, symmetric and positive.
        iterations: at most so many products with A.

    Returns:
        x (d,); as far as it came where A bends down on the way, or where a product is not finite.
    """
    solution, left = torch.zeros_like(right), right.clone()
    along = direction = precondition(left)
    for _ in range(iterations):
        if left.norm() <= TOLERANCE * right.norm():
            break
        across = product(direction)
        bend = direction @ across
        if not bend > 0 or not bend.isfinite():
            break
        before = left @ along
        solution += before / bend * direction
        left -= before / bend * across
        along = precondition(left)
        direction = along + (left @ along) / before * direction
    return solution


def _flat_gradient(
    outputs: Tensor,
    weights: list[nn.Parameter],
    along: Tensor | None = None,
    *,
    create_graph: bool = False,
) -> Tensor:
    return flat(
        torch.autograd.grad(
            outputs, weights, along, create_graph=create_graph, materialize_grads=True
        )
    )
