import json

import numpy as np
import pytest
import torch
from scipy import stats

from workers.evidence.loss import forget_loss
from workers.evidence.membership import loss_membership, tail_test
from workers.evidence.process import process_evidence
from workers.evidence.types import Evidence
from workers.evidence.utility import utility

HOLDOUT = np.random.default_rng(4).normal(2.0, 0.5, 400)
HOLDOUT_SUBJECTS = np.arange(1000, 1400)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_the_interval_holds_a_half_for_strangers_as_often_as_it_says(
    rng: np.random.Generator,
) -> None:
    covered = 0
    for _ in range(200):
        evidence = loss_membership(
            rng.normal(2.0, 0.5, 20),
            range(20),
            rng.normal(2.0, 0.5, 60),
            range(20, 80),
            before=None,
        )
        assert evidence.low is not None
        assert evidence.high is not None
        covered += evidence.low < 0.5 < evidence.high
        assert (evidence.n, evidence.m, evidence.unit) == (20, 60, "data_subject")
        assert evidence.positive_control is None
    assert 0.85 <= covered / 200 <= 0.96


def test_low_losses_of_members_are_seen_and_unlearning_hides_them(rng: np.random.Generator) -> None:
    members, forgotten = rng.normal(0.5, 0.5, 30), rng.normal(2.0, 0.5, 30)
    evidence = loss_membership(
        forgotten, range(30), HOLDOUT, HOLDOUT_SUBJECTS, before=(members, HOLDOUT)
    )
    leak = loss_membership(members, range(30), HOLDOUT, HOLDOUT_SUBJECTS, before=None)
    assert leak.estimate is not None
    assert leak.estimate > 0.9
    assert leak.p_value is not None
    assert leak.p_value < 1e-6
    assert evidence.positive_control == leak.p_value
    assert evidence.p_value is not None
    assert evidence.p_value > 0.01


def test_losses_too_high_betray_as_well(rng: np.random.Generator) -> None:
    evidence = loss_membership(
        rng.normal(5.0, 0.5, 30), range(30), HOLDOUT, HOLDOUT_SUBJECTS, before=None
    )
    assert evidence.estimate is not None
    assert evidence.estimate < 0.1
    assert evidence.p_value is not None
    assert evidence.p_value < 1e-6


def test_the_unit_is_the_data_subject() -> None:
    # Three people with 40 records each: the records are many, the people are three.
    subjects = np.repeat([1, 2, 3], 40)
    losses = np.repeat([0.0, 0.1, 0.2], 40)
    evidence = loss_membership(losses, subjects, HOLDOUT, HOLDOUT_SUBJECTS, before=None)
    assert (evidence.n, evidence.details["forget_records"]) == (3, 120)
    one_each = loss_membership([0.0, 0.1, 0.2], [1, 2, 3], HOLDOUT, HOLDOUT_SUBJECTS, before=None)
    assert (evidence.low, evidence.p_value) == (one_each.low, one_each.p_value)


def test_tensors_are_taken_as_they_are() -> None:
    evidence = loss_membership(
        torch.tensor([1.0, 2.0]),
        torch.tensor([1, 2]),
        torch.tensor([1.5, 3.0]),
        torch.tensor([3, 4]),
        before=None,
    )
    assert evidence.estimate == 0.75


def test_what_would_settle_names_the_number_of_people() -> None:
    many = loss_membership([1.0], [1], HOLDOUT, HOLDOUT_SUBJECTS, before=None)
    few = loss_membership([1.0], [1], [2.0], [2], before=None)
    assert many.would_settle.startswith("35 data subjects to forget against 400")
    assert few.would_settle.startswith("64 data subjects to forget and as many in the holdout")


def test_a_person_in_both_sets_is_refused_without_being_named() -> None:
    for check in (loss_membership, tail_test):
        with pytest.raises(ValueError, match="in both sets") as caught:
            check([1.0], [4711], [2.0, 3.0], [1, 4711], before=None)
        assert "4711" not in str(caught.value)


def test_one_remembered_person_among_many_is_seen_in_the_tail_only(
    rng: np.random.Generator,
) -> None:
    holdout = rng.normal(2.0, 0.5, 1000)
    forget = np.append(rng.normal(2.0, 0.5, 19), -2.0)
    people = range(2000, 3000)
    tail = tail_test(forget, range(20), holdout, people, before=(forget - 9, holdout))
    mean = loss_membership(forget, range(20), holdout, people, before=None)
    assert tail.estimate == 1
    assert tail.p_value == pytest.approx(20 / 1001)
    assert tail.positive_control == pytest.approx(20 / 1001)
    assert mean.p_value is not None
    assert mean.p_value > 0.05


def test_a_small_holdout_leaves_the_tail_test_blind_and_it_says_so(
    rng: np.random.Generator,
) -> None:
    forget = np.append(rng.normal(2.0, 0.5, 46), -9.0)
    blind = tail_test(forget, range(47), HOLDOUT, HOLDOUT_SUBJECTS, before=None)
    assert blind.estimate == 0
    assert blind.details["holdout_needed"] == 939
    assert blind.would_settle == "at least 939 data subjects in the holdout, for 47 forgotten"


def test_utility_is_the_paired_change_with_its_interval(rng: np.random.Generator) -> None:
    before = rng.integers(0, 2, 200).astype(float)
    after = np.where(rng.random(200) < 0.1, 1 - before, before)
    losses = rng.random((2, 200))
    evidence = utility(losses[0], losses[1], before, after, "retain")
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert evidence.estimate == pytest.approx((after - before).mean())
    assert (evidence.low, evidence.high) == pytest.approx((expected.low, expected.high))
    assert evidence.details == pytest.approx(
        {
            "loss_before": losses[0].mean(),
            "loss_after": losses[1].mean(),
            "accuracy_before": before.mean(),
            "accuracy_after": after.mean(),
        }
    )
    assert (evidence.name, evidence.family) == ("utility_retain", "utility")


def test_utility_of_one_record_has_no_interval() -> None:
    evidence = utility([1.0], [2.0], [1.0], [0.0], "holdout")
    assert (evidence.estimate, evidence.low, evidence.level) == (-1.0, None, None)
    unchanged = utility([1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0], "holdout")
    assert (unchanged.estimate, unchanged.low, unchanged.high) == (0.0, 0.0, 0.0)


def test_utility_of_different_records_is_refused() -> None:
    with pytest.raises(ValueError, match="of the same records"):
        utility([1.0, 2.0], [1.0], [1.0, 1.0], [1.0, 1.0], "retain")


def test_forget_loss_is_welchs_difference_by_person(rng: np.random.Generator) -> None:
    forget, holdout = rng.normal(1.0, 0.2, 12), rng.normal(2.0, 0.9, 30)
    twice = np.concatenate([forget, forget])
    evidence = forget_loss(twice, [*range(12), *range(12)], holdout, range(30))
    expected = stats.ttest_ind(forget, holdout, equal_var=False).confidence_interval(0.95)
    assert evidence.n == 12
    assert (evidence.low, evidence.high) == pytest.approx((expected.low, expected.high))
    assert forget_loss([1.0], [1], holdout, range(30)).low is None
    same = forget_loss([1.0, 1.0], [1, 2], [2.0, 2.0], [3, 4])
    assert (same.low, same.estimate, same.high) == (-1.0, -1.0, -1.0)


def digests(*numbers: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in numbers]


def test_a_clean_process_has_nothing_against_it() -> None:
    shards = {"shard-0": "aa", "shard-2": "bb"}
    evidence = process_evidence(digests(1, 2), digests(3, 4, 5), shards, dict(shards))
    assert (evidence.estimate, evidence.n, evidence.m) == (0.0, 2, 3)
    assert evidence.details["untouched_shards"] == 2


@pytest.mark.parametrize(
    ("manifest", "after", "detail"),
    [
        (digests(2, 3), {"shard-0": "aa", "shard-2": "bb"}, "left_in_manifest"),
        (digests(3), {"shard-0": "aa", "shard-2": "cc"}, "untouched_changed"),
        (digests(3), {"shard-0": "aa"}, "untouched_changed"),
        (digests(3), {"shard-0": "aa", "shard-2": "bb", "shard-3": "x"}, "untouched_changed"),
    ],
)
def test_what_contradicts_exact_unlearning_is_counted(
    manifest: list[bytes], after: dict[str, str], detail: str
) -> None:
    before = {"shard-0": "aa", "shard-2": "bb"}
    evidence = process_evidence(digests(1, 2), manifest, before, after)
    assert evidence.estimate == 1.0
    assert evidence.details[detail] == 1


def test_no_record_to_forget_is_no_evidence() -> None:
    with pytest.raises(ValueError, match="without a record to forget"):
        process_evidence([], digests(1), {}, {})


def test_evidence_is_json_and_finite() -> None:
    evidence = utility([1.0], [2.0], [1.0], [0.0], "holdout")
    assert Evidence(**json.loads(json.dumps(evidence.as_dict()))) == evidence
    with pytest.raises(ValueError, match="not finite"):
        Evidence(**{**evidence.as_dict(), "estimate": float("nan")})  # type: ignore[arg-type]
