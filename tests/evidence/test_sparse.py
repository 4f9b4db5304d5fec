import itertools
import math

import numpy as np
import pytest
from scipy import stats

from workers.evidence.membership import Before, Scored
from workers.evidence.sparse import sparse_test
from workers.evidence.types import Evidence

CUT = 0.05


def measured_of(
    ours: object,
    others: object,
    before: Before | None = None,
    alpha: float = 0.005,
    share: float = 0.1,
) -> Evidence:
    n, m = np.size(ours), np.size(others)  # type: ignore[arg-type]
    forget, holdout = Scored(ours, range(n)), Scored(others, range(n, n + m))  # type: ignore[arg-type]
    return sparse_test(forget, holdout, before=before, alpha=alpha, share=share)


def plain(ours: list[float], others: list[float]) -> float:
    """The truncated product by its definition, one data subject after another."""
    total = 0.0
    for score in ours:
        p_value = (1 + sum(other >= score for other in others)) / (len(others) + 1)
        if p_value <= CUT:
            total += math.log(CUT / p_value)
    return total


@pytest.mark.parametrize(("n", "m"), [(1, 40), (2, 39), (3, 30)])
def test_the_p_value_is_that_of_all_orders(n: int, m: int) -> None:
    scores = list(range(n + m))
    every = [
        plain([float(i) for i in places], [float(i) for i in scores if i not in places])
        for places in itertools.combinations(scores, n)
    ]
    for top in ([m + n - 1], [m + n - 2], [m]):
        places = (top + list(range(n)))[:n]
        rest = [float(i) for i in scores if i not in places]
        evidence = measured_of([float(i) for i in places], rest)
        expected = np.mean([one >= plain([float(i) for i in places], rest) - 1e-9 for one in every])
        assert evidence.estimate == pytest.approx(plain([float(i) for i in places], rest))
        # Drawn 39,999 times: four standard errors.
        noise = 4 * math.sqrt(expected * (1 - expected) / 39_999) + 1e-4
        assert evidence.p_value == pytest.approx(expected, abs=noise)


def test_the_statistic_counts_ties_against_a_leak() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        ours, others = rng.normal(1, 1, 9).round(1), rng.normal(size=60).round(1)
        expected = plain(ours.tolist(), others.tolist())
        assert measured_of(ours, others).estimate == pytest.approx(expected)


@pytest.mark.parametrize("n", [20, 47])
def test_p_values_of_people_never_seen_are_uniform_where_they_are_small(n: int) -> None:
    rng = np.random.default_rng(2)
    found = [measured_of(rng.normal(size=n), rng.normal(size=200)).p_value for _ in range(1_000)]
    p_values = np.array(found, dtype=float)
    # Where nobody is in the top twentieth the p-value is 1; below it is uniform but for its steps.
    highest = 0.5
    below = p_values[p_values < highest]
    assert below.size / 1_000 == pytest.approx(highest, abs=0.06)
    assert stats.kstest(below / highest, "uniform").pvalue > 0.001
    for level in (0.01, 0.05, 0.1):
        allowed = stats.binom.ppf(0.999, 1_000, level) / 1_000
        assert (p_values <= level).mean() <= allowed


def test_the_power_is_what_planting_by_hand_shows() -> None:
    rng = np.random.default_rng(3)
    n, m, leaking, alpha, shift = 30, 300, 3, 0.01, 3.0
    measured = []
    for _ in range(30):
        before = Before(rng.normal(size=n) + shift, rng.normal(size=m))
        evidence = measured_of(rng.normal(size=n), rng.normal(size=m), before, alpha=alpha)
        measured.append(evidence.details["power"])
    seen = 0
    for _ in range(600):
        ours = rng.normal(size=n)
        ours[:leaking] += shift * (rng.random(leaking) >= 0.5 / (n + 1))
        p_value = measured_of(ours, rng.normal(size=m)).p_value
        assert p_value is not None
        seen += p_value < alpha
    assert 0.3 < seen / 600 < 0.9
    assert np.mean(measured) == pytest.approx(seen / 600, abs=0.08)


def test_the_power_does_not_depend_on_the_model_that_is_judged() -> None:
    rng = np.random.default_rng(4)
    ours, others = rng.normal(size=40), rng.normal(size=300)
    before = Before(ours + 3, others)
    clean = measured_of(ours, others, before)
    leaky = measured_of(np.where(np.arange(40) < 4, ours + 3, ours), others, before)
    assert clean.details["power"] == leaky.details["power"]
    assert (clean.p_value or 0) > (leaky.p_value or 0)
    assert clean.positive_control is not None
    assert clean.positive_control < 1e-3
    # The same scores without a model that remembered have nothing to see.
    assert measured_of(ours, others, Before(ours, others)).details["power"] < 0.1


def test_few_people_cannot_show_a_power_of_99_percent() -> None:
    others = np.arange(1_000.0)
    far = Before(np.full(20, 9_999.0) + np.arange(20), others)
    assert measured_of(np.zeros(20), others, far).details["power"] < 0.99
    many = Before(np.full(100, 9_999.0) + np.arange(100), others)
    assert measured_of(np.zeros(100), others, many).details["power"] > 0.99


def test_scores_that_end_in_a_tie_show_no_power() -> None:
    rng = np.random.default_rng(3)
    others, ours = rng.normal(size=1_000), rng.normal(size=100)
    before = Before(ours + 9, others)
    assert measured_of(ours, others, before).details["power"] > 0.99
    # After unlearning whatever is above the limit looks alike, the remembered as well.
    limit = np.quantile(others, 0.8)
    rounded = measured_of(np.minimum(ours, limit), np.minimum(others, limit), before)
    assert rounded.details["power"] == 0.0


def test_a_remembered_few_are_seen_that_move_no_mean() -> None:
    rng = np.random.default_rng(6)
    ours, others = rng.normal(size=200), rng.normal(size=1_000)
    ours[:10] += 4
    evidence = measured_of(ours, others)
    assert evidence.p_value is not None
    assert evidence.p_value < 0.001
    assert stats.mannwhitneyu(ours, others).pvalue > 0.01
    assert measured_of(-ours, others).p_value > 0.05  # type: ignore[operator]


def test_the_smallest_leak_that_is_seen_is_the_smallest() -> None:
    seen = int(measured_of(np.zeros(20), np.zeros(500), alpha=0.005).details["smallest_seen"])
    places = np.arange(20) * 501 // 21
    others = -np.arange(500.0)
    for k, is_seen in ((seen, True), (seen - 1, False)):
        ours = np.where(np.arange(20) < k, 1.0, 0.5 - places)
        p_value = measured_of(ours, others).p_value
        assert p_value is not None
        assert (p_value < 0.005) is is_seen
    # A holdout too small for any p-value to be small is blind.
    assert measured_of(np.zeros(3), np.zeros(18)).details["smallest_seen"] == 4


def test_all_ties_show_nothing() -> None:
    evidence = measured_of(np.ones(20), np.ones(100), Before(np.ones(20), np.ones(100)))
    assert (evidence.estimate, evidence.p_value, evidence.positive_control) == (0.0, 1.0, 1.0)
    assert evidence.details["power"] < 0.05


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": 1.0}, {"share": 0.0}, {"share": 1}])
def test_levels_and_shares_are_between_0_and_1(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        measured_of([1.0], [2.0], None, **settings)
