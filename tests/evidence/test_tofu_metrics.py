import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workers.evidence.tofu import (
    SetScores,
    answer_probability,
    choice_probability,
    forget_quality,
    forget_quality_evidence,
    forget_truth_score,
    model_utility,
    truth_ratio,
    truth_score,
)

losses = st.floats(0.01, 6)


@given(losses, st.lists(losses, min_size=1, max_size=5))
def test_truth_ratio_by_both_definitions(right: float, wrong: list[float]) -> None:
    probabilities = [math.exp(-loss) for loss in wrong]
    geometric = math.prod(probabilities) ** (1 / len(wrong)) / math.exp(-right)
    assert truth_ratio([right], [wrong])[0] == pytest.approx(geometric, rel=1e-9)
    arithmetic = sum(probabilities) / len(wrong) / math.exp(-right)
    found = truth_ratio([right], [wrong], average="arithmetic")[0]
    assert found == pytest.approx(arithmetic, rel=1e-9)


def test_truth_ratio_is_above_one_where_wrong_answers_are_likelier() -> None:
    ratios = truth_ratio([1.0, 3.0], [[2.0, 2.0], [1.0, 2.0]])
    assert ratios[0] < 1 < ratios[1]
    # exp(-1) and exp(1.5): what is left of the truth, and how near both are to a draw.
    assert truth_score(ratios) == pytest.approx([1 - math.exp(-1), 0.0])
    assert forget_truth_score(ratios) == pytest.approx([math.exp(-1), math.exp(-1.5)])


def test_probabilities_are_per_token_and_shared_among_choices() -> None:
    assert answer_probability([0.0, 2.0]) == pytest.approx([1.0, math.exp(-2)])
    found = choice_probability([1.0, 2.0], [[2.0, 3.0], [2.0, 2.0]])
    shares = [math.exp(-1) / sum(map(math.exp, (-1, -2, -3))), 1 / 3]
    assert found == pytest.approx(shares, abs=1e-9)


def test_model_utility_is_the_harmonic_mean_of_nine() -> None:
    rng = np.random.default_rng(0)
    sets = [SetScores(*rng.random((3, size))) for size in (7, 5, 6)]
    means = [
        float(np.asarray(row).mean())
        for one in sets
        for row in (one.probability, one.rouge, one.truth)
    ]
    assert model_utility(sets) == pytest.approx(9 / sum(1 / mean for mean in means), abs=1e-9)
    collapsed = [*sets[:2], SetScores(sets[2].probability, np.zeros(6), sets[2].truth)]
    assert model_utility(collapsed) == 0.0


def test_forget_quality_is_the_two_sample_test_of_the_ratios() -> None:
    rng = np.random.default_rng(1)
    ours, others = np.exp(rng.normal(0, 1, (2, 40)))
    expected = stats.ks_2samp(ours, others).pvalue
    assert forget_quality(ours, others) == pytest.approx(expected, abs=1e-12)
    assert forget_quality(1 / ours, 1 / others) == pytest.approx(expected, abs=1e-9)
    assert forget_quality([1.0] * 9, [1.0] * 9) == 1.0
    # Too far apart for scipy's exact p-value, which it would warn of.
    far = forget_quality(np.arange(500.0), np.arange(400.0) + 450)
    asymptotic = stats.ks_2samp(np.arange(500.0), np.arange(400.0) + 450, method="asymp").pvalue
    assert far == pytest.approx(asymptotic, rel=1e-6)


def test_forget_quality_passes_a_model_never_unlearned_on_few_questions() -> None:
    rng = np.random.default_rng(2)
    original, retrained = rng.normal(1.0, 1, 400), rng.normal(0, 1, 400)
    assert forget_quality(original, retrained) < 1e-9
    passed = [forget_quality(rng.choice(original, 5), rng.choice(retrained, 5)) > 0.05
              for _ in range(200)]  # fmt: skip
    assert np.mean(passed) > 0.5


def test_evidence_carries_the_control_and_gives_no_p_value_to_judge() -> None:
    rng = np.random.default_rng(3)
    unlearned, retrained = np.exp(rng.normal(0, 1, (2, 100)))
    original = np.exp(rng.normal(-2, 1, 100))
    found = forget_quality_evidence(unlearned, retrained, original)
    assert found.estimate == pytest.approx(stats.ks_2samp(unlearned, retrained).statistic)
    assert found.p_value is None
    assert found.positive_control is not None
    assert found.positive_control < 1e-6
    assert found.details["forget_quality"] > 0.01
    assert (found.family, found.n, found.unit) == ("comparison", 100, "record")


def test_bad_input_is_refused() -> None:
    for right, wrong in (
        ([], np.empty((0, 5))),
        ([1.0, 2.0], [[1.0]]),
        ([1.0], [1.0]),
        ([1.0], [[]]),
        ([1.0], [[math.nan]]),
        ([math.inf], [[1.0]]),
    ):
        with pytest.raises(ValueError, match=r"sample|wrong answer"):
            truth_ratio(right, wrong)
        with pytest.raises(ValueError, match=r"sample|wrong answer"):
            choice_probability(right, wrong)
    with pytest.raises(ValueError, match="above 0"):
        forget_truth_score([0.0])
    with pytest.raises(ValueError, match="sample"):
        forget_quality([], [1.0])
    fine = SetScores([0.5], [0.5], [0.5])
    for sets, said in (
        ([fine] * 2, "retain set"),
        ([fine, fine, SetScores([], [0.5], [0.5])], "sample"),
        ([fine, fine, SetScores([0.5], [1.5], [0.5])], "in \\[0, 1\\]"),
    ):
        with pytest.raises(ValueError, match=said):
            model_utility(sets)
