"""Steps down a loss that the method gives: batches, AdamW, clipping and pace, the same for all."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lethe.methods.spec import DescentParams
from workers.unlearn.method import Context, MoveState
from workers.unlearn.seeds import seed_for
from workers.unlearn.state import read_optimizer, write_optimizer
from workers.unlearn.task import Examples, Task, count, join, take


@dataclass(frozen=True)
class Batch:
    """The records of one step, or of a part of it, on the model's device.

    Attributes:
        step: its number, from 1.
        forget, retain: records of each set.
        forget_at, retain_at: (n,) where those records are in the context's sets, on the CPU.
    """

    step: int
    forget: Examples
    retain: Examples
    forget_at: Tensor
    retain_at: Tensor


def losses_of_both(task: Task, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """`Task.losses` of the records to forget and of those to retain, in one forward pass.

    Equal to two passes but for rounding, and for dropout: both sets draw from one stream.
    """
    losses = task.losses(model, join([batch.forget, batch.retain]))
    forget = count(batch.forget)
    return losses[:forget], losses[forget:]


@runtime_checkable
class Recomputing(Protocol):
    """A model that can run its layers again in the backward pass, as those of `transformers`."""

    def activation_checkpointing_enable(self) -> None:
        """Do so from now on, in training mode."""

    def activation_checkpointing_disable(self) -> None:
        """Do so no longer."""


@dataclass
class Descent:
    """Steps of AdamW, without weight decay, down `loss`, a scalar in nats.

    Where a step is made in parts, `loss` is asked for each, so it has to be a sum of means: one
    over records to forget, one over records to retain, or only one of the two.

    Attributes:
        weights: the parameters that move; all trainable ones where none is named.

    Raises:
        ValueError: the model cannot run its layers again as the parameters ask.
    """

    context: Context
    params: DescentParams
    loss: Callable[[Batch], Tensor]
    gentler: str = "lower the learning rate"
    stronger: str = "allow more"
    kinder: str = "raise alpha"
    weights: list[nn.Parameter] = field(default_factory=list)

    def __post_init__(self) -> None:
        context, size = self.context, self.params.batch_size
        if self.params.recompute and not isinstance(context.model, Recomputing):
            raise ValueError("this model cannot recompute its layers: set recompute to false")
        self.weights = self.weights or [p for p in context.model.parameters() if p.requires_grad]
        self.optimizer = AdamW(
            self.weights, lr=self.params.learning_rate, weight_decay=0.0, fused=True
        )
        self.forget_batches = _batches(
            count(context.forget), size, seed_for(context.seed, "forget order")
        )
        self.retain_batches = _batches(
            count(context.retain), size, seed_for(context.seed, "retain order")
        )
        self.taken = 0

    @property
    def max_steps(self) -> int:
        """The most steps that the parameters allow."""
        return self.params.max_steps

    def step(self, step: int) -> float:
        """Make one step; returns the norm of its gradient before clipping."""
        context, device = self.context, self.weights[0].device
        torch.manual_seed(seed_for(context.seed, "noise", step))
        context.model.train()
        forget_at, retain_at = next(self.forget_batches), next(self.retain_batches)
        self.taken += 1
        self.optimizer.zero_grad()
        total = torch.zeros((), device=device)
        with _only(context.model, self.weights), _recomputing(context.model, self.params.recompute):
            for forget, retain, share in parts(forget_at, retain_at, self.params.accumulate):
                batch = Batch(
                    step,
                    take(context.forget, forget, device),
                    take(context.retain, retain, device),
                    forget,
                    retain,
                )
                with torch.autocast(
                    device.type, torch.bfloat16, enabled=self.params.precision == "bf16"
                ):
                    loss = share * self.loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.weights, self.params.max_grad_norm)
        self.optimizer.step()
        # A loss of NaN can have a finite gradient, where a mask cuts the two apart.
        return norm.item() + 0 * total.item()

    def pace(self, share: float) -> None:
        """Make the next step as short as this one had to be; after a whole step, longer again."""
        for group in self.optimizer.param_groups:
            longer = group["lr"] * (2 if share == 1 else share)
            group["lr"] = min(longer, self.params.learning_rate)

    def state(self) -> MoveState:
        """Copy the optimiser's moments, the learning rate and how many batches were taken."""
        return MoveState(
            tensors=read_optimizer(self.optimizer, self.context.model),
            numbers={
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "batches": self.taken,
            },
        )

    def load_state(self, state: MoveState) -> None:
        """Go on where another descent of the same context and parameters stood.

        Raises:
            ValueError: a tensor belongs to no parameter of the model.
        """
        write_optimizer(self.optimizer, self.context.model, state.tensors)
        for weight in self.weights:
            moments = self.optimizer.state[weight]
            if "step" in moments:
                # The fused kernel counts on the device.
                moments["step"] = moments["step"].to(weight.device)
        for group in self.optimizer.param_groups:
            group["lr"] = state.numbers["learning_rate"]
        while self.taken < state.numbers["batches"]:
            next(self.forget_batches), next(self.retain_batches)
            self.taken += 1


def parts(forget: Tensor, retain: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Cut the two batches of a step so that a sum of two means can be taken piece by piece.

    Each batch is cut into `most` pieces, or as many as it has records. Pieces are paired, and each
    pair weighted, by the north-west corner rule of transport problems, so that every piece gets its
    share of its batch in all: a weighted sum of f(piece) + g(piece), both means, is exact. Batches
    of the same size give `most` pairs, others fewer than twice as many.

    Yields:
        Places (k,) of records to forget, places (l,) of records to retain, and the weight.
    """
    left, right = (torch.tensor_split(at, min(most, len(at))) for at in (forget, retain))
    # In units of 1 / (records to forget · records to retain), so that shares are whole numbers.
    want = [len(piece) * len(retain) for piece in left]
    have = [len(piece) * len(forget) for piece in right]
    i = j = 0
    while i < len(left) and j < len(right):
        weight = min(want[i], have[j])
        yield left[i], right[j], weight / (len(forget) * len(retain))
        want[i], have[j] = want[i] - weight, have[j] - weight
        i, j = i + (not want[i]), j + (not have[j])


@contextmanager
def _only(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Freeze every other parameter meanwhile, so that nothing is computed or kept for it."""
    moving = set(map(id, weights))
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in moving]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


@contextmanager
def _recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    if not (wanted and isinstance(model, Recomputing)):
        yield
        return
    model.activation_checkpointing_enable()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def _batches(records: int, size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches; each pass takes every record once, in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.split(torch.randperm(records, generator=generator), size)
