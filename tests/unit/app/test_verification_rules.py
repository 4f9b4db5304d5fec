from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from app.verification.checks import ATTACKS, Check, Family, Margins, Verdict
from app.verification.rules import Judgement, adjust, after, judge, judge_own
from lethe.methods.spec import Guarantee

MARGINS = Margins()


def check_of(
    name: str,
    family: Family,
    p_value: float | None,
    *,
    interval: tuple[float, float, float] | None = (0.51, 0.42, 0.6),
    control: float | None = 1e-6,
    **details: float,
) -> Check:
    estimate, low, high = interval or (0.0, None, None)
    return Check(
        name=name,
        family=family,
        unit="data_subject",
        n=47,
        m=1_000,
        estimate=estimate,
        low=low,
        high=high,
        p_value=p_value,
        positive_control=control,
        details=details,
        would_settle="72 data subjects to forget",
    )


def lead(p_value: float = 0.8, calibrated: float = 0.0) -> Check:
    return check_of("rmia", "membership", p_value, leading=1.0, calibrated=calibrated)


def tail(p_value: float = 0.6) -> Check:
    return check_of("tail_test", "tail", p_value, interval=None)


def sparse(p_value: float = 0.6, power: float = 0.995) -> Check:
    return check_of("sparse_test", "sparse", p_value, interval=None, power=power, alpha=0.005)


def attack(p_value: float = 0.5, name: str = "zlib", family: Family = "membership") -> Check:
    return check_of(name, family, p_value)


def shift(p_value: float = 0.5) -> Check:
    return check_of("blind_baseline", "shift", p_value, control=None)


def utility(estimate: float = 0.0, low: float = -0.01, high: float = 0.01) -> Check:
    interval = (estimate, low, high)
    return check_of("utility_retain", "utility", None, interval=interval, control=None)


def count(family: Family, wrong: float, **details: float) -> Check:
    return check_of(family, family, None, interval=(wrong, wrong, wrong), control=None, **details)


USELESS = utility(-0.3, -0.4, -0.2)
CLEAN = [lead(), tail(), sparse(), attack(), shift(), utility()]


def approximate(*checks: Check) -> tuple[Verdict, str]:
    judgement = judge("approximate", checks, MARGINS)
    assert judgement.by == "statistics"
    return judgement.verdict, judgement.summary


def test_an_approximate_run_takes_the_worst_of_its_checks() -> None:
    assert approximate(*CLEAN) == (
        "pass",
        "Not recovered by these attacks at this power (margin 0.15, alpha 0.01).",
    )
    undecided = approximate(sparse(power=0.5), lead(), tail(), utility())
    assert undecided == (
        "inconclusive",
        "Too little evidence: undecided: sparse_test (margin 0.15, alpha 0.01).",
    )
    assert approximate(*CLEAN[:2], sparse(p_value=0.001), USELESS) == (
        "fail",
        "Failed: sparse_test, utility_retain (margin 0.15, alpha 0.01).",
    )


@pytest.mark.parametrize(
    "worse",
    [
        lead(1e-9),
        tail(1e-9),
        sparse(1e-9),
        attack(1e-9),
        attack(1e-9, "greedy_extraction", "extraction"),
        attack(1e-9, "relearning", "recovery"),
        USELESS,
        count("storage", 1),
    ],
    ids=lambda check: f"{check.name}-{check.family}",
)
def test_any_of_these_fails_an_approximate_run(worse: Check) -> None:
    others = [one for one in CLEAN if one.name != worse.name]
    assert approximate(*others, worse)[0] == "fail"


@pytest.mark.parametrize(
    "unclear",
    [
        sparse(power=0.98),
        replace(lead(), low=0.3),
        replace(lead(), positive_control=None),
        shift(0.001),
        utility(-0.1, -0.3, 0.1),
        count("storage", 0, unreadable=1),
    ],
    ids=["power", "interval", "control", "shift", "utility", "storage"],
)
def test_any_of_these_keeps_an_approximate_run_from_passing(unclear: Check) -> None:
    others = [one for one in CLEAN if one.name != unclear.name]
    assert approximate(*others, unclear)[0] == "inconclusive"


