"""What the predictions of a model say about each record, and how alike two texts are.

All scores of a record come from the same few numbers per prediction, so that one forward pass is
enough for all of them. No model is known here, and no score is judged.
"""

import math
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq
from scipy import special, stats

from workers.evidence.statistics import Sample, sample

_LEAST_STD = 1e-6
"""A spread below this is rounding: the model puts all on one class, or the same on each."""

_SMALL = 1e-6
"""Below this the distribution function of a skew-normal is integrated by its logarithm."""

_NODES, _WEIGHTS = np.polynomial.laguerre.laggauss(32)


class Predictions(NamedTuple):
    """What a model says of the T predictions of each of n records, padded.

    Attributes:
        log_p: (n, T) log probability of the right class, in nats.
        mean: (n, T) mean of log p under the model's own distribution p.
        std: (n, T) its standard deviation.
        rank: (n, T) number of classes strictly more probable than the right one; 0 where the
            right one is the most probable.
        counted: (n, T) whether there is a prediction; elsewhere the numbers mean nothing.
    """

    log_p: npt.NDArray[np.floating]
    mean: npt.NDArray[np.floating]
    std: npt.NDArray[np.floating]
    rank: npt.NDArray[np.integer]
    counted: npt.NDArray[np.bool_]


class Rouge(NamedTuple):
    """ROUGE-L of one text: how much of the reference was found, and its balance with precision."""

    recall: float
    f1: float


class Exposure(NamedTuple):
    """How far canaries stand out, in bits: by their rank (n,), and by a fitted tail (n,)."""

    ranked: Sample
    extrapolated: Sample


def loss(predictions: Predictions) -> Sample:
    """Mean negative log likelihood of each record's predictions, in nats: (n,).

    The lower, the more like a record trained on (Yeom et al. 2018, arXiv 1709.01604).

    Raises:
        ValueError: there is no record, one has no prediction, shapes differ, or a counted number
            is not finite. So do all functions that take predictions.
    """
    log_p, counted = _checked(predictions.log_p, predictions)
    nats: Sample = -_mean(log_p, counted)
    return nats


def zlib_score(predictions: Predictions, texts: Sequence[str]) -> Sample:
    """Minus the loss over the bytes that zlib needs for the text: (n,).

    Carlini et al. 2021 (arXiv 2012.07805), section 5.2: a loss that is low for a text which is
    simple anyway says little. The higher, the more like a record trained on.

    Args:
        predictions: of each record.
        texts: (n,) the records' texts, as far as they were predicted.

    Raises:
        ValueError: also where there is not one text per record.
    """
    nats = loss(predictions)
    if len(texts) != len(nats):
        raise ValueError("each record needs its text")
    packed = [len(zlib.compress(text.encode("utf-8", "replace"))) for text in texts]
    scores: Sample = -nats / np.array(packed)
    return scores


def min_k(predictions: Predictions, share: float = 0.2) -> Sample:
    """Min-K %: mean log probability of the least probable `share` of the right classes: (n,).

    Shi et al. 2024 (arXiv 2310.16789), equation 1; at least one prediction per record. The higher,
    the more like a record trained on.

    Raises:
        ValueError: also where the share is not in (0, 1].
    """
    return _lowest(*_checked(predictions.log_p, predictions), share)


def min_k_plus_plus(predictions: Predictions, share: float = 0.2) -> Sample:
    """Min-K %++: as `min_k`, of (log p - mean) / std: (n,).

    Zhang et al. 2025 (arXiv 2404.02936), equation 3: the log probability of the right class is set
    against those of all classes at that place.

    Raises:
        ValueError: also where the share is not in (0, 1].
    """
    log_p, counted = _checked(predictions.log_p, predictions)
    mean, _ = _checked(predictions.mean, predictions)
    std, _ = _checked(predictions.std, predictions)
    return _lowest((log_p - mean) / np.maximum(std, _LEAST_STD), counted, share)


def exact_memorisation(predictions: Predictions) -> Sample:
    """Share of predictions whose right class is the most probable, in [0, 1]: (n,).

    Tirumala et al. 2022 (arXiv 2205.10770), section 3.
    """
    rank, counted = _checked(predictions.rank, predictions)
    return _mean(rank == 0, counted)


def extraction_strength(predictions: Predictions) -> Sample:
    """Share of the record at its end that follows greedily from what is before it: (n,).

    1 - k/T, where all predictions from the k-th on are right (Carlini et al. 2023, arXiv
    2202.07646; in this form Wang et al. 2025, arXiv 2411.10284); 0 where the last one is wrong.
    """
    rank, counted = _checked(predictions.rank, predictions)
    right = (rank == 0) | ~counted
    at_the_end = np.logical_and.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    return _mean(at_the_end, counted)


