from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf, nan
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.verification.rules import (
    Check,
    Margins,
    Verdict,
    after,
    judge,
    judge_check,
)
from lethe.methods.spec import Guarantee

MARGINS = Margins()


def membership(
    *,
    estimate: float = 0.51,
    low: float = 0.42,
    high: float = 0.6,
    p_value: float = 0.8,
    positive_control: float | None = 1e-6,
) -> Check:
    return Check(
        name="loss_membership",
        family="membership",
        unit="data_subject",
        n=47,
        m=9_400,
        estimate=estimate,
        low=low,
        high=high,
        p_value=p_value,
        positive_control=positive_control,
        details={"forget_mean_loss": 1.5},
        would_settle="72 data subjects to forget",
    )


def tail(
    *,
    n: int = 47,
    m: int = 9_400,
    p_value: float = 0.6,
    positive_control: float | None = 1e-3,
) -> Check:
    return replace(
        membership(),
        name="tail_test",
        family="tail",
        n=n,
        m=m,
        estimate=0.0,
        low=None,
        high=None,
        p_value=p_value,
        positive_control=positive_control,
    )


def utility(estimate: float, low: float | None, high: float | None) -> Check:
    return replace(
        membership(),
        name="utility_retain",
        family="utility",
        estimate=estimate,
        low=low,
        high=high,
        p_value=None,
        positive_control=None,
    )


def loss(estimate: float = -0.25) -> Check:
    return replace(utility(estimate, None, None), name="forget_loss", family="loss")


def process(left: int = 0) -> Check:
    return replace(utility(left, None, None), name="process", family="process")


def verdict_of(check: Check, attacks: int = 1) -> str:
    return judge_check(check, MARGINS, attacks).verdict


def approximate(*checks: Check) -> tuple[Verdict, str]:
    judgement = judge("approximate", checks, MARGINS)
    assert judgement.by == "statistics"
    return judgement.verdict, judgement.summary


@pytest.mark.parametrize(
    ("check", "verdict", "reason"),
    [
        (membership(), "pass", "within 0.5 ± 0.15"),
        (membership(low=0.35, high=0.65), "pass", "0.35 to 0.65"),
        (membership(low=0.3499), "inconclusive", "72 data subjects to forget"),
        (membership(high=0.6501), "inconclusive", "reaches beyond"),
        (membership(positive_control=None), "inconclusive", "stronger attack"),
        (membership(positive_control=0.01), "inconclusive", "stronger attack"),
        (membership(positive_control=0.0099), "pass", "found the records before"),
        (membership(p_value=0.01), "pass", "within"),
        (membership(p_value=0.0099), "fail", "still look trained on"),
        (membership(estimate=0.9, low=0.8, high=0.95, p_value=0.001), "fail", "p 0.001"),
        (
            membership(estimate=0.1, low=0.05, high=0.2, p_value=0.001),
            "fail",
            "forgotten too much",
        ),
        (membership(p_value=0.001, positive_control=None), "fail", "trained on"),
    ],
)
def test_membership(check: Check, verdict: str, reason: str) -> None:
    judged = judge_check(check, MARGINS)
    assert (judged.name, judged.verdict) == ("loss_membership", verdict)
    assert reason in judged.reason


@pytest.mark.parametrize(
    ("check", "attacks", "verdict", "reason"),
    [
        (tail(), 1, "pass", "smallest adjusted p 0.6 of 47"),
        (tail(), 2, "pass", "found the records before"),
        # (m + 1) must be more than n / alpha = 4,700: with 4,699 the smallest p is exactly 0.01.
        (tail(m=4_699), 1, "inconclusive", "Needed: 4700."),
        (tail(m=4_700), 1, "pass", "p 0.6"),
        (tail(m=9_399), 2, "inconclusive", "Needed: 9400."),
        (tail(m=200, n=1, p_value=0.009), 1, "fail", "at least one looks trained on"),
        (tail(m=50, p_value=1.0), 1, "inconclusive", "a holdout of 50 cannot tell"),
        (tail(positive_control=None), 1, "inconclusive", "stronger attack"),
        (tail(positive_control=0.2), 1, "inconclusive", "stronger attack"),
    ],
)
def test_tail(check: Check, attacks: int, verdict: str, reason: str) -> None:
    judged = judge_check(check, MARGINS, attacks)
    assert judged.verdict == verdict
    assert reason in judged.reason


