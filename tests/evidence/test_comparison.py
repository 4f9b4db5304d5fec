import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.weightstats import (  # type: ignore[import-untyped]
    ttost_ind,
    ttost_paired,
)

from workers.evidence.comparison import (
    AucDifference,
    epsilon_at_threshold,
    epsilon_lower_bound,
    epsilon_subjects_needed,
    paired_delong,
    residual_power,
    residual_subjects_needed,
    tail_holdout_needed,
    tail_power,
    tost,
    tost_independent,
    tost_power,
    tost_subjects_needed,
)

Row = npt.NDArray[np.float64]
scores = st.integers(-3, 3).map(float)


def pairwise(first: tuple[Row, Row], second: tuple[Row, Row]) -> tuple[float, float]:
    """Difference and standard error from all pairs, as DeLong et al. write it."""
    kernels = []
    for above, below in (first, second):
        rows = [[(x > y) + 0.5 * (x == y) for y in below] for x in above]
        kernels.append(np.array(rows, dtype=float))
    n, m = kernels[0].shape
    by_positive = np.cov([kernel.mean(axis=1) for kernel in kernels])
    by_negative = np.cov([kernel.mean(axis=0) for kernel in kernels])
    cov = by_positive / n + by_negative / m
    difference = kernels[0].mean() - kernels[1].mean()
    return float(difference), math.sqrt(max(0.0, cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]))


@given(st.data())
def test_delong_is_the_pairwise_form(data: st.DataObject) -> None:
    n, m = data.draw(st.integers(2, 10)), data.draw(st.integers(2, 10))
    above, below, other_above, other_below = (
        np.array(data.draw(st.lists(scores, min_size=size, max_size=size))) for size in (n, m, n, m)
    )
    first, second = (above, below), (other_above, other_below)
    found = paired_delong(first, second, level=0.9)
    difference, error = pairwise(first, second)
    assert found.difference == pytest.approx(difference, abs=1e-9)
    assert found.standard_error == pytest.approx(error, abs=1e-7)
    labels = [1] * n + [0] * m
    assert found.first == pytest.approx(roc_auc_score(labels, np.concatenate(first)), abs=1e-9)
    assert found.second == pytest.approx(roc_auc_score(labels, np.concatenate(second)), abs=1e-9)
    if error > 1e-6:
        assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(difference) / error), abs=1e-7)
        assert found.high - found.difference == pytest.approx(1.6448536269514722 * error, abs=1e-6)


def test_delong_keeps_its_error_rate_on_correlated_scores() -> None:
    rng, rejected, covered = np.random.default_rng(0), 0, 0
    for _ in range(400):
        above, below = rng.normal(1, 1, 40), rng.normal(0, 1, 60)
        noisy = [math.sqrt(0.5) * row + math.sqrt(0.5) * rng.normal(0, 1, row.size)
                 for row in (above - 1, below)]  # fmt: skip
        found = paired_delong((above, below), (noisy[0] + 1, noisy[1]))
        rejected += found.p_value < 0.1
        covered += found.low < 0 < found.high
    assert 0.06 <= rejected / 400 <= 0.15
    assert covered == 400 - rejected


def test_delong_of_equal_models_and_of_ties() -> None:
    same = paired_delong(([1.0, 2.0], [0.0, 3.0]), ([1.0, 2.0], [0.0, 3.0]))
    assert (same.difference, same.standard_error, same.p_value) == (0.0, 0.0, 1.0)
    tied = paired_delong(([1.0] * 3, [1.0] * 4), ([2.0] * 3, [2.0] * 4))
    assert tied == AucDifference(0.5, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0)


def test_delong_without_spread_claims_no_more_than_exchanging_models_could() -> None:
    found = paired_delong(([1.0, 1.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0]))
    assert (found.difference, found.standard_error) == (0.5, 0.0)
    assert found.p_value == 0.125


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (([], [1.0]), ([], [1.0])),
        (([1.0], [1.0, 2.0]), ([1.0], [1.0, 2.0])),
        (([1.0, 2.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])),
        (([1.0, math.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, 2.0])),
    ],
)
def test_delong_refuses(
    first: tuple[list[float], list[float]], second: tuple[list[float], list[float]]
) -> None:
    with pytest.raises(ValueError, match=r"sample|same data subjects|needs two"):
        paired_delong(first, second)


