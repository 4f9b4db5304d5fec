import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from workers.evidence.membership import Scored, by_subject
from workers.evidence.sparse import sparse_test
from workers.evidence.statistics import (
    auc,
    conformal_p,
    even,
    holm,
    mann_whitney_p,
    mean_interval,
    newcombe_interval,
    sample,
    subject_means,
    subjects_needed,
)

numbers = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(numbers, numbers)
def test_auc_counts_pairs(above: list[float], below: list[float]) -> None:
    wins = sum((a > b) + 0.5 * (a == b) for a in above for b in below)
    assert auc(above, below) == pytest.approx(wins / (len(above) * len(below)))
    labels = [1] * len(above) + [0] * len(below)
    assert auc(above, below) == pytest.approx(roc_auc_score(labels, above + below))


def test_auc_of_ties_is_a_half() -> None:
    assert auc([1.0, 1.0], [1.0] * 5) == 0.5


@pytest.mark.parametrize(("n", "low"), [(5, 0.810), (20, 0.950), (47, 0.978)])
def test_newcombe_at_an_auc_of_one(n: int, low: float) -> None:
    interval = newcombe_interval(1.0, n, 1000, 0.95)
    assert interval.low == pytest.approx(low, abs=5e-4)
    assert interval.high == 1.0
    mirrored = newcombe_interval(0.0, n, 1000, 0.95)
    assert mirrored.low == 0.0
    assert mirrored.high == pytest.approx(1 - interval.low)


def inside(t: float, estimate: float, n: int, m: int, level: float) -> bool:
    half = (n + m) / 2 - 1
    variance = t * (1 - t) / (n * m) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t))
    z = float(stats.norm.ppf((1 + level) / 2))
    return (estimate - t) ** 2 <= z**2 * variance


@pytest.mark.parametrize("estimate", [0.02, 0.3, 0.5, 0.77, 0.999, 1.0])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 40), (47, 47), (5000, 100_000)])
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_newcombe_bounds_are_where_its_condition_ends(
    estimate: float, n: int, m: int, level: float
) -> None:
    low, high = newcombe_interval(estimate, n, m, level)
    assert 0 <= low <= estimate <= high <= 1
    step = 1e-7
    assert not inside(low - step, estimate, n, m, level)
    assert inside(low + step, estimate, n, m, level)
    if estimate < 1:
        assert not inside(high + step, estimate, n, m, level)
        assert inside(high - step, estimate, n, m, level)


def test_newcombe_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    covered = 0
    for _ in range(400):
        low, high = newcombe_interval(auc(rng.normal(1, 1, 20), rng.normal(0, 1, 60)), 20, 60, 0.9)
        covered += low <= truth <= high
    assert 0.86 <= covered / 400 <= 0.96


@pytest.mark.parametrize(
    ("estimate", "n", "m", "level"),
    [(1.1, 5, 5, 0.9), (float("nan"), 5, 5, 0.9), (0.5, 0, 5, 0.9), (0.5, 5, 5, 1.0)],
)
def test_newcombe_refuses_what_is_out_of_range(
    estimate: float, n: int, m: int, level: float
) -> None:
    with pytest.raises(ValueError, match="an interval needs"):
        newcombe_interval(estimate, n, m, level)


