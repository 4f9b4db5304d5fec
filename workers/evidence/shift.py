"""Do the forgotten differ from the people never seen by their records alone, without any model?

Where they do, a model that never saw either tells them apart as well, and an attack on it proves
nothing (Das et al. 2024, "Blind Baselines Beat Membership Inference Attacks for Foundation Models",
arXiv 2406.16201; Duan et al. 2024, "Do Membership Inference Attacks Work on Large Language
Models?").
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from workers.evidence.membership import Scored, by_subject
from workers.evidence.statistics import (
    Sample,
    auc,
    newcombe_interval,
    subjects_needed,
)
from workers.evidence.types import Evidence


class NotApplicable(Exception):
    """This check has nothing to say about these records or this model; the message says why."""


class Block(NamedTuple):
    """Data subjects scored by a classifier that learned from earlier blocks alone."""

    forget: Scored
    holdout: Scored


def shift_evidence(
    blocks: Sequence[Block], *, level: float = 0.90, margin: float = 0.15
) -> Evidence:
    """How well the forgotten are told from the holdout by their records alone.

    Where both sides are exchangeable, each block's ranks are a random order whatever was learned
    from the blocks before it, so that the sum of their Mann-Whitney statistics has the variance of
    independent ones (van Elteren 1960). Scores out of ordinary cross-validation do not: every
    record is learned from as well, and at a nominal 1 % such a test errs three times as often.
    The p-value is one-sided, since what was learned can only be of use, and normal with tie and
    continuity correction; the tail of a sum of few ranks is lighter.

    The estimate is the AUC over blocks, each weighing n m / (n + m + 1) by its data subjects, with
    Newcombe's interval for as many as were scored.

    Args:
        blocks: in the order in which they were learned from; no data subject is in two sets.
        level: coverage of the interval.
        margin: distance from 0.5 for which the data subjects needed are counted.

    Raises:
        ValueError: there is no block, a set is empty, lengths differ, a score is not finite, or a
            data subject comes twice.
    """
    if not blocks:
        raise ValueError("without a block of scores there is nothing to compare")
    _refuse_twice(blocks)
    sides = [by_subject(block.forget, block.holdout) for block in blocks]
    sizes = np.array([[ours.size, others.size] for ours, others in sides])
    areas = np.array([auc(ours, others) for ours, others in sides])
    variances = np.array([_variance(ours, others) for ours, others in sides])
    weights = sizes.prod(axis=1) / (sizes.sum(axis=1) + 1)
    spread = math.sqrt(float((weights**2 * variances).sum()))
    # Half the smallest step of a statistic that comes in steps.
    step = float((weights / sizes.prod(axis=1)).min())
    above = float((weights * (areas - 0.5)).sum()) - step / 2
    estimate = float((weights * areas).sum() / weights.sum())
    n, m = (int(size) for size in sizes.sum(axis=0))
    low, high = newcombe_interval(estimate, n, m, level)
    needed = subjects_needed(margin, level, m)
    return Evidence(
        name="blind_baseline",
        family="shift",
        threat_model="T0",
        reference="holdout records, told apart by a classifier that sees no model",
        unit="data_subject",
        n=n,
        m=m,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        p_value=float(stats.norm.sf(above / spread)) if spread else 1.0,
        details={"blocks": len(sides), "margin": margin},
        would_settle=f"{'more' if needed is None else 2 * needed} data subjects to forget and a "
        "holdout drawn from the same people",
    )


def _refuse_twice(blocks: Sequence[Block]) -> None:
    sets = [np.unique(np.asarray(side.subjects)) for block in blocks for side in block]
    if np.unique(np.concatenate(sets)).size != sum(one.size for one in sets):
        raise ValueError("a data subject is in two sets; put all their records into one")


def _variance(ours: Sample, others: Sample) -> float:
    """Variance of the AUC under a random order of these values, ties and all."""
    n, m = ours.size, others.size
    _, tied = np.unique(np.concatenate([ours, others]), return_counts=True)
    ties: npt.NDArray[np.int64] = tied.astype(np.int64)
    return float((n + m + 1 - (ties**3 - ties).sum() / ((n + m) * (n + m - 1))) / (12 * n * m))
