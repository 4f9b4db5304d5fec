"""Every editing method under the one runner: never a collapsed model, whatever the settings."""

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from lethe.methods.spec import Setting, ShardHit
from tests.unlearn.editing_cases import DRIFT, EDITING, ByHeart, digits, notes
from workers.unlearn.guarded import Unlearned
from workers.unlearn.state import read_model
from workers.unlearn.task import Examples, Task

CASES = [(name, "digits") for name in EDITING if "text" not in EDITING[name].requires] + [
    (name, "notes") for name in EDITING
]


def case_of(kind: str) -> ByHeart:
    return digits() if kind == "digits" else notes()


def settings(name: str, draw: random.Random) -> dict[str, object]:
    rounds: dict[str, object] = {
        "max_steps": draw.randint(1, 4),
        "recovery_steps": draw.choice([1, 5]),
        "learning_rate": 10 ** draw.uniform(-6, -1),
        "noise": draw.uniform(0.01, 1),
    }
    drawn: dict[str, dict[str, object]] = {
        "distill": rounds | {"temperature": draw.choice([0.5, 4])},
        "noise_and_prune": rounds | {"sparsity": draw.uniform(0, 0.99)},
        "impair_repair": {
            "max_steps": draw.randint(1, 4),
            "recovery_steps": draw.choice([1, 5]),
            "learning_rate": 10 ** draw.uniform(-6, -1),
            "impair_steps": draw.randint(1, 10),
            "impair_rate": 10 ** draw.uniform(-6, 0),
        },
        "task_vector": {
            "learning_rate": 10 ** draw.uniform(-6, 0),
            "max_steps": draw.randint(1, 20),
            "alpha": 10 ** draw.uniform(-2, 5),
        },
        "influence": {
            "curvature": draw.choice(["gauss_newton", "hessian"]),
            "preconditioner": draw.choice(["none", "ekfac"]),
            "damping": 10 ** draw.uniform(-6, 2),
            "iterations": draw.randint(1, 8),
            "scale": 10 ** draw.uniform(-2, 5),
        },
        "localised_ablation": {
            "largest_share": draw.uniform(0.01, 1),
            "units_per_step": draw.choice([1, 3, 1000]),
        },
        "model_edit": {
            "edit": draw.choice(["rome", "memit"]),
            "place": draw.choice([0, 3, 1000, None]),
            "retain_weight": 10 ** draw.uniform(-4, 4),
            "value_steps": draw.randint(1, 10),
            "value_rate": 10 ** draw.uniform(-3, 1),
            "largest_change": 10 ** draw.uniform(-2, 4),
        },
    }
    return drawn[name]


def check_never_collapsed(case: ByHeart, model: nn.Module, result: Unlearned) -> None:
    before = read_model(case.fresh())
    assert all(bool(tensor.isfinite().all()) for tensor in result.state.values())
    assert all(torch.equal(result.state[name], t) for name, t in read_model(model).items())
    forget, retain = case.loss(model, case.forget), case.loss(model, case.retain)
    assert (result.forget_loss_after, result.retain_loss_after) == pytest.approx((forget, retain))
    assert retain <= result.retain_loss_before + DRIFT + 1e-6
    assert result.forget_loss_before <= forget <= case.loss(case.fresh(), case.holdout) + 1e-6
    unchanged = all(torch.equal(before[name], t) for name, t in result.state.items())
    assert unchanged == (result.status == "failed")


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_no_setting_ends_in_collapse(name: str, kind: str) -> None:
    case, draw = case_of(kind), random.Random(f"{name} {kind}")
    for _ in range(6 if kind == "digits" else 3):
        model = case.fresh()
        result = case.unlearn(name, model, settings(name, draw))
        check_never_collapsed(case, model, result)


SOUND: dict[str, dict[str, object]] = {
    "distill": {"max_steps": 10, "learning_rate": 0.003},
    "noise_and_prune": {"max_steps": 10, "learning_rate": 0.003},
    "impair_repair": {"max_steps": 10, "recovery_steps": 10},
    "task_vector": {"learning_rate": 0.001},
    "influence": {"scale": 10.0},
    "localised_ablation": {},
    "model_edit": {},
}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_each_method_forgets_with_sound_settings(name: str, kind: str) -> None:
    case = case_of(kind)
    result = case.unlearn(name, case.fresh(), SOUND[name])
    assert result.status in {"reached", "stopped_at_guard"}
    way = result.holdout_loss - result.forget_loss_before
    assert result.forget_loss_after - result.forget_loss_before > 0.1 * way
    again = case.unlearn(name, case.fresh(), SOUND[name])
    assert all(torch.equal(again.state[key], tensor) for key, tensor in result.state.items())


class NanWithGradients:
    """A task whose scores are NaN where a gradient is asked for, as in half precision."""

    def __init__(self, task: Task) -> None:
        self.sound = task
        self.training, self.build, self.encode = task.training, task.build, task.encode
        self.targets, self.accuracies = task.targets, task.accuracies

    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        return self._broken(self.sound.log_distribution(model, examples))

    def losses(self, model: nn.Module, examples: Examples) -> Tensor:
        return self._broken(self.sound.losses(model, examples))

    def _broken(self, scores: Tensor) -> Tensor:
        return scores * torch.nan if torch.is_grad_enabled() else scores


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_failure_leaves_the_model_as_it_was(name: str, kind: str) -> None:
    case = case_of(kind)
    model = case.fresh()
    result = case.unlearn(name, model, {}, NanWithGradients(case.task))
    assert (result.status, result.steps) == ("failed", 1)
    assert "no longer finite" in result.reason
    assert all(torch.equal(result.state[k], t) for k, t in read_model(case.fresh()).items())
    assert all(torch.equal(result.state[k], t) for k, t in read_model(model).items())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_preparing_leaves_the_model_as_it_is(name: str, kind: str) -> None:
    case = case_of(kind)
    model = case.fresh()
    before, hooks = copy.deepcopy(model.state_dict()), _hooks(model)
    move = case.prepare(name, model)
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert _hooks(model) == hooks
    assert move.step(1)
    assert not all(torch.equal(before[key], t) for key, t in model.state_dict().items())


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", EDITING)
def test_what_is_said_of_each_method_holds(name: str) -> None:
    spec = EDITING[name]
    assert spec.name == name
    assert spec.guarantee == "approximate"
    assert spec.way == "steps"
    assert spec.requires >= {"forget", "retain", "holdout"}
    assert len(spec.summary) <= 100
    setting = Setting(((900, 100),), (ShardHit(0, 1, 20),), 5)
    assert 20 <= spec.record_passes(setting) < 100_000
    for sentence in (spec.summary, spec.cost, spec.refused):
        assert sentence.endswith(".")


@pytest.mark.parametrize("name", EDITING)
def test_bits_do_not_depend_on_what_was_drawn_before(name: str) -> None:
    def run(drawn_before: int) -> Unlearned:
        torch.manual_seed(drawn_before)
        # With dropout, as in every transformer whose configuration does not say otherwise.
        return notes().unlearn(name, notes().fresh(), {})

    left, right = run(1), run(2)
    assert left.trace == right.trace
    assert all(torch.equal(left.state[key], tensor) for key, tensor in right.state.items())
