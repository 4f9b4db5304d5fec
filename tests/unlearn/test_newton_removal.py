"""Newton removal against retraining, automatic differentiation and another library."""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from lethe.methods.statistics import SPECS
from lethe.recipes.closed_form import SPEC as CLOSED_FORM
from lethe.recipes.closed_form import ClosedFormParams
from lethe.recipes.convex import SPEC, ConvexParams
from tests.unlearn.unlearn_cases import Rows, Training, same
from workers.recipes.convex import Convex, ConvexModel, perturbation
from workers.unlearn.newton_removal import (
    LIPSCHITZ,
    clip_rows,
    fit,
    gradient,
    hessian,
    removal_step,
    spectral_norm,
)
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, Fitted, Removable

DIGITS: dict[str, object] = {
    "image": {"prefix": "pixel_", "height": 8, "width": 8},
    "label": "digit",
    "classes": 10,
    "scale": 16.0,
}


@pytest.fixture(scope="module")
def cancer_rows() -> Rows:
    data = load_breast_cancer()
    standard = (data.data - data.data.mean(0)) / data.data.std(0)
    return [
        {**{f"c{i}": float(value) for i, value in enumerate(values)}, "kind": int(label)}
        for values, label in zip(standard, data.target, strict=True)
    ]


def cancer_task(**changes: object) -> Convex:
    params = {"features": [f"c{i}" for i in range(30)], "label": "kind", "classes": 2}
    return Convex(ConvexParams.model_validate(params | changes))


def digits_task(**changes: object) -> Convex:
    return Convex(ConvexParams.model_validate(DIGITS | changes))


def fitted(task: Convex, *slices: Examples) -> ConvexModel:
    model = task.build(0)
    task.learn(model, slices, len(slices) - 1, "seed")
    assert isinstance(model, ConvexModel)
    return model


def state(model: nn.Module) -> TrainingState:
    return TrainingState(read_model(model), {})


def targets_of(task: Convex, examples: Examples) -> Tensor:
    if task.params.classes == 2:
        return examples["y"].double()[None]
    return torch.stack([(examples["y"] == k).double() for k in range(task.params.classes)])


def perturbed_loss(task: Convex, model: ConvexModel, examples: Examples, w: Tensor) -> Tensor:
    """L_b of all regressions together, record by record, by its definition."""
    rows, total = model.rows(examples["x"]), torch.zeros((), dtype=torch.float64)
    for k, targets in enumerate(targets_of(task, examples)):
        for x, t in zip(rows, targets, strict=True):
            p = torch.sigmoid(w[k] @ x)
            total = total - (t * p.log() + (1 - t) * (1 - p).log())
            total = total + task.params.l2 / 2 * w[k].square().sum()
    return total + (perturbation(task.params, "seed", 0) * w).sum()


def true_residual(task: Convex, model: ConvexModel, examples: Examples) -> float:
    """Norm of the gradient of L_b, by automatic differentiation."""
    w = model.weights.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(perturbed_loss(task, model, examples, w), w)
    return float(slope.norm())


def test_the_step_leads_to_the_retrained_weights(cancer_rows: Rows) -> None:
    task = cancer_task(l2=1e-2)
    forget, retain = task.encode(cancer_rows[:20]), task.encode(cancer_rows[20:])
    model, retrained = fitted(task, task.encode(cancer_rows)), fitted(task, retain)
    before = model.weights.detach().clone()
    distance = float((before - retrained.weights.detach()).norm())
    assert task.remove(model, forget, retain).within
    after = model.weights.detach()
    assert float((after - retrained.weights.detach()).norm()) < distance / 50
    # The other sign would lead away from them.
    away = 2 * before - after
    assert float((away - retrained.weights.detach()).norm()) > 1.9 * distance


@pytest.mark.parametrize("size", [1, 3])
def test_the_bound_holds_over_many_removals(size: int, cancer_rows: Rows) -> None:
    task, rows = cancer_task(l2=1e-2), cancer_rows[:200]
    model = fitted(task, task.encode(rows))
    assert true_residual(task, model, task.encode(rows)) < 1e-8
    spent = 0.0
    for start in range(0, 20 * size, size):
        forget = task.encode(rows[start : start + size])
        retain = task.encode(rows[start + size :])
        before = model.weights.detach().clone()
        removed = task.remove(model, forget, retain)
        assert removed.within
        assert true_residual(task, model, retain) <= removed.spent + 1e-12
        corollary = looser_bound(model.rows(retain["x"]), (model.weights.detach() - before)[0])
        assert spent < removed.spent <= spent + corollary + 1e-9
        spent = removed.spent
        assert int(model.records) == len(rows) - start - size