def test_a_pass_needs_a_leading_attack_a_sparse_test_and_a_measured_utility() -> None:
    assert approximate(lead(), sparse(), utility())[0] == "pass"
    assert approximate() == (
        "inconclusive",
        "Too little evidence: no membership check was made; no sparse check was made; "
        "no utility check was made (margin 0.15, alpha 0.01).",
    )
    assert "no sparse check was made (" in approximate(lead(), tail(), utility())[1]
    assert "no membership check was made (" in approximate(sparse(), tail(), utility())[1]
    # A model that says nothing any more shows nothing either.
    assert "evidence: no utility check was made (" in approximate(lead(), sparse())[1]
    # Attacks that do not lead are no ground for a pass, nor is a process.
    process = count("process", 0)
    assert approximate(attack(), sparse(), process, utility())[0] == "inconclusive"
    assert approximate(tail(1e-9))[0] == "fail"


def test_process_decides_nothing_for_an_approximate_run() -> None:
    judgement = judge("approximate", [*CLEAN, count("process", 2)], MARGINS)
    assert judgement.verdict == "pass"
    assert judgement.checks[-1].verdict == "fail"
    assert judgement.checks[-1].reason.endswith("Shown only: it decides nothing here.")
    assert "Shown only" not in judgement.checks[0].reason


def test_a_shift_makes_uncalibrated_fails_inconclusive() -> None:
    leaks = [lead(1e-9), tail(1e-9), sparse(1e-9), attack(1e-9)]
    assert approximate(*leaks, shift(0.01))[0] == "fail"
    assert approximate(*leaks, shift(0.0099))[0] == "inconclusive"
    calibrated = [lead(1e-9, calibrated=1.0), *leaks[1:]]
    judged = judge("approximate", [*calibrated, shift(0.0099)], MARGINS)
    assert [one.verdict for one in judged.checks[:2]] == ["fail", "inconclusive"]
    assert judged.summary.startswith("Failed: rmia (")
    assert approximate(*CLEAN[:4], shift(0.0099), USELESS)[0] == "fail"


@pytest.mark.parametrize(
    ("check", "part"),
    [(sparse(), 2), (lead(), 8), (tail(), 8), (attack(), 4)],
    ids=["sparse", "leading", "tail", "other"],
)
def test_each_fails_below_its_own_part_of_alpha(check: Check, part: int) -> None:
    others = [one for one in CLEAN if one.name not in {check.name, "zlib"}]
    for factor, fails in ((1.001, False), (0.999, True)):
        changed = replace(check, p_value=factor * MARGINS.alpha / part)
        assert (approximate(*others, changed)[0] == "fail") is fails
    # The control of the leading attack is adjusted in the same way.
    for factor, passes in ((1.001, False), (0.999, True)):
        control = replace(lead(), positive_control=factor * MARGINS.alpha / 8)
        assert (approximate(control, sparse(), utility())[0] == "pass") is passes


def plain_holm(p_values: Sequence[float]) -> list[float]:
    """The step-down definition: the k-th smallest, times those left, never less than before."""
    adjusted = [0.0] * len(p_values)
    left, running = len(p_values), 0.0
    for place in sorted(range(len(p_values)), key=lambda place: p_values[place]):
        running = max(running, p_values[place] * left)
        adjusted[place] = min(1.0, running)
        left -= 1
    return adjusted


p_values_of = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(p_values_of, p_values_of)
def test_the_others_share_a_quarter_by_holm(p_values: list[float], controls: list[float]) -> None:
    families: list[Family] = ["membership", "extraction", "recovery"]
    controls = (controls * len(p_values))[: len(p_values)]
    checks = [
        replace(attack(p, f"attack_{i}", families[i % 3]), positive_control=control)
        for i, (p, control) in enumerate(zip(p_values, controls, strict=True))
    ]
    adjusted = adjust([lead(0.002), *checks, sparse(0.3), shift(0.02), tail(0.2), utility()])
    expected = np.minimum(1, 4 * np.array(plain_holm(p_values)))
    assert [one.p_value for one in adjusted[1 : 1 + len(checks)]] == pytest.approx(expected)
    assert [one.positive_control for one in adjusted[1 : 1 + len(checks)]] == pytest.approx(
        np.minimum(1, 4 * np.array(plain_holm(controls)))
    )
    kept = [one.p_value for one in (adjusted[0], *adjusted[-4:])]
    assert kept == [0.016, 0.6, 0.02, 1.0, None]


