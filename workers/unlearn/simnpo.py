"""NPO without a reference: the loss per prediction takes the place of the model before.

Fan et al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
2024 (arXiv 2410.07163), equation 4, with a retain term.
"""

from torch import Tensor
from torch.nn import functional

from lethe.methods.approximate import SimNpoParams
from workers.unlearn.descent import Batch, Descent, losses_of_both
from workers.unlearn.method import Context, Move


def simnpo(context: Context, params: SimNpoParams) -> Move:
    """Minimise gamma · mean[-(2/beta) log sigmoid(beta · NLL - delta)] + alpha · NLL(retain).

    NLL is that of a record's predictions on average, so long records weigh as much as short ones.
    """
    task, model, beta = context.task, context.model, params.beta

    def loss(batch: Batch) -> Tensor:
        forget, retain = losses_of_both(task, model, batch)
        margin = beta * forget - params.delta
        slowed = -2 / beta * functional.logsigmoid(margin).mean()
        return params.gamma * slowed + params.alpha * retain.mean()

    return Descent(context, params, loss)
