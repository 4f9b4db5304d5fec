"""How far the loss on the forgotten is from that on people the model has never seen."""

import math

import numpy.typing as npt

from workers.evidence.statistics import Sample, mean_interval, subject_means
from workers.evidence.types import Evidence

LEVEL = 0.95


def forget_loss(
    forget_losses: npt.ArrayLike,
    forget_subjects: npt.ArrayLike,
    holdout_losses: npt.ArrayLike,
    holdout_subjects: npt.ArrayLike,
) -> Evidence:
    """Mean loss of the forgotten less that of the holdout, per data subject, in nats.

    With Welch's interval. Below zero the model still knows the forgotten better than strangers;
    above zero it knows them worse, which also sets them apart.

    Args:
        forget_losses: (n records,) nats.
        forget_subjects: (n records,) whose they are, as opaque numbers.
        holdout_losses: (m records,) nats.
        holdout_subjects: (m records,) whose they are.

    Raises:
        ValueError: a set is empty, lengths differ, or a loss is not finite.
    """
    forget = subject_means(forget_losses, forget_subjects)
    holdout = subject_means(holdout_losses, holdout_subjects)
    estimate = float(forget.mean() - holdout.mean())
    bounds = _welch(forget, holdout, estimate) if min(forget.size, holdout.size) > 1 else None
    return Evidence(
        name="forget_loss",
        family="loss",
        threat_model="T1",
        reference="holdout records of data subjects that were never trained on",
        unit="data_subject",
        n=forget.size,
        m=holdout.size,
        estimate=estimate,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        level=LEVEL if bounds else None,
        details={"forget": float(forget.mean()), "holdout": float(holdout.mean())},
        would_settle="more data subjects; at least two in each set, for an interval",
    )


def _welch(forget: Sample, holdout: Sample, estimate: float) -> tuple[float, float]:
    a, b = forget.var(ddof=1) / forget.size, holdout.var(ddof=1) / holdout.size
    if a + b == 0:
        return estimate, estimate
    freedom = (a + b) ** 2 / (a**2 / (forget.size - 1) + b**2 / (holdout.size - 1))
    return mean_interval(estimate, math.sqrt(a + b), float(freedom), LEVEL)
