import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lethe.methods.approximate import GradientAscentParams
from tests.unlearn.unlearn_cases import Rows, Training, digits_task, lm_params
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.gradient_ascent import gradient_ascent
from workers.unlearn.guarded import REACHED_SHARE, Unlearned, unlearn
from workers.unlearn.sisa import Cancelled, restore
from workers.unlearn.state import read_model
from workers.unlearn.task import Examples, Task


class Case:
    """A model that has memorised 60 digits, of which 6 are to be forgotten."""

    def __init__(self, task: Task, rows: Rows, train: Training) -> None:
        self.task = task
        self.forget, self.retain = task.encode(rows[:6]), task.encode(rows[6:60])
        self.holdout = task.encode(rows[60:160])
        state = train(task, [task.encode(rows[:60])])
        self.fresh: Callable[[], nn.Module] = lambda: restore(task, state, seed="model-1", shard=2)

    def loss(self, model: nn.Module, examples: Examples) -> float:
        return Ensemble(self.task, (model,)).losses(examples).mean().item()

    def unlearn(
        self, model: nn.Module, changes: dict[str, float], seed: str = "run-1"
    ) -> Unlearned:
        params = GradientAscentParams.model_validate(
            {"learning_rate": 0.003, "batch_size": 6, "retain_loss_increase": 0.2} | changes
        )
        return gradient_ascent(
            self.task,
            model,
            forget=self.forget,
            retain=self.retain,
            holdout=self.holdout,
            params=params,
            seed=seed,
            on_progress=lambda share: None,
            cancelled=lambda: False,
        )


@pytest.fixture
def case(digit_rows: Rows, train: Training) -> Case:
    training = {"epochs": 25, "batch_size": 8, "learning_rate": 0.02}
    return Case(digits_task(hidden=[32], training=training), digit_rows, train)


def test_the_never_seen_level_is_reached_within_the_guard(case: Case) -> None:
    model = case.fresh()
    before = case.loss(model, case.forget), case.loss(model, case.retain)
    result = case.unlearn(model, {})
    assert result.status == "reached"
    assert (result.forget_loss_before, result.retain_loss_before) == pytest.approx(before)
    assert result.holdout_loss == pytest.approx(case.loss(case.fresh(), case.holdout))
    assert result.forget_loss_after == pytest.approx(case.loss(model, case.forget))
    assert result.retain_loss_after == pytest.approx(case.loss(model, case.retain))
    way = result.holdout_loss - before[0]
    assert before[0] + REACHED_SHARE * way <= result.forget_loss_after <= result.holdout_loss
    assert result.retain_loss_after <= before[1] + 0.2
    assert all(torch.equal(read_model(model)[name], t) for name, t in result.state.items())


@pytest.mark.parametrize("learning_rate", [1e-6, 1e-3, 0.03, 1.0, 10.0])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("max_grad_norm", [1.0, 1e30])
def test_no_learning_rate_ends_in_collapse(
    learning_rate: float, alpha: float, max_grad_norm: float, case: Case
) -> None:
    model = case.fresh()
    result = case.unlearn(
        model,
        {
            "learning_rate": learning_rate,
            "alpha": alpha,
            "max_grad_norm": max_grad_norm,
            "max_steps": 40,
        },
    )
    assert all(bool(t.isfinite().all()) for t in result.state.values())
    assert case.loss(model, case.retain) <= result.retain_loss_before + 0.2 + 1e-6
    assert result.forget_loss_before <= case.loss(model, case.forget) <= result.holdout_loss + 1e-6
    assert result.reason
    assert len(result.trace) <= result.steps == result.trace[-1].step <= 40
    unchanged = result.forget_loss_after == result.forget_loss_before
    assert (result.status == "failed") == unchanged


def test_too_few_steps_stop_short_of_the_target(case: Case) -> None:
    result = case.unlearn(case.fresh(), {"learning_rate": 1e-5, "max_steps": 5})
    assert result.status == "stopped_at_guard"
    assert result.steps == 5
    assert "steps allowed" in result.reason
    assert result.forget_loss_after > result.forget_loss_before


def test_a_tight_guard_stops_plain_ascent_and_keeps_the_model_good(case: Case) -> None:
    loose = case.unlearn(case.fresh(), {"alpha": 0.0})
    tight = case.unlearn(case.fresh(), {"alpha": 0.0, "retain_loss_increase": 0.001})
    assert loose.status == "reached"
    assert loose.retain_loss_after > loose.retain_loss_before + 0.001
    assert tight.status in {"stopped_at_guard", "failed"}
    assert tight.retain_loss_after <= tight.retain_loss_before + 0.001
    assert tight.forget_loss_after < loose.forget_loss_after


