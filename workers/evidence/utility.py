"""What unlearning cost: the model's accuracy on records that it was not to forget."""

import math

import numpy as np
import numpy.typing as npt

from workers.evidence.statistics import mean_interval, sample
from workers.evidence.types import Evidence

LEVEL = 0.95
_HALF_WIDTH = 0.01


def utility(
    before_losses: npt.ArrayLike,
    after_losses: npt.ArrayLike,
    before_accuracies: npt.ArrayLike,
    after_accuracies: npt.ArrayLike,
    set_name: str,
) -> Evidence:
    """Mean change of accuracy from before to after, paired by record, with Student's interval.

    Args:
        before_losses: (n,) nats.
        after_losses: (n,) nats, of the same records in the same order.
        before_accuracies: (n,) in [0, 1], likewise.
        after_accuracies: (n,) in [0, 1], likewise.
        set_name: which records they are, such as retain or holdout.

    Raises:
        ValueError: no record, lengths differ, or a value is not finite.
    """
    rows = [sample(v) for v in (before_losses, after_losses, before_accuracies, after_accuracies)]
    if len({row.size for row in rows}) != 1:
        raise ValueError("losses and accuracies before and after must be of the same records")
    change = rows[3] - rows[2]
    n, mean = change.size, float(change.mean())
    # One record has no spread, so no interval.
    spread = float(change.std(ddof=1)) if n > 1 else math.nan
    low, high = mean_interval(mean, spread / math.sqrt(n), n - 1, LEVEL) if n > 1 else (None, None)
    names = ("loss_before", "loss_after", "accuracy_before", "accuracy_after")
    needed = math.ceil((1.96 * spread / _HALF_WIDTH) ** 2) if n > 1 else None
    return Evidence(
        name=f"utility_{set_name}",
        family="utility",
        threat_model="T1",
        reference="the same records, scored by the model before unlearning",
        unit="record",
        n=n,
        m=n,
        estimate=mean,
        low=low,
        high=high,
        level=LEVEL if n > 1 else None,
        p_value=None,
        positive_control=None,
        details={name: float(np.mean(row)) for name, row in zip(names, rows, strict=True)},
        would_settle=f"{max(needed or 0, 2)} records, for an interval of {_HALF_WIDTH} either side",
    )
