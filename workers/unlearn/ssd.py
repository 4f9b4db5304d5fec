"""Selective synaptic dampening: shrink the weights that matter more to the forget set.

Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening", 2024 (arXiv 2308.07707), equations 3 to 6, with the retain set where the paper takes all
training records, so that the forget set does not hold back its own dampening.
"""

import math

import torch
from torch import Tensor, nn

from lethe.methods.approximate import SsdParams
from workers.unlearn.guarded import PROBE_RECORDS
from workers.unlearn.method import Context, Move
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import Examples, Task, count, take
from workers.unlearn.towards import Towards


def ssd(context: Context, params: SsdParams) -> Move:
    """Dampen once: θ · min(dampening · I_retain / I_forget, 1), where I_forget > alpha · I_retain.

    I is the importance of each weight: the diagonal of the Fisher information, `fisher`.
    """
    forget = fisher(context.task, context.model, _sample(context.forget, context.seed, "forget"))
    retain = fisher(context.task, context.model, _sample(context.retain, context.seed, "retain"))
    weights = _weights(context.model)
    ends = []
    for weight, importance, kept in zip(weights, forget, retain, strict=True):
        factor = (params.dampening * kept / importance).clamp(max=1)
        selected = importance > params.alpha * kept
        ends.append(weight.detach() * factor.where(selected, 1.0))
    norm = math.sqrt(sum(i.sum().item() for i in forget)) + 0 * sum(i.sum().item() for i in retain)
    return Towards(weights, ends, norm, "raise alpha", "lower alpha", "raise alpha")


def fisher(task: Task, model: nn.Module, examples: Examples) -> list[Tensor]:
    """Diagonal of the empirical Fisher information, without dropout.

    Returns:
        For each trainable parameter, in the model's order and shapes, the mean over the records of
        the squared gradient of the record's own loss.
    """
    model.eval()
    weights = _weights(model)
    total = [torch.zeros_like(weight) for weight in weights]
    for record in torch.split(torch.arange(count(examples)), 1):
        loss = task.losses(model, take(examples, record, weights[0].device)).sum()
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        for squares, gradient in zip(total, gradients, strict=True):
            squares.add_(gradient.square())
    return [squares / count(examples) for squares in total]


def _weights(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _sample(examples: Examples, seed: str, name: str) -> Examples:
    generator = torch.Generator().manual_seed(seed_for(seed, "fisher", name))
    order = torch.randperm(count(examples), generator=generator)
    return take(examples, order[:PROBE_RECORDS], torch.device("cpu"))