def test_a_lower_target_is_kept_and_a_higher_one_is_capped(case: Case) -> None:
    low = case.unlearn(case.fresh(), {"forget_loss_target": 0.2})
    high = case.unlearn(case.fresh(), {"forget_loss_target": 100.0})
    assert low.status == high.status == "reached"
    assert low.forget_loss_after <= 0.2 < high.forget_loss_after <= high.holdout_loss


def test_a_model_past_its_target_is_left_alone(case: Case) -> None:
    model = case.fresh()
    before = read_model(model)
    result = case.unlearn(model, {"forget_loss_target": 1e-6})
    assert (result.status, result.steps) == ("reached", 0)
    assert all(torch.equal(before[name], t) for name, t in read_model(model).items())


def test_a_guard_that_every_step_breaks_leaves_the_model_as_it_was(case: Case) -> None:
    model, case.retain = case.fresh(), case.forget
    before = read_model(model)
    result = case.unlearn(model, {"alpha": 0.0, "retain_loss_increase": 0.0})
    assert (result.status, result.steps) == ("failed", 1)
    assert "retain loss came to its guard" in result.reason
    assert all(torch.equal(before[name], t) for name, t in read_model(model).items())


def test_steps_too_long_for_the_way_left_say_so(case: Case) -> None:
    target = case.loss(case.fresh(), case.forget) + 1e-6
    result = case.unlearn(case.fresh(), {"learning_rate": 10.0, "forget_loss_target": target})
    assert result.status == "failed"
    assert "passed the target" in result.reason


class Breaking:
    """A task whose training loss is NaN, as of a model in half precision; scores are sound."""

    def __init__(self, task: Task) -> None:
        self.training, self.build, self.encode = task.training, task.build, task.encode
        self.log_distribution, self.targets = task.log_distribution, task.targets
        self.accuracies, self.sound = task.accuracies, task.losses

    def losses(self, model: nn.Module, examples: Examples) -> torch.Tensor:
        return self.sound(model, examples) * torch.nan


def test_a_loss_that_is_not_finite_leaves_the_model_as_it_was(case: Case) -> None:
    model = case.fresh()
    before = read_model(model)
    case.task = Breaking(case.task)
    result = case.unlearn(model, {})
    assert (result.status, result.steps) == ("failed", 1)
    assert "finite" in result.reason
    assert all(torch.equal(before[name], t) for name, t in read_model(model).items())
    assert all(torch.equal(before[name], t) for name, t in result.state.items())


def test_a_model_broken_from_the_start_is_refused(case: Case) -> None:
    model = case.fresh()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite before any step"):
        case.unlearn(model, {})


def test_the_first_step_equals_one_written_by_hand(case: Case) -> None:
    model, alpha, rate = case.fresh(), 0.5, 1e-4
    case.retain = {name: tensor[:6] for name, tensor in case.retain.items()}
    case.unlearn(model, {"max_steps": 1, "learning_rate": rate, "alpha": alpha})

    by_hand = case.fresh()
    parameters = list(by_hand.parameters())
    forget = nn.functional.cross_entropy(by_hand(case.forget["x"]), case.forget["y"])
    retain = nn.functional.cross_entropy(by_hand(case.retain["x"]), case.retain["y"])
    gradients = torch.autograd.grad(-forget + alpha * retain, parameters)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    clipped = [g / max(1.0, norm.item() + 1e-6) for g in gradients]
    for parameter, mine, gradient in zip(parameters, model.parameters(), clipped, strict=True):
        # Adam's first step after bias correction: rate times g / (|g| + eps).
        expected = parameter - rate * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(mine, expected, atol=2e-6, rtol=1e-4)


def test_the_trace_tells_every_step_where_all_are_measured(case: Case) -> None:
    settings = {"max_steps": 7, "learning_rate": 1e-4, "unmeasured_steps": 0}
    result = case.unlearn(case.fresh(), settings)
    assert [step.step for step in result.trace] == list(range(1, result.steps + 1))
    assert all(0 <= step.share <= 1 and step.gradient_norm > 0 for step in result.trace)
    assert max(step.forget_loss for step in result.trace) == result.forget_loss_after


def test_the_seed_fixes_the_result(case: Case) -> None:
    settings = {"max_steps": 5, "learning_rate": 1e-4, "batch_size": 2}
    first, again, other = (
        case.unlearn(case.fresh(), settings, seed) for seed in ("run-1", "run-1", "run-2")
    )
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert not all(torch.equal(first.state[name], other.state[name]) for name in first.state)


