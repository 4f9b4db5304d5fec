"""The one runner of the approximate methods: it owns the guards, a method owns its steps.

An approximate method gives evidence, no proof. Plain ascent runs off a cliff that is less than ten
steps wide, and its kin do so later, so nothing is kept that was not measured:

1. the never-seen level is the mean loss of the holdout; the forget loss never passes it;
2. where the losses are far from their bounds, a few steps go unmeasured, so that the measuring does
   not cost more than the steps; a gradient that rises ends that at once, for it rises first;
3. a way whose forget loss, retain loss or weights leave the bounds is cut in half until it fits;
4. where no cut of one step fits, or its gradient is not finite, the work stops;
5. the best good state is what remains: finite, retain loss within its guard, forget loss highest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from workers.unlearn.method import Context, Method, Move, P, Resumable
from workers.unlearn.search import (
    PROBE_RECORDS,
    REACHED_SHARE,
    Probes,
    Search,
    StepTrace,
    UnlearnCheckpoint,
    Unlearned,
    mean_loss,
    probe,
)
from workers.unlearn.seeds import seed_for, seed_noise
from workers.unlearn.sisa import Cancelled
from workers.unlearn.task import Examples, Task, count

__all__ = [
    "PROBE_RECORDS",
    "REACHED_SHARE",
    "StepTrace",
    "UnlearnCheckpoint",
    "Unlearned",
    "unlearn",
]

CHECKPOINT_STEPS = 10
"""Steps from one checkpoint of a run to the next."""


def unlearn(
    method: Method[P],
    task: Task,
    model: nn.Module,
    *,
    forget: Examples,
    retain: Examples,
    holdout: Examples,
    params: P,
    seed: str,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
    on_checkpoint: Callable[[UnlearnCheckpoint], None] | None = None,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    resume: UnlearnCheckpoint | None = None,
) -> Unlearned:
    """Raise the forget set's loss to the never-seen level without losing the retain set.

    The model is changed in place and ends in the returned state, which is always finite and within
    the guard; where no step could be kept, it is what it was, bit for bit.

    A run that is resumed, with the other arguments as they were and the model as it was before the
    first step, gives bit for bit what it would have given without a break, in one environment. A
    move that is not `Resumable` has no checkpoints, and begins again.

    Args:
        method: prepares and makes the steps.
        task: the recipe of the model.
        model: the trained model, on the device to work on.
        forget: records to forget.
        retain: records to keep.
        holdout: records never trained on.
        params: the method's parameters, and the guard's.
        seed: fixes probes, batches and dropout.
        on_progress: receives the share of the steps that is done, after each step; 1 at the end.
        cancelled: asked before each step.
        on_checkpoint: receives the run as it stands, after every `checkpoint_steps` steps.
        checkpoint_steps: at least 1.
        resume: where to go on.

    Raises:
        ValueError: a set is empty, the model's loss is not finite to begin with, or the checkpoint
            is of another run.
        Cancelled: `cancelled` said yes; the model is then not to be used.
    """
    for name, examples in (("forget", forget), ("retain", retain), ("holdout", holdout)):
        if not count(examples):
            raise ValueError(f"unlearning needs records in the {name} set; retrain instead")
    search = Search(
        probes=Probes(task, model, probe(forget, seed, "forget"), probe(retain, seed, "retain")),
        holdout_loss=mean_loss(task, model, probe(holdout, seed, "holdout")),
        params=params,
    )
    if not search.ended():
        devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
        with torch.random.fork_rng(devices):
            seed_noise(seed_for(seed, "noise of preparing"))
            move = method(Context(task, model, forget, retain, seed), params)
            search.gentler, search.stronger, search.kinder = (
                move.gentler,
                move.stronger,
                move.kinder,
            )
            if resume is not None and isinstance(move, Resumable):
                move.load_state(search.load(resume))
            keeper = None
            if on_checkpoint is not None and isinstance(move, Resumable):
                keeper = _Keeper(search, move, on_checkpoint, checkpoint_steps, search.steps)
            _advance(search, move, seed, keeper, on_progress, cancelled)
    on_progress(1.0)
    return search.result()


def _advance(
    search: Search,
    move: Move,
    seed: str,
    keeper: "_Keeper | None",
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> None:
    for step in range(search.steps + 1, move.max_steps + 1):
        if search.ended():
            return
        if cancelled():
            raise Cancelled
        seed_noise(seed_for(seed, "noise of step", step))
        norm = move.step(step)
        if norm is None:
            return
        if step == move.max_steps or not search.may_wait(norm):
            move.pace(search.keep(step, norm))
            if keeper is not None:
                keeper.after(step)
        on_progress(step / move.max_steps)


@dataclass
class _Keeper:
    """Hands out checkpoints."""

    search: Search
    move: Resumable
    on_checkpoint: Callable[[UnlearnCheckpoint], None]
    steps: int
    last: int

    def after(self, step: int) -> None:
        if step - self.last >= self.steps and not self.search.ended():
            self.last = step
            self.on_checkpoint(self.search.checkpoint(self.move.state()))
