"""Noise in the weights, and distillation from what the model before said of the retain set.

Lee et al., "Distillation Robustifies Unlearning", 2025 (arXiv 2506.06278): a student that begins
from partly noised weights learns only what it is shown, so what is not shown to it is not passed
on. The paper noises once and trains long; here it is done in small rounds, so that each round can
be measured and taken back. The teacher is not unlearned first, it is only never asked about the
forget set.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lethe.methods.editing import DistillParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.reference import reference
from workers.unlearn.rounds import Kept, Rounds
from workers.unlearn.seeds import seed_for


def distill(context: Context, params: DistillParams) -> Move:
    """Disturb and recover in rounds; s is a round's strength, 1 at first.

    1. every weight matrix becomes (1 - s · noise) · w + s · noise · N, where N is drawn as for a
       fresh model (Glorot and Bengio 2010, normal); vectors, such as biases, stay;
    2. `recovery_steps` minimise mean KL(before || now) over batches of the retain set.
    """
    task, model = context.task, context.model
    before = reference(task, model, context.retain, context.seed)

    def loss(batch: Batch) -> Tensor:
        now, targets = task.log_distribution(model, batch.retain), task.targets(batch.retain)
        return before.divergence(now, targets, batch.retain_at, params.temperature).mean()

    def disturb(step: int, strength: float) -> Kept:
        generator = torch.Generator().manual_seed(seed_for(context.seed, "fresh weights", step))
        for weight in model.parameters():
            if weight.requires_grad and weight.dim() > 1:
                # Drawn on the CPU, so that every device gets the same numbers.
                fresh = nn.init.xavier_normal_(torch.empty(weight.shape), generator=generator)
                weight.data.lerp_(fresh.to(weight), params.noise * strength)
        return ()

    descent = Descent(replace(context, retain=before.examples), params, loss)
    return Rounds(descent, params.recovery_steps, disturb)
