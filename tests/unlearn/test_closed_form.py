"""The closed-form head against plain loops, other libraries and its own refit."""

import hashlib
import math
import random
import traceback
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from lethe.recipes.closed_form import ClosedFormParams
from tests.unlearn.unlearn_cases import Rows, Training, same
from workers.recipes.closed_form import ClosedForm, ClosedFormHead, FrozenFeatures
from workers.unlearn.closed_form_head import (
    UNIT,
    factorise,
    integer_sums,
    most_records,
    provisional_weights,
    solve,
)
from workers.unlearn.state import TrainingState, read_model, write_model
from workers.unlearn.task import Examples, Fitted, Removable
from workers.weights import dump_tensors

DIGITS: dict[str, object] = {
    "image": {"prefix": "pixel_", "height": 8, "width": 8},
    "label": "digit",
    "classes": 10,
    "scale": 16.0,
}
FOURIER: dict[str, object] = {"width": 96, "length_scale": 2.5, "seed": 7}
FLOWERS: dict[str, object] = {"features": ["length", "width"], "label": "kind", "classes": 3}


def task_of(base: Mapping[str, object] = DIGITS, /, **changes: object) -> ClosedForm:
    return ClosedForm(ClosedFormParams.model_validate({**base, **changes}))


def fitted(task: ClosedForm, *slices: Examples) -> ClosedFormHead:
    model = task.build(0)
    for r in range(len(slices)):
        task.learn(model, slices, r, "seed")
    assert isinstance(model, ClosedFormHead)
    return model


def sha(model: nn.Module) -> str:
    state = TrainingState(read_model(model), {})
    return hashlib.sha256(dump_tensors(state.tensors())).hexdigest()


def examples_of(task: ClosedForm, rows: Rows, at: Sequence[int]) -> Examples:
    return task.encode([rows[i] for i in at])


@pytest.mark.parametrize("removed", [1, 20, 75])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"fourier": FOURIER}, id="fourier"),
        pytest.param({}, id="identity"),
        pytest.param({"fourier": FOURIER, "ridge": 0.0}, id="least squares"),
    ],
)
def test_removal_gives_the_bytes_of_a_refit_on_shuffled_rows(
    removed: int, changes: Mapping[str, object], digit_rows: Rows
) -> None:
    task, order = task_of(scale=7.0, **changes), list(range(300))
    random.Random(removed).shuffle(order)
    forget, kept = order[:removed], order[removed:]
    model = fitted(task, task.encode(digit_rows[:300]))
    before = sha(model)
    # One by one and in another order than learned: neither may matter.
    for i in forget[::-1]:
        one = examples_of(task, digit_rows, [i])
        assert task.remove(model, one, task.encode([])).within
    refit = fitted(task, examples_of(task, digit_rows, kept))
    assert sha(model) == sha(refit) != before
    assert model.records == 300 - removed


def test_slices_do_not_matter_and_a_shard_is_trained_by_them(
    digit_rows: Rows, train: Training
) -> None:
    task = task_of(fourier=FOURIER)
    slices = [task.encode(part) for part in (digit_rows[:40], [], digit_rows[40:100])]
    whole = train(task, slices)
    assert sha(fitted(task, *slices)) == sha(fitted(task, task.encode(digit_rows[:100])))
    assert same(train(task, slices, resume=(0, train.checkpoints[0])), whole)
    model = task.build(0)
    write_model(model, whole.model)
    task.remove(model, slices[0], slices[2])
    assert sha(model) == sha(fitted(task, slices[2]))


@pytest.mark.parametrize("fourier", [None, FOURIER])
def test_a_record_has_the_same_features_in_every_batch(
    fourier: dict[str, object] | None, digit_rows: Rows
) -> None:
    # By 7, since pixels by 16 would be whole numbers of units before any rounding.
    task = task_of(fourier=fourier, scale=7.0)
    features = FrozenFeatures(task.params)
    x = task.encode(digit_rows[:50])["x"]
    together = features(x)
    assert all(torch.equal(features(x[i : i + 1]), together[i : i + 1]) for i in range(50))
    assert torch.equal(together, together.round())
    assert together.shape == (50, task.params.width)
    assert (together[:, -1] == UNIT).all()
    assert float(together.abs().max()) <= features.largest


def test_fourier_features_approach_the_gaussian_kernel(digit_rows: Rows) -> None:
    task = task_of(fourier={"width": 8192, "length_scale": 2.0})
    x = task.encode(digit_rows[:20])["x"].double()
    phi = FrozenFeatures(task.params)(x)[:, :-1] / UNIT
    for i in range(20):
        for j in range(20):
            kernel = math.exp(-float((x[i] - x[j]).square().sum()) / (2 * 2.0**2))
            # Monte Carlo: a standard deviation of at most 1/sqrt(8192) = 0.011.
            assert abs(2 * float(phi[i] @ phi[j]) / 8192 - kernel) < 0.05


