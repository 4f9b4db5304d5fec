"""Negative preference optimisation: an ascent that slows down as the records are forgotten.

Zhang et al., "Negative Preference Optimization", 2024 (arXiv 2404.05868), equation 3, with a
retain term. The model before is needed for one number per record to forget.
"""

from torch import Tensor
from torch.nn import functional

from lethe.methods.approximate import NpoParams
from workers.unlearn.descent import Batch, Descent, losses_of_both
from workers.unlearn.method import Context, Move
from workers.unlearn.task import IGNORED, Examples, Task, each_nll


def npo(context: Context, params: NpoParams) -> Move:
    """Minimise gamma · mean[-(2/beta) log sigmoid(beta · (s - s_before))] + alpha · NLL(retain).

    s is the negative log likelihood of a whole record, summed over its predictions.
    """
    task, model, beta = context.task, context.model, params.beta
    before = each_nll(task, model, context.forget) * _predictions(task, context.forget)

    def loss(batch: Batch) -> Tensor:
        forget, retain = losses_of_both(task, model, batch)
        rise = forget * _predictions(task, batch.forget)
        rise = rise - before[batch.forget_at].to(rise.device)
        slowed = -2 / beta * functional.logsigmoid(beta * rise).mean()
        return params.gamma * slowed + params.alpha * retain.mean()

    return Descent(context, params, loss)


def _predictions(task: Task, examples: Examples) -> Tensor:
    return (task.targets(examples) != IGNORED).sum(-1)
