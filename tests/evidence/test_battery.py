from dataclasses import replace

import numpy as np
import pytest

from app.verification.checks import SPARSE_PART, TAIL_PART, Margins
from workers.evidence.battery import Attacked, Limits, battery, leading, own
from workers.evidence.membership import Attack, Before, Scored, own_p_values, tail_test
from workers.evidence.sparse import sparse_test

RNG = np.random.default_rng(8)
OURS, OTHERS = np.arange(30), np.arange(30, 330)
LIMITS = Limits()


def attacked(name: str, *, calibrated: bool = False, shift: float = 0.0) -> Attacked:
    return Attacked(
        Attack(name, calibrated=calibrated),
        Scored(RNG.normal(size=30) + shift, OURS),
        Scored(RNG.normal(size=300), OTHERS),
    )


def before(shift: float) -> Before:
    return Before(RNG.normal(size=30) + shift, RNG.normal(size=300))


def test_the_attack_that_told_the_most_before_leads() -> None:
    after = [attacked("loss"), attacked("rmia", calibrated=True), attacked("zlib", shift=5.0)]
    then = {"loss": before(1.0), "rmia": before(4.0), "zlib": before(0.5)}
    checks = battery(after, then, LIMITS)
    ranks = ["tail_test", "sparse_test"]
    shown = ["auc_change", "epsilon_bound"]
    assert [one.name for one in checks] == ["loss", "rmia", "zlib", *ranks, *shown]
    assert [one.details.get("leading") for one in checks[:5]] == [None, 1.0, None, None, None]
    assert [one.details["calibrated"] for one in checks[:5]] == [0.0, 1.0, 0.0, 1.0, 1.0]
    chosen, scores = after[1], then["rmia"]
    tail = tail_test(chosen.forget, chosen.holdout, before=scores, alpha=0.01 / 8)
    sparse = sparse_test(chosen.forget, chosen.holdout, before=scores, alpha=0.005, share=0.1)
    assert checks[3] == replace(tail, details={**tail.details, "calibrated": 1.0})
    assert checks[4] == replace(sparse, details={**sparse.details, "calibrated": 1.0})


def test_an_attack_that_scores_members_lowest_does_not_lead() -> None:
    then = {"inverted": before(-5.0), "weak": before(1.0)}
    checks = battery([attacked("inverted"), attacked("weak")], then, LIMITS)
    assert leading(checks) == 1


def test_of_equals_the_first_leads_and_only_membership_does() -> None:
    twin = before(2.0)
    after = [attacked("a"), attacked("b")]
    assert leading(battery(after, {"a": twin, "b": twin}, LIMITS)) == 0
    extraction = replace(after[0], attack=Attack("a", "extraction"))
    found = battery([extraction, after[1]], {"a": before(9.0), "b": twin}, LIMITS)
    assert leading(found) == 1


def test_without_scores_before_nothing_leads() -> None:
    after = [attacked("loss"), attacked("zlib")]
    checks = battery(after, {}, LIMITS)
    assert [one.family for one in checks] == ["membership", "membership"]
    assert leading(checks) is None
    assert own(after, checks, {"r1": [0]}) == {}
    assert battery([], {}, LIMITS) == []


def test_the_levels_are_those_of_the_verdict() -> None:
    assert (LIMITS.alpha, LIMITS.margin) == (Margins().alpha, Margins().membership)
    assert LIMITS.sparse_alpha == pytest.approx(SPARSE_PART * Margins().alpha)
    assert LIMITS.tail_alpha == pytest.approx(TAIL_PART * Margins().alpha)


def test_the_limits_reach_the_checks() -> None:
    limits = Limits(alpha=0.08, margin=0.3, share=0.4)
    checks = battery([attacked("loss")], {"loss": before(3.0)}, limits)
    assert checks[0].details["margin"] == 0.3
    assert checks[1].details["alpha"] == 0.01
    assert (checks[2].details["alpha"], checks[2].details["share"]) == (0.04, 0.4)


def test_each_request_has_the_p_value_of_its_most_telling_data_subject() -> None:
    after = [attacked("loss"), attacked("rmia")]
    checks = battery(after, {"loss": before(1.0), "rmia": before(4.0)}, LIMITS)
    alone = own_p_values(after[1].forget, after[1].holdout)
    found = own(after, checks, {"one": [4], "three": [1, 2, 3], "all": [*OURS], "gone": [999]})
    assert found["one"] == alone[4]
    assert found["three"] == pytest.approx(min(1.0, 3 * min(alone[i] for i in (1, 2, 3))))
    assert found["all"] == pytest.approx(min(1.0, 30 * min(alone.values())))
    assert "gone" not in found
