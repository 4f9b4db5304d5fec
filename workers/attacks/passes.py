"""What a model says of each prediction of records, in one forward pass per member and record.

Every score of `workers.evidence.text` follows from it. The log probabilities of all classes are
never all held for a model of one member; an ensemble has to hold those of a batch to join them.
"""

import numpy as np
import torch
from torch import Tensor

from workers.evidence.text import Predictions
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import IGNORED, Ask, Examples, count, per_prediction, take

_CHUNK_BYTES = 2**23
"""Log probabilities of an ensemble that are asked about at once, in fp32."""


def predictions(model: Ensemble, examples: Examples) -> Predictions:
    """Ask the model about each prediction of each record once, without gradients or dropout.

    Records of like length share a batch, so that little padding is computed. For recipes of one
    prediction per record T is 1.

    Args:
        model: one member, or several that predict together by their aggregation.
        examples: of the model's task, n records.

    Returns:
        (n, T) arrays in the order of the examples, T the most predictions of a record.

    Raises:
        ValueError: there is no record.
    """
    if not count(examples):
        raise ValueError("predictions need at least one record")
    for member in model.members:
        member.eval()
    device = next(model.members[0].parameters()).device
    counted = (model.task.targets(examples) != IGNORED).cpu()
    answers = torch.zeros(*counted.shape, 4, dtype=torch.float64)
    with torch.inference_mode():
        for batch in torch.split(_by_length(examples), model.task.training.batch_size):
            own = counted[batch]
            # A tensor of its own, not a view: indexing by a mask twice would write to a copy.
            rows = torch.zeros(*own.shape, 4, dtype=torch.float64)
            rows[own] = _answers(model, take(examples, batch, device)).cpu().double()
            answers[batch] = rows
    log_p, mean, std, rank = answers.numpy().transpose(2, 0, 1)
    return Predictions(log_p, mean, std, rank.astype(np.int64), counted.numpy())


def _by_length(examples: Examples) -> Tensor:
    """The records' places, the shortest record first."""
    if "length" in examples:
        return torch.argsort(examples["length"].cpu(), stable=True)
    return torch.arange(count(examples))


def _answers(model: Ensemble, examples: Examples) -> Tensor:
    """Log probability, mean, deviation and rank of each prediction that counts, in record order."""
    targets = model.task.targets(examples)
    right = targets[targets != IGNORED]
    if len(model.members) == 1:
        return per_prediction(model.task, model.members[0], examples, _ask(right))
    rows, ask = model.log_distribution(examples)[targets != IGNORED], _ask(right)
    step = max(1, _CHUNK_BYTES // (4 * rows.shape[-1]))
    parts = [slice(first, first + step) for first in range(0, len(rows), step)]
    return torch.cat([ask(rows[part], part) for part in parts])


def _ask(right: Tensor) -> Ask:
    def ask(log_p: Tensor, part: slice) -> Tensor:
        own = log_p.gather(-1, right[part].unsqueeze(-1))
        p = log_p.exp()
        mean = torch.linalg.vecdot(p, log_p).unsqueeze(-1)
        # About the mean, since E[x²] - E[x]² loses all digits where the spread is small.
        variance = torch.linalg.vecdot(p, (log_p - mean).square_())
        rank = (log_p > own).sum(-1)
        return torch.stack([own.squeeze(-1), mean.squeeze(-1), variance.sqrt(), rank], dim=-1)

    return ask
