"""Magnitude pruning and Gaussian noise, each time followed by training on the retain set.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", 2023 (arXiv 2304.04934), section 4:
prune by magnitude, then unlearn by fine-tuning. Here pruning rises in rounds, so that each can be
measured and taken back, and noise disturbs what is not pruned. A round that the guards cut is not
sparse: its weights lie between those before and those after it.
"""

import torch
from torch import Tensor, nn

from lethe.methods.editing import NoiseAndPruneParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.rounds import Kept, Rounds
from workers.unlearn.seeds import seed_for


def noise_and_prune(context: Context, params: NoiseAndPruneParams) -> Move:
    """Prune, disturb and recover in n rounds; s is a round's strength, 1 at first.

    Embeddings are left out of the first two parts of round i:

    1. the smallest `sparsity` · i / n of every weight matrix become zero, and stay so;
    2. the others get Gaussian noise, s · `noise` times the matrix's root mean square;
    3. `recovery_steps` minimise mean NLL(retain batch).
    """
    task, model = context.task, context.model
    weights = prunable(model)

    def loss(batch: Batch) -> Tensor:
        return task.losses(model, batch.retain).mean()

    def disturb(step: int, strength: float) -> Kept:
        generator = torch.Generator().manual_seed(seed_for(context.seed, "weight noise", step))
        masks = []
        for weight in weights:
            mask = largest(weight.detach(), 1 - params.sparsity * step / params.max_steps)
            # Drawn on the CPU, so that every device gets the same numbers.
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            deviation = strength * params.noise * weight.detach().square().mean().sqrt()
            weight.data.add_(noise * deviation).mul_(mask)
            masks.append((weight, mask))
        return masks

    descent = Descent(context, params, loss)
    return Rounds(
        descent,
        params.recovery_steps,
        disturb,
        kinder="lower the sparsity or the noise",
    )


def prunable(model: nn.Module) -> list[nn.Parameter]:
    """The trainable weight matrices and kernels that no embedding owns, in the model's order."""
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.dim() > 1 and id(parameter) not in embedded
    ]


def largest(weight: Tensor, share: float) -> Tensor:
    """Where the largest magnitudes are: 1 at round(share · size) places, 0 at the others."""
    order = weight.abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros_like(weight).flatten()
    mask[order[: round(share * len(order))]] = 1
    return mask.reshape(weight.shape)