@pytest.mark.parametrize("margin", [0.05, 0.3, 2.0])
def test_tost_is_that_of_statsmodels(margin: float) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.1, 1, 30), rng.normal(0, 2, 30)
    paired, _, _ = ttost_paired(first, second, -margin, margin)
    found = tost(first - second, margin)
    assert found.p_value == pytest.approx(paired, abs=1e-9)
    interval = stats.ttest_1samp(first - second, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    shorter = second[:17]
    free, _, _ = ttost_ind(first, shorter, -margin, margin, usevar="unequal")
    welch = tost_independent(first, shorter, margin)
    assert welch.p_value == pytest.approx(free, abs=1e-9)
    bounds = stats.ttest_ind(first, shorter, equal_var=False).confidence_interval(0.9)
    assert (welch.low, welch.high) == pytest.approx((bounds.low, bounds.high), abs=1e-9)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8), st.floats(0.01, 3))
def test_tost_succeeds_where_its_interval_lies_within(values: list[float], margin: float) -> None:
    found = tost(values, margin, level=0.9)
    within = -margin < found.low and found.high < margin
    if abs(found.p_value - 0.05) > 1e-6:
        assert within == (found.p_value < 0.05)


def test_tost_refuses_and_knows_no_spread() -> None:
    assert tost([0.1, 0.1], 0.2).p_value == 0.0
    assert tost([0.2, 0.2], 0.2).p_value == 1.0
    assert tost_independent([0.1, 0.1], [0.0, 0.0], 0.05).p_value == 1.0
    for values, margin in (([1.0], 0.1), ([], 0.1), ([1.0, math.inf], 0.1), ([1.0, 2.0], 0.0)):
        with pytest.raises(ValueError, match=r"sample|two values|margin"):
            tost(values, margin)
    with pytest.raises(ValueError, match="two values in each"):
        tost_independent([1.0], [1.0, 2.0], 0.1)


def slow_epsilon(above: Row, below: Row, delta: float, level: float) -> float:
    best, alpha = 0.0, (1 - level) / len(below) / 4
    for i, threshold in enumerate(below):
        rest = np.delete(below, i)
        hits, alarms = int((above > threshold).sum()), int((rest > threshold).sum())
        tpr = clopper_pearson(hits, len(above), alpha)
        fpr = clopper_pearson(alarms, len(rest), alpha)
        tnr, fnr = ((1 - high, 1 - low) for low, high in (fpr, tpr))
        for (low, _), (_, high) in ((tpr, fpr), (tnr, fnr), (fnr, tnr), (fpr, tpr)):
            if low > delta:
                best = max(best, math.log((low - delta) / high))
    return best


def clopper_pearson(count: int, n: int, alpha: float) -> tuple[float, float]:
    interval = stats.binomtest(count, n).proportion_ci(1 - 2 * alpha, method="exact")
    return interval.low, interval.high


@pytest.mark.parametrize("shift", [-3.0, 0.0, 1.0, 4.0])
@pytest.mark.parametrize("delta", [0.0, 1e-2])
def test_epsilon_is_the_best_of_all_thresholds(shift: float, delta: float) -> None:
    rng = np.random.default_rng(2)
    above, below = rng.normal(shift, 1, 60).round(1), rng.normal(0, 1, 50).round(1)
    found = epsilon_lower_bound(above, below, delta=delta, level=0.9)
    slow = slow_epsilon(above, np.sort(below), delta, 0.9)
    assert found.epsilon == pytest.approx(slow, abs=1e-9)
    assert (found.threshold is None) == (slow == 0)
    assert (slow > 0) == (shift != 0)


def test_epsilon_at_one_threshold() -> None:
    above, below = np.arange(40.0) + 30, np.arange(40.0)
    # 39 of 40 against 9 of 40; the misses, 1 against 31, say more.
    misses, passes = (clopper_pearson(k, 40, 0.05 / 4) for k in (1, 31))
    expected = math.log(passes[0] / misses[1])
    assert epsilon_at_threshold(above, below, 30.5) == pytest.approx(expected, abs=1e-9)
    assert epsilon_at_threshold(below, above, 30.5) == pytest.approx(expected, abs=1e-9)
    assert epsilon_at_threshold(above, below, 1000.0) == 0.0
    assert epsilon_at_threshold([2.0] * 9, [2.0] * 9, 2.0) == 0.0


def test_epsilon_never_exceeds_the_truth_more_often_than_it_says() -> None:
    # Randomised response: a bit kept with probability 3/4 has epsilon log 3.
    rng, over, seen = np.random.default_rng(3), 0, 0
    for _ in range(300):
        above, below = (rng.random(80) < p for p in (0.75, 0.25))
        jitter = rng.random((2, 80))
        found = epsilon_lower_bound(above + jitter[0], below + jitter[1], level=0.8).epsilon
        over += found > math.log(3)
        seen += found > 0
    assert over / 300 <= 0.2
    assert seen / 300 > 0.5


