"""Small models that saw nobody of either side, to calibrate attacks by.

They are trained on retained records when a version is measured and are never stored, so that they
are no artifact that anybody would have to be erased from.
"""

import numpy as np

from workers.attacks.parts import Parts, References
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.sisa import restore, train_shard
from workers.unlearn.task import Examples, Task


def references_of(task: Task, parts: Parts, number: int, seed: str) -> References | None:
    """Train some models on the retain set and score both sides with each.

    Args:
        task: the recipe.
        parts: the records of the evaluation.
        number: how many models; they differ by their seeds.
        seed: what theirs are made from.

    Returns:
        Losses by each; None where none is asked for, or nothing is there to train or to score.

    Raises:
        TrainingDiverged: a loss or a gradient is no longer finite.
    """
    if not number or not all((parts.retain.rows, parts.forget.rows, parts.holdout.rows)):
        return None
    models = [_reference(task, parts.retain.examples, f"{seed}-{i}") for i in range(number)]
    return References(
        *(
            np.stack([model.losses(part.examples).double().numpy() for model in models])
            for part in (parts.forget, parts.holdout)
        )
    )


def _reference(task: Task, retain: Examples, seed: str) -> Ensemble:
    state = train_shard(
        task,
        [retain],
        seed=seed,
        shard=0,
        resume=None,
        on_checkpoint=lambda _slice, _state: None,
        on_progress=lambda _share: None,
        cancelled=lambda: False,
    )
    return Ensemble(task, (restore(task, state, seed=seed, shard=0),))
