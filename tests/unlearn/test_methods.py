"""Every approximate method under the one runner: never a collapsed model, whatever the settings."""

import random
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lethe.methods import METHODS, approximate
from lethe.methods.approximate import FineTuneParams
from lethe.methods.spec import GuardParams
from tests.unlearn.unlearn_cases import Training, digits_task, lm_params
from workers.recipes import make_task
from workers.unlearn import UnknownMethod, run_method
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.descent import Descent
from workers.unlearn.guarded import Unlearned, unlearn
from workers.unlearn.method import Context, Move
from workers.unlearn.sisa import restore
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, Task, join

APPROXIMATE = sorted(spec.name for spec in approximate.SPECS)
VARIANTS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in APPROXIMATE),
    ("grad_diff", {"retain_term": "kl"}),
]
DRIFT = 0.15


class Memorised:
    """A model that knows its training records by heart; some of them are to be forgotten."""

    def __init__(
        self, task: Task, layer: str, forget: Examples, retain: Examples, holdout: Examples
    ) -> None:
        self.task, self.forget, self.retain, self.holdout = task, forget, retain, holdout
        self.needed: dict[str, dict[str, object]] = {"rmu": {"layer": layer}}
        self.state: TrainingState = Training()(task, [join([forget, retain])])

    def fresh(self) -> nn.Module:
        return restore(self.task, self.state, seed="model-1", shard=2)

    def loss(self, model: nn.Module, examples: Examples) -> float:
        return Ensemble(self.task, (model,)).losses(examples).mean().item()

    def unlearn(
        self,
        name: str,
        model: nn.Module,
        parameters: Mapping[str, object],
        task: Task | None = None,
    ) -> Unlearned:
        return run_method(
            name,
            task or self.task,
            model,
            forget=self.forget,
            retain=self.retain,
            holdout=self.holdout,
            parameters={"retain_loss_increase": DRIFT, **self.needed.get(name, {}), **parameters},
            seed="run-1",
            on_progress=lambda share: None,
            cancelled=lambda: False,
        )


@cache
def digits() -> Memorised:
    task = digits_task(
        hidden=[32], training={"epochs": 25, "batch_size": 16, "learning_rate": 0.02}
    )
    raw = load_digits()
    rows: list[dict[str, object]] = [
        {**{f"pixel_{i}": float(p) for i, p in enumerate(pixels)}, "digit": int(label)}
        for pixels, label in zip(raw.data[:140], raw.target[:140], strict=True)
    ]
    return Memorised(
        task, "1", task.encode(rows[:6]), task.encode(rows[6:60]), task.encode(rows[60:])
    )


@cache
def notes() -> Memorised:
    training = {"epochs": 40, "batch_size": 4, "learning_rate": 0.01}
    task = make_task("causal_lm", lm_params() | {"training": training})
    rows: list[dict[str, object]] = [
        {"note": f"{'p' * (i % 3)} {i} takes {i * 37 % 91} mg"} for i in range(12)
    ]
    return Memorised(
        task,
        "transformer.h.0",
        task.encode(rows[:2]),
        task.encode(rows[2:8]),
        task.encode(rows[8:]),
    )


def settings(name: str, draw: random.Random, most_steps: int) -> dict[str, object]:
    if name == "ssd":
        return {"alpha": 10 ** draw.uniform(-3, 5), "dampening": 10 ** draw.uniform(-3, 1)}
    weights: dict[str, object] = (
        {"alpha": 10 ** draw.uniform(-2, 3), "steering": 10 ** draw.uniform(-1, 2)}
        if name == "rmu"
        else {}
    )
    return weights | {
        "learning_rate": 10 ** draw.uniform(-6, -2),
        "max_steps": draw.randint(1, most_steps),
        "batch_size": draw.choice([1, 4, 16]),
    }


def check_never_collapsed(case: Memorised, model: nn.Module, result: Unlearned) -> None:
    before = read_model(case.fresh())
    assert all(bool(tensor.isfinite().all()) for tensor in result.state.values())
    assert all(torch.equal(result.state[name], t) for name, t in read_model(model).items())
    forget, retain = case.loss(model, case.forget), case.loss(model, case.retain)
    assert (result.forget_loss_after, result.retain_loss_after) == pytest.approx((forget, retain))
    assert retain <= result.retain_loss_before + DRIFT + 1e-6
    assert result.forget_loss_before <= forget <= case.loss(case.fresh(), case.holdout) + 1e-6
    unchanged = all(torch.equal(before[name], t) for name, t in result.state.items())
    assert unchanged == (result.status == "failed")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("name", "fixed"), VARIANTS)
def test_no_setting_ends_in_collapse(name: str, fixed: dict[str, object], seed: int) -> None:
    case, draw = digits(), random.Random(f"{name} {seed}")
    model = case.fresh()
    result = case.unlearn(name, model, settings(name, draw, 30) | fixed)
    check_never_collapsed(case, model, result)