def target_rank(predictions: Predictions) -> Sample:
    """Minus the mean of log(1 + rank) of the right classes, 0 at best: (n,)."""
    rank, counted = _checked(predictions.rank, predictions)
    return -_mean(np.log1p(rank), counted)


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE compares: runs of a to z and digits, in lower case.

    As Google's `rouge_score` splits without stemming; letters of other scripts are not words.
    """
    return re.findall("[a-z0-9]+", text.lower())


def rouge_l(reference: Sequence[str], candidate: Sequence[str]) -> Rouge:
    """ROUGE-L (Lin 2004): the longest common subsequence of words; 0 where a side has no word."""
    common = LCSseq.similarity(reference, candidate)
    if not common:
        return Rouge(0.0, 0.0)
    return Rouge(common / len(reference), 2 * common / (len(reference) + len(candidate)))


def exposure(canary_losses: npt.ArrayLike, reference_losses: npt.ArrayLike) -> Exposure:
    """How far each canary stands out among m references of its form, in bits: (n,).

    Carlini et al. 2019 (arXiv 1802.08232): log2 R - log2 rank (definition 4), where R = m + 1
    counts the canary and ties count half; and -log2 of the share of losses up to the canary's
    under a skew-normal fitted to the references (section 4.4), which no m bounds. References
    that are all alike fit nothing: the second is then the first.

    Args:
        canary_losses: (n,) nats.
        reference_losses: (m,) nats, of references that were drawn as the canaries were and never
            trained on.

    Raises:
        ValueError: a set is empty or holds a number that is not finite.
    """
    canaries, references = sample(canary_losses), np.sort(sample(reference_losses))
    below = np.searchsorted(references, canaries, side="left")
    up_to = np.searchsorted(references, canaries, side="right")
    ranked: Sample = math.log2(references.size + 1) - np.log2(1 + (below + up_to) / 2)
    if references[-1] - references[0] <= 1e-9 * np.abs(references).max():
        return Exposure(ranked, ranked)
    with np.errstate(all="ignore"):
        skewness, location, scale = stats.skewnorm.fit(references)
        tail = _log_cdf((canaries - location) / scale, float(skewness))
    return Exposure(ranked, np.maximum(-tail / math.log(2), 0))


def _log_cdf(x: Sample, skewness: float) -> Sample:
    """Logarithm of the skew-normal distribution function, far into the left tail as well: (n,).

    There, with s the slope of the log density g at x, the function is e^g(x)/s times the integral
    of exp(g(x - u/s) - g(x)) over u > 0, whose integrand is near e^-u: a Gauss-Laguerre sum.
    """
    share = stats.skewnorm.cdf(x, skewness)
    far = share < _SMALL
    log_cdf: Sample = np.log(np.where(far, 1.0, share))
    start = x[far, None]
    slope = -start + skewness * np.exp(
        stats.norm.logpdf(skewness * start) - special.log_ndtr(skewness * start)
    )
    steps = _log_density(start - _NODES / slope, skewness) - _log_density(start, skewness)
    log_cdf[far] = (
        _log_density(start, skewness)
        - np.log(slope)
        + np.log(np.exp(steps + _NODES) @ _WEIGHTS)[:, None]
    )[:, 0]
    return log_cdf


def _log_density(x: Sample, skewness: float) -> Sample:
    density: Sample = math.log(2) + stats.norm.logpdf(x) + special.log_ndtr(skewness * x)
    return density


def _checked(
    values: npt.NDArray[np.floating] | npt.NDArray[np.integer], predictions: Predictions
) -> tuple[Sample, npt.NDArray[np.bool_]]:
    """The values as float64, 0 where nothing is counted; and what is."""
    counted = np.asarray(predictions.counted, dtype=bool)
    if counted.ndim != 2 or values.shape != counted.shape:
        raise ValueError("predictions need one row per record, of the same shape for each number")
    if not counted.size or not counted.any(axis=1).all():
        raise ValueError("scores need at least one record, and each one prediction that counts")
    row = np.where(counted, values, 0.0)
    if not np.isfinite(row).all():
        raise ValueError("a prediction is NaN or infinite; look at the model's loss")
    return row, counted


def _mean(values: npt.NDArray[np.generic], counted: npt.NDArray[np.bool_]) -> Sample:
    means: Sample = (values * counted).sum(axis=1) / counted.sum(axis=1)
    return means


def _lowest(values: Sample, counted: npt.NDArray[np.bool_], share: float) -> Sample:
    """Mean of each record's lowest share of values, of one at least."""
    if not 0 < share <= 1:
        raise ValueError("the share of predictions must be above 0 and at most 1")
    # 1e-9: products such as 0.29 * 100 may fall just short of the whole number that they are.
    kept = np.maximum(1, np.floor(share * counted.sum(axis=1) + 1e-9))
    ordered = np.sort(np.where(counted, values, np.inf), axis=1)
    among = np.arange(values.shape[1]) < kept[:, None]
    means: Sample = np.where(among, ordered, 0.0).sum(axis=1) / kept
    return means
