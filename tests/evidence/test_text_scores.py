"""Scores of text against plain loops, scipy and scikit-learn."""

import itertools
import math
import random
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from workers.evidence.statistics import Sample, auc
from workers.evidence.text import (
    Predictions,
    _log_cdf,
    exact_memorisation,
    exposure,
    extraction_strength,
    loss,
    min_k,
    min_k_plus_plus,
    rouge_l,
    rouge_words,
    target_rank,
    zlib_score,
)

LENGTHS = [1, 2, 3, 7, 40]
Score = Callable[[Predictions], Sample]
SCORES: dict[str, Score] = {
    "loss": loss,
    "zlib": lambda made: zlib_score(made, ["x" * (i + 1) for i in range(len(made.log_p))]),
    "min_k": min_k,
    "min_k_plus_plus": min_k_plus_plus,
    "exact_memorisation": exact_memorisation,
    "extraction_strength": extraction_strength,
    "target_rank": target_rank,
}


def made(lengths: list[int] = LENGTHS, seed: int = 0, holes: bool = False) -> Predictions:
    source = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths) + 2)
    counted = np.arange(shape[1]) < np.array(lengths)[:, None]
    if holes:
        counted &= source.random(shape) < 0.7
        counted[:, 0] = True
    # Where nothing is counted the numbers mean nothing: NaN must do no harm.
    log_p = np.where(counted, -source.exponential(2.0, shape), np.nan)
    rank = np.where(source.random(shape) < 0.7, 0, source.integers(1, 90, shape))
    mean, std = -source.exponential(3.0, shape), source.exponential(1.0, shape)
    return Predictions(log_p, mean, std, rank, counted)


def at(given: Predictions, places: list[int]) -> Predictions:
    chosen = np.array(places, dtype=int)
    return Predictions(
        given.log_p[chosen],
        given.mean[chosen],
        given.std[chosen],
        given.rank[chosen],
        given.counted[chosen],
    )


def rows(given: Predictions) -> list[list[tuple[float, float, float, int]]]:
    """The counted predictions of each record, one by one."""
    return [
        [
            (given.log_p[i, t], given.mean[i, t], given.std[i, t], int(given.rank[i, t]))
            for t in range(given.log_p.shape[1])
            if given.counted[i, t]
        ]
        for i in range(len(given.log_p))
    ]


def lowest(values: list[float], share: float) -> float:
    kept = sorted(values)[: max(1, int(share * len(values)))]
    return sum(kept) / len(kept)


def strength(ranks: list[int]) -> float:
    for k in range(len(ranks)):
        if all(rank == 0 for rank in ranks[k:]):
            return 1 - k / len(ranks)
    return 0.0


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_all_scores_equal_a_plain_loop(seed: int, holes: bool) -> None:
    given = made(seed=seed, holes=holes)
    texts = [random.Random(seed + i).randbytes(30 * (i + 1)).hex() for i in range(5)]
    each = rows(given)
    nats = [-sum(row[0] for row in one) / len(one) for one in each]
    expected = {
        "loss": nats,
        "zlib": [
            -own / len(zlib.compress(text.encode())) for own, text in zip(nats, texts, strict=True)
        ],
        "min_k 0.2": [lowest([row[0] for row in one], 0.2) for one in each],
        "min_k 0.4": [lowest([row[0] for row in one], 0.4) for one in each],
        "min_k++": [lowest([(row[0] - row[1]) / row[2] for row in one], 0.2) for one in each],
        "exact": [sum(row[3] == 0 for row in one) / len(one) for one in each],
        "strength": [strength([row[3] for row in one]) for one in each],
        "rank": [-sum(math.log(1 + row[3]) for row in one) / len(one) for one in each],
    }
    found = {
        "loss": loss(given),
        "zlib": zlib_score(given, texts),
        "min_k 0.2": min_k(given),
        "min_k 0.4": min_k(given, 0.4),
        "min_k++": min_k_plus_plus(given),
        "exact": exact_memorisation(given),
        "strength": extraction_strength(given),
        "rank": target_rank(given),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def of_ranks(ranks: list[int]) -> Predictions:
    row = np.zeros((1, len(ranks)))
    return Predictions(row - 1, row - 1, row + 1, np.array([ranks]), np.ones_like(row, dtype=bool))


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [([0, 0, 0, 0], 1.0), ([3, 0, 1, 0], 0.25), ([0, 0, 0, 2], 0.0), ([9], 0.0), ([0], 1.0)],
)
def test_extraction_strength_counts_the_right_end_alone(ranks: list[int], expected: float) -> None:
    assert extraction_strength(of_ranks(ranks)).tolist() == [expected]


def test_the_least_probable_share_is_not_short_by_rounding() -> None:
    # 0.29 * 100 is 28.999... in floating point.
    row = np.arange(100.0)[None] - 100
    given = Predictions(row, row, row, row.astype(int), np.ones_like(row, dtype=bool))
    assert min_k(given, 0.29)[0] == row[0, :29].mean()


def test_a_certain_model_gives_finite_scores() -> None:
    one = np.zeros((1, 3))
    given = Predictions(one, one, one, one.astype(int), np.ones((1, 3), dtype=bool))
    assert min_k_plus_plus(given).tolist() == [0.0]


