"""Impair and repair: a short, rough ascent, then training on the retain set before it is judged.

Tarun et al., "Fast Yet Effective Machine Unlearning", 2023 (arXiv 2111.08947), section III, with
the ascent on the forget set itself where the paper learns noise in its place. A step that is
measured right after it has ascended comes to the retain guard while little is forgotten; what a
repair wins back was never lost for good.
"""

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lethe.methods.editing import ImpairRepairParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.rounds import Kept, Rounds
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import count, take


def impair_repair(context: Context, params: ImpairRepairParams) -> Move:
    """Impair and repair in rounds; s is a round's strength, 1 at first.

    1. `impair_steps` of a fresh AdamW at s · `impair_rate` minimise -mean NLL(forget batch);
    2. `recovery_steps` minimise mean NLL(retain batch).
    """
    task, model = context.task, context.model
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss(batch: Batch) -> Tensor:
        return task.losses(model, batch.retain).mean()

    def disturb(step: int, strength: float) -> Kept:
        generator = torch.Generator().manual_seed(seed_for(context.seed, "impaired", step))
        optimizer = AdamW(weights, lr=strength * params.impair_rate, weight_decay=0.0)
        model.train()
        for _ in range(params.impair_steps):
            order = torch.randperm(count(context.forget), generator=generator)
            batch = take(context.forget, order[: params.batch_size], weights[0].device)
            optimizer.zero_grad()
            impaired = -task.losses(model, batch).mean()
            impaired.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, params.max_grad_norm)
            optimizer.step()
        return ()

    return Rounds(
        Descent(context, params, loss),
        params.recovery_steps,
        disturb,
        gentler="lower the impair rate or the learning rate",
        stronger="allow more rounds or impair for more steps",
        kinder="lower the impair rate or repair for more steps",
    )