def test_fourier_features_equal_their_formula(digit_rows: Rows) -> None:
    task = task_of(fourier=FOURIER)
    features = FrozenFeatures(task.params)
    x = task.encode(digit_rows[:5])["x"].double()
    turns = x @ features.get_buffer("frequencies") / 2**16 + features.get_buffer("phases") / 2**16
    expected = (2 * math.pi * turns).cos() * UNIT
    # The angle is cut to 1/65536 of a turn: at most 1.6 units of 16384; rounding adds 0.5.
    torch.testing.assert_close(features(x)[:, :-1], expected, atol=2.2, rtol=0)


def test_the_public_seed_draws_the_features(digit_rows: Rows) -> None:
    x = task_of().encode(digit_rows[:3])["x"]
    features = [
        FrozenFeatures(task_of(fourier=FOURIER | {"seed": seed}).params)(x) for seed in (7, 7, 8)
    ]
    assert torch.equal(features[0], features[1])
    assert not torch.equal(features[0], features[2])


def test_sums_equal_those_of_whole_numbers_in_python() -> None:
    generator = torch.Generator().manual_seed(0)
    phi = torch.randint(-(2**20), 2**20, (30, 4), generator=generator)
    y = torch.randint(0, 2, (30, 3), generator=generator)
    gram, moments = integer_sums(phi.double(), y.double(), 2**20)
    a, b = phi.tolist(), y.tolist()
    for i in range(4):
        assert gram[i].tolist() == [sum(row[i] * row[j] for row in a) for j in range(4)]
        assert moments[i].tolist() == [
            sum(p[i] * q[j] for p, q in zip(a, b, strict=True)) for j in range(3)
        ]


def test_sums_are_exact_where_float64_is_not() -> None:
    largest = 2**26 - 1
    phi = torch.full((9, 1), float(largest), dtype=torch.float64)
    gram, _ = integer_sums(phi, phi, largest)
    assert gram.item() == 9 * largest**2
    assert int((phi.T @ phi).item()) != 9 * largest**2


def test_more_records_than_the_sums_hold_are_refused(digit_rows: Rows) -> None:
    task = task_of()
    model, most = fitted(task, task.encode(digit_rows[:10])), (2**63 - 1) // 2**40
    assert most_records(UNIT * 64) == most
    model.gram[-1, -1] = (most - 1) * UNIT**2
    task.learn(model, [task.encode(digit_rows[:1])], 0, "seed")
    with pytest.raises(ValueError, match=f"at most {most} records"):
        task.learn(model, [task.encode(digit_rows[:1])], 0, "seed")


def plain_features(task: ClosedForm, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    features: Tensor = FrozenFeatures(task.params)(examples["x"]) / UNIT
    return features.numpy(), np.eye(10)[examples["y"].numpy()]


def test_weights_equal_scikit_learns_ridge(digit_rows: Rows) -> None:
    task = task_of(fourier=FOURIER, ridge=0.5)
    examples = task.encode(digit_rows[:200])
    phi, y = plain_features(task, examples)
    ridge = Ridge(alpha=0.5, fit_intercept=False, solver="svd").fit(phi, y)
    np.testing.assert_allclose(fitted(task, examples).weights.detach(), ridge.coef_.T, atol=1e-9)


def test_weights_without_ridge_are_the_least_squares_of_smallest_norm(digit_rows: Rows) -> None:
    task = task_of(ridge=0.0)
    examples = task.encode(digit_rows[:200])
    phi, y = plain_features(task, examples)
    expected = np.linalg.lstsq(phi, y, rcond=1e-7)[0]
    assert np.linalg.matrix_rank(phi) < phi.shape[1]
    np.testing.assert_allclose(fitted(task, examples).weights.detach(), expected, atol=1e-6)


@pytest.mark.parametrize("removed", [1, 20])
def test_provisional_weights_are_close_to_a_refit(removed: int, digit_rows: Rows) -> None:
    task = task_of(fourier=FOURIER)
    examples = task.encode(digit_rows[:300])
    forget, retain = task.encode(digit_rows[:removed]), task.encode(digit_rows[removed:300])
    model = fitted(task, examples)
    factor, weights = factorise(model.gram, 1.0), model.weights.detach()
    phi, y = (torch.from_numpy(array) for array in plain_features(task, forget))
    provisional = provisional_weights(factor, weights, phi, y)
    refit = fitted(task, retain).weights.detach()
    assert float((provisional - refit).abs().max()) < 1e-11
    assert float((weights - refit).abs().max()) > 1e-5


def test_removing_all_records_leaves_what_has_learned_nothing(digit_rows: Rows) -> None:
    for ridge in (1.0, 0.0):
        task = task_of(ridge=ridge)
        examples = task.encode(digit_rows[:30])
        model = fitted(task, examples)
        task.remove(model, examples, task.encode([]))
        assert sha(model) == sha(task.build(0))
        uniform = torch.full((30, 1, 10), -math.log(10), dtype=torch.float64)
        torch.testing.assert_close(task.log_distribution(model, examples), uniform)


def test_records_that_cannot_have_been_learned_are_refused(digit_rows: Rows) -> None:
    task = task_of(fourier=FOURIER)
    model = fitted(task, task.encode(digit_rows[:30]))
    before = sha(model)
    strangers = task.encode([row | {"digit": 3} for row in digit_rows[:20]])
    with pytest.raises(ValueError, match="not among those"):
        task.remove(model, strangers, task.encode([]))
    assert sha(model) == before


def test_a_ridge_lost_in_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="raise it"):
        solve(torch.full((2, 2), UNIT**2), torch.zeros(2, 1, dtype=torch.int64), 1e-30)


