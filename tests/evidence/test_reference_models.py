import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from workers.evidence.reference_models import (
    Likelihoods,
    Variance,
    calibrated_scores,
    lira_offline,
    lira_online,
    rmia_scores,
)

Row = npt.NDArray[np.float64]


def drawn(rng: np.random.Generator, records: int, references: int, known: int = 0) -> Likelihoods:
    """Records of differing difficulty, of which the target knows the first ones."""
    difficulty = rng.gamma(2.0, 1.0, records)
    was_in = np.zeros((references, records), dtype=bool)
    for i in range(records):
        was_in[rng.permutation(references)[: references // 2], i] = True
    gain = 0.4 + 0.5 * rng.random((references, records))
    losses = difficulty * np.where(was_in, gain, 0.8 + 0.4 * rng.random((references, records)))
    target = difficulty * (0.8 + 0.4 * rng.random(records))
    target[:known] = (difficulty * 0.5 * rng.random(records))[:known]
    return Likelihoods(-target, -losses, was_in)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1.5]), st.sampled_from([0.0, 0.3, 1.0]))
def test_rmia_is_the_loop_over_pairs(seed: int, gamma: float, a: float) -> None:
    rng = np.random.default_rng(seed)
    records, population = drawn(rng, 12, 4), drawn(rng, 15, 4)
    ratios = []
    for one in (records, population):
        target, references, was_in = map(np.asarray, one)
        ratios.append([
            math.exp(target[i])
            / (0.5 * ((1 + a) * np.exp(references[~was_in[:, i], i]).mean() + 1 - a))
            for i in range(target.size)
        ])  # fmt: skip
    slow = [np.mean([x / z > gamma for z in ratios[1]]) for x in ratios[0]]
    found = rmia_scores(records, population, a=a, gamma=gamma)
    np.testing.assert_allclose(found, slow, atol=1e-9)


def confidence(log_likelihood: float) -> float:
    return log_likelihood - math.log(1 - math.exp(log_likelihood))


@pytest.mark.parametrize("variance", ["record", "global"])
def test_lira_is_the_loop_over_records(variance: Variance) -> None:
    records = drawn(np.random.default_rng(1), 60, 8)
    target, references, was_in = map(np.asarray, records)
    logits = np.vectorize(confidence)(references)
    pooled = []
    for mask in (was_in, ~was_in):
        own = [logits[mask[:, i], i] for i in range(60)]
        pooled.append(
            math.sqrt(sum(np.var(x) * x.size for x in own) / sum(x.size - 1 for x in own))
        )
    online, offline = [], []
    for i in range(60):
        sides = [logits[was_in[:, i], i], logits[~was_in[:, i], i]]
        spread = [np.std(x, ddof=1) for x in sides] if variance == "record" else pooled
        seen = confidence(target[i])
        densities = [
            stats.norm.logpdf(seen, x.mean(), s) for x, s in zip(sides, spread, strict=True)
        ]
        online.append(densities[0] - densities[1])
        offline.append(-stats.norm.logsf(seen, sides[1].mean(), spread[1]))
    np.testing.assert_allclose(lira_online(records, variance=variance), online, atol=1e-9)
    np.testing.assert_allclose(lira_offline(records, variance=variance), offline, atol=1e-9)


def test_calibrated_scores_leave_out_references_that_knew_the_record() -> None:
    records = drawn(np.random.default_rng(2), 30, 6)
    target, references, was_in = map(np.asarray, records)
    slow = [target[i] - references[~was_in[:, i], i].mean() for i in range(30)]
    np.testing.assert_allclose(calibrated_scores(records), slow, atol=1e-9)
    assert np.abs(calibrated_scores(records) - (target - references.mean(axis=0))).max() > 0.1


def test_each_attack_sees_members_that_the_loss_hides() -> None:
    rng = np.random.default_rng(3)
    records = drawn(rng, 400, 16, known=200)
    members = np.arange(400) < 200
    population = drawn(rng, 300, 16)
    plain = roc_auc_score(members, np.asarray(records.target))
    for scores in (
        calibrated_scores(records),
        rmia_scores(records, population),
        lira_online(records, variance="global"),
        lira_offline(records),
    ):
        assert roc_auc_score(members, scores) > max(plain + 0.05, 0.95)