def test_mann_whitney_is_exact_where_feasible() -> None:
    assert mann_whitney_p([4.0, 5.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(2 / 20)
    # One forgotten against 999: as extreme as it gets.
    assert mann_whitney_p([1000.0], np.arange(999)) == pytest.approx(2 / 1000)


def test_mann_whitney_with_ties_is_the_corrected_approximation() -> None:
    rng = np.random.default_rng(2)
    above, below = rng.integers(0, 9, 200), rng.integers(0, 9, 400)
    expected = stats.mannwhitneyu(above, below, method="asymptotic").pvalue
    assert mann_whitney_p(above, below) == pytest.approx(expected)
    assert mann_whitney_p([1.0, 1.0], [1.0]) == 1.0


def test_mann_whitney_with_ties_counts_random_orders() -> None:
    above, below = [1.0, 2.0, 2.0, 3.0], [2.0, 2.0, 4.0, 5.0, 5.0]
    ranks = stats.rankdata(above + below)
    sums = [sum(one) for one in itertools.combinations(ranks, 4)]
    tails = [
        sum(one >= ranks[:4].sum() for one in sums),
        sum(one <= ranks[:4].sum() for one in sums),
    ]
    expected = 2 * min(tails) / len(sums)
    assert mann_whitney_p(above, below) == pytest.approx(expected, abs=0.01)
    assert mann_whitney_p(below, above) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("n", "share"), [(1, 0.05), (5, 0.01), (20, 0.002), (47, 0.05)])
def test_scores_that_are_mostly_alike_do_not_look_like_a_leak(n: int, share: float) -> None:
    rng = np.random.default_rng(8)
    p_values = []
    for _ in range(400):
        scores = np.where(rng.random(n + 1_000) < share, rng.random(n + 1_000), 0.0)
        p_values.append(mann_whitney_p(scores[:n], scores[n:]))
    # The normal approximation has 2 to 5 % below 1/3,000 here.
    assert np.mean(np.array(p_values) < 1 / 3_000) == 0.0
    assert np.mean(np.array(p_values) < 0.05) < 0.08
    leak = np.zeros(n + 1_000)
    leak[: max(1, n // 4)] = 1.0
    assert mann_whitney_p(leak[:n], leak[n:]) < 0.011


def counts_of(subjects: np.ndarray, places: np.ndarray) -> list[int]:
    return sorted(np.unique(subjects[places], return_counts=True)[1].tolist())


def test_sets_are_compared_by_as_many_records_of_each_person() -> None:
    one = np.arange(20)
    ten = np.repeat(np.arange(100, 150), 10)
    left, right = even(one, ten)
    assert (counts_of(one, left), counts_of(ten, right)) == ([1] * 20, [1] * 50)
    left, right = even(ten, one)
    assert (counts_of(ten, left), counts_of(one, right)) == ([1] * 50, [1] * 20)
    # Alike from the beginning, all are kept; places are those of the records.
    left, right = even(ten, ten + 100)
    assert (left.tolist(), right.tolist()) == (list(range(500)), list(range(500)))


def test_a_person_with_many_records_keeps_what_half_of_the_others_can_match() -> None:
    person = np.zeros(47, dtype=np.int64)
    others = np.repeat(np.arange(1, 301), np.repeat([1, 2, 3], 100))
    left, right = even(person, others)
    # Two thirds have two records or more, and one third has three.
    assert (left.size, counts_of(others, right)) == (2, [2] * 200)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.integers(1, 9), min_size=1, max_size=60),
)
def test_numbers_of_records_are_distributed_alike(mine: list[int], theirs: list[int]) -> None:
    ours = np.repeat(np.arange(len(mine)), mine)
    others = np.repeat(np.arange(100, 100 + len(theirs)), theirs)
    left, right = even(ours, others)
    kept, matched = counts_of(ours, left), counts_of(others, right)
    assert len(kept) == len(mine)
    assert len(matched) >= len(theirs) / 2 - 1
    for k in range(1, 10):
        share = np.mean(np.array(kept) >= k)
        # As alike as whole people allow.
        assert np.mean(np.array(matched) >= k) == pytest.approx(share, abs=1 / len(matched))


@pytest.mark.parametrize(
    ("mine", "theirs"), [((1, 1), (2, 2)), ((1, 1), (5, 5)), ((5, 5), (1, 1)), ((1, 3), (2, 9))]
)
def test_other_numbers_of_records_are_no_leak(
    mine: tuple[int, int], theirs: tuple[int, int]
) -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(150):
        sides = []
        for first, (low, high), people in ((0, mine, 47), (1_000, theirs, 600)):
            subjects = np.repeat(first + np.arange(people), rng.integers(low, high + 1, people))
            # Skewed, as losses are, so that a mean of many stands elsewhere than a single one.
            sides.append(Scored(-(rng.exponential(size=subjects.size) ** 2), subjects))
        ours, others = by_subject(*sides)
        found.append([mann_whitney_p(ours, others), sparse_test(*sides, before=None).p_value])
    assert (np.mean(np.array(found) < 0.05, axis=0) < 0.11).all()


def test_large_samples_do_not_take_the_exact_way() -> None:
    rng = np.random.default_rng(1)
    above, below = rng.normal(size=400), rng.normal(size=4000)
    expected = stats.mannwhitneyu(above, below, method="asymptotic").pvalue
    assert mann_whitney_p(above, below) == pytest.approx(expected)


@given(numbers, numbers)
def test_conformal_p_values_count_the_reference(scores: list[float], holdout: list[float]) -> None:
    expected = [(1 + sum(h >= s for h in holdout)) / (len(holdout) + 1) for s in scores]
    assert conformal_p(scores, holdout).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
def test_holm_equals_the_step_down_procedure(p_values: list[float]) -> None:
    expected = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, (len(p_values) - rank) * p_values[i])
        expected[i] = min(1.0, highest)
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.5):
        assert sum(adjusted < alpha) == sum(e < alpha for e in expected)
    assert sorted(adjusted) == pytest.approx(sorted(expected))


def test_subject_means_by_a_loop() -> None:
    values, subjects = [1.0, 2.0, 6.0, 4.0], [9, 3, 9, 5]
    assert subject_means(values, subjects).tolist() == [2.0, 4.0, 3.5]


def test_mean_interval_is_students() -> None:
    row = np.array([1.0, 2.0, 4.0, 8.0])
    expected = stats.ttest_1samp(row, 0).confidence_interval(0.95)
    low, high = mean_interval(row.mean(), row.std(ddof=1) / 2, 3, 0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("margin", "n"), [(0.05, 286), (0.10, 72), (0.15, 32), (0.20, 18)])
def test_subjects_needed_against_a_large_holdout(margin: float, n: int) -> None:
    assert subjects_needed(margin, 0.90, 10**9) == n


def test_few_in_the_holdout_need_more_to_forget_or_are_not_enough() -> None:
    assert subjects_needed(0.15, 0.90, 100) == 47
    assert subjects_needed(0.15, 0.90, 31) is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")], [[1.0], [2.0]]])
def test_bad_samples_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="a sample"):
        sample(values)
    with pytest.raises(ValueError, match="a sample"):
        auc(values, [1.0])
    with pytest.raises(ValueError, match="a sample"):
        mann_whitney_p([1.0], values)


def test_values_without_their_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the data subject"):
        subject_means([1.0, 2.0], [1])