def test_holm_is_that_of_another_library() -> None:
    generator = np.random.default_rng(1)
    for size in (1, 2, 5, 12):
        p_values = generator.random(size) ** 2
        adjusted = adjust([attack(p) for p in p_values.tolist()])
        theirs = multipletests(p_values, method="holm")[1]
        assert [one.p_value for one in adjusted] == pytest.approx(np.minimum(1, 4 * theirs))


def test_a_run_that_forgot_is_failed_at_most_alpha_of_the_time() -> None:
    # All p-values uniform and independent, where the parts lose least.
    generator = np.random.default_rng(4)
    wide = Margins(alpha=0.2)
    failed = 0
    for row in generator.random((4_000, 6)).tolist():
        checks = [lead(row[0]), tail(row[1]), sparse(row[2])]
        checks += [attack(p, f"attack_{i}") for i, p in enumerate(row[3:])]
        failed += judge("approximate", checks, wide).verdict == "fail"
    # By independence, 1 - (1 - 0.1)(1 - 0.025)²(1 - 0.05).
    assert failed / 4_000 == pytest.approx(0.187, abs=0.02)


ORDER = {"fail": 0, "inconclusive": 1, "pass": 2}
ps = st.one_of(st.floats(0, 0.02), st.floats(0, 1))
some_checks = st.lists(
    st.one_of(
        st.builds(lead, ps),
        st.builds(tail, ps),
        st.builds(sparse, ps, st.sampled_from([0.5, 0.99])),
        st.builds(attack, ps),
        st.builds(attack, ps, st.just("relearning"), st.just("recovery")),
        st.sampled_from([shift(), shift(1e-6), utility(), USELESS, count("process", 0)]),
    ),
    max_size=7,
)


@given(some_checks, st.builds(attack, ps, st.just("another")))
def test_another_attack_never_lifts_a_fail_of_a_leading_check(
    checks: list[Check], another: Check
) -> None:
    alone = judge("approximate", checks, MARGINS).checks
    joined = judge("approximate", [*checks, another], MARGINS)
    for check, verdict in zip(checks, alone, strict=True):
        if check.leads and verdict.verdict == "fail":
            assert joined.verdict == "fail"
            assert verdict in joined.checks


@given(some_checks, st.data())
def test_a_lower_p_value_of_an_attack_never_betters_the_verdict(
    checks: list[Check], data: st.DataObject
) -> None:
    attacks = [i for i, one in enumerate(checks) if one.family in ATTACKS]
    if not attacks:
        return
    place = data.draw(st.sampled_from(attacks))
    p_value = checks[place].p_value
    assert p_value is not None
    lower = replace(checks[place], p_value=p_value * data.draw(st.floats(0, 1)))
    changed = [*checks[:place], lower, *checks[place + 1 :]]
    for guarantee in get_args(Guarantee):
        was = judge(guarantee, checks, MARGINS).verdict
        assert ORDER[judge(guarantee, changed, MARGINS).verdict] <= ORDER[was]


@given(some_checks)
def test_statistics_overrule_nothing_of_an_exact_run(checks: list[Check]) -> None:
    checks = [one for one in checks if one.family != "process"]
    assert judge("exact", [*checks, count("process", 0)], MARGINS).verdict == "pass"
    assert judge("exact", [*checks, count("process", 1)], MARGINS).verdict == "fail"
    assert judge("exact", checks, MARGINS).verdict == "inconclusive"


def test_an_exact_run_passes_by_its_process() -> None:
    judgement = judge("exact", [sparse(power=0.1), USELESS, count("process", 0)], MARGINS)
    assert (judgement.verdict, judgement.by) == ("pass", "process")
    assert judgement.summary == "By its process: the model was trained without the records."
    assert [check.verdict for check in judgement.checks] == ["inconclusive", "fail", "pass"]
    shown = ["Shown only" in check.reason for check in judgement.checks]
    assert shown == [True, True, False]


def test_an_exact_run_names_the_attack_that_succeeded() -> None:
    judgement = judge("exact", [tail(1e-9), count("process", 0), count("loss", -1)], MARGINS)
    assert judgement.verdict == "pass"
    assert "tail_test told the records from the holdout" in judgement.summary
    assert judgement.checks[2].reason.endswith("holdout's.")


