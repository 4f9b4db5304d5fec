from dataclasses import replace
from math import inf, nan

import pytest

from app.verification.checks import (
    ATTACKS,
    LEADING_PART,
    OTHERS_PART,
    SPARSE_PART,
    TAIL_PART,
    Check,
    Family,
    Margins,
    judge_check,
)

MARGINS = Margins()
JUST_UNDER = 0.0099
LEADING = {"leading": 1.0}


def check_of(
    family: Family = "membership",
    *,
    estimate: float | None = 0.51,
    low: float | None = 0.42,
    high: float | None = 0.6,
    p_value: float | None = 0.8,
    control: float | None = 1e-6,
    details: dict[str, float] | None = None,
    m: int = 1_000,
) -> Check:
    return Check(
        name=f"the_{family}",
        family=family,
        unit="data_subject",
        n=47,
        m=m,
        estimate=estimate,
        low=low,
        high=high,
        p_value=p_value,
        positive_control=control,
        details=details or {},
        would_settle="72 data subjects to forget",
    )


def tail_of(p_value: float = 0.6, *, m: int = 40_000, control: float | None = 1e-6) -> Check:
    return check_of(
        "tail", estimate=0.0, low=None, high=None, p_value=p_value, control=control, m=m
    )


def sparse_of(p_value: float = 0.6, *, power: float | None = 0.995, alpha: float = 0.005) -> Check:
    details = {"alpha": alpha, "share": 0.1}
    if power is not None:
        details["power"] = power
    return check_of("sparse", estimate=3.0, low=None, high=None, p_value=p_value, details=details)


def drop_of(estimate: float, low: float | None = None, high: float | None = None) -> Check:
    return check_of("utility", estimate=estimate, low=low, high=high, p_value=None, control=None)


def count_of(family: Family, count: float, **details: float) -> Check:
    return replace(drop_of(count), name=f"the_{family}", family=family, details=details)


@pytest.mark.parametrize(
    ("check", "verdict", "reason"),
    [
        (check_of(details=LEADING), "pass", "within 0.5 ± 0.15"),
        (check_of(low=0.35, high=0.65, details=LEADING), "pass", "0.35 to 0.65"),
        (check_of(low=0.3499, details=LEADING), "inconclusive", "72 data subjects"),
        (check_of(high=0.6501, details=LEADING), "inconclusive", "reaches beyond"),
        (check_of(control=None, details=LEADING), "inconclusive", "stronger attack"),
        (check_of(control=0.01, details=LEADING), "inconclusive", "stronger attack"),
        (check_of(control=JUST_UNDER, details=LEADING), "pass", "found the records before"),
        (check_of(p_value=0.01, details=LEADING), "pass", "within"),
        (check_of(p_value=JUST_UNDER, details=LEADING), "fail", "still look trained on"),
        (check_of(p_value=JUST_UNDER, control=None, details=LEADING), "fail", "trained on"),
        (
            check_of(estimate=0.1, low=0.0, p_value=JUST_UNDER, details=LEADING),
            "fail",
            "forgotten too much",
        ),
    ],
)
def test_the_leading_attack_passes_fails_or_is_undecided(
    check: Check, verdict: str, reason: str
) -> None:
    judged = judge_check(check, MARGINS)
    assert (judged.name, judged.verdict) == ("the_membership", verdict)
    assert reason in judged.reason


@pytest.mark.parametrize("family", ["membership", "extraction", "recovery"])
def test_any_other_attack_can_fail_a_run_but_not_hold_it_up(family: Family) -> None:
    assert judge_check(check_of(family), MARGINS).verdict == "pass"
    assert judge_check(check_of(family, control=0.01), MARGINS).verdict == "reported"
    assert judge_check(check_of(family, low=0.0, high=1.0), MARGINS).verdict == "pass"
    assert judge_check(check_of(family, p_value=0.01, control=None), MARGINS).verdict == "reported"
    assert judge_check(check_of(family, p_value=JUST_UNDER), MARGINS).verdict == "fail"


def test_an_extraction_without_an_interval_is_judged_by_its_p_value() -> None:
    bare = check_of("extraction", low=None, high=None)
    assert judge_check(bare, MARGINS).verdict == "pass"
    assert judge_check(replace(bare, p_value=0.001), MARGINS).verdict == "fail"


