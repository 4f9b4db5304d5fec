"""Ablation of the neurons and heads that carry the forget set, and of no others.

A unit is what one column, or the columns of one attention head, of a later weight reads; ablating
it sets those columns to zero. Which unit carries what is told by gradient times activation, to
first order the rise of the loss without it: Molchanov et al., "Importance Estimation for Neural
Network Pruning", 2019 (arXiv 1906.10771), section 3.1; for heads, Michel, Levy and Neubig, "Are
Sixteen Heads Really Better than One?", 2019 (arXiv 1905.10650), equation 2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lethe.methods.editing import SAMPLE_RECORDS, LocalisedAblationParams
from workers.unlearn.curvature import MeanLoss, sample
from workers.unlearn.method import Context, Move

NEURONS = ("mlp.c_proj", "mlp.dense_4h_to_h", "mlp.down_proj")
"""The modules, by the end of their names, that read a transformer's neurons."""

HEADS = ("attn.c_proj", "attention.dense", "self_attn.o_proj")
"""The modules, by the end of their names, that read a transformer's attention heads."""


@dataclass(frozen=True)
class Reader:
    """A module whose inputs are units.

    Attributes:
        module: nn.Linear, nn.Conv2d, or Conv1D of transformers, whose weight is transposed.
        width: columns of its weight that read one unit.
    """

    module: nn.Module
    width: int

    def ablate(self, unit: int) -> None:
        """Read nothing of a unit, from 0, any more."""
        weight = self.module.weight
        if isinstance(weight, Tensor):
            axis = 0 if isinstance(self.module, Conv1D) else 1
            weight.data.narrow(axis, unit * self.width, self.width).zero_()

    def per_unit(self, columns: Tensor) -> Tensor:
        """Add up what belongs to one unit: (n, columns) to (n, units)."""
        return columns.reshape(len(columns), -1, self.width).sum(-1)

    def places(self, inputs: Tensor) -> Tensor:
        """Inputs, or their gradients, as (n, places, columns)."""
        last = inputs.movedim(1, -1) if isinstance(self.module, nn.Conv2d) else inputs
        return last.reshape(len(last), -1, last.shape[-1])


def localised_ablation(context: Context, params: LocalisedAblationParams) -> Move:
    """Ablate units step by step, the most selective first.

    A unit is selective by rise_F / (r + mean r), where rise_F is the forget set's mean loss without
    it minus that with it, to first order, and r the retain set's mean size of the same. Units that
    the forget set would do better without are never ablated.

    Raises:
        ValueError: the model has no trained module that reads neurons or heads.
    """
    found = readers(context.model)
    if not found:
        raise ValueError(
            "the model has no neurons or heads that can be told apart, or they are not trained: "
            "take another method"
        )
    forget, retain = (
        attribution(
            MeanLoss(context.task, context.model, sample(part, SAMPLE_RECORDS, context.seed)),
            found,
        )
        for part in (context.forget, context.retain)
    )
    rise = torch.cat([records.mean(0) for records in forget])
    kept = torch.cat([records.abs().mean(0) for records in retain])
    # Where nothing reaches the retain set at all, any rise is selective.
    selective = rise / (kept + kept.mean()).clamp(min=torch.finfo(kept.dtype).tiny)
    order = selective.argsort(descending=True, stable=True)
    most = math.ceil(params.largest_share * len(order))
    units = [(reader, unit) for reader, part in zip(found, forget, strict=True)
             for unit in range(part.shape[-1])]  # fmt: skip
    chosen = [units[i] for i in order[:most].tolist() if rise[i] > 0]
    norm = (rise.norm() + 0 * kept.norm()).item()
    return _Ablation(chosen, norm, params.units_per_step)


def readers(model: nn.Module) -> list[Reader]:
    """The trained modules that read units, in the model's order.

    Of a model with attention heads: the output projections of its attention and its MLPs. Of any
    other: each nn.Linear and nn.Conv2d that is not the first, since that one reads the record.
    """
    heads = getattr(getattr(model, "config", None), "num_attention_heads", None)
    if isinstance(heads, int):
        found = [
            Reader(module, module.weight.shape[axis] // heads if name.endswith(HEADS) else 1)
            for name, module in model.named_modules()
            if name.endswith(HEADS + NEURONS) and isinstance(module, nn.Linear | Conv1D)
            for axis in [0 if isinstance(module, Conv1D) else 1]
        ]
    else:
        layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        found = [Reader(module, 1) for module in layers[1:]]
    return [
        reader
        for reader in found
        if isinstance(reader.module.weight, Tensor) and reader.module.weight.requires_grad
    ]


def attribution(loss: MeanLoss, found: list[Reader]) -> list[Tensor]:
    """To first order, the rise of each record's loss where a unit is ablated.

    Returns:
        For each reader -Σ a · ∂loss/∂a over its unit's inputs a, in nats: (n, units), on the CPU.
    """
    batches: list[list[Tensor]] = []
    for part in loss.parts():
        inputs: list[Tensor] = []
        handles = [
            reader.module.register_forward_pre_hook(
                lambda _, came, kept=inputs: kept.append(came[0])
            )
            for reader in found
        ]
        try:
            losses = loss.task.losses(loss.model, part)
        finally:
            for handle in handles:
                handle.remove()
        gradients = torch.autograd.grad(losses.sum(), inputs, materialize_grads=True)
        batches.append(
            [
                reader.per_unit(-reader.places(came.detach() * back).sum(1)).cpu()
                for reader, came, back in zip(found, inputs, gradients, strict=True)
            ]
        )
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


@dataclass
class _Ablation:
    """Steps that ablate some units each; one that the guards cut leaves its units half read."""

    chosen: list[tuple[Reader, int]]
    norm: float
    units_per_step: int
    gentler: str = "ablate fewer units per step"
    stronger: str = "raise the largest share"
    kinder: str = "ablate fewer units per step"

    @property
    def max_steps(self) -> int:
        """Steps until all chosen units are ablated; where none is, one that changes nothing."""
        return max(1, math.ceil(len(self.chosen) / self.units_per_step))

    def step(self, step: int) -> float:
        """Ablate the next units; returns the norm of the attributions."""
        last = step * self.units_per_step
        for reader, unit in self.chosen[last - self.units_per_step : last]:
            reader.ablate(unit)
        return self.norm

    def pace(self, share: float) -> None:
        """Go on with the next units, whatever was kept of these."""