@given(st.integers(1, 300), st.integers(1, 40_000), st.integers(1, 4))
def test_a_tail_test_passes_only_when_it_could_have_failed(n: int, m: int, attacks: int) -> None:
    smallest = attacks * n / (m + 1)
    judged = judge_check(tail(n=n, m=m, p_value=1.0), MARGINS, attacks)
    if abs(smallest - MARGINS.alpha) > 1e-9:
        assert (judged.verdict == "pass") is (smallest < MARGINS.alpha)


@pytest.mark.parametrize(
    ("check", "verdict", "may_be_over"),
    [
        (utility(0.0, -0.01, 0.01), "pass", False),
        (utility(0.05, 0.01, 0.09), "pass", False),
        (utility(-0.02, -0.025, -0.015), "pass", True),
        (utility(-0.021, -0.03, -0.012), "fail", False),
        (utility(-0.3, -0.6, 0.0), "pass", True),
        (utility(-0.3, -0.6, -0.001), "fail", False),
        (utility(-0.01, -0.04, 0.02), "pass", True),
        (utility(-1.0, None, None), "pass", True),
    ],
)
def test_utility_is_never_inconclusive(check: Check, verdict: str, may_be_over: bool) -> None:
    judged = judge_check(check, MARGINS)
    assert judged.verdict == verdict
    assert ("too few records to tell" in judged.reason) is may_be_over
    assert ("interval" in judged.reason) is (check.low is not None)
    assert "the limit is a drop of 0.02" in judged.reason


def test_loss_is_reported_and_process_must_hold() -> None:
    reported = judge_check(loss(), MARGINS)
    assert (reported.verdict, "-0.25 nats" in reported.reason) == ("reported", True)
    assert verdict_of(process()) == "pass"
    broken = judge_check(process(3), MARGINS)
    assert (broken.verdict, broken.reason[:2]) == ("fail", "3 ")


def test_margins_are_arguments() -> None:
    narrow = Margins(membership=0.05, alpha=0.1, utility_drop=0.2)
    assert judge_check(membership(), narrow).verdict == "inconclusive"
    assert judge_check(membership(p_value=0.09), narrow).verdict == "fail"
    assert judge_check(utility(-0.1, -0.11, -0.09), narrow).verdict == "pass"
    assert judge_check(tail(m=480), narrow).verdict == "pass"


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("field", ["estimate", "low", "high", "p_value", "positive_control"])
def test_a_missing_measurement_is_refused(field: str, number: float) -> None:
    changes: Mapping[str, float] = {field: number}
    with pytest.raises(ValueError, match="loss_membership has a number that is not finite"):
        replace(membership(), **changes)  # type: ignore[arg-type]


def test_a_missing_forget_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        replace(membership(), details={"forget_mean_loss": nan})
    with pytest.raises(ValueError, match="not finite"):
        loss(nan)
    with pytest.raises(ValueError, match="lacks the number"):
        replace(loss(), estimate=None)


def test_checks_that_cannot_be_judged_are_refused() -> None:
    for check in (membership(), tail()):
        with pytest.raises(ValueError, match="lacks the number"):
            replace(check, p_value=None)
    for check in (process(), utility(0, -1, 1)):
        with pytest.raises(ValueError, match="lacks the number"):
            replace(check, estimate=None)
    with pytest.raises(ValueError, match="lacks its estimate or interval"):
        replace(membership(), estimate=None)
    with pytest.raises(ValueError, match="lacks its estimate or interval"):
        replace(membership(), low=None, high=None)
    with pytest.raises(ValueError, match="half an interval"):
        replace(membership(), high=None)
    with pytest.raises(ValueError, match="half an interval"):
        utility(0.0, None, 1.0)
    with pytest.raises(ValueError, match="does not hold its estimate"):
        membership(estimate=0.7)
    with pytest.raises(ValueError, match="does not hold its estimate"):
        utility(0.0, 0.1, 0.2)
    for p_value in (-0.1, 1.1):
        with pytest.raises(ValueError, match="p-value outside"):
            membership(p_value=p_value)
        with pytest.raises(ValueError, match="p-value outside"):
            membership(positive_control=p_value)
    assert membership(p_value=0.0, positive_control=0.0).p_value == 0


