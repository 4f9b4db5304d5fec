"""Gradient ascent on the forget set with descent on the retain set.

Liu, Liu and Stone, "Continual Learning and Private Unlearning", 2022 (gradient difference).
"""

from collections.abc import Callable

from torch import Tensor, nn

from lethe.methods.approximate import GradientAscentParams
from workers.unlearn.descent import Batch, Descent, losses_of_both
from workers.unlearn.guarded import Unlearned, unlearn
from workers.unlearn.method import Context, Move
from workers.unlearn.task import Examples, Task


def ascent(context: Context, params: GradientAscentParams) -> Move:
    """Minimise -mean NLL(forget batch) + alpha · mean NLL(retain batch)."""
    task, model = context.task, context.model

    def loss(batch: Batch) -> Tensor:
        forget, retain = losses_of_both(task, model, batch)
        return params.alpha * retain.mean() - forget.mean()

    return Descent(context, params, loss)


def gradient_ascent(
    task: Task,
    model: nn.Module,
    *,
    forget: Examples,
    retain: Examples,
    holdout: Examples,
    params: GradientAscentParams,
    seed: str,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> Unlearned:
    """Run `ascent` under the guards: the arguments, promise and errors of `guarded.unlearn`."""
    return unlearn(
        ascent,
        task,
        model,
        forget=forget,
        retain=retain,
        holdout=holdout,
        params=params,
        seed=seed,
        on_progress=on_progress,
        cancelled=cancelled,
    )
