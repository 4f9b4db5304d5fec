"""What unlearning cost: the model's accuracy on records that it was not to forget."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from workers.evidence.statistics import mean_interval, sample
from workers.evidence.types import Evidence

LEVEL = 0.95
_HALF_WIDTH = 0.01
_BINS = 15
_LEAST_OF_CLASS, _LEAST_CLASSES = 10, 2


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
    details = {name: float(np.mean(row)) for name, row in zip(names, rows, strict=True)}
    settle = f"{max(needed or 0, 2)} records, for an interval of {_HALF_WIDTH} either side"
    return _change(set_name, n, mean, (low, high), details, settle)


def balanced_utility(
    before_accuracies: npt.ArrayLike,
    after_accuracies: npt.ArrayLike,
    labels: npt.ArrayLike,
    set_name: str,
) -> Evidence | None:
    """Mean over classes of the change of accuracy in each, with Welch's interval.

    A model that has come to call everything by the most common class keeps its accuracy where that
    class is common, and loses this one (Brodersen et al. 2010, "The balanced accuracy and its
    posterior distribution").

    Args:
        before_accuracies: (n,) 0 or 1.
        after_accuracies: (n,) of the same records in the same order.
        labels: (n,) the class of each.
        set_name: which records they are.

    Returns:
        None where fewer than two classes have ten records, of which little could be said.

    Raises:
        ValueError: no record, lengths differ, or a value is not finite.
    """
    then, now, classes = sample(before_accuracies), sample(after_accuracies), np.asarray(labels)
    if not then.shape == now.shape == classes.shape:
        raise ValueError("accuracies before and after and classes must be of the same records")
    change = now - then
    groups = [change[classes == one] for one in np.unique(classes)]
    groups = [one for one in groups if one.size >= _LEAST_OF_CLASS]
    if len(groups) < _LEAST_CLASSES:
        return None
    mean = float(np.mean([one.mean() for one in groups]))
    squares = np.array([one.var(ddof=1) / one.size for one in groups])
    weights = np.array([one.size - 1 for one in groups])
    error = math.sqrt(float(squares.sum())) / len(groups)
    # Welch and Satterthwaite; where nothing varies there is nothing to widen.
    freedom = float(squares.sum() ** 2 / (squares**2 / weights).sum()) if error else 1.0
    low, high = mean_interval(mean, error, freedom, LEVEL)
    n = sum(one.size for one in groups)
    details = {"balanced": 1.0, "classes": float(len(groups))}
    settle = "more records of the rare classes"
    return _change(f"{set_name}_balanced", n, mean, (low, high), details, settle)


def _change(
    what: str,
    n: int,
    mean: float,
    interval: tuple[float | None, float | None],
    details: Mapping[str, float],
    would_settle: str,
) -> Evidence:
    low, high = interval
    return Evidence(
        name=f"utility_{what}",
        family="utility",
        threat_model="T1",
        reference="the same records, scored by the model before unlearning",
        unit="record",
        n=n,
        m=n,
        estimate=mean,
        low=low,
        high=high,
        level=None if low is None else LEVEL,
        details=details,
        would_settle=would_settle,
    )


def calibration(
    after_confidences: npt.ArrayLike,
    after_accuracies: npt.ArrayLike,
    before_confidences: npt.ArrayLike,
    before_accuracies: npt.ArrayLike,
) -> Evidence:
    """How far confidence is from accuracy on people never seen, after unlearning and before.

    The expected calibration error of Guo et al. 2017 (arXiv 1706.04599), equation 3.

    Args:
        after_confidences: (n,) probability of the most probable class, averaged over a record.
        after_accuracies: (n,) share of a record's predictions that were right.
        before_confidences: (n,) likewise.
        before_accuracies: (n,) likewise.

    Raises:
        ValueError: no record, lengths differ, or a value is not finite.
    """
    after = calibration_error(after_confidences, after_accuracies)
    before = calibration_error(before_confidences, before_accuracies)
    n = int(np.size(np.asarray(after_confidences)))
    if n != np.size(np.asarray(before_confidences)):
        raise ValueError("confidences before and after must be of the same records")
    return Evidence(
        name="calibration",
        family="comparison",
        threat_model="T1",
        reference="the same records, scored by the model before unlearning",
        unit="record",
        n=n,
        m=n,
        estimate=after,
        details={"before": before},
        would_settle="nothing; it is shown",
    )


def calibration_error(confidences: npt.ArrayLike, accuracies: npt.ArrayLike) -> float:
    """Mean distance of confidence from accuracy in 15 bins of equal width, by their records.

    Raises:
        ValueError: no record, lengths differ, a value is not finite or a confidence is not in
            [0, 1].
    """
    sure, right = sample(confidences), sample(accuracies)
    if sure.size != right.size:
        raise ValueError("confidences and accuracies must be of the same records")
    if sure.min() < 0 or sure.max() > 1 + 1e-6:
        raise ValueError("a confidence is a probability, from 0 to 1")
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=sure - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / sure.size)