@pytest.mark.parametrize(
    ("check", "verdict", "reason"),
    [
        (tail_of(), "pass", "smallest adjusted p 0.6 of 47"),
        # An eighth of one percent takes m + 1 > 47 · 800; at 37,600 the smallest p is 0.01 itself.
        (tail_of(m=37_599), "reported", "which takes 37600"),
        (tail_of(m=37_600), "pass", "found somebody"),
        (tail_of(JUST_UNDER), "fail", "at least one looks trained on"),
        (tail_of(0.01), "pass", "before unlearning"),
        (tail_of(JUST_UNDER, m=10), "fail", "looks trained on"),
        (tail_of(control=0.01), "reported", "found nobody"),
        (tail_of(control=None), "reported", "found nobody"),
    ],
)
def test_tail(check: Check, verdict: str, reason: str) -> None:
    judged = judge_check(check, MARGINS)
    assert judged.verdict == verdict
    assert reason in judged.reason


@pytest.mark.parametrize(
    ("check", "verdict", "reason"),
    [
        (sparse_of(), "pass", "a leak of 10% would be seen 99.5% of the time"),
        (sparse_of(power=0.99), "pass", "99.0%"),
        (sparse_of(power=0.9899), "inconclusive", "72 data subjects"),
        (sparse_of(power=None), "inconclusive", "seen 0.0% of the time"),
        (sparse_of(JUST_UNDER, power=0.1), "fail", "some still look trained on"),
        (sparse_of(0.01), "pass", "p 0.01"),
        # A power at a level that the verdict does not use is no power.
        (sparse_of(alpha=0.0051), "inconclusive", "Needed"),
        (sparse_of(alpha=0.004), "pass", "99.5%"),
    ],
)
def test_sparse(check: Check, verdict: str, reason: str) -> None:
    judged = judge_check(check, MARGINS)
    assert judged.verdict == verdict
    assert reason in judged.reason


def test_a_sparse_test_that_names_no_level_shows_no_power() -> None:
    assert judge_check(replace(sparse_of(), details={"power": 1.0}), MARGINS).verdict == (
        "inconclusive"
    )


@pytest.mark.parametrize(
    ("check", "verdict", "too_few"),
    [
        (drop_of(0.0, -0.01, 0.01), "pass", False),
        (drop_of(-0.02, -0.02, -0.02), "pass", False),
        (drop_of(-0.02, -0.025, -0.015), "pass", False),
        (drop_of(-0.021, -0.03, -0.0201), "fail", False),
        (drop_of(-0.021, -0.03, -0.02), "inconclusive", True),
        (drop_of(-0.3, -0.6, 0.0), "inconclusive", True),
        (drop_of(-0.01, -0.04, 0.02), "pass", False),
        # So wide that twice the limit may be lost, or no interval at all.
        (drop_of(-0.01, -0.041, 0.021), "inconclusive", True),
        (drop_of(-1.0), "inconclusive", True),
        (drop_of(0.0), "inconclusive", True),
    ],
)
def test_utility(check: Check, verdict: str, too_few: bool) -> None:
    judged = judge_check(check, MARGINS)
    assert judged.verdict == verdict
    assert ("oo few records to tell" in judged.reason) is too_few
    assert ("interval" in judged.reason) is (check.low is not None)
    assert "the limit is a drop of 0.02" in judged.reason


def test_balanced_accuracy_can_fail_and_no_more() -> None:
    for low, high, verdict in (
        (-0.3, -0.021, "fail"),
        (-0.3, -0.01, "reported"),
        (0, 0, "reported"),
    ):
        check = replace(drop_of((low + high) / 2, low, high), details={"balanced": 1.0})
        judged = judge_check(check, MARGINS)
        assert judged.verdict == verdict
        assert judged.reason.startswith("balanced accuracy")


def test_what_must_be_zero() -> None:
    for family, word in (("process", "manifest"), ("storage", "Nothing")):
        clean = judge_check(count_of(family, 0), MARGINS)  # type: ignore[arg-type]
        assert (clean.verdict, word in clean.reason) == ("pass", True)
        broken = judge_check(count_of(family, 3), MARGINS)  # type: ignore[arg-type]
        assert (broken.verdict, broken.reason[:2]) == ("fail", "3 ")
    unread = judge_check(count_of("storage", 0, unreadable=2), MARGINS)
    assert (unread.verdict, "2 files could not be read" in unread.reason) == ("inconclusive", True)
    assert judge_check(count_of("storage", 1, unreadable=2), MARGINS).verdict == "fail"
    held = judge_check(count_of("process", 0, spent=1.0, budget=1.5), MARGINS)
    assert (held.verdict, held.reason) == ("pass", "1 of 1.5 of the budget spent.")
    assert judge_check(count_of("process", 1, spent=2.0, budget=1.5), MARGINS).verdict == "fail"


def test_loss_and_comparison_are_reported_only() -> None:
    lost = judge_check(count_of("loss", -0.25), MARGINS)
    assert (lost.verdict, "-0.25 nats" in lost.reason) == ("reported", True)
    left = replace(count_of("comparison", 0.9), low=0.8, high=1.0)
    assert judge_check(left, MARGINS).verdict == "reported"
    assert "0.9, interval 0.8 to 1." in judge_check(left, MARGINS).reason


