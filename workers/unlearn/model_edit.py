"""ROME and MEMIT: one weight, edited in closed form, so that some keys lead to other values.

Meng et al., "Locating and Editing Factual Associations in GPT", 2022 (arXiv 2202.05262), section 3;
Meng et al., "Mass-Editing Memory in a Transformer", 2023 (arXiv 2210.07229), section 4. The down
projection W of an MLP is taken as a memory: what it reads is a key, what it writes a value. The
papers look for the value of a new fact; here it is the value that makes the record least likely.
It edits facts: what the rest of the model has learned of the records stays.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam
from transformers.pytorch_utils import Conv1D

from lethe.methods.editing import SAMPLE_RECORDS, ModelEditParams
from workers.unlearn.curvature import MeanLoss, sample
from workers.unlearn.method import Context, Move
from workers.unlearn.task import IGNORED, Examples
from workers.unlearn.towards import Towards

RIDGE = 1e-4
"""Added to the keys' second moments as a share of their mean, so that they can be inverted."""


@dataclass(frozen=True)
class Memory:
    """A layer as a memory, and the predictions of a record that are looked at."""

    layer: nn.Linear | Conv1D
    place: int | None

    @property
    def weight(self) -> Tensor:
        """Its weight as it is kept; of Conv1D, (in, out)."""
        return self.layer.weight

    def stored(self, matrix: Tensor) -> Tensor:
        """A matrix (out, in) in the order of the weight, and in its type."""
        return (matrix.T if isinstance(self.layer, Conv1D) else matrix).to(self.weight)

    def chosen(self, targets: Tensor) -> Tensor:
        """Which predictions (n, T) are looked at: `place` of each record, or all that count."""
        counted = targets != IGNORED
        if self.place is None:
            return counted
        last = (counted.sum(-1, keepdim=True) - 1).clamp(max=self.place)
        return counted & (counted.cumsum(-1) - 1 == last)


def model_edit(context: Context, params: ModelEditParams) -> Move:
    """Move the layer's weight to W + Δ, with K the forget set's keys, a column each.

    1. for each key, the change of value that raises its record's loss the most is looked for, no
       longer than `largest_change`; R holds them, a column each;
    2. Δ = `equal_edit` of K and R for rome, `closest_edit` for memit, with C the second moments of
       the retain set's keys.

    Raises:
        ValueError: the model has no such layer, it is not linear or not trained, or rome is asked
            for more keys than it can hold.
    """
    memory = Memory(_layer(context.model, params.layer), params.place)
    kept = sample(context.retain, SAMPLE_RECORDS, context.seed)
    everywhere = Memory(memory.layer, None)
    moments = second_moments(MeanLoss(context.task, context.model, kept), everywhere)
    keys, changes, norm = _wanted(
        MeanLoss(context.task, context.model, context.forget), memory, params
    )
    if params.edit == "rome":
        if len(keys) > len(moments):
            raise ValueError("rome cannot hold more keys than the layer has inputs; take memit")
        delta = equal_edit(keys, changes, moments)
    else:
        delta = closest_edit(keys, changes, params.retain_weight * moments)
    return Towards(
        [memory.weight],
        [memory.weight.detach() + memory.stored(delta)],
        norm,
        gentler="lower the value rate or the largest change",
        stronger="raise the largest change or the value steps, or edit another layer",
        kinder="take memit with a higher retain weight",
    )


def equal_edit(keys: Tensor, changes: Tensor, moments: Tensor) -> Tensor:
    """The least Δ, by tr(Δ C Δᵀ), with Δ k = r for every key (ROME, equation 2).

    For one key ROME's r (C⁻¹k)ᵀ / (kᵀ C⁻¹ k); for several the same constraint for all at once. For
    keys that depend on each other, the closest there is.

    Args:
        keys: (m, in).
        changes: (m, out), what is to be added to each key's value.
        moments: C, (in, in), symmetric and positive.

    Returns:
        Δ: (out, in).
    """
    turned: Tensor = torch.linalg.solve(moments, keys.T)
    among: Tensor = torch.linalg.pinv(keys @ turned, hermitian=True)
    return changes.T @ among @ turned.T


