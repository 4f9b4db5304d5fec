"""Training on with the retain set alone, so that the rest fades.

The weakest of the methods (Golatkar et al., "Eternal Sunshine of the Spotless Net", 2020, section
6, "fine-tune"), and the baseline that any other has to beat.
"""

from torch import Tensor

from lethe.methods.approximate import FineTuneParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move


def fine_tune(context: Context, params: FineTuneParams) -> Move:
    """Minimise mean NLL(retain batch)."""
    task, model = context.task, context.model

    def loss(batch: Batch) -> Tensor:
        return task.losses(model, batch.retain).mean()

    return Descent(context, params, loss, kinder="lower the learning rate")
