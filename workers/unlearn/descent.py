"""Steps down a loss that the method gives: batches, AdamW, clipping and pace, the same for all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lethe.methods.spec import DescentParams
from workers.unlearn.method import Context
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import Examples, count, take


@dataclass(frozen=True)
class Batch:
    """The records of one step, on the model's device.

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


@dataclass
class Descent:
    """Steps of AdamW, without weight decay, down `loss`, a scalar in nats."""

    context: Context
    params: DescentParams
    loss: Callable[[Batch], Tensor]
    gentler: str = "lower the learning rate"
    stronger: str = "allow more"
    kinder: str = "raise alpha"

    def __post_init__(self) -> None:
        context, size = self.context, self.params.batch_size
        self.weights = [p for p in context.model.parameters() if p.requires_grad]
        self.optimizer = AdamW(self.weights, lr=self.params.learning_rate, weight_decay=0.0)
        self.forget_batches = _batches(
            count(context.forget), size, seed_for(context.seed, "forget order")
        )
        self.retain_batches = _batches(
            count(context.retain), size, seed_for(context.seed, "retain order")
        )

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
        loss = self.loss(
            Batch(
                step,
                take(context.forget, forget_at, device),
                take(context.retain, retain_at, device),
                forget_at,
                retain_at,
            )
        )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.weights, self.params.max_grad_norm)
        self.optimizer.step()
        # A loss of NaN can have a finite gradient, where a mask cuts the two apart.
        return norm.item() + 0 * loss.item()

    def pace(self, share: float) -> None:
        """Make the next step as short as this one had to be; after a whole step, longer again."""
        for group in self.optimizer.param_groups:
            longer = group["lr"] * (2 if share == 1 else share)
            group["lr"] = min(longer, self.params.learning_rate)


def _batches(records: int, size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches; each pass takes every record once, in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.split(torch.randperm(records, generator=generator), size)