def test_an_approximate_run_takes_the_worst_of_its_checks() -> None:
    good = [membership(), tail(), utility(0.0, -0.01, 0.01), loss()]
    verdict, summary = approximate(*good)
    assert verdict == "pass"
    assert summary == "Not recovered by these attacks at this power (margin 0.15, alpha 0.01)."
    verdict, summary = approximate(membership(high=0.9), *good[1:])
    assert verdict == "inconclusive"
    assert "undecided: loss_membership (" in summary
    verdict, summary = approximate(membership(high=0.9), tail(p_value=0.001))
    assert verdict == "fail"
    assert summary.startswith("Failed: tail_test (")
    verdict, summary = approximate(*good[:2], utility(-0.3, -0.4, -0.2))
    assert verdict == "fail"
    assert "utility_retain" in summary


def test_an_approximate_run_needs_both_attacks() -> None:
    assert approximate(membership()) == (
        "inconclusive",
        "Too little evidence: no tail check was made (margin 0.15, alpha 0.01).",
    )
    assert "no membership check was made" in approximate(tail())[1]
    verdict, summary = approximate(utility(0.0, -0.01, 0.01), loss())
    assert verdict == "inconclusive"
    assert "no membership check was made; no tail check was made" in summary
    assert approximate(tail(p_value=0.001))[0] == "fail"
    assert approximate()[0] == "inconclusive"


def test_process_decides_nothing_for_an_approximate_run() -> None:
    judgement = judge("approximate", [membership(), tail(), process(2)], MARGINS)
    assert judgement.verdict == "pass"
    assert judgement.checks[2].verdict == "fail"
    assert judgement.checks[2].reason.endswith("Shown only: it decides nothing here.")
    assert "Shown only" not in judgement.checks[0].reason
    assert approximate(process(), membership())[0] == "inconclusive"


def test_certified_is_judged_by_its_bound_and_its_utility() -> None:
    def bound(over: int) -> Check:
        return replace(process(over), details={"spent": 1.0 + over, "budget": 1.5})

    few = membership(low=0.05, high=0.95)
    kept = utility(0, -0.01, 0.01)
    held = judge("certified", [few, tail(p_value=0.001), kept, bound(0)], MARGINS)
    assert (held.verdict, held.by) == ("pass", "process")
    assert held.summary.startswith("Within its bound")
    assert "tail_test told the records" in held.summary
    assert held.checks[3].reason == "1 of 1.5 of the budget spent."
    over = judge("certified", [few, kept, bound(1)], MARGINS)
    assert over.verdict == "fail"
    assert "cannot be called certified" in over.summary
    useless = judge("certified", [utility(-0.3, -0.4, -0.2), bound(0)], MARGINS)
    assert (useless.verdict, useless.summary) == ("fail", "Failed: utility_retain.")
    assert judge("certified", [membership(), tail()], MARGINS).verdict == "inconclusive"


def test_an_exact_run_passes_by_its_process() -> None:
    few = membership(low=0.05, high=0.95)
    judgement = judge("exact", [few, tail(m=20), utility(-0.3, -0.4, -0.2), process()], MARGINS)
    assert (judgement.verdict, judgement.by) == ("pass", "process")
    assert judgement.summary == "By its process: the model was trained without the records."
    verdicts = [check.verdict for check in judgement.checks]
    assert verdicts == ["inconclusive", "inconclusive", "fail", "pass"]
    assert all("Shown only" in check.reason for check in judgement.checks[:3])
    assert "Shown only" not in judgement.checks[3].reason