def test_epsilon_of_ties_is_nothing_and_bad_input_is_refused() -> None:
    assert epsilon_lower_bound([1.0] * 50, [1.0] * 50) == (0.0, None)
    for above, below in (([], [1.0, 2.0]), ([1.0], [2.0]), ([math.nan], [1.0, 2.0])):
        with pytest.raises(ValueError, match=r"sample|second negative"):
            epsilon_lower_bound(above, below)
    with pytest.raises(ValueError, match="delta"):
        epsilon_lower_bound([1.0], [1.0, 2.0], delta=1.0)
    with pytest.raises(ValueError, match="level"):
        epsilon_at_threshold([1.0], [1.0], 0.0, level=1.0)


@pytest.mark.parametrize("epsilon", [0.3, 2.0, 4.0])
def test_epsilon_subjects_needed_is_the_first_that_proves(epsilon: float) -> None:
    needed = epsilon_subjects_needed(epsilon)
    assert needed is not None
    for n, proves in ((needed - 1, False), (needed, True)):
        apart = epsilon_lower_bound(np.arange(n) + 1e6, -np.arange(n) - 1.0).epsilon
        assert (apart >= epsilon) == proves
    assert epsilon_subjects_needed(60.0) is None


@pytest.mark.parametrize(("n", "m"), [(1, 99), (5, 499), (47, 4699), (20, 1999)])
def test_tail_power_is_what_happens(n: int, m: int) -> None:
    rng, alpha = np.random.default_rng(4), 0.05
    others = np.sort(rng.normal(0, 1, (600, m)), axis=1)
    scores = rng.normal(3, 1, 600)
    p_values = (1 + (others >= scores[:, None]).sum(axis=1)) / (m + 1)
    assert tail_power(3.0, n, m, alpha) == pytest.approx((p_values <= alpha / n).mean(), abs=0.06)


def test_tail_test_sees_nothing_without_its_holdout() -> None:
    # The figures of a holdout of 2,000 at 4 standard deviations: 96, 88 and 79 % seen.
    powers = [tail_power(4.0, n, 2000, 0.05) for n in (5, 20, 47)]
    assert powers == pytest.approx([0.96, 0.88, 0.79], abs=0.04)
    for n in (1, 20, 47, 200):
        needed = tail_holdout_needed(n, 0.05)
        assert tail_power(4.0, n, needed - 1, 0.05) == 0.0
        assert tail_power(4.0, n, needed, 0.05) > 0.0
    assert tail_holdout_needed(47, 0.05) == 939


def test_tost_power_is_what_happens() -> None:
    rng = np.random.default_rng(5)
    for n, margin in ((10, 1.0), (20, 0.7), (40, 0.6)):
        succeeded = [tost(rng.normal(0, 1, n), margin).p_value < 0.05 for _ in range(1500)]
        assert tost_power(1.0, n, margin) == pytest.approx(np.mean(succeeded), abs=0.04)
    needed = tost_subjects_needed(1.0, 0.5)
    assert needed is not None
    assert tost_power(1.0, needed, 0.5) >= 0.8 > tost_power(1.0, needed - 1, 0.5)
    assert tost_power(1.0, 1, 0.5) == 0.0


def test_residual_subjects_needed() -> None:
    plan = {"margin": 0.1, "alpha": 0.05}
    needed = residual_subjects_needed(2.2, 1.0, 0.02, 4, **plan)
    assert needed is not None
    assert residual_power(2.2, 1.0, 0.02, needed, 4, **plan) >= 0.8
    assert residual_power(2.2, 1.0, 0.02, needed - 1, 4, **plan) < 0.8
    assert residual_subjects_needed(2.2, 1.0, 0.3, 4, **plan) is None
    assert residual_power(2.2, 0.0, 0.0, 1, 4, **plan) == 1.0


@pytest.mark.parametrize("retrained", [2, 4])
def test_residual_power_counts_the_noise_of_all_models(retrained: int) -> None:
    rng, noise = np.random.default_rng(6), 0.06
    others = rng.normal(0, noise, (20_000, retrained))
    errors = others.std(axis=1, ddof=1) * math.sqrt(1 + 1 / retrained)
    left = others.mean(axis=1) - rng.normal(0, noise, 20_000)
    shown = (left - 0.22) / errors < stats.t.ppf(0.05, retrained - 1)
    foretold = residual_power(2.2, 0.0, noise, 1, retrained, margin=0.1, alpha=0.05)
    assert foretold == pytest.approx(shown.mean(), abs=0.015)
