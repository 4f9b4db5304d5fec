"""Comparing two measurements: AUCs, means, and what scores prove about epsilon.

And how many data subjects each of them needs, so that a report can say what would settle it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from workers.evidence.statistics import Sample, sample

_LARGEST = 2**40
"""No number of data subjects beyond this one is worth naming."""


class AucDifference(NamedTuple):
    """The AUC of a first model less that of a second, on the same data subjects.

    Attributes:
        first, second: the AUCs.
        difference: first less second.
        standard_error: of the difference.
        p_value: two-sided, of no difference between these two models.
        low, high: confidence interval of the difference.
    """

    first: float
    second: float
    difference: float
    standard_error: float
    p_value: float
    low: float
    high: float


class Equivalence(NamedTuple):
    """Two one-sided tests of a mean.

    Attributes:
        mean: the estimate.
        p_value: the larger of the two; small where the mean lies within the margin.
        low, high: the interval that lies within the margin where p_value < (1 - level)/2.
    """

    mean: float
    p_value: float
    low: float
    high: float


class EpsilonBound(NamedTuple):
    """What epsilon is at least, and the threshold that shows it (None where nothing is shown)."""

    epsilon: float
    threshold: float | None


def paired_delong(
    first: tuple[npt.ArrayLike, npt.ArrayLike],
    second: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    level: float = 0.90,
) -> AucDifference:
    """Compare the AUCs that two models give the same data subjects.

    DeLong et al. 1988 (Biometrics 44), with the midranks of Sun and Xu 2014 (IEEE Signal Processing
    Letters 21), in O(n log n). Where the standard error is 0 but the AUCs differ, the p-value is
    the smallest that exchanging the models, subject by subject, could give.

    Args:
        first: scores of the positives (n,) and of the negatives (m,) by one model.
        second: the same by the other model, in the same order.
        level: coverage of the interval.

    Raises:
        ValueError: fewer than two of either kind, lengths differ, or a score is not finite.
    """
    rows = [[sample(side) for side in model] for model in (first, second)]
    n, m = (row.size for row in rows[0])
    if [row.size for row in rows[1]] != [n, m]:
        raise ValueError("both models must have scored the same data subjects, in the same order")
    if min(n, m) < 2:
        raise ValueError("a standard error needs two of the forgotten and two of the others")
    placements = [_placements(*model) for model in rows]
    a, b = (float(above.mean()) for above, _ in placements)
    shares = zip(placements[0], placements[1], strict=True)
    variance = sum(float((one - two).var(ddof=1)) / one.size for one, two in shares)
    error = math.sqrt(variance)
    if error > 0:
        p_value = 2 * float(stats.norm.sf(abs(a - b) / error))
    else:
        p_value = 1.0 if a == b else 2.0 ** (1 - n - m)
    half = float(stats.norm.ppf((1 + level) / 2)) * error
    return AucDifference(a, b, a - b, error, p_value, a - b - half, a - b + half)


def _placements(positives: Sample, negatives: Sample) -> tuple[Sample, Sample]:
    """Share of the negatives below each positive, and of the positives above each negative."""
    n, m = positives.size, negatives.size
    ranks = stats.rankdata(np.concatenate([positives, negatives]))
    above = (ranks[:n] - stats.rankdata(positives)) / m
    below = 1 - (ranks[n:] - stats.rankdata(negatives)) / n
    return above, below


def tost(values: npt.ArrayLike, margin: float, *, level: float = 0.90) -> Equivalence:
    """Does a mean lie within `margin` of 0? Of differences, this is the paired test.

    Schuirmann 1987 (Journal of Pharmacokinetics and Biopharmaceutics 15).

    Raises:
        ValueError: fewer than two values, one is not finite, or the margin is not above 0.
    """
    row = sample(values)
    if row.size < 2:
        raise ValueError("a spread needs at least two values")
    error = float(row.std(ddof=1)) / math.sqrt(row.size)
    return _equivalence(float(row.mean()), error, row.size - 1, margin, level)


def tost_independent(
    first: npt.ArrayLike, second: npt.ArrayLike, margin: float, *, level: float = 0.90
) -> Equivalence:
    """Do the means of two independent samples lie within `margin` of each other?

    By Welch's statistic, since their spreads may differ; errors are those of `tost`.
    """
    rows = [sample(first), sample(second)]
    if min(row.size for row in rows) < 2:
        raise ValueError("a spread needs at least two values in each sample")
    a, b = (float(row.var(ddof=1)) / row.size for row in rows)
    freedom = sum(row.size for row in rows) - 2.0
    if a + b > 0:
        freedom = (a + b) ** 2 / (a**2 / (rows[0].size - 1) + b**2 / (rows[1].size - 1))
    mean = float(rows[0].mean() - rows[1].mean())
    return _equivalence(mean, math.sqrt(a + b), freedom, margin, level)


def _equivalence(
    mean: float, error: float, freedom: float, margin: float, level: float
) -> Equivalence:
    if not margin > 0:
        raise ValueError("two means are never proved equal, only within a margin above 0")
    room = margin - abs(mean)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    if error == 0:
        return Equivalence(mean, 0.0 if room > 0 else 1.0, mean, mean)
    p_value = float(stats.t.sf(room / error, freedom))
    return Equivalence(mean, p_value, mean - half, mean + half)


def epsilon_lower_bound(
    positives: npt.ArrayLike, negatives: npt.ArrayLike, *, delta: float = 0.0, level: float = 0.95
) -> EpsilonBound:
    """A bound that epsilon exceeds with confidence `level`, from the scores of two sides.

    Kairouz et al. 2015, section 3: where (epsilon, delta) holds, the rates of any test obey
    TPR <= e^epsilon FPR + delta. The test is "score above t", in both directions and for both
    sides; rates are bounded by Clopper and Pearson 1934, all thresholds at once by Bonferroni.
    Thresholds are the negatives' own scores, each left out of the count at its threshold: given
    the threshold, the counts are then binomial, which makes the bound hold although the
    thresholds come from the data.

    Args:
        positives: (n,) one score per data subject.
        negatives: (m,) likewise, at least two.
        delta: the share of data subjects that epsilon need not cover.
        level: confidence.

    Raises:
        ValueError: a sample is empty, fewer than two negatives, a score is not finite, or delta or
            level is out of range.
    """
    above, below = sample(positives), np.sort(sample(negatives))
    if below.size < 2:
        raise ValueError("a threshold needs a second negative, for the rate of false alarms")
    hits = above.size - np.searchsorted(np.sort(above), below, side="right")
    alarms = below.size - np.searchsorted(below, below, side="right")
    bounds = _epsilons(hits, above.size, alarms, below.size - 1, delta, (1 - level) / below.size)
    best = int(bounds.argmax())
    if bounds[best] <= 0:
        return EpsilonBound(0.0, None)
    return EpsilonBound(float(bounds[best]), float(below[best]))


def epsilon_at_threshold(
    positives: npt.ArrayLike,
    negatives: npt.ArrayLike,
    threshold: float,
    *,
    delta: float = 0.0,
    level: float = 0.95,
) -> float:
    """The bound of `epsilon_lower_bound` at one threshold, chosen without looking at the scores.

    Raises:
        ValueError: a sample is empty, a score is not finite, or delta or level is out of range.
    """
    above, below = sample(positives), sample(negatives)
    hits, alarms = (np.array([int((row > threshold).sum())]) for row in (above, below))
    bound = _epsilons(hits, above.size, alarms, below.size, delta, 1 - level)
    return max(0.0, float(bound[0]))


def _epsilons(
    hits: npt.NDArray[np.int64],
    n: int,
    alarms: npt.NDArray[np.int64],
    m: int,
    delta: float,
    alpha: float,
) -> Sample:
    """What hits of n and alarms of m prove, each at confidence 1 - alpha; -inf where nothing."""
    if not 0 <= delta < 1 or not 0 < alpha < 1:
        raise ValueError("delta must be in [0, 1) and level in (0, 1)")
    # Four bounds: of either rate, from below and from above.
    high, low = _least(hits, n, alpha / 4), _least(n - hits, n, alpha / 4)
    other_high, other_low = _least(alarms, m, alpha / 4), _least(m - alarms, m, alpha / 4)
    rates = ((high, 1 - other_low), (other_low, 1 - high), (low, 1 - other_high))
    with np.errstate(divide="ignore"):
        proved = [
            np.log(np.maximum(more - delta, 0)) - np.log(fewer)
            for more, fewer in (*rates, (other_high, 1 - low))
        ]
    result: Sample = np.max(proved, axis=0)
    return result


def _least(counts: npt.NDArray[np.int64], n: int, alpha: float) -> Sample:
    """Clopper and Pearson's lower bound of a rate, of each count out of n."""
    some = np.maximum(counts, 1)
    bounds: Sample = np.where(counts > 0, special.betaincinv(some, n - some + 1.0, alpha), 0.0)
    return bounds


