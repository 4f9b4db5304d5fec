"""How much of a model's knowledge of the forgotten is left, set against models that never had it.

A single retrained model will not do: two trainings differ by chance, and with many data subjects
that chance looks like a leak. So the spread between retrained models is part of every error here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from workers.evidence.comparison import residual_subjects_needed
from workers.evidence.statistics import Interval, Sample, sample
from workers.evidence.types import Evidence

DELTA = 1e-5
EPSILON_CAP = 50.0
_BIN = 0.5
_ROOM = 2.0
"""How far an interval of the challenge's attack may leave the narrower side's range, in logits."""


@dataclass(frozen=True)
class Residual:
    """What is left of the effect of training on the forgotten.

    Attributes:
        fraction: 0 as if retrained, 1 as if never unlearned; None where the original model did
            not know the forgotten better than the retrained ones.
        interval: of the fraction; None where the effect is too small to bound it.
        p_left: two-sided, of a fraction of 0.
        p_margin: one-sided, of a fraction of at least the margin; small where less is shown.
        p_control: two-sided, of no effect of training at all.
        gap: mean loss by the retrained less that by the original, nats.
        spread: standard deviation between data subjects of retrained less unlearned, nats; 0 for
            one data subject.
        noise: standard deviation of the mean loss between retrained models, nats.
    """

    fraction: float | None
    interval: Interval | None
    p_left: float
    p_margin: float
    p_control: float
    gap: float
    spread: float
    noise: float


class _Error(NamedTuple):
    """Squared standard error of (left - r * gap), in its parts, as functions of r."""

    subjects: Callable[[float], float]
    models: Callable[[float], float]
    n: int
    retrained: int

    def squared(self, r: float) -> float:
        return self.subjects(r) + self.models(r)

    def freedom(self, r: float) -> float:
        """Welch and Satterthwaite's degrees of freedom."""
        subjects, models = self.subjects(r), self.models(r)
        terms = models**2 / (self.retrained - 1)
        terms += subjects**2 / (self.n - 1) if self.n > 1 else 0.0
        return (subjects + models) ** 2 / terms if terms > 0 else self.retrained - 1.0


def residual(
    original: npt.ArrayLike,
    unlearned: npt.ArrayLike,
    retrained: npt.ArrayLike,
    *,
    margin: float = 0.1,
    level: float = 0.90,
) -> Residual:
    """The sum of (retrained - unlearned) over that of (retrained - original), over data subjects.

    The unlearned and the original model count as one draw each from the spread between retrained
    models, to which the spread between data subjects is added; the interval is Fieller's (1954),
    so that a small effect gives a wide one, or none.

    Args:
        original: (subjects,) mean loss of each of the forgotten before unlearning, nats.
        unlearned: (subjects,) after it.
        retrained: (K, subjects) by K >= 2 models retrained without them, from different seeds.
        margin: the fraction that may be left.
        level: coverage of the interval.

    Raises:
        ValueError: empty, not finite, lengths differ, fewer than two retrained models, or all of
            them the same.
    """
    before, after = sample(original), sample(unlearned)
    others = _models(retrained, before.size)
    if after.size != before.size:
        raise ValueError("all models must have scored the same data subjects")
    if len(others) < 2 or (others == others[0]).all():
        raise ValueError("the spread between retrained models needs two, from different seeds")
    left, effect = others.mean(axis=0) - after, others.mean(axis=0) - before
    gap, noise = float(effect.mean()), float(others.mean(axis=1).std(ddof=1))
    error = _error(left, effect, noise, len(others))
    is_known, mean_left = gap > 0, float(left.mean())
    fraction = mean_left / gap if is_known else None
    return Residual(
        fraction=fraction,
        interval=None if fraction is None else _fieller(mean_left, gap, error, level),
        p_left=_p_value(mean_left, error, 0.0),
        p_margin=float(_t_cdf(mean_left - margin * gap, error, margin)) if is_known else 1.0,
        # The original in the place of the unlearned model.
        p_control=_p_value(gap, _error(effect, effect, noise, len(others)), 0.0),
        gap=gap,
        spread=float(left.std(ddof=1)) if left.size > 1 else 0.0,
        noise=noise,
    )


