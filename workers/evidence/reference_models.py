"""Scores that set a record against models that never saw it.

A record that is easy by nature is predicted well by every model; what betrays a member is being
predicted better than by models trained without it. Log-likelihoods in, one score per record out,
the higher the more like a record the target was trained on; no models here.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from workers.evidence.statistics import Sample, sample

Variance = Literal["record", "global"]

_ROUNDING = 1e-6
_NEAREST_TO_ONE = -(2.0**-24)
"""Log of the largest probability below 1 that single precision can tell from 1."""
_LEAST_VARIANCE = 1e-12


class Likelihoods(NamedTuple):
    """How likely records are under a target model and under reference models.

    Attributes:
        target: (records,) log-likelihoods in nats, such as the negative mean loss per prediction.
        references: (references, records) the same by each reference model.
        was_in: (references, records) whether the reference was trained on the record.
    """

    target: npt.ArrayLike
    references: npt.ArrayLike
    was_in: npt.ArrayLike


class _Read(NamedTuple):
    target: Sample
    references: Sample
    was_in: npt.NDArray[np.bool_]


def calibrated_scores(records: Likelihoods) -> Sample:
    """Mean loss by the references that never saw the record, less its loss by the target: (n,).

    Watson et al. 2022 (arXiv 2111.08440), section 3.

    Raises:
        ValueError: empty, not finite, lengths differ, or a record was in every reference.
    """
    read = _read(records, out_needed=1)
    scores: Sample = read.target - _mean(read.references, ~read.was_in)
    return scores


def rmia_scores(
    records: Likelihoods, population: Likelihoods, *, a: float = 0.3, gamma: float = 1.0
) -> Sample:
    """Share of the population that each record beats: (records,), in [0, 1].

    Zarifzadeh et al. 2024 (arXiv 2312.03262), equations 2, 4 and 11: record x beats z where
    (p_x / mean p_x) / (p_z / mean p_z) > gamma. The offline mean is ((1 + a) out + 1 - a) / 2,
    where out is the mean over references that never saw the record: no reference need have seen
    it. By sorting, in O((n + m) log m), without the matrix of all pairs.

    Args:
        records: the records to score.
        population: records that the target was not trained on, by the same models.
        a: how much less a model trained on a record would gain; 1 trusts the references alone.
        gamma: at least 1.

    Raises:
        ValueError: empty, not finite, above 0, lengths or numbers of references differ, a record
            was in every reference, or a or gamma is out of range.
    """
    if not 0 <= a <= 1 or not gamma >= 1:
        raise ValueError("a must be in [0, 1] and gamma at least 1")
    if (
        np.shape(np.asarray(records.references))[:1]
        != np.shape(np.asarray(population.references))[:1]
    ):
        raise ValueError("records and population need the same reference models")
    theirs, ours = np.sort(_log_ratio(population, a)), _log_ratio(records, a)
    # In order, so that neighbouring searches read the same memory.
    order = np.argsort(ours)
    scores = np.empty_like(ours)
    scores[order] = np.searchsorted(theirs, ours[order] - np.log(gamma), side="left")
    return scores / theirs.size


def lira_online(records: Likelihoods, *, variance: Variance = "record") -> Sample:
    """Log ratio of the target's confidence under models with and without the record: (records,).

    Carlini et al. 2022 (arXiv 2112.03570), algorithm 1. The confidence is log p/(1 - p); the two
    densities are normal, with each record's own means. Their variances are each record's own or,
    steadier with few references, the mean over all records.

    Raises:
        ValueError: empty, not finite, above 0, lengths differ, or a record has fewer than two
            references with or without it.
    """
    read = _read(records, out_needed=2, in_needed=2)
    observed, confidences = _confidence(read.target), _confidence(read.references)
    densities = []
    for mask in (read.was_in, ~read.was_in):
        mean, deviation = _normal(confidences, mask, variance)
        densities.append(-(((observed - mean) / deviation) ** 2) / 2 - np.log(deviation))
    scores: Sample = densities[0] - densities[1]
    return scores


def lira_offline(records: Likelihoods, *, variance: Variance = "record") -> Sample:
    """How far the target's confidence lies above models without the record: (records,).

    Carlini et al. 2022, section 6.3 (offline), as -log of the chance of so high a confidence: in
    the order of the paper's 1 - P[Z > confidence], but still telling apart where that is 1.

    Raises:
        ValueError: empty, not finite, above 0, lengths differ, or a record has fewer than two
            references without it.
    """
    read = _read(records, out_needed=2)
    mean, deviation = _normal(_confidence(read.references), ~read.was_in, variance)
    scores: Sample = -stats.norm.logsf((_confidence(read.target) - mean) / deviation)
    return scores


def _read(records: Likelihoods, *, out_needed: int, in_needed: int = 0) -> _Read:
    target = sample(records.target)
    references = np.asarray(records.references, dtype=np.float64)
    was_in = np.asarray(records.was_in)
    if references.ndim != 2 or references.shape[1] != target.size or not references.size:
        raise ValueError("references must be (references, records), of the records of the target")
    if was_in.shape != references.shape or was_in.dtype != np.bool_:
        raise ValueError("was_in must say of each reference and record whether it was in")
    if not np.isfinite(references).all():
        raise ValueError("a reference gives a value that is NaN or infinite; look at its loss")
    seen = was_in.sum(axis=0)
    if (len(was_in) - seen).min() < out_needed:
        raise ValueError(f"each record needs {out_needed} references that never saw it")
    if seen.min() < in_needed:
        raise ValueError(f"each record needs {in_needed} references that were trained on it")
    return _Read(target, references, was_in)


def _log_ratio(records: Likelihoods, a: float) -> Sample:
    """Log of p / mean p, the mean being the offline one: (records,)."""
    read = _read(records, out_needed=1)
    outside = np.where(read.was_in, -np.inf, _below_one(read.references))
    # From the highest on, so that records too unlikely for a float keep their order.
    highest = outside.max(axis=0)
    shares = np.exp(outside - highest).sum(axis=0) / (~read.was_in).sum(axis=0)
    mean = np.log((1 + a) / 2 * shares) + highest
    if a < 1:
        mean = np.logaddexp(mean, np.log((1 - a) / 2))
    ratio: Sample = _below_one(read.target) - mean
    return ratio


def _confidence(log_likelihoods: Sample) -> Sample:
    """Logit of a probability that is given by its log."""
    clipped = np.minimum(_below_one(log_likelihoods), _NEAREST_TO_ONE)
    confidence: Sample = clipped - np.log(-np.expm1(clipped))
    return confidence


def _below_one(log_likelihoods: Sample) -> Sample:
    if log_likelihoods.max() > _ROUNDING:
        raise ValueError("a log-likelihood is above 0, so it is not of a probability")
    clipped: Sample = np.minimum(log_likelihoods, 0.0)
    return clipped


def _mean(values: Sample, mask: npt.NDArray[np.bool_]) -> Sample:
    """Mean of the masked values of each record: (references, records) -> (records,)."""
    mean: Sample = np.einsum("ri,ri->i", values, mask.astype(np.float64)) / mask.sum(axis=0)
    return mean


def _normal(
    confidences: Sample, mask: npt.NDArray[np.bool_], variance: Variance
) -> tuple[Sample, Sample]:
    """Mean and standard deviation of each record's masked confidences: (records,) each."""
    mean = _mean(confidences, mask)
    away = (confidences - mean) * mask
    squares = np.einsum("ri,ri->i", away, away)
    freedom = mask.sum(axis=0) - 1
    own = squares / freedom
    if variance == "global":
        own = np.full_like(mean, squares.sum() / freedom.sum())
    return mean, np.sqrt(np.maximum(own, _LEAST_VARIANCE))