def test_a_shift_is_told_and_decides_nothing_by_itself() -> None:
    seen = check_of("shift", estimate=0.8, high=0.9, p_value=JUST_UNDER, control=None)
    told = judge_check(seen, MARGINS)
    assert (told.verdict, "may see that" in told.reason) == ("reported", True)
    assert "no shift seen" in judge_check(replace(seen, p_value=0.01), MARGINS).reason


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (check_of(details=LEADING), "inconclusive"),
        (check_of(p_value=0.001, details=LEADING), "inconclusive"),
        (check_of(), "reported"),
        (check_of(p_value=0.001), "inconclusive"),
        (check_of("extraction", p_value=0.001), "inconclusive"),
        (tail_of(0.001), "inconclusive"),
        (sparse_of(), "inconclusive"),
        (check_of(details=LEADING | {"calibrated": 1.0}), "pass"),
        (check_of(p_value=0.001, details=LEADING | {"calibrated": 1.0}), "fail"),
        (check_of(details={"calibrated": 0.0}, p_value=0.001), "inconclusive"),
        (drop_of(-0.3, -0.4, -0.2), "fail"),
        (count_of("storage", 1), "fail"),
    ],
)
def test_under_a_shift_only_a_calibrated_attack_says_anything(check: Check, verdict: str) -> None:
    judged = judge_check(check, MARGINS, shifted=True)
    assert judged.verdict == verdict
    muted = check.family in ATTACKS and not check.details.get("calibrated")
    assert ("differ without any model" in judged.reason) is muted


def test_margins_are_arguments() -> None:
    wide = Margins(membership=0.05, alpha=0.1, power=0.5, utility_drop=0.5)
    assert judge_check(check_of(details=LEADING), wide).verdict == "inconclusive"
    assert judge_check(check_of(p_value=0.09, details=LEADING), wide).verdict == "fail"
    assert judge_check(drop_of(-0.3, -0.4, -0.2), wide).verdict == "pass"
    assert judge_check(sparse_of(power=0.5), wide).verdict == "pass"
    assert judge_check(tail_of(m=3_760), wide).verdict == "pass"
    assert judge_check(tail_of(m=3_759), wide).verdict == "reported"


def test_the_parts_make_up_alpha() -> None:
    assert SPARSE_PART + LEADING_PART + TAIL_PART + OTHERS_PART == 1
    assert check_of(details=LEADING).part == LEADING_PART
    assert (tail_of().part, sparse_of().part) == (TAIL_PART, SPARSE_PART)
    assert check_of().part is None


def test_only_an_attack_has_an_adjusted_p_value() -> None:
    assert judge_check(check_of(), MARGINS).adjusted == 0.8
    assert judge_check(drop_of(0.0), MARGINS).adjusted is None
    assert judge_check(check_of("shift"), MARGINS).adjusted is None


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("field", ["estimate", "low", "high", "p_value", "positive_control"])
def test_a_number_that_is_not_finite_is_refused(field: str, number: float) -> None:
    changes = {field: number}
    with pytest.raises(ValueError, match="the_membership has a number that is not finite"):
        replace(check_of(), **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        check_of(details={"power": number})


@pytest.mark.parametrize("family", sorted([*ATTACKS, "shift"]))
def test_an_attack_without_a_p_value_is_refused(family: Family) -> None:
    with pytest.raises(ValueError, match="lacks the number"):
        check_of(family, p_value=None)


@pytest.mark.parametrize("family", ["membership", "extraction", "recovery", "shift"])
def test_an_auc_that_is_missing_is_refused(family: Family) -> None:
    with pytest.raises(ValueError, match="lacks its estimate"):
        check_of(family, estimate=None)


def test_checks_that_cannot_be_judged_are_refused() -> None:
    for check in (drop_of(0.0), count_of("process", 0), count_of("loss", 0)):
        with pytest.raises(ValueError, match="lacks the number"):
            replace(check, estimate=None)
    with pytest.raises(ValueError, match="lacks its estimate or interval"):
        check_of(low=None, high=None)
    for check in (check_of(), drop_of(0.0, -0.1, 0.1)):
        with pytest.raises(ValueError, match="half an interval"):
            replace(check, high=None)
    with pytest.raises(ValueError, match="does not hold its estimate"):
        check_of(estimate=0.7)
    for p_value in (-0.1, 1.1):
        with pytest.raises(ValueError, match="p-value outside"):
            check_of(p_value=p_value)
        with pytest.raises(ValueError, match="p-value outside"):
            check_of(control=p_value)
    assert check_of(p_value=0.0, control=1.0).p_value == 0