def tail_holdout_needed(n: int, alpha: float) -> int:
    """How many others a conformal tail test of n data subjects needs to see anything at all."""
    return math.ceil(n / alpha - 1e-9) - 1


def tail_power(shift: float, n: int, m: int, alpha: float) -> float:
    """Chance that one of n data subjects, `shift` standard deviations up, fails the tail test.

    For normal scores, m others, and Holm's first step: p <= alpha/n.
    """
    allowed = math.floor((m + 1) * alpha / n + 1e-9) - 1
    if allowed < 0:
        return 0.0
    # A normal distribution in equal shares, by the middle of each.
    places = stats.norm.ppf((np.arange(4096) + 0.5) / 4096) + shift
    return float(stats.binom.cdf(allowed, m, stats.norm.sf(places)).mean())


def epsilon_subjects_needed(
    epsilon: float, *, delta: float = 0.0, level: float = 0.95
) -> int | None:
    """How many data subjects on each side could prove `epsilon`, were they told apart perfectly.

    None where no number can.
    """

    def proves(n: int) -> bool:
        counts = np.array([n]), n, np.array([0]), n - 1
        return bool(_epsilons(*counts, delta, (1 - level) / n)[0] >= epsilon)

    return _smallest(proves, 2)


def tost_power(spread: float, n: int, margin: float, *, level: float = 0.90) -> float:
    """Chance that `tost` of n values with mean 0 and standard deviation `spread` succeeds.

    A lower bound: the chance of both one-sided tests by Bonferroni, each by the noncentral t.
    """
    if n < 2:
        return 0.0
    critical = stats.t.ppf((1 + level) / 2, n - 1)
    one_sided = float(stats.nct.sf(critical, n - 1, margin / spread * math.sqrt(n)))
    return max(0.0, 2 * one_sided - 1)