def closest_edit(keys: Tensor, changes: Tensor, moments: Tensor) -> Tensor:
    """The Δ that minimises Σ |Δ k - r|² + tr(Δ C Δᵀ): R Kᵀ (C + K Kᵀ)⁻¹ (MEMIT, equation 14).

    Args:
        keys: (m, in).
        changes: (m, out).
        moments: C, (in, in), already weighted; symmetric and positive.

    Returns:
        Δ: (out, in).
    """
    delta: Tensor = torch.linalg.solve(moments + keys.T @ keys, keys.T @ changes)
    return delta.T


def second_moments(loss: MeanLoss, memory: Memory) -> Tensor:
    """Mean of k kᵀ over the predictions looked at, ridge included: (in, in) float64."""
    total, seen = torch.zeros(()), 0
    with torch.no_grad():
        for part in loss.parts():
            keys = _read(loss, memory, part)[0]
            total, seen = total.to(keys) + keys.T @ keys, seen + len(keys)
    mean = total / max(seen, 1)
    return mean + RIDGE * mean.diag().mean() * torch.eye(len(mean)).to(mean)


def _wanted(
    loss: MeanLoss, memory: Memory, params: ModelEditParams
) -> tuple[Tensor, Tensor, float]:
    """Keys (m, in) and changes of value (m, out) of the forget set, and the gradient's norm."""
    keys, changes, squares = [], [], 0.0
    for part in loss.parts():
        with torch.no_grad():
            read, written = _read(loss, memory, part)
        change, norm = _leading_away(loss, memory, part, written.to(memory.weight), params)
        keys.append(read)
        changes.append(change.to(read))
        squares += norm**2
    return torch.cat(keys), torch.cat(changes), squares**0.5


def _read(loss: MeanLoss, memory: Memory, part: Examples) -> tuple[Tensor, Tensor]:
    """Keys (m, in) and values (m, out) of the predictions looked at, in float64."""
    seen: list[Tensor] = []

    def keep(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((inputs[0], output))

    handle = memory.layer.register_forward_hook(keep)
    try:
        loss.task.log_distribution(loss.model, part)
    finally:
        handle.remove()
    chosen = memory.chosen(loss.task.targets(part))
    keys, values = (t.reshape(*chosen.shape, -1)[chosen].double() for t in seen)
    return keys, values


def _leading_away(
    loss: MeanLoss, memory: Memory, part: Examples, values: Tensor, params: ModelEditParams
) -> tuple[Tensor, float]:
    """The change of each value (m, out) that raises the loss, and the first gradient's norm."""
    change = torch.zeros_like(values, requires_grad=True)
    optimizer = Adam([change], lr=params.value_rate)
    longest = params.largest_change * values.norm(dim=-1, keepdim=True)
    first = None
    for _ in range(params.value_steps):
        with _added(memory, memory.chosen(loss.task.targets(part)), change):
            rise = loss.task.losses(loss.model, part).sum()
        change.grad = torch.autograd.grad(-rise, change)[0]
        first = change.grad.norm().item() if first is None else first
        optimizer.step()
        with torch.no_grad():
            length = change.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(change.dtype).tiny)
            change.mul_((longest / length).clamp(max=1))
    return change.detach(), first or 0.0


@contextmanager
def _added(memory: Memory, chosen: Tensor, change: Tensor) -> Iterator[None]:
    """While it is open, the layer writes more at the predictions looked at."""

    def add(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        rows, columns = chosen.nonzero(as_tuple=True)
        by_place = output.reshape(*chosen.shape, -1)
        return by_place.index_put((rows, columns), change, accumulate=True).reshape(output.shape)

    handle = memory.layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _layer(model: nn.Module, name: str) -> nn.Linear | Conv1D:
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Linear | Conv1D) or not layer.weight.requires_grad:
        raise ValueError(
            "the model has no trained linear layer of the name given; name the down projection of "
            "an MLP"
        )
    return layer
