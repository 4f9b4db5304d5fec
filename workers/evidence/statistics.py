"""The statistics that the checks rest on, exact where that is feasible."""

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Sample = npt.NDArray[np.float64]

_EXACT_PAIRS = 5_000
"""Up to this many pairs the Mann-Whitney test is exact; its time grows with their square."""

_FEW, _HEAVY, _ENOUGH_APART = 5, 0.2, 30
"""With ties, so few data subjects, or so few of them outside a tie that holds so large a share of
all, are not normal."""

_ORDERS, _ENTRIES, _CHUNK = 39_999, 10_000_000, 2_000_000
"""Random orders; places that are kept of them in all; numbers that are drawn at once."""

_GRID = 1.0 - np.concatenate([[1.0], np.geomspace(1.0, 1e-9, 500)[1:], [0.0]])
"""Shares of the way to an estimate, closer and closer together."""


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


def sample(values: npt.ArrayLike) -> Sample:
    """Values as one row of float64.

    Raises:
        ValueError: there is none, they are not one row, or one is NaN or infinite.
    """
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or not row.size:
        raise ValueError("a sample needs at least one value, in one row")
    if not np.isfinite(row).all():
        raise ValueError("a sample holds a value that is NaN or infinite; look at the model's loss")
    return row


def subject_means(values: npt.ArrayLike, subjects: npt.ArrayLike) -> Sample:
    """Mean value of each data subject, in the order of the subjects' numbers.

    Args:
        values: (n,) one per record.
        subjects: (n,) whose record it is, as an opaque number.

    Raises:
        ValueError: no value, a NaN, or not one subject per value.
    """
    row, owners = sample(values), np.asarray(subjects)
    if owners.shape != row.shape:
        raise ValueError("each value needs the data subject that it belongs to")
    _, index = np.unique(owners, return_inverse=True)
    means: Sample = np.bincount(index, weights=row) / np.bincount(index)
    return means