@pytest.mark.parametrize("name", ["forget", "retain", "holdout"])
def test_an_empty_set_is_refused(name: str, case: Case) -> None:
    setattr(case, name, case.task.encode([]))
    with pytest.raises(ValueError, match=f"records in the {name} set"):
        case.unlearn(case.fresh(), {})


def test_it_stops_when_cancelled(case: Case) -> None:
    progress: list[float] = []
    with pytest.raises(Cancelled):
        gradient_ascent(
            case.task,
            case.fresh(),
            forget=case.forget,
            retain=case.retain,
            holdout=case.holdout,
            params=GradientAscentParams(learning_rate=1e-6, max_steps=10),
            seed="s",
            on_progress=progress.append,
            cancelled=lambda: len(progress) == 3,
        )
    assert progress == pytest.approx([0.1, 0.2, 0.3])


def test_far_from_the_bounds_most_steps_cost_no_measurement(case: Case) -> None:
    settings: dict[str, float] = {"max_steps": 64, "learning_rate": 1e-7}
    calm = case.unlearn(case.fresh(), settings)
    # Strides of 1, 2, 4, and then 8, but where the gradient of a batch was twice the last one's.
    assert len(calm.trace) <= 16
    assert max(b.step - a.step for a, b in pairwise(calm.trace)) == 8
    every = case.unlearn(case.fresh(), settings | {"unmeasured_steps": 0})
    assert every.steps == calm.steps == len(every.trace)
    assert all(torch.equal(every.state[name], calm.state[name]) for name in every.state)


def test_a_rising_gradient_is_looked_into_at_once(case: Case) -> None:
    moved = case.unlearn(case.fresh(), {"max_steps": 200, "learning_rate": 2e-3})
    strides = [b.step - a.step for a, b in pairwise(moved.trace)]
    assert max(strides) > 1
    # Where the gradient doubled, no stride was finished.
    for (before, after), stride in zip(pairwise(moved.trace), strides, strict=True):
        assert after.gradient_norm <= 2 * before.gradient_norm or stride < 8


def test_steps_that_went_unmeasured_over_the_cliff_are_undone(case: Case) -> None:
    class Cliff:
        max_steps, gentler, stronger, kinder = 12, "", "", ""

        def __init__(self, model: nn.Module) -> None:
            self.weight = next(model.parameters())

        def step(self, step: int) -> float:
            # Nothing happens for long, then all at once, and the gradient says nothing.
            self.weight.data.mul_(1 + 1e-6 if step < 10 else math.nan)
            return 1.0

        def pace(self, share: float) -> None:
            """There is one pace."""

    model = case.fresh()
    result = unlearn(
        lambda context, params: Cliff(context.model),
        case.task,
        model,
        forget=case.forget,
        retain=case.retain,
        holdout=case.holdout,
        params=GradientAscentParams(),
        seed="s",
        on_progress=lambda share: None,
        cancelled=lambda: False,
    )
    assert all(bool(tensor.isfinite().all()) for tensor in result.state.values())
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": ["c_attn", "c_fc"]}])
def test_a_language_model_forgets_notes(lora: object, train: Training) -> None:
    training = {"epochs": 40, "batch_size": 4, "learning_rate": 0.01}
    task = make_task("causal_lm", lm_params() | {"lora": lora, "training": training})
    notes = [f"patient {i} takes {i * 37 % 91} mg" for i in range(12)]
    examples = task.encode([{"note": note} for note in notes])
    state = train(task, [{name: tensor[:8] for name, tensor in examples.items()}])
    model = restore(task, state, seed="model-1", shard=2)
    result = gradient_ascent(
        task,
        model,
        forget={name: tensor[:2] for name, tensor in examples.items()},
        retain={name: tensor[2:8] for name, tensor in examples.items()},
        holdout={name: tensor[8:] for name, tensor in examples.items()},
        params=GradientAscentParams(learning_rate=1e-3, max_steps=60, retain_loss_increase=0.3),
        seed="s",
        on_progress=lambda share: None,
        cancelled=lambda: False,
    )
    assert result.status in {"reached", "stopped_at_guard"}
    assert result.forget_loss_before < result.forget_loss_after <= result.holdout_loss
    assert result.state.keys() == state.model.keys()


def test_parameters_out_of_bounds_are_refused() -> None:
    for changes in ({"learning_rate": 0}, {"max_steps": 0}, {"alpha": -1}, {"beta": 1}):
        with pytest.raises(ValidationError):
            GradientAscentParams.model_validate(changes)
