"""Gradient difference with weights on both sides, and with KL divergence for the retain set.

Liu, Liu and Stone, "Continual Learning and Private Unlearning", 2022; the divergence as in Maini et
al., "TOFU", 2024 (arXiv 2401.06121), section 4. The model before is asked once, not at every step.
"""

from dataclasses import replace

from torch import Tensor

from lethe.methods.approximate import GradDiffParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.reference import reference


def grad_diff(context: Context, params: GradDiffParams) -> Move:
    """Minimise -gamma · mean NLL(forget batch) + alpha · mean term(retain batch)."""
    return (
        _by_divergence(context, params) if params.retain_term == "kl" else _by_nll(context, params)
    )


def _by_nll(context: Context, params: GradDiffParams) -> Move:
    task, model = context.task, context.model

    def loss(batch: Batch) -> Tensor:
        retain = params.alpha * task.losses(model, batch.retain).mean()
        return retain - params.gamma * task.losses(model, batch.forget).mean()

    return Descent(context, params, loss)


def _by_divergence(context: Context, params: GradDiffParams) -> Move:
    task, model = context.task, context.model
    before = reference(task, model, context.retain, context.seed)

    def loss(batch: Batch) -> Tensor:
        now, targets = task.log_distribution(model, batch.retain), task.targets(batch.retain)
        drift = before.divergence(now, targets, batch.retain_at).mean()
        return params.alpha * drift - params.gamma * task.losses(model, batch.forget).mean()

    return Descent(replace(context, retain=before.examples), params, loss)