def test_the_summary_of_a_process_tells_what_is_wrong() -> None:
    def said(guarantee: Guarantee, *checks: Check) -> tuple[Verdict, str]:
        judgement: Judgement = judge(guarantee, checks, MARGINS)
        assert judgement.by == "process"
        return judgement.verdict, judgement.summary

    held = count("process", 0)
    verdict, summary = said("exact", held, count("process", 1))
    assert (verdict, "cannot be called exact" in summary) == ("fail", True)
    verdict, summary = said("exact", *CLEAN)
    assert (verdict, summary[:16]) == ("inconclusive", "No process check")
    verdict, summary = said("exact", held, count("storage", 2))
    assert (verdict, summary[:16]) == ("fail", "Failed: storage ")
    verdict, summary = said("exact", held, count("storage", 0, unreadable=1))
    assert (verdict, "undecided: storage (" in summary) == ("inconclusive", True)
    verdict, summary = said("certified", held, utility(-0.1, -0.3, 0.1))
    assert (verdict, "undecided: utility_retain (" in summary) == ("inconclusive", True)


def test_certified_is_judged_by_its_bound_and_its_utility() -> None:
    def bound(over: int) -> Check:
        return count("process", over, spent=1.0 + over, budget=1.5)

    held = judge("certified", [sparse(power=0.1), tail(1e-9), utility(), bound(0)], MARGINS)
    assert (held.verdict, held.by) == ("pass", "process")
    assert held.summary.startswith("Within its bound")
    assert "tail_test told the records" in held.summary
    over = judge("certified", [utility(), bound(1)], MARGINS)
    assert over.verdict == "fail"
    assert "cannot be called certified" in over.summary
    useless = judge("certified", [USELESS, bound(0)], MARGINS)
    assert (useless.verdict, useless.summary[:23]) == ("fail", "Failed: utility_retain ")
    assert judge("certified", CLEAN, MARGINS).verdict == "inconclusive"
    unmeasured = judge("certified", [bound(0)], MARGINS)
    assert unmeasured.verdict == "inconclusive"
    assert "no utility check was made (" in unmeasured.summary


def test_each_request_is_told_of_its_own_data_subject() -> None:
    clean = judge("approximate", CLEAN, MARGINS)
    found = judge_own(clean, CLEAN, {"r1": 0.0004, "r2": 0.5, "r3": 0.0007}, MARGINS)
    # Holm over three requests, at an eighth of alpha.
    assert [one.adjusted for one in found] == pytest.approx([0.0096, 1.0, 0.0112])
    assert [one.verdict for one in found] == ["fail", "inconclusive", "inconclusive"]
    assert [one.request for one in found] == ["r1", "r2", "r3"]
    assert "still looks trained on" in found[0].reason
    assert "exact retraining would settle it" in found[1].reason
    assert [one.p_value for one in found] == [0.0004, 0.5, 0.0007]
    assert judge_own(clean, CLEAN, {}, MARGINS) == ()


def test_where_the_sets_differ_without_a_model_nobody_is_singled_out() -> None:
    shifted = [*CLEAN[:4], shift(0.0099), utility()]
    clean = judge("approximate", shifted, MARGINS)
    (own,) = judge_own(clean, shifted, {"r1": 1e-6}, MARGINS)
    assert own.verdict == "inconclusive"
    assert "without any model" in own.reason
    calibrated = [lead(calibrated=1.0), *shifted[1:]]
    (own,) = judge_own(clean, calibrated, {"r1": 1e-6}, MARGINS)
    assert own.verdict == "fail"


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=6))
def test_nobody_passes_alone_by_statistics(p_values: dict[str, float]) -> None:
    for one in judge_own(judge("approximate", CLEAN, MARGINS), CLEAN, p_values, MARGINS):
        assert one.verdict != "pass"


@pytest.mark.parametrize(("wrong", "verdict"), [(0, "pass"), (1, "fail")])
def test_of_an_exact_run_each_request_has_the_run_s_verdict(wrong: int, verdict: str) -> None:
    checks = [tail(1e-9), count("process", wrong)]
    (own,) = judge_own(judge("exact", checks, MARGINS), checks, {"r1": 1e-9}, MARGINS)
    assert (own.verdict, own.reason) == (verdict, "As the run, by its process.")


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