def looser_bound(x: Tensor, v: Tensor) -> float:
    """Guo et al. 2020, corollary 1, with the constant 1/4 of the paper."""
    return float(torch.linalg.matrix_norm(x, 2) * v.norm() * (x @ v).norm() / 4)


def test_the_bound_is_near_the_residual_of_one_step(cancer_rows: Rows) -> None:
    task = cancer_task(l2=1e-2)
    forget, retain = task.encode(cancer_rows[:5]), task.encode(cancer_rows[5:])
    model = fitted(task, task.encode(cancer_rows))
    removed = task.remove(model, forget, retain)
    assert removed.spent < 10 * true_residual(task, model, retain)


def test_budget_is_spent_to_the_end_and_no_further(cancer_rows: Rows) -> None:
    task, rows = cancer_task(noise=0.05), cancer_rows[:150]
    model, left, spent = fitted(task, task.encode(rows)), rows, 0.0
    for _ in range(len(rows)):
        forget, retain, before = task.encode(left[:1]), task.encode(left[1:]), state(model)
        removed = task.remove(model, forget, retain)
        assert removed.budget == task.params.budget
        if not removed.within:
            break
        assert spent < removed.spent <= removed.budget
        assert not same(state(model), before)
        left, spent = left[1:], removed.spent
    else:
        pytest.fail("the budget was never spent")
    assert 100 < len(left) < 150
    assert same(state(model), before)
    assert removed.spent == spent
    assert "retrain" in removed.reason
    # Fitting again frees the budget.
    assert float(fitted(task, task.encode(left)).residuals.norm()) < 1e-8


def test_one_against_the_rest_are_regressions_that_share_a_budget(digit_rows: Rows) -> None:
    l2 = 1e-2
    task = digits_task(l2=l2)
    examples = task.encode(digit_rows[:300])
    forget, retain = task.encode(digit_rows[:4]), task.encode(digit_rows[4:300])
    model = fitted(task, examples)
    x, kept, gone = (model.rows(part["x"]) for part in (examples, retain, forget))
    noise, bounds = perturbation(task.params, "seed", 0), []
    removed = task.remove(model, forget, retain)
    assert removed.within
    for k in range(10):
        alone = fit(x, (examples["y"] == k).double(), noise[k], l2)
        step = removal_step(
            alone.weights,
            (gone, (forget["y"] == k).double()),
            (kept, (retain["y"] == k).double()),
            spectral_norm(kept),
            l2,
        )
        torch.testing.assert_close(model.weights[k].detach(), step.weights)
        bounds.append(alone.residual + step.residual)
    assert model.residuals.tolist() == pytest.approx(bounds)
    assert removed.spent == pytest.approx(math.sqrt(sum(one**2 for one in bounds)))
    assert true_residual(task, model, retain) <= removed.spent


@pytest.mark.parametrize("delta", [0.1, 1e-5])
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_noise_covers_the_budget(epsilon: float, delta: float) -> None:
    params = cancer_task(noise=3.0, epsilon=epsilon, delta=delta).params
    # What (epsilon, delta) a shift by the budget really has: Balle and Wang 2018, theorem 8.
    shift = params.budget / 3.0
    near, far = (NormalDist().cdf(sign * shift / 2 - epsilon / shift) for sign in (1, -1))
    assert near - math.exp(epsilon) * far <= delta


def test_budget_is_that_of_the_paper() -> None:
    params = cancer_task(noise=3.0, epsilon=0.5, delta=1.5 * math.exp(-8)).params
    assert params.budget == pytest.approx(3.0 * 0.5 / 4)


def test_fit_equals_scikit_learns(cancer_rows: Rows) -> None:
    task = cancer_task()
    examples = task.encode(cancer_rows)
    x = clip_rows(fitted(task, examples).features(examples["x"]) / 2**14)
    step = fit(x, examples["y"].double(), torch.zeros(31, dtype=torch.float64), 1e-3)
    other = LogisticRegression(C=1 / (1e-3 * len(x)), fit_intercept=False, tol=1e-10, max_iter=5000)
    other.fit(x.numpy(), examples["y"].numpy())
    np.testing.assert_allclose(step.weights, other.coef_[0], rtol=1e-4, atol=1e-4)
    assert step.residual < 1e-9


def test_fit_gets_there_from_afar() -> None:
    # Undamped, Newton's method diverges here.
    generator = torch.Generator().manual_seed(0)
    x = clip_rows(torch.randn(50, 5, generator=generator, dtype=torch.float64) * 9)
    b = 20 * torch.randn(5, generator=generator, dtype=torch.float64)
    step = fit(x, (x[:, 0] > 0).double(), b, 1e-4)
    assert step.residual < 1e-6
    assert float(step.weights.norm()) > 1e3


