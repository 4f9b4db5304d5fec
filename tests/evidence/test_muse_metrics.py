import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from workers.evidence.membership import Scored
from workers.evidence.muse import (
    RougeL,
    knowledge_memory,
    memory_evidence,
    privleak,
    privleak_evidence,
    requests_evidence,
    rouge_l,
    verbatim_memory,
)


def longest(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            best = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else best
    return table[-1][-1]


words = st.lists(st.sampled_from(["the", "sea", "hill", "a1"]), min_size=1, max_size=12)


@given(words, words)
def test_rouge_l_is_the_textbook_table(reference: list[str], generated: list[str]) -> None:
    found = rouge_l(" ".join(reference), ", ".join(generated).upper() + "!")
    common = longest(reference, generated)
    precision, recall = common / len(generated), common / len(reference)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    assert found == pytest.approx((precision, recall, f1), abs=1e-12)


def test_rouge_l_of_texts_without_words_is_nothing() -> None:
    assert rouge_l("", "sea") == rouge_l("sea", "…") == rouge_l("", "") == RougeL(0.0, 0.0, 0.0)
    # As the benchmark's tokeniser: an apostrophe and an accented letter part words.
    assert rouge_l("don't", "don t").f1 == 1.0
    assert rouge_l("café", "caf").f1 == 1.0


def test_memory_is_the_f1_of_each_text() -> None:
    texts = ["the sea was calm", "a hill of glass"]
    assert verbatim_memory(texts, texts).tolist() == [1.0, 1.0]
    found = verbatim_memory(texts, ["the sea", "nothing"])
    assert found == pytest.approx([2 * 1.0 * 0.5 / 1.5, 0.0])


def test_what_follows_an_answer_does_not_count() -> None:
    answer = ["in the sea"]
    for more in ("\n\nin the hill", "\nQuestion: where?", " Question: where?"):
        assert knowledge_memory(answer, ["in the sea" + more]).tolist() == [1.0]
    assert knowledge_memory(answer, ["in the sea and the hill"])[0] < 1


def test_privleak_by_the_benchmarks_count() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = rng.normal(1, 1, (2, 50)), rng.normal(0, 1, (2, 60))
    # The benchmark counts the holdout as the positives of the score.
    against = [
        roc_auc_score([0] * 50 + [1] * 60, np.concatenate(pair))
        for pair in zip(forget, holdout, strict=True)
    ]
    found = privleak(1 - against[0], 1 - against[1])
    assert found == pytest.approx((against[0] - against[1]) / against[1] * 100, abs=1e-9)
    assert privleak(1.0, 0.5) == -100.0
    assert privleak(0.5, 0.5) == 0.0
    assert privleak(0.0, 0.5) == 100.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_privleak_does_not_blow_up(unlearned: float, retrained: float) -> None:
    found = privleak(unlearned, retrained)
    assert (found is None) == (1 - retrained < 0.1)
    assert found is None or abs(found) <= 1000


def test_privleak_evidence_counts_people_and_has_an_interval() -> None:
    rng = np.random.default_rng(1)
    people, strangers = np.repeat(np.arange(20), 3), np.repeat(np.arange(100, 140), 3)
    shared = [rng.normal(0, 1, row.size) for row in (people, strangers)]
    retrained = [row + rng.normal(0, 0.3, row.size) for row in shared]
    forgotten = privleak_evidence(
        Scored(shared[0], people), Scored(shared[1], strangers), *retrained
    )
    assert (forgotten.n, forgotten.m) == (20, 40)
    assert forgotten.low is not None
    assert forgotten.high is not None
    assert forgotten.low < 0 < forgotten.high
    assert "privleak_percent" in forgotten.details
    kept = privleak_evidence(
        Scored(shared[0] + 3, people), Scored(shared[1], strangers), *retrained
    )
    assert kept.low is not None
    assert kept.low > 0.2
    assert kept.details["privleak_percent"] < -90
    assert kept.details["p_of_these_two_models"] < 1e-6
    assert kept.p_value is None
    ties = privleak_evidence(
        Scored(np.ones(60), people), Scored(np.ones(120), strangers), np.ones(60), np.ones(120)
    )
    assert (ties.estimate, ties.details["auc_unlearned"]) == (0.0, 0.5)


def test_privleak_evidence_where_the_sets_differ_by_nature() -> None:
    found = privleak_evidence(
        Scored([5.0, 6.0, 7.0], [1, 2, 3]), Scored([1.0, 2.0], [4, 5]), [5.0, 6.0, 7.0], [1.0, 2.0]
    )
    assert found.estimate == 0.0
    assert "privleak_percent" not in found.details


def test_memory_evidence_is_the_paired_difference_of_people() -> None:
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(12), 4)
    ours, others = rng.random((2, 48))
    found = memory_evidence("muse_verbmem", ours, others, people)
    differences = (ours - others).reshape(12, 4).mean(axis=1)
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert found.estimate == pytest.approx(differences.mean(), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    alone = memory_evidence("muse_knowmem", [0.5, 0.7], [0.1, 0.1], [3, 3])
    assert alone.estimate == pytest.approx(0.5)
    assert (alone.low, alone.level, alone.n) == (None, None, 1)


def test_requests_evidence_is_the_worst_step() -> None:
    rng = np.random.default_rng(3)
    start = rng.random(30)
    after = np.array([start - 0.02, start - 0.3 + rng.normal(0, 0.1, 30), start - 0.1])
    found = requests_evidence("muse_sustainability", start, after, [10, 20, 30])
    changes = after[1] - start
    interval = stats.ttest_1samp(changes, 0).confidence_interval(1 - 0.1 / 3)
    assert found.estimate == pytest.approx(changes.mean(), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.curves["forgotten"] == [10.0, 20.0, 30.0]
    assert found.curves["utility"] == pytest.approx(after.mean(axis=1).tolist())


def test_bad_input_is_refused() -> None:
    for texts, generated in (([], []), (["a"], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="each text"):
            verbatim_memory(texts, generated)
        with pytest.raises(ValueError, match="each text"):
            knowledge_memory(texts, generated)
    for pair in ((1.2, 0.5), (0.5, -0.1), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="AUC"):
            privleak(*pair)
    one = Scored([1.0, 2.0], [1, 2])
    with pytest.raises(ValueError, match="data subject"):
        privleak_evidence(one, one, [1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="sample"):
        memory_evidence("muse_verbmem", [], [], [])
    with pytest.raises(ValueError, match="NaN"):
        memory_evidence("muse_verbmem", [math.nan], [0.1], [1])
    for start, after, forgotten in (
        ([0.1], [[0.1]], [1]),
        ([0.1, 0.2], [[0.1, 0.2]], [1, 2]),
        ([0.1, 0.2], [], []),
        ([0.1, 0.2], [[0.1, math.nan]], [1]),
        ([], [[]], [1]),
    ):
        with pytest.raises(ValueError, match=r"two questions|same questions|NaN|sample"):
            requests_evidence("muse_scale", start, after, forgotten)