def test_predictions_are_the_softmax_of_scores_over_the_temperature(digit_rows: Rows) -> None:
    task = task_of(fourier=FOURIER, temperature=0.2)
    examples = task.encode(digit_rows[:9])
    model = fitted(task, task.encode(digit_rows[:300]))
    phi, _ = plain_features(task, examples)
    scores = phi @ model.weights.detach().numpy() / 0.2
    expected = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    log_distribution = task.log_distribution(model, examples).detach()
    np.testing.assert_allclose(log_distribution[:, 0], expected, atol=1e-12)
    losses = [-expected[i, int(y)] for i, y in enumerate(examples["y"])]
    np.testing.assert_allclose(task.losses(model, examples).detach(), losses, atol=1e-12)
    right = [float(expected[i].argmax() == int(y)) for i, y in enumerate(examples["y"])]
    assert task.accuracies(model, examples).tolist() == right


def test_digits_are_learned(digit_rows: Rows) -> None:
    task, order = task_of(fourier={"width": 512}), list(range(len(digit_rows)))
    random.Random(0).shuffle(order)
    model = fitted(task, examples_of(task, digit_rows, order[:1500]))
    holdout = examples_of(task, digit_rows, order[1500:])
    assert float(task.accuracies(model, holdout).mean()) > 0.96
    assert float(task.losses(model, holdout).detach().mean()) < 0.15


@pytest.mark.parametrize(
    ("column", "value"), [("length", "ana@example.org"), ("width", -640.5), ("kind", 3)]
)
def test_a_bad_value_names_its_column_and_never_itself(column: str, value: object) -> None:
    row: dict[str, object] = {"length": 1.0, "width": 2.0, "kind": 1}
    with pytest.raises(ValueError, match=f"column '{column}'") as caught:
        task_of(FLOWERS).encode([row, row | {column: value}])
    text = "".join(traceback.format_exception(caught.value))
    assert "ana@" not in text
    assert "640.5" not in text


@pytest.mark.parametrize(
    ("image", "row", "column"),
    [
        ({"prefix": "p", "height": 1, "width": 2}, {"p0": 1, "p1": 99}, "p1"),
        ({"column": "pixels", "height": 1, "width": 2}, {"pixels": [1, 99]}, "pixels"),
    ],
)
def test_a_pixel_out_of_range_names_its_column(
    image: dict[str, object], row: dict[str, object], column: str
) -> None:
    task = task_of({"image": image, "label": "kind", "classes": 3})
    with pytest.raises(ValueError, match=f"column '{column}' must lie between -64 and 64"):
        task.encode([row | {"kind": 0}])


@pytest.mark.parametrize(
    "changes",
    [
        {"features": None},
        {"scale": [1.0]},
        {"ridge": -1.0},
        {"temperature": 0.0},
        {"fourier": {"length_scale": 0.0}},
        {"training": {"epochs": 2}},
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClosedFormParams.model_validate(FLOWERS | changes)


def test_angles_too_large_to_be_exact_are_refused() -> None:
    names = [f"c{i}" for i in range(4096)]
    task = task_of(FLOWERS, features=names, fourier={"width": 8, "length_scale": 0.01})
    with pytest.raises(ValueError, match="length_scale is too short"):
        task.build(0)


def test_the_task_is_fitted_and_removable_and_refuses_other_models(digit_rows: Rows) -> None:
    task = task_of()
    assert isinstance(task, Fitted)
    assert isinstance(task, Removable)
    examples = task.encode(digit_rows[:2])
    with pytest.raises(ValueError, match="not one that this recipe has built"):
        task.learn(nn.Linear(64, 10), [examples], 0, "seed")
