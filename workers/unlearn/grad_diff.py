"""Gradient difference with weights on both sides, and with KL divergence for the retain set.

Liu, Liu and Stone, "Continual Learning and Private Unlearning", 2022; the divergence as in Maini et
al., "TOFU", 2024 (arXiv 2401.06121), section 4. The model before is asked once, not at every step.
"""

from dataclasses import replace

from torch import Tensor

from lethe.methods.approximate import GradDiffParams
from workers.unlearn.descent import Batch, Descent, losses_of_both
from workers.unlearn.method import Context, Move
from workers.unlearn.reference import reference
from workers.unlearn.task import IGNORED, mean_per_record, per_prediction


def grad_diff(context: Context, params: GradDiffParams) -> Move:
    """Minimise -gamma · mean NLL(forget batch) + alpha · mean term(retain batch)."""
    return (
        _by_divergence(context, params) if params.retain_term == "kl" else _by_nll(context, params)
    )


def _by_nll(context: Context, params: GradDiffParams) -> Move:
    task, model = context.task, context.model

    def loss(batch: Batch) -> Tensor:
        forget, retain = losses_of_both(task, model, batch)
        return params.alpha * retain.mean() - params.gamma * forget.mean()

    return Descent(context, params, loss)


def _by_divergence(context: Context, params: GradDiffParams) -> Move:
    task, model = context.task, context.model
    before = reference(task, model, context.retain, context.seed)

    def loss(batch: Batch) -> Tensor:
        each = per_prediction(task, model, batch.retain, before.divergences(batch.retain_at))
        drift = mean_per_record(each, task.targets(batch.retain) != IGNORED).mean()
        return params.alpha * drift - params.gamma * task.losses(model, batch.forget).mean()

    return Descent(replace(context, retain=before.examples), params, loss)
