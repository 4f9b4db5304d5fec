"""The model that the members of a SISA model form together.

Nothing is fitted: an aggregation learned from data would be one more artifact to erase from. A
member counts by its number of records, which the manifest states, so that after an erasure the
weights are those of a training that never saw the person.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lethe.recipes.training import Aggregation
from workers.unlearn.task import (
    Examples,
    Task,
    count,
    mean_confidence,
    mean_nll,
    share_right,
    take,
)


class Scores(NamedTuple):
    """How well each record is predicted, on the CPU.

    Attributes:
        losses: (n,) nats.
        accuracies: (n,) in [0, 1].
        confidences: (n,) probability of the most probable class, averaged over predictions.
    """

    losses: Tensor
    accuracies: Tensor
    confidences: Tensor


@dataclass(frozen=True)
class Ensemble:
    """Models of one task that predict together; one member alone is an ordinary model.

    Attributes:
        records: how many records each member was trained on; () where all weigh the same.
    """

    task: Task
    members: tuple[nn.Module, ...]
    records: tuple[int, ...] = ()
    aggregation: Aggregation = "mean_probabilities"

    def scores(self, examples: Examples) -> Scores:
        """Score each record once, in batches of the task's batch size, without gradients.

        A loss is the negative log likelihood under the aggregation, averaged over the record's
        predictions; an accuracy counts its most probable class.
        """
        for member in self.members:
            member.eval()
        device = next(self.members[0].parameters()).device
        found = [Scores(torch.empty(0), torch.empty(0), torch.empty(0))]
        with torch.inference_mode():
            records = torch.arange(count(examples))
            for batch in torch.split(records, self.task.training.batch_size):
                part = take(examples, batch, device)
                if not len(batch):
                    continue
                log_distribution, targets = self.log_distribution(part), self.task.targets(part)
                found.append(
                    Scores(
                        mean_nll(log_distribution, targets).cpu(),
                        share_right(log_distribution, targets).cpu(),
                        mean_confidence(log_distribution, targets).cpu(),
                    )
                )
        return Scores(*(torch.cat(rows) for rows in zip(*found, strict=True)))

    def losses(self, examples: Examples) -> Tensor:
        """The losses of `scores`: (n,)."""
        return self.scores(examples).losses

    def accuracies(self, examples: Examples) -> Tensor:
        """The accuracies of `scores`: (n,)."""
        return self.scores(examples).accuracies

    def log_distribution(self, examples: Examples) -> Tensor:
        """Log probabilities under the aggregation of the T predictions of each record: (n, T, K).

        In the mode that the members are in; the examples are where the members are.
        """
        if len(self.members) == 1:
            return self.task.log_distribution(self.members[0], examples)
        return _JOINS[self.aggregation](self._weighted(examples))

    def _weighted(self, examples: Examples) -> Iterator["_Weighted"]:
        # One by one, so that memory holds a few distributions, not one per member.
        records = self.records or (1,) * len(self.members)
        for own, member in zip(records, self.members, strict=True):
            yield own / sum(records), self.task.log_distribution(member, examples)


_Weighted = tuple[float, Tensor]


def _mean_probabilities(parts: Iterable[_Weighted]) -> Tensor:
    total = torch.tensor(-math.inf)
    for weight, log_distribution in parts:
        total = torch.logaddexp(total.to(log_distribution), log_distribution + math.log(weight))
    return total


def _mean_logits(parts: Iterable[_Weighted]) -> Tensor:
    # Of log probabilities: they differ from the logits by a constant, which the softmax removes.
    total = torch.zeros(())
    for weight, log_distribution in parts:
        total = total.to(log_distribution) + weight * log_distribution
    return total.log_softmax(-1)


def _vote(parts: Iterable[_Weighted]) -> Tensor:
    members, votes, mean = 0, torch.zeros(()), torch.tensor(-math.inf)
    for weight, log_distribution in parts:
        choice = log_distribution.argmax(-1, keepdim=True)
        own = torch.zeros_like(log_distribution).scatter_(-1, choice, weight)
        members += 1
        votes = votes.to(own) + own
        mean = torch.logaddexp(mean.to(own), log_distribution + math.log(weight))
    return torch.logaddexp((members * votes).log(), mean) - math.log(members + 1)


_JOINS: dict[Aggregation, Callable[[Iterable[_Weighted]], Tensor]] = {
    "mean_probabilities": _mean_probabilities,
    "mean_logits": _mean_logits,
    "vote": _vote,
}


def ensemble(
    task: Task,
    members: Sequence[tuple[int, nn.Module]],
    aggregation: Aggregation = "mean_probabilities",
) -> Ensemble:
    """Put trained shards together.

    Args:
        task: the recipe of all members.
        members: (number of records trained on, model); shards without records have learned
            nothing and are left out.
        aggregation: how they predict together.

    Raises:
        ValueError: no member was trained on a record.
    """
    trained = [(records, model) for records, model in members if records > 0]
    if not trained:
        raise ValueError("no shard holds a record, so there is no model: retire the model instead")
    records, models = zip(*trained, strict=True)
    return Ensemble(task, models, records, aggregation)