@pytest.mark.parametrize("name", SCORES)
def test_ties_tell_nothing(name: str) -> None:
    same = at(of_ranks([2, 0, 0]), [0] * 6)
    # The texts of SCORES differ, so that their lengths would tell.
    scores = zlib_score(same, ["same"] * 6) if name == "zlib" else SCORES[name](same)
    assert auc(scores[:2], scores[2:]) == 0.5
    assert roc_auc_score([1, 1, 0, 0, 0, 0], scores) == 0.5


@pytest.mark.parametrize("name", SCORES)
def test_what_cannot_be_scored_is_refused(name: str) -> None:
    score, given = SCORES[name], made()
    with pytest.raises(ValueError, match="at least one record"):
        score(at(given, []))
    silent = given.counted.copy()
    silent[2] = False
    with pytest.raises(ValueError, match="one prediction that counts"):
        score(given._replace(counted=silent))
    with pytest.raises(ValueError, match="of the same shape"):
        score(given._replace(counted=given.counted[:, :-1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("field", "score"),
    [
        ("log_p", loss),
        ("log_p", min_k),
        ("log_p", min_k_plus_plus),
        ("mean", min_k_plus_plus),
        ("std", min_k_plus_plus),
        ("log_p", SCORES["zlib"]),
    ],
)
def test_a_number_that_is_not_finite_is_refused(field: str, score: Score, bad: float) -> None:
    given = made()
    array = getattr(given, field).copy()
    array[1, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        score(given._replace(**{field: array}))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        min_k(made(), share)


def test_zlib_needs_a_text_for_each_record() -> None:
    with pytest.raises(ValueError, match="each record needs its text"):
        zlib_score(made(), ["one"])


def plain_lcs(left: list[str], right: list[str]) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_equals_the_plain_table(seed: int) -> None:
    source = random.Random(seed)
    left = source.choices(["a", "bb", "c", "d7"], k=source.randint(1, 30))
    right = source.choices(["a", "bb", "c", "d7", "e"], k=source.randint(1, 30))
    common = plain_lcs(left, right)
    recall, precision = common / len(left), common / len(right)
    f1 = 2 * recall * precision / (recall + precision) if common else 0.0
    found = rouge_l(left, right)
    assert found.recall == pytest.approx(recall, abs=1e-12)
    assert found.f1 == pytest.approx(f1, abs=1e-12)


def test_rouge_words_and_texts_without_any() -> None:
    assert rouge_words("The Cat's 2nd-best, HAT_") == ["the", "cat", "s", "2nd", "best", "hat"]
    for left, right in (([], ["a"]), (["a"], []), ([], [])):
        assert rouge_l(left, right) == (0.0, 0.0)


def test_exposure_by_rank_equals_a_plain_count() -> None:
    source = np.random.default_rng(1)
    references, canaries = source.normal(4, 1, 1023), np.array([-1.0, 3.0, 4.0, 9.0])
    expected = [
        math.log2(1024) - math.log2(1 + sum(reference < one for reference in references))
        for one in canaries
    ]
    ranked = exposure(canaries, references).ranked
    np.testing.assert_allclose(ranked, expected, atol=1e-9)
    assert ranked[0] == 10.0
    assert ranked[-1] == 0.0


def test_exposure_by_a_fitted_tail_equals_scipy_and_goes_on_beyond_the_references() -> None:
    references = stats.skewnorm.rvs(3.0, loc=2, scale=1.5, size=500, random_state=2)
    canaries = np.array([1.9, 3.0, 4.5])
    fitted = stats.skewnorm(*stats.skewnorm.fit(references))
    found = exposure(canaries, references).extrapolated
    np.testing.assert_allclose(found, -fitted.logcdf(canaries) / math.log(2), rtol=1e-6)
    far = exposure([0.5, 0.0], references)
    assert far.extrapolated[1] > far.extrapolated[0] > math.log2(501) == far.ranked[0]


@pytest.mark.parametrize("skewness", [-4.0, 0.0, 0.7, 5.0])
@pytest.mark.parametrize("x", [0.3, -1.5, -3.0, -6.0, -12.0])
def test_the_tail_equals_a_numerical_integral(skewness: float, x: float) -> None:
    at = stats.skewnorm.logpdf(x, skewness)
    # Relative to the density at x, since the share itself is below the smallest float.
    ends = x - np.geomspace(1e-4, 40, 60)
    parts = [
        integrate.quad(
            lambda t: math.exp(stats.skewnorm.logpdf(t, skewness) - at), below, above, epsabs=0
        )[0]
        for above, below in itertools.pairwise([x, *ends])
        if stats.skewnorm.logpdf(above, skewness) - at > -40
    ]
    expected = at + math.log(sum(parts))
    assert _log_cdf(np.array([x]), skewness)[0] == pytest.approx(expected, abs=1e-7)


def test_references_that_are_all_alike_give_one_bit_at_most_to_their_like() -> None:
    found = exposure([3.0, 3.0], [3.0] * 9)
    np.testing.assert_allclose(found.ranked, math.log2(10 / 5.5))
    np.testing.assert_array_equal(found.extrapolated, found.ranked)


@pytest.mark.parametrize(
    ("canaries", "references"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.inf])]
)
def test_exposure_of_nothing_is_refused(canaries: list[float], references: list[float]) -> None:
    with pytest.raises(ValueError, match="sample"):
        exposure(canaries, references)