def test_an_exact_run_names_the_attack_that_succeeded() -> None:
    judgement = judge("exact", [tail(p_value=0.001), process(), loss()], MARGINS)
    assert judgement.verdict == "pass"
    assert "tail_test told the records from the holdout" in judgement.summary
    assert judgement.checks[2].reason.endswith("holdout's.")


def test_an_exact_run_fails_when_its_process_does_not_hold() -> None:
    judgement = judge("exact", [membership(), tail(), process(), process(1)], MARGINS)
    assert (judgement.verdict, judgement.by) == ("fail", "process")
    assert "cannot be called exact" in judgement.summary


def test_an_exact_run_without_a_process_check_is_inconclusive() -> None:
    judgement = judge("exact", [membership(), tail()], MARGINS)
    assert (judgement.verdict, judgement.by) == ("inconclusive", "process")
    assert "No process check" in judgement.summary


def obvious_holm(p_values: Sequence[float]) -> list[float]:
    """The step-down definition: the k-th smallest, times those left, never less than before."""
    adjusted = [0.0] * len(p_values)
    left = len(p_values)
    running = 0.0
    for place in sorted(range(len(p_values)), key=lambda place: p_values[place]):
        running = max(running, p_values[place] * left)
        adjusted[place] = min(1.0, running)
        left -= 1
    return adjusted


@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=6))
def test_attacks_are_adjusted_together(p_values: list[float]) -> None:
    checks = [membership(p_value=p) if i % 2 else tail(p_value=p) for i, p in enumerate(p_values)]
    judgement = judge("approximate", [utility(0.0, -0.01, 0.01), *checks], MARGINS)
    failed = [check.verdict == "fail" for check in judgement.checks[1:]]
    assert failed == [p < MARGINS.alpha for p in obvious_holm(p_values)]
    assert (judgement.verdict == "fail") is any(failed)


def test_one_of_two_attacks_must_clear_half_of_alpha() -> None:
    assert verdict_of(membership(p_value=0.006)) == "fail"
    assert approximate(membership(p_value=0.006), tail())[0] == "pass"
    assert approximate(membership(p_value=0.004), tail())[0] == "fail"
    assert approximate(membership(p_value=0.006), tail(p_value=0.004))[0] == "fail"


def test_the_power_of_the_tail_is_judged_among_all_attacks() -> None:
    assert verdict_of(tail(m=5_000)) == "pass"
    assert approximate(membership(), tail(m=5_000))[0] == "inconclusive"


def test_one_data_subject_alone_never_passes_by_statistics() -> None:
    alone = replace(membership(low=0.02, high=0.98), n=1)
    assert approximate(alone, tail(n=1, m=1_000))[0] == "inconclusive"


@pytest.mark.parametrize(
    ("verdict", "guarantee", "stronger_possible", "expected"),
    [
        ("pass", "approximate", True, "promote"),
        ("pass", "exact", False, "promote"),
        ("fail", "approximate", True, "escalate"),
        ("fail", "approximate", False, "fail"),
        ("inconclusive", "approximate", True, "escalate"),
        ("inconclusive", "approximate", False, "await_acceptance"),
        ("inconclusive", "certified", False, "await_acceptance"),
        ("fail", "exact", True, "fail"),
        ("inconclusive", "exact", True, "fail"),
        ("inconclusive", "exact", False, "fail"),
    ],
)
def test_what_follows(
    verdict: Verdict, guarantee: Guarantee, stronger_possible: bool, expected: str
) -> None:
    assert after(verdict, guarantee, stronger_possible) == expected


def test_only_a_pass_is_promoted_and_a_fail_is_never_accepted() -> None:
    for verdict, guarantee, possible in product(
        get_args(Verdict), get_args(Guarantee), (True, False)
    ):
        step = after(verdict, guarantee, possible)
        assert (step == "promote") is (verdict == "pass")
        assert not (verdict == "fail" and step == "await_acceptance")
