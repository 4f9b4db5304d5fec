"""Exact retraining: the method that every other is measured against."""

from collections.abc import Callable, Sequence

import torch

from workers.unlearn.sisa import CPU, train_shard
from workers.unlearn.state import TrainingState
from workers.unlearn.task import Examples, Task


def retrain(
    task: Task,
    slices: Sequence[Examples],
    *,
    seed: str,
    shard: int,
    on_checkpoint: Callable[[int, TrainingState], None],
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
    device: torch.device = CPU,
) -> TrainingState:
    """Train one shard from scratch on what is left, trusting no earlier checkpoint.

    `train_shard` without `resume`: same arguments, same errors, same bits.
    """
    return train_shard(
        task,
        slices,
        seed=seed,
        shard=shard,
        resume=None,
        on_checkpoint=on_checkpoint,
        on_progress=on_progress,
        cancelled=cancelled,
        device=device,
    )
