"""Small tasks and a quiet way to train them."""

from collections.abc import Sequence

import torch

from workers.recipes import make_task
from workers.unlearn.sisa import train_shard
from workers.unlearn.state import TrainingState
from workers.unlearn.task import Examples, Task

Rows = list[dict[str, object]]


class Training:
    """Trains a shard without listening, and keeps its checkpoints."""

    def __init__(self) -> None:
        self.checkpoints: dict[int, TrainingState] = {}
        self.progress: list[float] = []

    def __call__(
        self,
        task: Task,
        slices: Sequence[Examples],
        resume: tuple[int, TrainingState] | None = None,
    ) -> TrainingState:
        return train_shard(
            task,
            slices,
            seed="model-1",
            shard=2,
            resume=resume,
            on_checkpoint=self.checkpoints.__setitem__,
            on_progress=self.progress.append,
            cancelled=lambda: False,
        )


def digits_task(**changes: object) -> Task:
    params: dict[str, object] = {
        "image": {"prefix": "pixel_", "height": 8, "width": 8},
        "label": "digit",
        "classes": 10,
        "hidden": [8],
        "scale": 16.0,
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.01},
    }
    return make_task("classifier", params | changes)


def lm_params() -> dict[str, object]:
    return {
        "text": "note",
        "config": {
            "model_type": "gpt2",
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
            "n_positions": 32,
        },
        "max_tokens": 24,
        "training": {"epochs": 2, "batch_size": 3},
    }


def same(left: TrainingState, right: TrainingState) -> bool:
    a, b = left.tensors(), right.tensors()
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )
