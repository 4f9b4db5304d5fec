from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from workers.evidence.membership import (
    Attack,
    Before,
    Scored,
    attack_evidence,
    own_p_values,
    tail_test,
)
from workers.evidence.sparse import sparse_test
from workers.evidence.types import Evidence

LOSS = Attack("loss")
HOLDOUT = np.random.default_rng(4).normal(-2.0, 0.5, 400)
OTHERS = Scored(HOLDOUT, np.arange(1000, 1400))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def people(scores: object) -> Scored:
    return Scored(scores, np.arange(np.size(scores)))  # type: ignore[arg-type]


def attack(forget: Scored, holdout: Scored = OTHERS, before: Before | None = None) -> Evidence:
    return attack_evidence(LOSS, forget, holdout, before=before)


def test_the_interval_holds_a_half_for_strangers_as_often_as_it_says(
    rng: np.random.Generator,
) -> None:
    covered = 0
    for _ in range(200):
        evidence = attack(people(rng.normal(size=20)), Scored(rng.normal(size=60), range(20, 80)))
        assert evidence.low is not None
        assert evidence.high is not None
        covered += evidence.low < 0.5 < evidence.high
        assert (evidence.n, evidence.m, evidence.unit) == (20, 60, "data_subject")
        assert evidence.positive_control is None
        assert "auc_before" not in evidence.details
    assert 0.85 <= covered / 200 <= 0.96


def test_high_scores_of_members_are_seen_and_unlearning_hides_them(
    rng: np.random.Generator,
) -> None:
    members, forgotten = rng.normal(-0.5, 0.5, 30), rng.normal(-2.0, 0.5, 30)
    evidence = attack(people(forgotten), before=Before(members, HOLDOUT))
    leak = attack(people(members))
    assert leak.estimate == pytest.approx(
        roc_auc_score([1] * 30 + [0] * 400, np.concatenate([members, HOLDOUT]))
    )
    assert leak.p_value is not None
    assert leak.p_value < 1e-6
    assert evidence.positive_control == leak.p_value
    assert evidence.details["auc_before"] == leak.estimate
    expected = stats.mannwhitneyu(forgotten, HOLDOUT, method="asymptotic").pvalue
    assert evidence.p_value == pytest.approx(expected)


def test_scores_too_low_betray_as_well(rng: np.random.Generator) -> None:
    evidence = attack(people(rng.normal(-5.0, 0.5, 30)))
    assert evidence.estimate is not None
    assert evidence.estimate < 0.1
    assert evidence.p_value is not None
    assert evidence.p_value < 1e-6


def test_what_the_attack_is_stays_with_its_evidence() -> None:
    one = Attack("rmia", "recovery", "T3", calibrated=True, reference="twins")
    evidence = attack_evidence(one, people([1.0]), OTHERS, before=None, margin=0.2)
    assert (evidence.name, evidence.family, evidence.threat_model) == ("rmia", "recovery", "T3")
    assert evidence.reference == "twins"
    assert (evidence.details["calibrated"], evidence.details["margin"]) == (1.0, 0.2)
    assert attack(people([1.0])).details["calibrated"] == 0.0


def test_the_unit_is_the_data_subject() -> None:
    # Three people with 40 records each: the records are many, the people are three.
    subjects = np.repeat([1, 2, 3], 40)
    others = Scored(np.repeat(OTHERS.scores, 40), np.repeat(OTHERS.subjects, 40))
    evidence = attack(Scored(np.repeat([0.0, 0.1, 0.2], 40), subjects), others)
    assert (evidence.n, evidence.details["forget_records"]) == (3, 120)
    one_each = attack(Scored([0.0, 0.1, 0.2], [1, 2, 3]))
    assert (evidence.low, evidence.p_value) == (one_each.low, one_each.p_value)


def test_the_scores_before_are_joined_by_data_subject_too() -> None:
    forget = Scored([0.0, 0.0, 0.0], [1, 2, 1])
    holdout, then = Scored([0.0, 0.0, 0.0], [8, 9, 8]), [-1.0, 0.25, -1.0]
    evidence = attack(forget, holdout, Before([3.0, 0.5, -3.0], then))
    # Person 1 had 3 and -3 before, so 0 on average.
    assert evidence.details["auc_before"] == 0.75


def test_tensors_are_taken_as_they_are() -> None:
    evidence = attack(
        Scored(torch.tensor([-1.0, -2.0]), torch.tensor([1, 2])),
        Scored(torch.tensor([-1.5, -3.0]), torch.tensor([3, 4])),
    )
    assert evidence.estimate == 0.75


def test_what_would_settle_names_the_number_of_people() -> None:
    assert attack(people([1.0])).would_settle.startswith(
        "35 data subjects to forget against 400 in the holdout"
    )
    assert attack(people([1.0]), Scored([2.0], [7])).would_settle.startswith(
        "64 data subjects to forget and as many in the holdout"
    )


