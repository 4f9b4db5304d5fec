"""What the model said before its first step, kept instead of a second model.

Only predictions that count are kept and compared, so padding has no part in a divergence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.unlearn.seeds import seed_for
from workers.unlearn.task import (
    IGNORED,
    Ask,
    Examples,
    Task,
    count,
    mean_per_record,
    per_prediction,
    take,
)

REFERENCE_BYTES = 2**30
"""Where what is kept of a set would pass this, a sample of its records is kept."""


@dataclass(frozen=True)
class Reference:
    """Records with what the model before gave for them; all on the CPU.

    Attributes:
        examples: the records kept.
        values: for each, a row for each of its T predictions that count: (T, K).
    """

    examples: Examples
    values: tuple[Tensor, ...]

    def at(self, places: Tensor, device: torch.device) -> Tensor:
        """The rows of the records at `places` (n,), one record after another, on `device`."""
        return torch.cat([self.values[i] for i in places.tolist()]).to(device)

    def divergence(
        self, log_distribution: Tensor, targets: Tensor, at: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """KL divergence from the log probabilities kept, differentiable in `log_distribution`.

        Args:
            log_distribution: (n, T, K) log probabilities that the model gives now to the records
                at `at`.
            targets: (n, T) classes; places marked `IGNORED` do not count.
            at: (n,) places in `examples`.
            temperature: t; both distributions are softmax(log p / t), and the result times t²
                (Hinton et al. 2015, section 2).

        Returns:
            KL(before || now) in nats, averaged over each record's predictions: (n,).
        """
        counted = targets != IGNORED
        now = log_distribution[counted]
        each = self.divergences(at, temperature)(now, slice(0, len(now)))
        return mean_per_record(each, counted)

    def divergences(self, at: Tensor, temperature: float = 1.0) -> Ask:
        """What to ask of each prediction of the records at `at`: its part of `divergence`."""
        kept = [self.values[i] for i in at.tolist()]

        def ask(now: Tensor, part: slice) -> Tensor:
            before = _rows(kept, part).to(now.device)
            each = functional.kl_div(
                (now / temperature).log_softmax(-1),
                (before / temperature).log_softmax(-1),
                reduction="none",
                log_target=True,
            )
            return temperature**2 * each.sum(-1)

        return ask


def _rows(kept: Sequence[Tensor], part: slice) -> Tensor:
    """The rows in `part` of all rows of `kept`, one tensor after another."""
    rows, first = [], 0
    for one in kept:
        last = first + len(one)
        if first < part.stop and part.start < last:
            rows.append(one[max(part.start - first, 0) : part.stop - first])
        first = last
    return torch.cat(rows)


def reference(
    task: Task, model: nn.Module, examples: Examples, seed: str, most_bytes: int = REFERENCE_BYTES
) -> Reference:
    """Keep the log probabilities that the model gives: `remember` of `log_distribution`."""
    return remember(
        task,
        model,
        lambda part: per_prediction(task, model, part, lambda now, _: now),
        examples,
        seed,
        most_bytes,
    )


def remember(
    task: Task,
    model: nn.Module,
    ask: Callable[[Examples], Tensor],
    examples: Examples,
    seed: str,
    most_bytes: int = REFERENCE_BYTES,
) -> Reference:
    """Ask the model, without dropout, about a sample of the records.

    The sample is all records, in an order drawn from `seed`, up to the one that fills `most_bytes`.

    Args:
        task: the recipe of the model.
        model: the model, on the device to work on.
        ask: gives a row for each prediction that counts, record after record.
        examples: the records.
        seed: fixes the order.
        most_bytes: what the rows may take.
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed_for(seed, "reference"))
    order = torch.randperm(count(examples), generator=generator)
    kept: list[Tensor] = []
    room = most_bytes
    # Not inference mode: its tensors may not take part in a gradient later.
    with torch.no_grad():
        for batch in torch.split(order, task.training.batch_size):
            part = take(examples, batch, device)
            sizes = (task.targets(part) != IGNORED).sum(-1).tolist()
            for rows in torch.split(ask(part).cpu(), sizes):
                if room > 0:
                    # A copy, since a view would hold on to the whole batch.
                    kept.append(rows.clone())
                    room -= rows.nbytes
            if room <= 0:
                break
    return Reference(take(examples, order[: len(kept)], torch.device("cpu")), tuple(kept))
