"""The head of a language model over many places, without the log probabilities of all at once."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from workers.unlearn.task import Ask

CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Log probabilities that are made at once, in fp32, by device."""

KEPT_BYTES = {"cpu": 2**26, "cuda": 2**31}
"""Log probabilities that are kept for the backward pass, by device; more are made again."""


def ask_head(head: nn.Module, classes: int, hidden: Tensor, ask: Ask, training: bool) -> Tensor:
    """What `ask` says of each place: (places, ...).

    In training, log probabilities that would take more than `KEPT_BYTES` are made again in the
    backward pass, chunk by chunk, and have no second derivative.

    Args:
        head: gives the logits of a place by what is hidden there.
        classes: how many logits.
        hidden: (places, width).
        ask: see `task.Ask`.
        training: whether to save memory in this way.
    """
    size = 4 * classes
    kept = len(hidden) * size <= KEPT_BYTES.get(hidden.device.type, 0)
    if training and torch.is_grad_enabled() and not kept and type(head) is nn.Linear:
        dtype = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        answers: Tensor = _Recomputed.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, head.bias, ask, dtype
        )
        return answers
    return torch.cat(
        [ask(head(hidden[part]).float().log_softmax(-1), part) for part in _chunks(hidden, classes)]
    )


def _chunks(hidden: Tensor, classes: int) -> Iterator[slice]:
    rows = max(1, CHUNK_BYTES.get(hidden.device.type, 2**23) // (4 * classes))
    for first in range(0, len(hidden), rows):
        yield slice(first, min(first + rows, len(hidden)))


class _Kept(Protocol):
    """What `_Recomputed` keeps from its forward to its backward pass."""

    ask: Ask
    dtype: torch.dtype
    saved_tensors: tuple[Tensor, Tensor, Tensor | None]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _Recomputed(Function):
    """Log probabilities of a linear head, asked about chunk by chunk, in both passes."""

    @staticmethod
    def forward(  # type: ignore[explicit-override]
        ctx: _Kept,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ask: Ask,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.ask, ctx.dtype = ask, dtype
        cast = weight.to(dtype)
        return torch.cat(
            [
                ask(_log_probabilities(hidden[part], cast, bias), part)
                for part in _chunks(hidden, len(weight))
            ]
        )

    @staticmethod
    def backward(  # type: ignore[explicit-override]
        ctx: _Kept, upstream: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("there is no second derivative in training mode: use eval mode")
        hidden, weight, bias = ctx.saved_tensors
        cast = weight.to(ctx.dtype)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for part in _chunks(hidden, len(weight)):
            given = hidden[part]
            with torch.enable_grad():
                now = _log_probabilities(given, cast, bias).detach().requires_grad_()
                (back,) = torch.autograd.grad(ctx.ask(now, part), now, upstream[part])
            # The derivative of log softmax, in place: two chunks are held, not four.
            now = now.detach()
            back = back.sub_(now.exp_().mul_(back.sum(-1, keepdim=True)))
            to_logits = back.to(ctx.dtype)
            to_hidden[part] = to_logits @ cast
            if to_weight is not None:
                _add_product(to_weight, to_logits, given)
            if to_bias is not None:
                to_bias += back.sum(0)
        return to_hidden, to_weight, to_bias, None, None


def _log_probabilities(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        own = None if bias is None else bias.to(weight.dtype)
        logits = functional.linear(hidden.to(weight.dtype), weight, own)
        return logits.float().log_softmax(-1)


def _add_product(total: Tensor, to_logits: Tensor, hidden: Tensor) -> None:
    """Add the outer products of each place to `total`, without a second tensor of its size."""
    if to_logits.dtype == total.dtype:
        total.addmm_(to_logits.T, hidden)
    else:
        total.add_(to_logits.T @ hidden.to(to_logits.dtype))