def tost_subjects_needed(
    spread: float, margin: float, *, level: float = 0.90, power: float = 0.8
) -> int | None:
    """How many data subjects `tost` needs for that power; None where no number is enough."""
    return _smallest(lambda n: tost_power(spread, n, margin, level=level) >= power, 2)


def residual_power(
    gap: float, spread: float, noise: float, n: int, retrained: int, *, margin: float, alpha: float
) -> float:
    """Chance of showing a residual fraction below `margin`, where none of the effect is left.

    Args:
        gap: mean loss by the retrained less that by the original, nats.
        spread: standard deviation between data subjects of retrained less unlearned, nats.
        noise: standard deviation between retrained models of their mean loss, nats.
        n: data subjects.
        retrained: how many retrained models.
        margin: fraction of the gap.
        alpha: of the one-sided test.
    """
    models, subjects = noise**2 * (1 + 1 / retrained), spread**2 / n
    if models + subjects == 0:
        return 1.0
    terms = models**2 / (retrained - 1) + (subjects**2 / (n - 1) if n > 1 else 0.0)
    freedom = (models + subjects) ** 2 / terms if terms > 0 else retrained - 1.0
    away = margin * gap / math.sqrt(models + subjects)
    return float(stats.nct.sf(stats.t.isf(alpha, freedom), freedom, away))


def residual_subjects_needed(
    gap: float, spread: float, noise: float, retrained: int, *, margin: float, alpha: float
) -> int | None:
    """How many data subjects give `residual_power` of 0.8; None where only models would help."""

    def enough(n: int) -> bool:
        power = residual_power(gap, spread, noise, n, retrained, margin=margin, alpha=alpha)
        return power >= 0.8

    return _smallest(enough, 2)


def _smallest(enough: Callable[[int], bool], first: int) -> int | None:
    """A number from `first` on that is enough; the smallest one, where more is never worse."""
    high = first
    while not enough(high):
        high *= 2
        if high > _LARGEST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
