"""SCRUB: away from what the model said of the forget set, and close to it on the retain set.

Kurmanji et al., "Towards Unbounded Machine Unlearning", 2023 (arXiv 2302.09880), section 3.2. The
teacher is the model before, kept as log probabilities.
"""

from dataclasses import replace

from torch import Tensor

from lethe.methods.approximate import ScrubParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.reference import reference
from workers.unlearn.task import IGNORED, mean_per_record, per_prediction


def scrub(context: Context, params: ScrubParams) -> Move:
    """Minimise in turn, with KL from the teacher, on one batch each.

    1. odd steps: alpha · mean KL(retain) + gamma · mean NLL(retain);
    2. even steps: -mean KL(forget).

    The retain set goes first, since the divergence has no gradient at the teacher itself.
    """
    task, model = context.task, context.model
    keep = reference(task, model, context.retain, context.seed)
    leave = reference(task, model, context.forget, context.seed)

    def loss(batch: Batch) -> Tensor:
        if batch.step % 2 == 0:
            targets = task.targets(batch.forget)
            away = leave.divergences(batch.forget_at, params.temperature)
            each = per_prediction(task, model, batch.forget, away)
            return -mean_per_record(each, targets != IGNORED).mean()
        targets = task.targets(batch.retain)
        counted = targets != IGNORED
        right = targets[counted].unsqueeze(-1)
        drift = keep.divergences(batch.retain_at, params.temperature)

        def held(now: Tensor, part: slice) -> Tensor:
            nll = -now.gather(-1, right[part]).squeeze(-1)
            return params.alpha * drift(now, part) + params.gamma * nll

        each = per_prediction(task, model, batch.retain, held)
        return mean_per_record(each, counted).mean()

    return Descent(replace(context, retain=keep.examples, forget=leave.examples), params, loss)