def test_the_curve_counts_hits_at_each_rate_of_false_alarms(rng: np.random.Generator) -> None:
    ours, others = rng.normal(1.0, 1.0, 30).round(1), rng.normal(size=50).round(1)
    curves = attack(people(ours), Scored(others, range(50, 100))).curves
    for rate, hits in zip(curves["false_alarms"], curves["hits_after"], strict=True):
        best = max(
            (
                float((ours > cut).mean())
                for cut in [*others, -np.inf]
                if (others > cut).mean() <= rate * 1.0001
            ),
            default=0.0,
        )
        assert hits == pytest.approx(best, abs=1e-3)
    assert curves["hits_after"][-1] == 1
    for name in ("forget_shares", "holdout_shares"):
        assert sum(curves[name]) == pytest.approx(1, abs=1e-3)
    assert "hits_before" not in curves


CHECKS: list[Callable[..., object]] = [
    lambda *args, **kwargs: attack_evidence(LOSS, *args, **kwargs),
    tail_test,
    sparse_test,
    lambda forget, holdout, before: own_p_values(forget, holdout),
]


@pytest.mark.parametrize("check", CHECKS, ids=["attack", "tail", "sparse", "own"])
def test_what_cannot_be_compared_is_refused(check: Callable[..., object]) -> None:
    good, other = Scored([1.0, 2.0], [1, 2]), Scored([1.0, 3.0], [3, 4])
    empty: list[float] = []
    refused = [
        (Scored(empty, empty), other, "at least one value"),
        (good, Scored(empty, empty), "at least one value"),
        (Scored([1.0, np.nan], [1, 2]), other, "NaN or infinite"),
        (good, Scored([1.0, np.inf], [3, 4]), "NaN or infinite"),
        (Scored([1.0], [1, 2]), other, "data subject that it belongs to"),
        (good, Scored([1.0, 2.0], [3]), "data subject that it belongs to"),
    ]
    for forget, holdout, message in refused:
        with pytest.raises(ValueError, match=message):
            check(forget, holdout, before=None)
    with pytest.raises(ValueError, match="in both sets") as caught:
        check(Scored([1.0], [4711]), Scored([2.0, 3.0], [1, 4711]), before=None)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("check", CHECKS[:3], ids=["attack", "tail", "sparse"])
def test_scores_before_must_be_of_the_same_records(check: Callable[..., object]) -> None:
    good, other = Scored([1.0, 2.0], [1, 2]), Scored([1.0, 3.0], [3, 4])
    with pytest.raises(ValueError, match="data subject that it belongs to"):
        check(good, other, before=Before([1.0], [1.0, 2.0]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        check(good, other, before=Before([1.0, 2.0], [1.0, np.nan]))


def test_all_ties_show_nothing() -> None:
    tied, others = Scored([1.0] * 5, range(5)), Scored([1.0] * 50, range(5, 55))
    before = Before([1.0] * 5, [1.0] * 50)
    found = attack(tied, others, before)
    assert (found.estimate, found.p_value, found.positive_control) == (0.5, 1.0, 1.0)
    assert tail_test(tied, others, before=before).p_value == 1.0
    assert set(own_p_values(tied, others).values()) == {1.0}


def test_one_remembered_person_among_many_is_seen_in_the_tail_only(
    rng: np.random.Generator,
) -> None:
    holdout = Scored(rng.normal(-2.0, 0.5, 1000), range(2000, 3000))
    forget = np.append(rng.normal(-2.0, 0.5, 19), 2.0)
    tail = tail_test(people(forget), holdout, before=Before(forget + 9, holdout.scores))
    mean = attack(people(forget), holdout)
    assert tail.estimate == 1
    assert tail.p_value == pytest.approx(20 / 1001)
    assert tail.positive_control == pytest.approx(20 / 1001)
    assert mean.p_value is not None
    assert mean.p_value > 0.05


def test_a_small_holdout_leaves_the_tail_test_blind_and_it_says_so(
    rng: np.random.Generator,
) -> None:
    blind = tail_test(people(np.append(rng.normal(size=46), 9.0)), OTHERS, before=None)
    assert blind.estimate == 0
    assert blind.details["holdout_needed"] == 939
    assert blind.would_settle == "at least 939 data subjects in the holdout, for 47 forgotten"


def test_each_person_has_a_p_value_of_their_own() -> None:
    forget = Scored([-9.0, 9.0, -2.0, -9.0], [30, 20, 30, 10])
    found = own_p_values(forget, OTHERS)
    assert list(found) == [10, 20, 30]
    assert found[20] == pytest.approx(1 / 401)
    assert found[10] == 1.0
    assert found[30] == pytest.approx((1 + (HOLDOUT >= -5.5).sum()) / 401)
