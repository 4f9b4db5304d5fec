"""Influence functions: a step like Newton's that undoes records, and their rank for a query.

Koh and Liang, "Understanding Black-box Predictions via Influence Functions", 2017 (arXiv
1703.04730), section 2. Exact to first order for a convex loss at its minimum; for a deep model an
estimate, which the guards measure before it is kept.
"""

import math

import torch
from torch import Tensor, nn

from lethe.methods.editing import SAMPLE_RECORDS, InfluenceParams
from workers.unlearn.curvature import (
    MeanLoss,
    Product,
    conjugate_gradients,
    sample,
    trainable,
    unflat,
)
from workers.unlearn.ekfac import ekfac
from workers.unlearn.method import Context, Move
from workers.unlearn.task import Examples, Task, count, take
from workers.unlearn.towards import Towards


def influence(context: Context, params: InfluenceParams) -> Move:
    """Move by scale · (n_F / n_R) · (C + damping · I)⁻¹ ∇L(F).

    C is the curvature of the mean loss of the retain set, or of a sample of it; the sign is plus,
    since a minimum without F is where L(F) may be higher.
    """
    task, model = context.task, context.model
    weights = trainable(model)
    gradient = MeanLoss(task, model, context.forget).gradient()
    norm = gradient.norm().item()
    step = torch.zeros_like(gradient)
    if math.isfinite(norm):
        kept = MeanLoss(task, model, sample(context.retain, SAMPLE_RECORDS, context.seed))
        share = count(context.forget) / count(context.retain)
        step = params.scale * share * inverse_curvature(kept, params, context.seed)(gradient)
    ends = [w.detach() + part for w, part in zip(weights, unflat(step, weights), strict=True)]
    return Towards(
        weights,
        ends,
        norm,
        gentler="raise damping or lower scale",
        stronger="raise scale, or lower damping",
        kinder="raise damping or allow more iterations",
    )


def inverse_curvature(loss: MeanLoss, params: InfluenceParams, seed: str) -> Product:
    """The product with (C + damping · I)⁻¹ by conjugate gradients, for C of `loss`.

    Raises:
        ValueError: the preconditioner is ekfac, and the model has no linear layer for it.
    """
    curvature = (
        loss.gauss_newton_product if params.curvature == "gauss_newton" else loss.hessian_product
    )
    precondition: Product = lambda vector: vector  # noqa: E731
    if params.preconditioner == "ekfac":
        precondition = ekfac(loss, params.damping, seed).inverse

    def product(vector: Tensor) -> Tensor:
        return curvature(vector) + params.damping * vector

    return lambda right: conjugate_gradients(product, right, precondition, params.iterations)


def rank(
    task: Task,
    model: nn.Module,
    records: Examples,
    query: Examples,
    inverse: Product,
    trained_on: int,
) -> Tensor:
    """Estimate by how much leaving each record out of the training would raise the query's loss.

    Args:
        task: the recipe of the model.
        model: the trained model, on the device to work on.
        records: training records, n of them.
        query: records whose mean loss is asked about.
        inverse: the product with the inverse curvature of the training loss: that of
            `inverse_curvature`, or of `ekfac`, one pass per query instead of one per iteration.
        trained_on: records that the model was trained on.

    Returns:
        ∇L(query)ᵀ C⁻¹ ∇l_i / trained_on in nats: (n,); Koh and Liang, equation 2, its sign turned
        since a record is left out.
    """
    towards = inverse(MeanLoss(task, model, query).gradient())
    scores = [
        MeanLoss(task, model, take(records, record, torch.device("cpu"))).gradient() @ towards
        for record in torch.split(torch.arange(count(records)), 1)
    ]
    return torch.stack(scores) / trained_on