def test_strangers_of_other_difficulty_are_not_taken_for_members() -> None:
    rng = np.random.default_rng(4)
    easy = np.arange(600) < 300
    base = np.where(easy, 0.5, 2.0)
    references = -base * (0.8 + 0.4 * rng.random((8, 600)))
    target = -base * (0.8 + 0.4 * rng.random(600))
    records = Likelihoods(target, references, np.zeros((8, 600), dtype=bool))
    assert roc_auc_score(easy, target) > 0.99
    assert 0.4 < roc_auc_score(easy, calibrated_scores(records)) < 0.6
    assert 0.4 < roc_auc_score(easy, lira_offline(records)) < 0.6


def test_ties_give_one_score() -> None:
    flat = Likelihoods([-1.0] * 5, [[-1.0] * 5] * 4, np.tile([[True], [True], [False], [False]], 5))
    for scores in (
        calibrated_scores(flat),
        rmia_scores(flat, flat),
        lira_online(flat),
        lira_offline(flat),
    ):
        assert np.unique(scores).size == 1
        assert roc_auc_score([1, 1, 0, 0, 0], scores) == 0.5


def test_who_is_as_likely_as_the_population_does_not_beat_it() -> None:
    flat = Likelihoods([-1.0] * 3, [[-1.0] * 3] * 2, np.zeros((2, 3), dtype=bool))
    assert rmia_scores(flat, flat).tolist() == [0.0] * 3


def test_certain_predictions_stay_finite() -> None:
    was_in = np.array([[True, True], [True, True], [False, False], [False, False]])
    sure = Likelihoods([0.0, 1e-8], [[0.0, -1e-9]] * 2 + [[-1.0, -2.0], [-2.0, -1.0]], was_in)
    assert np.isfinite(lira_online(sure)).all()
    assert np.isfinite(lira_offline(sure)).all()
    assert np.isfinite(rmia_scores(sure, sure)).all()


NOT_IN: npt.NDArray[np.bool_] = np.zeros((2, 2), dtype=bool)


@pytest.mark.parametrize(
    "records",
    [
        Likelihoods([], np.empty((2, 0)), np.empty((2, 0), dtype=bool)),
        Likelihoods([-1.0, math.nan], -np.ones((2, 2)), NOT_IN),
        Likelihoods([-1.0, -1.0], [[-1.0, -math.inf]] * 2, NOT_IN),
        Likelihoods([-1.0, -1.0, -1.0], -np.ones((2, 2)), NOT_IN),
        Likelihoods([-1.0, -1.0], -np.ones((2, 2)), NOT_IN[:1]),
        Likelihoods([-1.0, -1.0], -np.ones((2, 2)), np.zeros((2, 2))),
        Likelihoods([-1.0, -1.0], -np.ones((2, 2)), ~NOT_IN),
        Likelihoods([-1.0, -1.0], -np.ones(2), NOT_IN),
    ],
)
def test_bad_records_are_refused(records: Likelihoods) -> None:
    with pytest.raises(ValueError, match=r"sample|references|was_in|reference gives"):
        calibrated_scores(records)


def test_what_an_attack_cannot_do_is_refused() -> None:
    fine = Likelihoods([-1.0, -2.0], -np.ones((2, 2)), NOT_IN)
    with pytest.raises(ValueError, match="trained on it"):
        lira_online(fine)
    with pytest.raises(ValueError, match="never saw it"):
        lira_offline(fine._replace(was_in=np.array([[True, True], [False, False]])))
    with pytest.raises(ValueError, match="above 0"):
        lira_offline(fine._replace(target=[0.5, -1.0]))
    with pytest.raises(ValueError, match="same reference models"):
        rmia_scores(fine, Likelihoods([-1.0], [[-1.0]], [[False]]))
    for wrong in ({"a": 1.1}, {"gamma": 0.5}):
        with pytest.raises(ValueError, match="gamma"):
            rmia_scores(fine, fine, **wrong)