def residual_evidence(
    original: npt.ArrayLike,
    unlearned: npt.ArrayLike,
    retrained: npt.ArrayLike,
    *,
    margin: float = 0.1,
    level: float = 0.90,
) -> Evidence:
    """The fraction of the effect that is left, as evidence; arguments are those of `residual`.

    `details["p_margin"]` is the p-value of the fraction being `margin` or more.

    Raises:
        ValueError: as `residual` does.
    """
    found = residual(original, unlearned, retrained, margin=margin, level=level)
    count, n = np.shape(np.asarray(retrained))
    return Evidence(
        name="residual_fraction",
        family="comparison",
        threat_model="T1",
        reference=f"{count} models retrained without the forgotten",
        unit="data_subject",
        n=n,
        m=count,
        estimate=found.fraction,
        low=found.interval.low if found.interval else None,
        high=found.interval.high if found.interval else None,
        level=level if found.interval else None,
        p_value=found.p_left,
        positive_control=found.p_control,
        details={
            "margin": margin,
            "p_margin": found.p_margin,
            "gap": found.gap,
            "spread": found.spread,
            "noise": found.noise,
        },
        would_settle=_would_settle(found, count, margin, (1 - level) / 2),
    )


def _models(losses: npt.ArrayLike, records: int) -> Sample:
    rows = np.asarray(losses, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != records or not rows.size:
        raise ValueError("models must be in rows, each with the same data subjects or records")
    if not np.isfinite(rows).all():
        raise ValueError("a model gives a value that is NaN or infinite; look at its loss")
    return rows


def _error(left: Sample, effect: Sample, noise: float, retrained: int) -> _Error:
    n = left.size
    spread = np.cov(left, effect) / n if n > 1 else np.zeros((2, 2))

    def subjects(r: float) -> float:
        weights = np.array([1.0, -r])
        return float(weights @ spread @ weights)

    def models(r: float) -> float:
        return noise**2 * (1 + r**2 + (1 - r) ** 2 / retrained)

    return _Error(subjects, models, n, retrained)


def _t_cdf(value: float, error: _Error, r: float) -> float:
    squared = error.squared(r)
    if squared == 0:
        return float(np.heaviside(value, 0.5))
    return float(stats.t.cdf(value / math.sqrt(squared), error.freedom(r)))


def _p_value(value: float, error: _Error, r: float) -> float:
    return 2 * _t_cdf(-abs(value), error, r)


def _fieller(left: float, gap: float, error: _Error, level: float) -> Interval | None:
    """All r for which left - r * gap lies within t standard errors of 0."""
    t = float(stats.t.ppf((1 + level) / 2, error.freedom(left / gap)))
    # The squared error is a parabola in r, known from three of its points.
    zero, plus, minus = (error.squared(r) for r in (0.0, 1.0, -1.0))
    square = gap**2 - t**2 * ((plus + minus) / 2 - zero)
    if square <= 0:
        return None
    half_slope = -left * gap - t**2 * (plus - minus) / 4
    constant = left**2 - t**2 * zero
    root = math.sqrt(max(half_slope**2 - square * constant, 0.0))
    return Interval((-half_slope - root) / square, (-half_slope + root) / square)


def _would_settle(found: Residual, count: int, margin: float, alpha: float) -> str:
    if found.gap <= 0:
        return "forgotten records that the original model knows better than the retrained ones do"
    needed = residual_subjects_needed(
        found.gap, found.spread, found.noise, count, margin=margin, alpha=alpha
    )
    if needed is None:
        return f"more than {count} retrained models, since they differ more than the margin allows"
    return f"{needed} data subjects against {count} retrained models, for a margin of {margin:g}"


@dataclass(frozen=True)
class ChallengeScore:
    """The NeurIPS 2023 challenge's score, with what perfect unlearning would get.

    Attributes:
        score: forgetting times both accuracy ratios; higher is better.
        forgetting: mean over records of 2^-floor(epsilon / 0.5).
        floor: the forgetting of retrained models against other retrained ones: not 1, since
            epsilon is estimated from few models.
        epsilon, floor_epsilon: their means over records.
    """

    score: float
    forgetting: float
    floor: float
    epsilon: float
    floor_epsilon: float


def challenge_score(
    unlearned: npt.ArrayLike,
    retrained: npt.ArrayLike,
    other_retrained: npt.ArrayLike,
    *,
    retain_ratio: float,
    test_ratio: float,
) -> ChallengeScore:
    """Score unlearning by how well N unlearned models are told from N retrained ones.

    Triantafillou et al. 2024 (arXiv 2406.09073), section 4 and appendix; delta is 1e-5.

    Args:
        unlearned: (N, records) confidence log p/(1 - p) in each forgotten record.
        retrained: (N, records) by models retrained without them.
        other_retrained: (N, records) by N further ones, for the floor.
        retain_ratio: retain accuracy of the unlearned over that of the retrained.
        test_ratio: the same of test accuracy.

    Raises:
        ValueError: shapes differ, fewer than three models each, or a value is not finite.
    """
    first = np.asarray(unlearned)
    if first.ndim != 2 or len(first) < 3:
        raise ValueError("the challenge's score needs at least three models of each kind")
    rows = [_models(one, first.shape[1]) for one in (unlearned, retrained, other_retrained)]
    if len({row.shape for row in rows}) != 1:
        raise ValueError("the challenge's score needs as many models of each kind")
    found, floor = challenge_epsilons(rows[0], rows[1]), challenge_epsilons(rows[2], rows[1])
    forgetting = _forgetting(found, len(first))
    return ChallengeScore(
        score=forgetting * retain_ratio * test_ratio,
        forgetting=forgetting,
        floor=_forgetting(floor, len(first)),
        epsilon=float(found.mean()),
        floor_epsilon=float(floor.mean()),
    )


def challenge_epsilons(unlearned: Sample, retrained: Sample) -> Sample:
    """Epsilon of each record, (records,), from (N, records) confidences of either kind.

    The largest over two families of attacks: one threshold, above which lies the side with the
    higher median; and an interval about as wide as the narrower side, which lies inside it. All
    cuts between confidences are tried, where the challenge's program tries a grid. Attacks that
    err on one side only count for nothing, unless they never err at all.
    """
    epsilons = [_epsilon(unlearned[:, i], retrained[:, i]) for i in range(unlearned.shape[1])]
    return np.array(epsilons)


def _epsilon(first: Sample, second: Sample) -> float:
    ranges = (float(np.ptp(first)), float(np.ptp(second)))
    if max(ranges) > 0 and min(ranges) / max(ranges) < 0.01:
        return EPSILON_CAP
    if float(np.median(second)) > float(np.median(first)):
        first, second = second, first
    found = [_rates_epsilon(*_above(first, second))]
    if np.ptp(first) >= np.ptp(second):
        first, second = second, first
    found.append(_rates_epsilon(*_between(first, second)))
    return float(np.clip(max(found), 0.0, EPSILON_CAP))


def _above(positives: Sample, negatives: Sample) -> tuple[Sample, Sample]:
    """False negative and false positive rates of "at least t", for each t that differs."""
    cuts = np.unique(np.concatenate([positives, negatives]))
    misses, passes = (
        np.searchsorted(np.sort(row), cuts, side="left") / row.size
        for row in (positives, negatives)
    )
    return misses, 1 - passes


def _between(positives: Sample, negatives: Sample) -> tuple[Sample, Sample]:
    """The same of "in [l, t]", for all that differ with t and t - l as the challenge has them."""
    values = np.unique(np.concatenate([positives, negatives]))
    edges = np.concatenate([[-np.inf], values, [np.inf]])
    width, top = float(np.ptp(positives)), float(positives.max())
    # What holds the i-th to the j-th value has its t in [values[j], edges[j + 2]) and its l in
    # (edges[i], values[i]].
    ends_from = np.maximum(values, top - _ROOM)
    ends_to = np.minimum(edges[2:], top + _ROOM)
    i, j = np.triu_indices(values.size)
    fits = (
        (ends_from[j] <= ends_to[j])
        & (ends_from[j] - values[i] <= width + _ROOM)
        & (ends_to[j] - edges[i] >= width - _ROOM)
    )
    i, j = i[fits], j[fits]
    shares = []
    for row in (positives, negatives):
        ordered = np.sort(row)
        up_to = np.searchsorted(ordered, values, side="right")
        below = np.searchsorted(ordered, values, side="left")
        shares.append((up_to[j] - below[i]) / row.size)
    return 1 - shares[0], shares[1]


def _rates_epsilon(misses: Sample, alarms: Sample) -> float:
    """The largest epsilon that error rates show; 0 where none counts."""
    if ((misses == 0) & (alarms == 0)).any():
        return EPSILON_CAP
    counts = (misses > 0) & (alarms > 0)
    a, b = misses[counts], alarms[counts]
    shown = np.maximum(1 - DELTA - np.concatenate([a, b]), 1e-300) / np.concatenate([b, a])
    return float(np.log(shown).max(initial=0.0))


def _forgetting(epsilons: Sample, models: int) -> float:
    """Mean of 2^-bin; nothing beyond the largest epsilon that so many models can show."""
    bins = np.floor(epsilons / _BIN)
    ends = math.ceil(math.log(models - 1))
    return float(np.where((bins + 1) * _BIN <= ends, 2.0**-bins, 0.0).mean())
