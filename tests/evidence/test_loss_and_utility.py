import json

import numpy as np
import pytest
from scipy import stats

from workers.evidence.loss import forget_loss
from workers.evidence.types import Evidence
from workers.evidence.utility import balanced_utility, utility


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_utility_is_the_paired_change_with_its_interval(rng: np.random.Generator) -> None:
    before = rng.integers(0, 2, 200).astype(float)
    after = np.where(rng.random(200) < 0.1, 1 - before, before)
    losses = rng.random((2, 200))
    evidence = utility(losses[0], losses[1], before, after, "retain")
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert evidence.estimate == pytest.approx((after - before).mean())
    assert (evidence.low, evidence.high) == pytest.approx((expected.low, expected.high))
    assert evidence.details == pytest.approx(
        {
            "loss_before": losses[0].mean(),
            "loss_after": losses[1].mean(),
            "accuracy_before": before.mean(),
            "accuracy_after": after.mean(),
        }
    )
    assert (evidence.name, evidence.family) == ("utility_retain", "utility")


def test_utility_of_one_record_has_no_interval() -> None:
    evidence = utility([1.0], [2.0], [1.0], [0.0], "holdout")
    assert (evidence.estimate, evidence.low, evidence.level) == (-1.0, None, None)
    unchanged = utility([1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0], "holdout")
    assert (unchanged.estimate, unchanged.low, unchanged.high) == (0.0, 0.0, 0.0)


def test_balanced_utility_is_the_mean_over_classes(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1, 2, 3], [300, 60, 20, 9])
    before = (rng.random(labels.size) < 0.9).astype(float)
    after = (rng.random(labels.size) < 0.8).astype(float)
    evidence = balanced_utility(before, after, labels, "retain")
    assert evidence is not None
    changes = [(after - before)[labels == one] for one in (0, 1, 2)]  # too few of class 3
    assert evidence.estimate == pytest.approx(np.mean([one.mean() for one in changes]))
    assert evidence.low is not None
    assert evidence.high is not None
    halves = np.array([stats.sem(one) for one in changes])
    half = stats.t.ppf(0.975, 60) * np.sqrt((halves**2).sum()) / 3
    assert evidence.high - evidence.low == pytest.approx(2 * half, rel=0.1)
    assert evidence.details["classes"] == 3


def test_a_model_that_only_says_the_common_class_loses_balanced_accuracy() -> None:
    labels = np.repeat([0, 1], [1_970, 30])
    right, common = np.ones(2_000), (labels == 0).astype(float)
    assert utility(right, right, right, common, "retain").estimate == -0.015
    evidence = balanced_utility(right, common, labels, "retain")
    assert evidence is not None
    assert (evidence.estimate, evidence.high) == (-0.5, -0.5)
    assert balanced_utility(right, common, np.zeros(2_000), "retain") is None
    with pytest.raises(ValueError, match="of the same records"):
        balanced_utility(right, common, labels[1:], "retain")


def test_utility_of_different_records_is_refused() -> None:
    with pytest.raises(ValueError, match="of the same records"):
        utility([1.0, 2.0], [1.0], [1.0, 1.0], [1.0, 1.0], "retain")


def test_forget_loss_is_welchs_difference_by_person(rng: np.random.Generator) -> None:
    forget, holdout = rng.normal(1.0, 0.2, 12), rng.normal(2.0, 0.9, 30)
    twice = np.concatenate([forget, forget])
    evidence = forget_loss(twice, [*range(12), *range(12)], holdout, range(30))
    expected = stats.ttest_ind(forget, holdout, equal_var=False).confidence_interval(0.95)
    assert evidence.n == 12
    assert (evidence.low, evidence.high) == pytest.approx((expected.low, expected.high))
    assert forget_loss([1.0], [1], holdout, range(30)).low is None
    same = forget_loss([1.0, 1.0], [1, 2], [2.0, 2.0], [3, 4])
    assert (same.low, same.estimate, same.high) == (-1.0, -1.0, -1.0)


def test_evidence_is_json_and_finite() -> None:
    evidence = utility([1.0], [2.0], [1.0], [0.0], "holdout")
    assert Evidence(**json.loads(json.dumps(evidence.as_dict()))) == evidence
    with pytest.raises(ValueError, match="not finite"):
        Evidence(**{**evidence.as_dict(), "estimate": float("nan")})  # type: ignore[arg-type]


def test_curves_are_kept_and_finite() -> None:
    evidence = utility([1.0], [2.0], [1.0], [0.0], "holdout")
    fields = evidence.as_dict() | {"curves": {"hits": [0.0, float("inf")]}}
    with pytest.raises(ValueError, match="not finite"):
        Evidence(**fields)  # type: ignore[arg-type]
    drawn = Evidence(**(fields | {"curves": {"hits": [0.0, 1.0]}}))  # type: ignore[arg-type]
    assert drawn.as_dict()["curves"] == {"hits": [0.0, 1.0]}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_cannot_be_measured_is_refused(value: float) -> None:
    for rows in ([value], []):
        with pytest.raises(ValueError, match="a sample"):
            utility(rows, rows, rows, rows, "retain")
        with pytest.raises(ValueError, match="a sample"):
            forget_loss(rows, range(len(rows)), [1.0], [7])
        with pytest.raises(ValueError, match="a sample"):
            forget_loss([1.0], [7], rows, range(len(rows)))
    with pytest.raises(ValueError, match="data subject that it belongs to"):
        forget_loss([1.0, 2.0], [1], [1.0], [7])
