"""NPO without a reference: the loss per prediction takes the place of the model before.

Fan et al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
2024 (arXiv 2410.07163), equation 4, with a retain term.
"""

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from workers.unlearn.descent import Batch, Descent, DescentParams
from workers.unlearn.method import Context, Move


class SimNpoParams(DescentParams):
    """How to weigh.

    Attributes:
        beta: inverse temperature.
        delta: margin; the paper's gamma.
        gamma: weight of the forget set's term.
        alpha: weight of the retain set's descent.
    """

    beta: float = Field(default=4.5, gt=0, le=100, allow_inf_nan=False)
    delta: float = Field(default=0.0, ge=0, le=100, allow_inf_nan=False)
    gamma: float = Field(default=0.125, gt=0, le=1000, allow_inf_nan=False)
    alpha: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)


def simnpo(context: Context, params: SimNpoParams) -> Move:
    """Minimise gamma · mean[-(2/beta) log sigmoid(beta · NLL - delta)] + alpha · NLL(retain).

    NLL is that of a record's predictions on average, so long records weigh as much as short ones.
    """
    task, model, beta = context.task, context.model, params.beta

    def loss(batch: Batch) -> Tensor:
        margin = beta * task.losses(model, batch.forget) - params.delta
        forget = -2 / beta * functional.logsigmoid(margin).mean()
        return params.gamma * forget + params.alpha * task.losses(model, batch.retain).mean()

    return Descent(context, params, loss)
