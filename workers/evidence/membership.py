"""Can an attacker tell, from a model's losses, who was to be forgotten?

The unit is the data subject, not the record: one person's records resemble each other, and taking
them as independent makes chance look like a leak. Both directions count, since a loss that is too
high betrays the forgotten as well.
"""

import math

import numpy as np
import numpy.typing as npt

from workers.evidence.statistics import (
    Sample,
    auc,
    conformal_p,
    holm,
    mann_whitney_p,
    newcombe_interval,
    subject_means,
    subjects_needed,
)
from workers.evidence.types import Evidence

Before = tuple[npt.ArrayLike, npt.ArrayLike]
"""Forget and holdout losses of the model before unlearning, of the same records in that order."""

_REFERENCE = "holdout records of data subjects that were never trained on"


def loss_membership(
    forget_losses: npt.ArrayLike,
    forget_subjects: npt.ArrayLike,
    holdout_losses: npt.ArrayLike,
    holdout_subjects: npt.ArrayLike,
    *,
    before: Before | None,
    level: float = 0.90,
    margin: float = 0.15,
) -> Evidence:
    """The loss attack (Yeom et al. 2018): who has a low mean loss is called a member.

    The estimate is the AUC of the forgotten against the holdout, 0.5 where nothing is left to see,
    with Newcombe's interval and the Mann-Whitney p-value.

    Args:
        forget_losses: (n records,) nats.
        forget_subjects: (n records,) whose they are, as opaque numbers.
        holdout_losses: (m records,) nats.
        holdout_subjects: (m records,) whose they are; nobody is in both sets.
        before: the losses before unlearning, for the positive control.
        level: coverage of the interval.
        margin: distance from 0.5 for which the data subjects needed are counted.

    Raises:
        ValueError: a set is empty, lengths differ, a loss is not finite, or a data subject is in
            both sets.
    """
    forget, holdout = _scores(forget_losses, forget_subjects, holdout_losses, holdout_subjects)
    estimate = auc(forget, holdout)
    low, high = newcombe_interval(estimate, forget.size, holdout.size, level)
    control = None
    if before is not None:
        control = mann_whitney_p(*_scores(before[0], forget_subjects, before[1], holdout_subjects))
    return Evidence(
        name="loss_membership",
        family="membership",
        threat_model="T1",
        reference=_REFERENCE,
        unit="data_subject",
        n=forget.size,
        m=holdout.size,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        p_value=mann_whitney_p(forget, holdout),
        positive_control=control,
        details=_details(forget, holdout, forget_losses, holdout_losses) | {"margin": margin},
        would_settle=_would_settle(margin, level, holdout.size),
    )


def tail_test(
    forget_losses: npt.ArrayLike,
    forget_subjects: npt.ArrayLike,
    holdout_losses: npt.ArrayLike,
    holdout_subjects: npt.ArrayLike,
    *,
    before: Before | None,
    alpha: float = 0.05,
) -> Evidence:
    """Is any single data subject still remembered, however well the others are forgotten?

    Each of the forgotten gets a conformal p-value against the holdout, adjusted by Holm. The
    estimate is how many stay below `alpha`; the p-value is the smallest adjusted one. The test sees
    nothing unless the holdout has at least n/alpha - 1 data subjects, which details tell.

    Args and errors are those of `loss_membership`.
    """
    forget, holdout = _scores(forget_losses, forget_subjects, holdout_losses, holdout_subjects)
    adjusted = holm(conformal_p(forget, holdout))
    control = None
    if before is not None:
        scores = _scores(before[0], forget_subjects, before[1], holdout_subjects)
        control = float(holm(conformal_p(*scores)).min())
    needed = math.ceil(forget.size / alpha - 1e-9) - 1
    return Evidence(
        name="tail_test",
        family="tail",
        threat_model="T1",
        reference=_REFERENCE,
        unit="data_subject",
        n=forget.size,
        m=holdout.size,
        estimate=float((adjusted < alpha).sum()),
        low=None,
        high=None,
        level=None,
        p_value=float(adjusted.min()),
        positive_control=control,
        details=_details(forget, holdout, forget_losses, holdout_losses)
        | {"alpha": alpha, "holdout_needed": needed},
        would_settle=f"at least {needed} data subjects in the holdout, for {forget.size} forgotten",
    )


def _scores(
    forget_losses: npt.ArrayLike,
    forget_subjects: npt.ArrayLike,
    holdout_losses: npt.ArrayLike,
    holdout_subjects: npt.ArrayLike,
) -> tuple[Sample, Sample]:
    """One score per data subject, the higher the more like a member."""
    if np.intersect1d(np.asarray(forget_subjects), np.asarray(holdout_subjects)).size:
        raise ValueError("a data subject is in both sets; take the forgotten out of the holdout")
    return (
        -subject_means(forget_losses, forget_subjects),
        -subject_means(holdout_losses, holdout_subjects),
    )


def _details(
    forget: Sample, holdout: Sample, forget_losses: npt.ArrayLike, holdout_losses: npt.ArrayLike
) -> dict[str, float]:
    return {
        "forget_records": float(np.size(np.asarray(forget_losses))),
        "holdout_records": float(np.size(np.asarray(holdout_losses))),
        "forget_mean_loss": float(-forget.mean()),
        "holdout_mean_loss": float(-holdout.mean()),
    }


def _would_settle(margin: float, level: float, m: int) -> str:
    needed = subjects_needed(margin, level, m)
    if needed is None:
        # With n = m the variance is twice that against a holdout without end.
        both = subjects_needed(margin / math.sqrt(2), level, 10**9)
        return (
            f"{both} data subjects to forget and as many in the holdout, for a margin of {margin}"
        )
    return f"{needed} data subjects to forget against {m} in the holdout, for a margin of {margin}"
