"""The model that the members of a SISA model form together: the mean of their probabilities.

Fixed weights, nothing fitted: an aggregation learned from data would be one more artifact to erase
from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workers.unlearn.task import Examples, Task, count, mean_nll, share_right, take


class Scores(NamedTuple):
    """How well each record is predicted: losses (n,) in nats, accuracies (n,) in [0, 1]; CPU."""

    losses: Tensor
    accuracies: Tensor


@dataclass(frozen=True)
class Ensemble:
    """Models of one task that predict together; one member alone is an ordinary model."""

    task: Task
    members: tuple[nn.Module, ...]

    def scores(self, examples: Examples) -> Scores:
        """Score each record once, in batches of the task's batch size, without gradients.

        A loss is -log mean_k p_k, averaged over the record's predictions; an accuracy counts the
        most probable class of the mean.
        """
        for member in self.members:
            member.eval()
        device = next(self.members[0].parameters()).device
        losses, accuracies = [torch.empty(0)], [torch.empty(0)]
        with torch.inference_mode():
            records = torch.arange(count(examples))
            for batch in torch.split(records, self.task.training.batch_size):
                part = take(examples, batch, device)
                if not len(batch):
                    continue
                log_distribution, targets = self._log_distribution(part), self.task.targets(part)
                losses.append(mean_nll(log_distribution, targets).cpu())
                accuracies.append(share_right(log_distribution, targets).cpu())
        return Scores(torch.cat(losses), torch.cat(accuracies))

    def losses(self, examples: Examples) -> Tensor:
        """The losses of `scores`: (n,)."""
        return self.scores(examples).losses

    def accuracies(self, examples: Examples) -> Tensor:
        """The accuracies of `scores`: (n,)."""
        return self.scores(examples).accuracies

    def _log_distribution(self, examples: Examples) -> Tensor:
        # Members are added one by one, so that memory holds two distributions, not one per member.
        total = self.task.log_distribution(self.members[0], examples)
        for member in self.members[1:]:
            total = torch.logaddexp(total, self.task.log_distribution(member, examples))
        return total - math.log(len(self.members))


def ensemble(task: Task, members: Sequence[tuple[int, nn.Module]]) -> Ensemble:
    """Put trained shards together.

    Args:
        task: the recipe of all members.
        members: (number of records trained on, model); shards without records have learned
            nothing and are left out.

    Raises:
        ValueError: no member was trained on a record.
    """
    trained = tuple(model for records, model in members if records > 0)
    if not trained:
        raise ValueError("no shard holds a record, so there is no model: retire the model instead")
    return Ensemble(task, trained)
