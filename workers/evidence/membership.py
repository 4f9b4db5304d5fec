"""Can an attacker tell, from what a model gives away, who was to be forgotten?

The unit is the data subject, not the record: one person's records resemble each other, and taking
them as independent makes chance look like a leak. Both directions count, since a score that is too
low betrays the forgotten as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from workers.evidence.comparison import tail_holdout_needed
from workers.evidence.statistics import (
    Sample,
    auc,
    conformal_p,
    even,
    holm,
    mann_whitney_p,
    newcombe_interval,
    sample,
    subject_means,
    subjects_needed,
)
from workers.evidence.types import Evidence, ThreatModel

HOLDOUT = "holdout records of data subjects that were never trained on"
_BINS = 24
_ROC_POINTS = 64


class Scored(NamedTuple):
    """What an attack gives each record: the higher, the more like a record trained on.

    Attributes:
        scores: (n records,).
        subjects: (n records,) whose they are, as opaque numbers.
    """

    scores: npt.ArrayLike
    subjects: npt.ArrayLike


class Before(NamedTuple):
    """What the same attack gave the same records, in that order, before unlearning."""

    forget: npt.ArrayLike
    holdout: npt.ArrayLike


@dataclass(frozen=True)
class Attack:
    """What an attack is.

    Attributes:
        name: the check.
        family: what it is about.
        threat_model: what the attacker has.
        calibrated: each record's score is set against the mean and the spread of models that never
            saw it, so that neither a record that is easy by nature nor one on which any two models
            differ is taken for one that is remembered.
        reference: what the forgotten are compared with.
    """

    name: str
    family: Literal["membership", "extraction", "recovery"] = "membership"
    threat_model: ThreatModel = "T1"
    calibrated: bool = False
    reference: str = HOLDOUT


def attack_evidence(
    attack: Attack,
    forget: Scored,
    holdout: Scored,
    *,
    before: Before | None,
    level: float = 0.90,
    margin: float = 0.15,
) -> Evidence:
    """How far an attack tells the forgotten from people the model has never seen.

    The estimate is the AUC of the forgotten against the holdout, 0.5 where nothing is left to see,
    with Newcombe's interval and the two-sided Mann-Whitney p-value. Where both sides were never
    seen they are exchangeable, whatever the attack does, so that the p-value holds for every attack
    that treats them alike.

    Args:
        attack: what the scores are.
        forget: scores of the records to forget.
        holdout: scores of the records never seen; nobody is in both sets.
        before: the scores before unlearning, for the positive control.
        level: coverage of the interval.
        margin: distance from 0.5 for which the data subjects needed are counted.

    Raises:
        ValueError: a set is empty, lengths differ, a score is not finite, or a data subject is in
            both sets.
    """
    ours, others = by_subject(forget, holdout)
    estimate = auc(ours, others)
    low, high = newcombe_interval(estimate, ours.size, others.size, level)
    details = _details(forget, holdout, ours, others)
    details |= {"margin": margin, "calibrated": float(attack.calibrated)}
    curves = {**_roc("after", ours, others), **_densities(ours, others)}
    control = None
    if before is not None:
        then = before_by_subject(forget, holdout, before)
        control = mann_whitney_p(*then)
        details["auc_before"] = auc(*then)
        curves |= _roc("before", *then)
    return Evidence(
        name=attack.name,
        family=attack.family,
        threat_model=attack.threat_model,
        reference=attack.reference,
        unit="data_subject",
        n=ours.size,
        m=others.size,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        p_value=mann_whitney_p(ours, others),
        positive_control=control,
        details=details,
        would_settle=_would_settle(margin, level, others.size),
        curves=curves,
    )


def tail_test(
    forget: Scored, holdout: Scored, *, before: Before | None, alpha: float = 0.05
) -> Evidence:
    """Is any single data subject still remembered, however well the others are forgotten?

    Each of the forgotten gets a conformal p-value against the holdout, adjusted by Holm. The
    estimate is how many stay below `alpha`; the p-value is the smallest adjusted one. The test sees
    nothing unless the holdout has at least n/alpha - 1 data subjects, which details tell.

    Args and errors are those of `attack_evidence`.
    """
    ours, others = by_subject(forget, holdout)
    adjusted = holm(conformal_p(ours, others))
    control = None
    if before is not None:
        control = float(holm(conformal_p(*before_by_subject(forget, holdout, before))).min())
    needed = tail_holdout_needed(ours.size, alpha)
    return Evidence(
        name="tail_test",
        family="tail",
        threat_model="T1",
        reference=HOLDOUT,
        unit="data_subject",
        n=ours.size,
        m=others.size,
        estimate=float((adjusted < alpha).sum()),
        p_value=float(adjusted.min()),
        positive_control=control,
        details=_details(forget, holdout, ours, others)
        | {"alpha": alpha, "holdout_needed": needed},
        would_settle=f"at least {needed} data subjects in the holdout, for {ours.size} forgotten",
    )


def own_p_values(forget: Scored, holdout: Scored) -> dict[int, float]:
    """Conformal p-value of each of the forgotten data subjects, unadjusted, by their number.

    Args and errors are those of `attack_evidence`.
    """
    ours, others = by_subject(forget, holdout)
    numbers = np.unique(np.asarray(forget.subjects)).tolist()
    return dict(zip(numbers, conformal_p(ours, others).tolist(), strict=True))


def by_subject(forget: Scored, holdout: Scored) -> tuple[Sample, Sample]:
    """One score per data subject of each set, the mean of that subject's records.

    Of the records as many as `even` leaves: the mean of one record is further from its like than
    the mean of ten, so that sets with unequal numbers would be told apart though neither was seen.

    Raises:
        ValueError: a set is empty, lengths differ, a score is not finite, or a data subject is in
            both sets.
    """
    if np.intersect1d(np.asarray(forget.subjects), np.asarray(holdout.subjects)).size:
        raise ValueError("a data subject is in both sets; take the forgotten out of the holdout")
    return _means(forget, holdout, forget.scores, holdout.scores)


def before_by_subject(forget: Scored, holdout: Scored, before: Before) -> tuple[Sample, Sample]:
    """One score before unlearning per data subject of each set, as `by_subject`."""
    return _means(forget, holdout, before.forget, before.holdout)


def _means(
    forget: Scored, holdout: Scored, ours: npt.ArrayLike, others: npt.ArrayLike
) -> tuple[Sample, Sample]:
    sides = [(sample(ours), forget.subjects), (sample(others), holdout.subjects)]
    owners = [np.asarray(subjects) for _, subjects in sides]
    if any(own.shape != row.shape for own, (row, _) in zip(owners, sides, strict=True)):
        raise ValueError("each value needs the data subject that it belongs to")
    left, right = (
        subject_means(row[kept], own[kept])
        for (row, _), own, kept in zip(sides, owners, even(*owners), strict=True)
    )
    return left, right


def _details(forget: Scored, holdout: Scored, ours: Sample, others: Sample) -> dict[str, float]:
    left, right = even(np.asarray(forget.subjects), np.asarray(holdout.subjects))
    return {
        "forget_records": float(left.size),
        "holdout_records": float(right.size),
        "forget_mean": float(ours.mean()),
        "holdout_mean": float(others.mean()),
    }


def _roc(name: str, ours: Sample, others: Sample) -> dict[str, Sequence[float]]:
    """The share of the forgotten called members at rates of false alarms, closer towards 0."""
    rates = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, _ROC_POINTS)])
    # The lowest score that calls at most that share of the holdout members.
    ordered = np.append(np.sort(others)[::-1], -np.inf)
    cuts = ordered[np.floor(rates * others.size + 1e-9).astype(int)]
    hits = (ours[None, :] > cuts[:, None]).mean(axis=1)
    return {"false_alarms": _short(rates), f"hits_{name}": _short(hits)}


def _densities(ours: Sample, others: Sample) -> dict[str, Sequence[float]]:
    """Shares of both sets in bins of the score that hold all but the furthest."""
    both = np.concatenate([ours, others])
    low, high = np.quantile(both, [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    shares = [np.histogram(np.clip(row, low, high), edges)[0] / row.size for row in (ours, others)]
    return {
        "edges": _short(edges),
        "forget_shares": _short(shares[0]),
        "holdout_shares": _short(shares[1]),
    }


def _short(row: npt.NDArray[np.float64]) -> list[float]:
    return [float(f"{number:.4g}") for number in row]


def _would_settle(margin: float, level: float, m: int) -> str:
    needed = subjects_needed(margin, level, m)
    if needed is None:
        # With n = m the variance is twice that against a holdout without end.
        both = subjects_needed(margin / math.sqrt(2), level, 10**9)
        return (
            f"{both} data subjects to forget and as many in the holdout, for a margin of {margin}"
        )
    return f"{needed} data subjects to forget against {m} in the holdout, for a margin of {margin}"
