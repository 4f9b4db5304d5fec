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
from workers.unlearn.task import mean_nll


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
            now, targets = task.log_distribution(model, batch.forget), task.targets(batch.forget)
            return -leave.divergence(now, targets, batch.forget_at, params.temperature).mean()
        now, targets = task.log_distribution(model, batch.retain), task.targets(batch.retain)
        drift = keep.divergence(now, targets, batch.retain_at, params.temperature).mean()
        return params.alpha * drift + params.gamma * mean_nll(now, targets).mean()

    return Descent(replace(context, retain=keep.examples, forget=leave.examples), params, loss)