def test_derivatives_equal_automatic_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    t = (x[:, 0] > 0.3).double()
    w = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(w: Tensor) -> Tensor:
        z = x @ w
        cross = nn.functional.binary_cross_entropy_with_logits(z, t, reduction="sum")
        return cross + 0.2 / 2 * 20 * w.square().sum()

    torch.testing.assert_close(gradient(x, t, w, 0.2), torch.autograd.grad(loss(w), w)[0])
    by_torch = torch.autograd.functional.hessian(loss, w)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(hessian(x, w, 0.2), by_torch)


def test_constants_of_the_bound() -> None:
    s = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert float((s * (1 - s) * (1 - 2 * s)).abs().max()) == pytest.approx(LIPSCHITZ, rel=1e-8)
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert spectral_norm(x) == pytest.approx(float(torch.linalg.matrix_norm(x, 2)))


def test_rows_are_no_longer_than_one() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(clip_rows(rows), expected)


def test_noise_is_drawn_from_the_seed_and_the_slice() -> None:
    params = digits_task(noise=5.0).params
    noise = perturbation(params, "a", 0)
    assert noise.shape == (10, 65)
    assert torch.equal(noise, perturbation(params, "a", 0))
    assert not torch.equal(noise, perturbation(params, "b", 0))
    assert not torch.equal(noise, perturbation(params, "a", 1))
    assert float(noise.std()) == pytest.approx(5.0, rel=0.1)


def test_noise_is_not_in_what_is_stored(cancer_rows: Rows) -> None:
    model = fitted(cancer_task(), cancer_task().encode(cancer_rows[:50]))
    assert read_model(model).keys() == {"weights", "residuals", "records"}


@pytest.mark.parametrize("kind", ["binary", "many"])
def test_predictions_are_the_regressions_probabilities(
    kind: str, cancer_rows: Rows, digit_rows: Rows
) -> None:
    task, rows = (cancer_task(), cancer_rows) if kind == "binary" else (digits_task(), digit_rows)
    examples = task.encode(rows[:200])
    model = fitted(task, examples)
    odds = (model.rows(examples["x"]) @ model.weights.T).detach()
    p = 1 / (1 + (-odds).exp())
    p = torch.cat([1 - p, p], 1) if kind == "binary" else p / p.sum(1, keepdim=True)
    torch.testing.assert_close(task.log_distribution(model, examples).detach()[:, 0], p.log())
    losses = torch.stack([-p[i, y].log() for i, y in enumerate(examples["y"])])
    torch.testing.assert_close(task.losses(model, examples).detach(), losses)
    assert float(task.accuracies(model, examples).mean()) > 0.75


def test_slices_are_fitted_together_and_resume_to_the_same_bits(
    cancer_rows: Rows, train: Training
) -> None:
    task = cancer_task()
    slices = [task.encode(part) for part in ([], cancer_rows[:30], cancer_rows[30:80])]
    whole = train(task, slices)
    assert int(train.checkpoints[0].model["records"]) == 0
    assert not train.checkpoints[0].model["weights"].any()
    assert int(whole.model["records"]) == 80
    assert same(train(task, slices, resume=(1, train.checkpoints[1])), whole)


def test_records_that_do_not_add_up_are_refused(cancer_rows: Rows) -> None:
    task = cancer_task()
    model = fitted(task, task.encode(cancer_rows[:30]))
    before = state(model)
    with pytest.raises(ValueError, match="not all those that were learned"):
        task.remove(model, task.encode(cancer_rows[:1]), task.encode(cancer_rows[:30]))
    everything = task.remove(model, task.encode(cancer_rows[:30]), task.encode([]))
    assert not everything.within
    assert same(state(model), before)
    nothing = task.remove(model, task.encode([]), task.encode(cancer_rows[:30]))
    assert nothing.within
    assert same(state(model), before)
    with pytest.raises(ValueError, match="not one that this recipe has built"):
        task.remove(nn.Linear(30, 1), task.encode([]), task.encode([]))


@pytest.mark.parametrize(
    "changes",
    [{"l2": 0.0}, {"noise": 0.0}, {"epsilon": 2.0}, {"delta": 0.0}, {"classes": 1}],
)
def test_parameters_that_do_not_fit_are_refused(changes: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        cancer_task(**changes)


def test_recipes_offer_what_the_methods_require() -> None:
    always = {"forget", "retain"}
    exact, certified = SPECS
    closed = ClosedFormParams.model_validate(DIGITS)
    assert exact.requires <= CLOSED_FORM.offers(closed) | always
    assert certified.requires <= SPEC.offers(cancer_task().params) | always
    assert (exact.guarantee, certified.guarantee) == ("exact", "certified")
    assert not exact.requires <= SPEC.offers(cancer_task().params) | always
    task = cancer_task()
    assert isinstance(task, Fitted)
    assert isinstance(task, Removable)
