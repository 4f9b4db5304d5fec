"""Does forgetting survive when weights are stored in few bits?

Zhang et al. 2024 ("Catastrophic Failure of LLM Unlearning via Quantization", arXiv 2410.16454):
small changes of weights, which is what many methods make, are rounded away, and what was to be
forgotten comes back.
"""

import copy
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workers.evidence.shift import NotApplicable
from workers.unlearn.aggregate import Ensemble


def quantised(model: Ensemble, bits: Literal[8, 4]) -> Ensemble:
    """Copy a model with its weight matrices rounded as if they were stored in so many bits.

    Symmetric rounding to the nearest of 2^bits - 1 levels, with a scale for each output channel
    (each row of an embedding). Biases, norms and other vectors stay as they are, and so does the
    model itself. Deterministic. The copy's scores are what `attack_evidence` compares.

    Raises:
        NotApplicable: the model has no weight matrix, as trees have none.
    """
    members = tuple(copy.deepcopy(member) for member in model.members)
    for member in members:
        _quantise(member, bits)
    return replace(model, members=members)


def _quantise(member: nn.Module, bits: int) -> None:
    # A matrix that two layers share is rounded once.
    rounded: set[int] = set()
    for module in member.modules():
        channel = 1 if isinstance(module, Conv1D) else 0
        for weight in module.parameters(recurse=False):
            if weight.dim() >= 2 and id(weight) not in rounded:
                weight.data = _rounded(weight.data, channel, bits)
                rounded.add(id(weight))
    if not rounded:
        raise NotApplicable("the model has no weight matrix that could be quantised")


def _rounded(weight: Tensor, channel: int, bits: int) -> Tensor:
    others = [place for place in range(weight.dim()) if place != channel]
    scale = weight.abs().amax(others, keepdim=True) / (2 ** (bits - 1) - 1)
    # A channel of zeros has no scale and stays zero.
    steps = (weight / scale.where(scale > 0, 1)).round()
    return torch.as_tensor(steps * scale)