@pytest.mark.parametrize(("name", "fixed"), VARIANTS)
def test_no_setting_ends_in_collapse_of_a_language_model(
    name: str, fixed: dict[str, object]
) -> None:
    case, draw = notes(), random.Random(name)
    for _ in range(2):
        model = case.fresh()
        result = case.unlearn(name, model, settings(name, draw, 12) | fixed)
        check_never_collapsed(case, model, result)


@pytest.mark.parametrize(("name", "fixed"), VARIANTS)
def test_each_method_forgets_with_sound_settings(name: str, fixed: dict[str, object]) -> None:
    steps: dict[str, object] = {"learning_rate": 0.003, "max_steps": 60}
    sound: dict[str, dict[str, object]] = {"ssd": {"alpha": 1.0}, "rmu": steps | {"alpha": 1.0}}
    case = digits()
    result = case.unlearn(name, case.fresh(), sound.get(name, steps) | fixed)
    assert result.status in {"reached", "stopped_at_guard"}
    way = result.holdout_loss - result.forget_loss_before
    least = 0.15 if name == "rmu" else 0.3
    assert result.forget_loss_after - result.forget_loss_before > least * way


class NanInTraining:
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


@pytest.mark.parametrize(("name", "fixed"), VARIANTS)
def test_a_failure_leaves_the_model_as_it_was(name: str, fixed: dict[str, object]) -> None:
    case = digits()
    model = case.fresh()
    # rmu asks for no score: its own loss has to leave the range of a float.
    broken = fixed | ({"steering": 1e30} if name == "rmu" else {})
    result = case.unlearn(name, model, broken, NanInTraining(case.task))
    assert (result.status, result.steps) == ("failed", 1)
    assert "no longer finite" in result.reason
    assert all(torch.equal(result.state[k], t) for k, t in read_model(case.fresh()).items())
    assert all(torch.equal(result.state[k], t) for k, t in read_model(model).items())


def test_a_loss_of_nan_is_seen_where_its_gradient_is_finite() -> None:
    def method(context: Context, params: FineTuneParams) -> Move:
        return Descent(
            context,
            params,
            lambda batch: context.task.losses(context.model, batch.forget).mean() + torch.nan,
        )

    case = digits()
    model = case.fresh()
    result = unlearn(
        method,
        case.task,
        model,
        forget=case.forget,
        retain=case.retain,
        holdout=case.holdout,
        params=FineTuneParams(),
        seed="run-1",
        on_progress=lambda share: None,
        cancelled=lambda: False,
    )
    assert (result.status, result.steps) == ("failed", 1)
    assert "no longer finite" in result.reason
    assert all(torch.equal(read_model(model)[k], t) for k, t in case.state.model.items())


def test_dampening_stops_at_the_guard_and_says_so() -> None:
    case = notes()
    result = case.unlearn("ssd", case.fresh(), {"alpha": 1.0})
    assert result.status == "stopped_at_guard"
    assert "retain loss came to its guard" in result.reason
    whole = case.unlearn("ssd", case.fresh(), {"alpha": 1e6, "retain_loss_increase": 100})
    assert (whole.status, whole.steps) == ("failed", 1)
    assert "lower alpha" in whole.reason


@pytest.mark.parametrize(("name", "fixed"), VARIANTS)
def test_a_finished_model_is_left_alone(name: str, fixed: dict[str, object]) -> None:
    case = digits()
    result = case.unlearn(name, case.fresh(), {"forget_loss_target": 1e-6, **fixed})
    assert (result.status, result.steps) == ("reached", 0)


@pytest.mark.parametrize("name", ["sisa", "retrain", "unheard_of"])
def test_only_approximate_methods_run_under_the_guards(name: str) -> None:
    with pytest.raises(UnknownMethod, match="fine_tune, grad_diff, gradient_ascent, impair_repair"):
        digits().unlearn(name, digits().fresh(), {})


@pytest.mark.parametrize("name", APPROXIMATE)
def test_parameters_that_do_not_fit_are_refused(name: str) -> None:
    for wrong in ({"alhpa": 1}, {"retain_loss_increase": -1}, {"forget_loss_target": 0}):
        with pytest.raises(ValidationError):
            digits().unlearn(name, digits().fresh(), wrong)


def test_methods_say_what_they_guarantee_and_require() -> None:
    for name, spec in METHODS.items():
        assert name == spec.name
        assert spec.summary.endswith(".")
        assert spec.cost.endswith(".")
        assert spec.refused.endswith(".")
        assert (spec.implementation is not None) == (spec.way == "steps")
        assert issubclass(spec.params, GuardParams) == (spec.way == "steps")
        assert (spec.evidence == ("process",)) == (spec.guarantee != "approximate")
    for name in APPROXIMATE:
        assert {"forget", "retain", "holdout", "weights"} <= METHODS[name].requires