def even(
    ours: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of the records that ours are compared with others by: as many of each data subject.

    The numbers of records that data subjects have are then distributed alike in both sets. Ours
    keep as many as leave at least half of the others with a match; which records, and who of the
    others, is drawn. Where the numbers are alike from the beginning, hardly any is left out.

    Args:
        ours: (n records,) whose they are, as opaque numbers.
        others: (m records,) likewise.

    Returns:
        Ascending places in `ours`, of each data subject at least one, and in `others`.
    """
    mine, theirs = (np.unique(side, return_counts=True)[1] for side in (ours, others))
    if np.unique(np.concatenate([mine, theirs])).size <= 1:
        return np.arange(ours.size), np.arange(others.size)
    draws = np.random.default_rng(0)
    caps = np.unique(np.minimum(np.concatenate([mine, theirs]), mine.max()))[::-1]
    wanted = next(
        kept
        for kept in (np.minimum(mine, cap) for cap in caps)
        if kept.max() == 1 or 2 * _matches(kept, theirs) >= theirs.size
    )
    matched = _matched(np.sort(wanted), theirs, draws)
    return _drawn(ours, wanted, draws), _drawn(others, matched, draws)


def _matches(wanted: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> int:
    """How many of them can have numbers distributed as `wanted` without having more than theirs."""
    return min(
        theirs.size,
        *(int((theirs >= k).sum() / (wanted >= k).mean()) for k in np.unique(wanted)),
    )


def _matched(
    wanted: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64], draws: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Of how many records each of them keeps, so that all together are distributed as `wanted`."""
    many = max(1, _matches(wanted, theirs))
    numbers, times = np.unique(
        wanted[((np.arange(many) + 0.5) / many * wanted.size).astype(int)], return_counts=True
    )
    matched = np.zeros_like(theirs)
    # The largest first, since fewest have as many.
    for k, people in zip(numbers[::-1], times[::-1], strict=True):
        able = np.flatnonzero((theirs >= k) & (matched == 0))
        matched[draws.permutation(able)[:people]] = k
    return matched


def _drawn(
    subjects: npt.NDArray[np.int64], kept: npt.NDArray[np.int64], draws: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Places of as many records of each data subject as are kept of it."""
    _, index, records = np.unique(subjects, return_inverse=True, return_counts=True)
    shuffled = draws.permutation(subjects.size)
    by_owner = shuffled[np.argsort(index[shuffled], kind="stable")]
    place = np.arange(subjects.size) - np.repeat(np.cumsum(records) - records, records)
    return np.sort(by_owner[place < kept[index[by_owner]]])


def auc(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> float:
    """Chance that a positive lies above a negative; ties count half, so all ties give 0.5.

    Mann and Whitney 1947, through midranks.

    Raises:
        ValueError: a sample is empty or holds NaN.
    """
    above, below = sample(positives), sample(negatives)
    ranks = stats.rankdata(np.concatenate([above, below]))
    wins = ranks[: above.size].sum() - above.size * (above.size + 1) / 2
    return float(wins / (above.size * below.size))


def newcombe_interval(estimate: float, n: int, m: int, level: float) -> Interval:
    """Confidence interval of an AUC by Newcombe 2006 (Statistics in Medicine 25), method 5.

    All t with (estimate - t)² <= z² V(t), where V is Hanley and McNeil's variance with n - 1 and
    m - 1 both replaced by (n + m)/2 - 1. V(1) = 0 makes 1 a root of its own when the estimate is 1
    (and 0 when it is 0), so that the bound is looked for on a grid from the far side.

    Args:
        estimate: the AUC, in [0, 1].
        n: size of one sample.
        m: size of the other.
        level: coverage, in (0, 1).

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 <= estimate <= 1 or n < 1 or m < 1 or not 0 < level < 1:
        raise ValueError("an interval needs an AUC in [0, 1], samples, and a level in (0, 1)")
    low = _newcombe_low(estimate, n, m, level)
    # V(t) = V(1 - t), so that the upper bound is the lower one seen from the other side.
    return Interval(low, 1 - _newcombe_low(1 - estimate, n, m, level))


def _newcombe_low(estimate: float, n: int, m: int, level: float) -> float:
    z = stats.norm.ppf((1 + level) / 2)
    half = (n + m) / 2 - 1

    def outside(t: float) -> float:
        spread = 1 + half * (1 - t) / (2 - t) + half * t / (1 + t)
        return float((estimate - t) ** 2 - z**2 * t * (1 - t) * spread / (n * m))

    for below, above in itertools.pairwise(estimate * _GRID):
        if outside(above) < 0:
            return float(optimize.brentq(outside, below, above))
    return estimate


def mann_whitney_p(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> float:
    """Two-sided p-value of the hypothesis that both samples come from one distribution.

    Exact without ties up to 5,000 pairs. With ties that leave too few of the smaller sample apart
    for a normal curve, it is twice the smaller of both tails among random orders, (1 + r)/(B + 1)
    each for r of B that are as far out (Davison and Hinkley 1997, equation 4.11), which holds for
    every B. Else the normal approximation with tie correction.

    Raises:
        ValueError: a sample is empty or holds NaN.
    """
    above, below = sample(positives), sample(negatives)
    both = np.concatenate([above, below])
    _, tied = np.unique(both, return_counts=True)
    if tied.size == 1:
        return 1.0
    few = min(above.size, below.size)
    most = float(tied.max() / both.size)
    if tied.size < both.size and (
        few <= _FEW or (most > _HEAVY and few * (1 - most) < _ENOUGH_APART)
    ):
        ranks = stats.rankdata(both)
        return _drawn_p(ranks, ranks[: above.size] if few == above.size else ranks[above.size :])
    exact = tied.size == both.size and above.size * below.size <= _EXACT_PAIRS
    method = "exact" if exact else "asymptotic"
    return float(stats.mannwhitneyu(above, below, alternative="two-sided", method=method).pvalue)


def _drawn_p(ranks: Sample, own: Sample) -> float:
    """Twice the smaller tail of the sum of own ranks, among sums of as many drawn from all."""
    # Midranks are halves, so that their sums are exact.
    sums = ranks[_subsets(own.size, ranks.size)].sum(axis=1)
    seen = float(own.sum())
    beyond = min(int((sums >= seen).sum()), int((sums <= seen).sum()))
    return min(1.0, 2 * (1 + beyond) / (int(sums.size) + 1))


@lru_cache(maxsize=8)
def _subsets(n: int, of: int) -> npt.NDArray[np.int32]:
    """Random sets of n places among `of`: (draws, n)."""
    draws = np.random.default_rng([n, of])
    rows = max(1, _CHUNK // of)
    many = max(999, min(_ORDERS, _ENTRIES // n))
    return np.concatenate(
        [
            draws.random((min(rows, many - start), of)).argpartition(n - 1)[:, :n].astype(np.int32)
            for start in range(0, many, rows)
        ]
    )


def mean_interval(mean: float, standard_error: float, freedom: float, level: float) -> Interval:
    """Student's interval of a mean; `freedom` are its degrees of freedom, more than 0."""
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * standard_error
    return Interval(mean - half, mean + half)


def conformal_p(scores: npt.ArrayLike, reference: npt.ArrayLike) -> Sample:
    """Of each score, (1 + number of reference scores at least as high) / (m + 1).

    A valid p-value where score and references are exchangeable (Vovk, Gammerman and Shafer 2005).

    Returns:
        (n,) p-values, none below 1/(m + 1).

    Raises:
        ValueError: a sample is empty or holds NaN.
    """
    row, ordered = sample(scores), np.sort(sample(reference))
    at_least = ordered.size - np.searchsorted(ordered, row, side="left")
    p_values: Sample = (1 + at_least) / (ordered.size + 1)
    return p_values


def holm(p_values: npt.ArrayLike) -> Sample:
    """P-values adjusted for their number (Holm 1979), in the order given.

    Raises:
        ValueError: there is none, or one is NaN.
    """
    row = sample(p_values)
    order = np.argsort(row)
    adjusted = np.maximum.accumulate(row[order] * np.arange(row.size, 0, -1))
    result = np.empty_like(row)
    result[order] = np.minimum(adjusted, 1)
    return result


def subjects_needed(margin: float, level: float, m: int) -> int | None:
    """How many data subjects could show an AUC of 0.5 to lie within `margin` of 0.5.

    Two one-sided tests, each at (1 - level)/2, with power 0.8, by the variance of the Mann-Whitney
    statistic under exchangeability, (n + m + 1)/(12 n m).

    Returns:
        The number n against `m` others; None where no n is enough for so few.
    """
    z = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(0.9))
    per_pair = 12 * margin**2 / z**2
    return math.ceil((m + 1) / (per_pair * m - 1)) if per_pair * m > 1 else None
