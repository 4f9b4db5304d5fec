"""The figures of the TOFU benchmark, by its own definitions (Maini et al. 2024, arXiv 2401.06121).

They make results comparable with published ones. They are no proof of forgetting: the test behind
forget quality takes a model that was never unlearned for a retrained one when questions are few.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from workers.evidence.statistics import Sample, sample
from workers.evidence.types import Evidence

Average = Literal["geometric", "arithmetic"]

_KINDS = 3


@dataclass(frozen=True)
class SetScores:
    """What a model gives one of the benchmark's three utility sets: each (questions,), in [0, 1].

    Attributes:
        probability: `answer_probability` for the retain set; `choice_probability` for the real
            authors and the world facts.
        rouge: ROUGE-L recall of the generated answers; the benchmark stems words first.
        truth: `truth_score`.
    """

    probability: npt.ArrayLike
    rouge: npt.ArrayLike
    truth: npt.ArrayLike


def truth_ratio(
    paraphrased_losses: npt.ArrayLike,
    perturbed_losses: npt.ArrayLike,
    *,
    average: Average = "geometric",
) -> Sample:
    """How much likelier wrong answers are than the paraphrased right one: (questions,), above 0.

    Probabilities are normalised by length, P(a | q)^(1/tokens), on both sides. The paper's
    equation 1 takes the arithmetic mean over the wrong answers; the benchmark's programs, and so
    its published figures, take the mean of their losses, which is the geometric mean.

    Args:
        paraphrased_losses: (questions,) mean loss per token of the paraphrased answer, nats. For
            real authors and world facts, which have no paraphrase, of the answer itself.
        perturbed_losses: (questions, answers) the same of each wrong answer.
        average: over the wrong answers.

    Raises:
        ValueError: empty, not finite, or not the same questions.
    """
    right = sample(paraphrased_losses)
    wrong = _wrong(perturbed_losses, right.size)
    if average == "geometric":
        log_wrong = -wrong.mean(axis=1)
    else:
        log_wrong = special.logsumexp(-wrong, axis=1) - np.log(wrong.shape[1])
    ratio: Sample = np.exp(log_wrong + right)
    return ratio


def truth_score(ratios: npt.ArrayLike) -> Sample:
    """max(0, 1 - truth ratio) of each question of a utility set: higher is better.

    Raises:
        ValueError: there is none, or one is not finite.
    """
    score: Sample = np.maximum(0.0, 1 - sample(ratios))
    return score


def forget_truth_score(ratios: npt.ArrayLike) -> Sample:
    """min(r, 1/r) of each question of the forget set: 1 where right and wrong are as likely.

    Raises:
        ValueError: there is none, one is not finite, or one is not above 0.
    """
    row = sample(ratios)
    if row.min() <= 0:
        raise ValueError("a truth ratio is above 0")
    score: Sample = np.minimum(row, 1 / row)
    return score


def answer_probability(losses: npt.ArrayLike) -> Sample:
    """P(answer | question)^(1/tokens) from mean losses per token, nats: (questions,).

    Raises:
        ValueError: there is none, or one is not finite.
    """
    probability: Sample = np.exp(-sample(losses))
    return probability


def choice_probability(losses: npt.ArrayLike, perturbed_losses: npt.ArrayLike) -> Sample:
    """The answer's share of the probabilities of all choices: (questions,).

    As in the benchmark's programs, each is normalised by length; the paper's formula is not.

    Args:
        losses: (questions,) mean loss per token of the right answer, nats.
        perturbed_losses: (questions, answers) the same of each wrong answer.

    Raises:
        ValueError: empty, not finite, or not the same questions.
    """
    right = sample(losses)
    every = np.column_stack([right, _wrong(perturbed_losses, right.size)])
    share: Sample = special.softmax(-every, axis=1)[:, 0]
    return share


def model_utility(sets: Sequence[SetScores]) -> float:
    """Harmonic mean of the nine means: probability, ROUGE-L recall and truth of three sets.

    Args:
        sets: the retain set, the real authors and the world facts.

    Returns:
        In [0, 1]; 0 where one of the nine is 0.

    Raises:
        ValueError: not three sets, an empty one, or a score outside [0, 1].
    """
    if len(sets) != _KINDS:
        raise ValueError("the benchmark's utility is over the retain set, authors and facts")
    rows = [sample(row) for one in sets for row in (one.probability, one.rouge, one.truth)]
    if any(row.min() < 0 or row.max() > 1 for row in rows):
        raise ValueError("a score of the benchmark's utility lies in [0, 1]")
    return float(stats.hmean([row.mean() for row in rows]))


def forget_quality(unlearned_ratios: npt.ArrayLike, retrained_ratios: npt.ArrayLike) -> float:
    """p-value of Kolmogorov and Smirnov's test that both models' truth ratios are alike.

    High is the benchmark's "good": forgetting that cannot be told from retraining. It rests on the
    order of ratios alone, so that inverted ratios give the same.

    Args:
        unlearned_ratios: (questions,) of the forget set.
        retrained_ratios: (questions,) by a model retrained without it.

    Raises:
        ValueError: a set is empty, or a ratio is not finite.
    """
    return _distance(sample(unlearned_ratios), sample(retrained_ratios))[1]


def forget_quality_evidence(
    unlearned_ratios: npt.ArrayLike, retrained_ratios: npt.ArrayLike, original_ratios: npt.ArrayLike
) -> Evidence:
    """Forget quality as evidence: the estimate is Kolmogorov and Smirnov's distance, 0 to 1.

    It gives no p-value to judge by: questions of one author are not independent, and two retrained
    models differ by chance. The benchmark's own is `details["forget_quality"]`, and the model
    before unlearning is its control: where that passes too, the figure shows nothing.

    Args:
        unlearned_ratios: (questions,) of the forget set.
        retrained_ratios: (questions,) by a model retrained without it.
        original_ratios: (questions,) by the model before unlearning.

    Raises:
        ValueError: a set is empty, or a ratio is not finite.
    """
    ours, others = sample(unlearned_ratios), sample(retrained_ratios)
    distance, quality = _distance(ours, others)
    return Evidence(
        name="tofu_forget_quality",
        family="comparison",
        threat_model="T1",
        reference="a model retrained without the forgotten",
        unit="record",
        n=ours.size,
        m=others.size,
        estimate=distance,
        positive_control=forget_quality(original_ratios, others),
        details={
            "forget_quality": quality,
            "truth_ratio": float(forget_truth_score(ours).mean()),
        },
        would_settle="the residual fraction, against two or more retrained models",
    )


def _distance(ours: Sample, others: Sample) -> tuple[float, float]:
    """Kolmogorov and Smirnov's distance and its p-value."""
    with warnings.catch_warnings():
        # Where the exact p-value is too small to compute, scipy says that it takes the asymptotic.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.ks_2samp(ours, others)
    return float(found.statistic), float(found.pvalue)


def _wrong(losses: npt.ArrayLike, questions: int) -> Sample:
    rows = np.asarray(losses, dtype=np.float64)
    if rows.ndim != 2 or len(rows) != questions or not rows.size:
        raise ValueError("wrong answers must be (questions, answers), of the same questions")
    if not np.isfinite(rows).all():
        raise ValueError("a loss of a wrong answer is NaN or infinite; look at the model's loss")
    return rows
