"""A run whose unmeasured steps were undone can still be stored and go on."""

import json
import math

import pytest
import rfc8785
import torch
from torch import nn

from lethe.methods.approximate import GradientAscentParams
from tests.unlearn.unlearn_cases import digits_task
from workers.unlearn.guarded import UnlearnCheckpoint, Unlearned, unlearn
from workers.unlearn.method import MoveState

STEPS = 14


class Spike:
    """Moves a little, but for one step whose gradient is not finite."""

    max_steps, gentler, stronger, kinder = STEPS, "", "", ""

    def __init__(self, model: nn.Module) -> None:
        self.weight = next(model.parameters())
        self.paces: list[float] = []

    def step(self, step: int) -> float:
        self.weight.data.mul_(math.nan if step == 7 else 1 + 1e-6)
        return math.inf if step == 7 else 1.0

    def pace(self, share: float) -> None:
        self.paces.append(share)

    def state(self) -> MoveState:
        return MoveState({}, {})

    def load_state(self, state: MoveState) -> None:
        assert state == MoveState({}, {})


def run(kept: list[UnlearnCheckpoint], resume: UnlearnCheckpoint | None = None) -> Unlearned:
    task = digits_task()
    generator = torch.Generator().manual_seed(3)
    rows = [
        {f"pixel_{place}": float(x) for place, x in enumerate(pixels)} | {"digit": number % 10}
        for number, pixels in enumerate(torch.randint(0, 17, (12, 64), generator=generator))
    ]
    sets = [task.encode(rows[start : start + 4]) for start in (0, 4, 8)]
    return unlearn(
        lambda context, params: Spike(context.model),
        task,
        task.build(1),
        forget=sets[0],
        retain=sets[1],
        holdout=sets[2],
        params=GradientAscentParams(
            learning_rate=1e-4, max_steps=STEPS, forget_loss_target=50.0, retain_loss_increase=5.0
        ),
        seed="s",
        on_progress=lambda share: None,
        cancelled=lambda: False,
        on_checkpoint=kept.append,
        checkpoint_steps=1,
        resume=resume,
    )


def through_json(checkpoint: UnlearnCheckpoint) -> UnlearnCheckpoint:
    facts = json.loads(rfc8785.dumps(checkpoint.facts))
    return UnlearnCheckpoint(checkpoint.step, checkpoint.tensors, facts)


@pytest.mark.filterwarnings("error")
def test_a_checkpoint_after_undone_steps_can_be_stored_and_gone_on_from() -> None:
    kept: list[UnlearnCheckpoint] = []
    whole = run(kept)
    undone = [one for one in whole.trace if not math.isfinite(one.gradient_norm)]
    assert len(undone) == 1
    assert whole.steps == STEPS
    # Some of them are of a state after the undone steps.
    assert any(one.step > undone[0].step for one in kept)
    for one in kept:
        again = run([], through_json(one))
        assert again.reason == whole.reason
        assert repr(again.trace) == repr(whole.trace)
        assert all(torch.equal(again.state[name], whole.state[name]) for name in whole.state)
