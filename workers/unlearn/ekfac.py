"""The Fisher information of linear layers, as Kronecker products with corrected eigenvalues.

George et al., "Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis", 2018
(arXiv 1806.03884), section 3; for influence: Grosse et al., "Studying Large Language Model
Generalization with Influence Functions", 2023 (arXiv 2308.03296). Layers are taken as
independent of each other. Weights outside of linear layers, or shared with another module, are
taken to have the mean eigenvalue of all others; of a layer that is run twice, the last run counts.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workers.unlearn.curvature import MeanLoss, flat, trainable, unflat
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import IGNORED, count

WIDEST = 8192
"""Layers with more inputs or outputs are left out: an eigenbasis of them would not fit."""


@dataclass(frozen=True)
class Block:
    """What is known of one linear layer.

    Attributes:
        module: nn.Linear, or Conv1D of transformers, whose weight is transposed.
        inputs: (in, in) eigenvectors of its inputs' second moments, a 1 added where it has a bias.
        outputs: (out, out) eigenvectors of its outputs' gradients' second moments.
        eigenvalues: (out, in) mean squares of the records' gradients in that basis.
    """

    module: nn.Module
    inputs: Tensor
    outputs: Tensor
    eigenvalues: Tensor


@dataclass(frozen=True)
class EkFac:
    """The Fisher information, averaged over records, ready to be inverted."""

    weights: list[nn.Parameter]
    blocks: tuple[Block, ...]
    damping: float

    def inverse(self, vector: Tensor) -> Tensor:
        """(F + damping · I)⁻¹ · vector: (d,), flat as in `curvature`."""
        parts = dict(zip(map(id, self.weights), unflat(vector, self.weights), strict=True))
        mean = torch.cat([block.eigenvalues.flatten() for block in self.blocks]).mean()
        solved = {key: part / (mean + self.damping) for key, part in parts.items()}
        for block in self.blocks:
            matrix = _joined(block.module, parts)
            turned = block.outputs.T @ matrix @ block.inputs
            turned = turned / (block.eigenvalues + self.damping)
            solved |= _parted(block.module, block.outputs @ turned @ block.inputs.T)
        return flat([solved[id(weight)] for weight in self.weights])


def ekfac(loss: MeanLoss, damping: float, seed: str) -> EkFac:
    """Fit the Fisher information of the model's linear layers.

    In two passes, both with the same classes drawn from the model's own predictions: the first for
    the eigenvectors, the second for the eigenvalues.

    Args:
        loss: of the records to fit to.
        damping: above 0; added to every eigenvalue.
        seed: fixes the classes drawn.

    Raises:
        ValueError: the model has no linear layer that is its own and trained.
    """
    layers = _layers(loss.model)
    if not layers:
        raise ValueError("the model has no linear layer for ekfac; precondition with none")
    inputs: dict[nn.Module, Tensor] = defaultdict(lambda: torch.zeros(()))
    outputs: dict[nn.Module, Tensor] = defaultdict(lambda: torch.zeros(()))
    for traces in _passes(loss, layers, seed):
        for module, (came, back) in traces.items():
            # Places of padding have no gradient, and so no part.
            used = back.abs().sum(-1) > 0
            inputs[module] = inputs[module] + came[used].T @ came[used]
            outputs[module] = outputs[module] + back[used].T @ back[used]
    bases = {
        module: (torch.linalg.eigh(inputs[module])[1], torch.linalg.eigh(outputs[module])[1])
        for module in layers
    }
    squares: dict[nn.Module, Tensor] = defaultdict(lambda: torch.zeros(()))
    for traces in _passes(loss, layers, seed):
        for module, (came, back) in traces.items():
            turned = (back @ bases[module][1]).transpose(1, 2) @ (came @ bases[module][0])
            squares[module] = squares[module] + turned.square().sum(0)
    records = count(loss.examples)
    return EkFac(
        trainable(loss.model),
        tuple(Block(m, *bases[m], squares[m] / records) for m in layers),
        damping,
    )


Traces = dict[nn.Module, tuple[Tensor, Tensor]]
"""For each layer its inputs (n, places, in) and its outputs' gradients (n, places, out)."""


def _passes(loss: MeanLoss, layers: list[nn.Module], seed: str) -> Iterator[Traces]:
    generator = torch.Generator().manual_seed(seed_for(seed, "classes drawn"))
    for part in loss.parts():
        counted = loss.task.targets(part) != IGNORED
        with _recorded(layers) as calls:
            log_distribution = loss.task.log_distribution(loss.model, part)[counted]
        # Drawn on the CPU, so that every device gets the same numbers.
        chances = log_distribution.detach().exp().cpu()
        drawn = torch.multinomial(chances, 1, generator=generator).to(log_distribution.device)
        # Divided by the root of a record's predictions: its square then is their mean Fisher.
        roots = counted.sum(-1).clamp(min=1).sqrt()[counted.nonzero()[:, 0]]
        surprise = -(log_distribution.gather(-1, drawn).squeeze(-1) / roots).sum()
        flowed = torch.autograd.grad(
            surprise, [output for _, _, output in calls], materialize_grads=True
        )
        yield {
            module: (_with_bias(module, _by_place(came)), _by_place(back))
            for (module, came, _), back in zip(calls, flowed, strict=True)
        }


def _by_place(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _with_bias(module: nn.Module, came: Tensor) -> Tensor:
    if _bias(module) is None:
        return came
    return torch.cat([came, torch.ones_like(came[..., :1])], -1)


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, inputs[0].detach(), output))

    handles = [module.register_forward_hook(keep) for module in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module) -> list[nn.Module]:
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D)
        and max(module.weight.shape) <= WIDEST
        and all(p.requires_grad and owners[id(p)] == 1 for p in module.parameters())
    ]


def _bias(module: nn.Module) -> nn.Parameter | None:
    bias = module.bias
    return bias if isinstance(bias, nn.Parameter) else None


def _joined(module: nn.Module, parts: dict[int, Tensor]) -> Tensor:
    """The layer's part of a vector as (out, in), with its bias as the last column."""
    weight = parts[id(module.weight)]
    matrix = weight.T if isinstance(module, Conv1D) else weight
    bias = _bias(module)
    return matrix if bias is None else torch.cat([matrix, parts[id(bias)].unsqueeze(1)], 1)


def _parted(module: nn.Module, matrix: Tensor) -> dict[int, Tensor]:
    bias = _bias(module)
    weight = matrix if bias is None else matrix[:, :-1]
    parts = {id(module.weight): weight.T if isinstance(module, Conv1D) else weight}
    return parts if bias is None else parts | {id(bias): matrix[:, -1]}
