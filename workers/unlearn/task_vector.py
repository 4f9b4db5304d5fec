"""Negation of a task vector: learn the forget set a little more, and go the opposite way.

Ilharco et al., "Editing Models with Task Arithmetic", 2023 (arXiv 2212.04089), section 3.
"""

import math

from torch import Tensor

from lethe.methods.editing import TaskVectorParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.state import read_model, write_model
from workers.unlearn.towards import Towards


def task_vector(context: Context, params: TaskVectorParams) -> Move:
    """Move to θ - alpha · (θ_F - θ).

    θ_F comes of `max_steps` of descent on mean NLL(forget batch) from θ, in the same model; θ is
    kept on the CPU meanwhile and put back.
    """
    task, model = context.task, context.model
    before = read_model(model)

    def loss(batch: Batch) -> Tensor:
        return task.losses(model, batch.forget).mean()

    descent = Descent(context, params, loss)
    norm = 0.0
    for step in range(1, params.max_steps + 1):
        norm = descent.step(step)
        if not math.isfinite(norm):
            break
    descent.optimizer.zero_grad()
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ends = []
    for name, tuned in weights.items():
        start = before[name].to(tuned.device)
        ends.append(start - params.alpha * (tuned.detach() - start))
    write_model(model, before)
    return Towards(
        list(weights.values()),
        ends,
        norm,
        gentler="lower alpha or the learning rate",
        stronger="raise alpha",
        kinder="lower the learning rate or fine-tune for fewer steps",
    )
