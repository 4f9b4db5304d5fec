"""What the report of a run says, and which checks the request's page shows; no database."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.dashboard.report_views import report_view
from app.dashboard.report_words import BY_PROCESS, EIGHT_METHODS, QUANTITIES, ROLES, THRESHOLDS
from app.dashboard.run_views import MOST_CHECKS, run_view
from app.dashboard.words import CHECKS, PROVES_NOTHING, check_words
from app.runs.schemas import RunOut, StepOut
from app.verification.checks import Check, Margins
from app.verification.rules import judge
from lethe.methods.spec import Guarantee
from tests.factories import make_check

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = UUID("0193aaaa-0000-7000-8000-00000000beef")
ROC = {"false_alarms": [0.0, 0.01, 1.0], "hits_after": [0.0, 0.0, 1.0]}


def _step(result: dict[str, Any] | None) -> StepOut:
    return StepOut(
        id=KEY,
        kind="evaluate",
        target="all",
        stage=1,
        state="done",
        progress=1.0,
        attempts=1,
        epoch=1,
        failure=None,
        started_at=NOW,
        finished_at=NOW,
        result=result,
    )


def _run(
    verdict: dict[str, Any] | None = None,
    *,
    result: dict[str, Any] | None = None,
    method: str = "gradient_ascent",
    guarantee: str = "approximate",
    accepted: dict[str, Any] | None = None,
) -> RunOut:
    return RunOut(
        id=KEY,
        kind="unlearn",
        state="done",
        method=method,
        guarantee=guarantee,
        model="notes-lm",
        base_version=1,
        new_version=2,
        starts_at=None,
        predicted_seconds=None,
        actual_seconds=None,
        verdict=verdict,
        accepted=accepted,
        failure=None,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW + timedelta(hours=1),
        steps=[_step(result)],
    )


def _judged(guarantee: Guarantee, checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Judge checks as the service does, and keep the verdict as its row does."""
    names = Check.__dataclass_fields__
    measured = [Check(**{name: one[name] for name in names}) for one in checks]
    return asdict(judge(guarantee, measured, Margins())) | {"margins": asdict(Margins())}


PROCESS = make_check(
    name="process",
    family="process",
    estimate=0.0,
    low=None,
    high=None,
    p_value=None,
    positive_control=None,
    threat_model="T0",
    unit="record",
    n=3,
    m=900,
    details={"left_in_manifest": 0.0, "untouched_shards": 7.0},
)
ATTACK = make_check(details={"leading": 1.0}, p_value=1e-9, estimate=0.9, low=0.8, high=0.95)
USE = make_check(
    name="utility_retain",
    family="utility",
    estimate=0.0,
    low=-0.01,
    high=0.01,
    p_value=None,
    positive_control=None,
)

CHANGE = make_check(
    name="auc_change",
    family="comparison",
    estimate=-0.4,
    low=-0.5,
    high=-0.3,
    details={"before": 0.98, "after": 0.58},
)


# The request's page.


def test_a_request_s_page_shows_what_its_verdict_rests_on() -> None:
    checks = [ATTACK, PROCESS, USE]
    view = run_view(_run(_judged("exact", checks)), checks, "")
    assert (view.verdict, [one.name for one in view.deciding]) == ("pass", ["process"])
    assert [one.verdict for one in view.checks] == ["fail", "pass", "pass"]
    failed = run_view(_run(_judged("approximate", checks)), checks, "")
    assert (failed.verdict, [one.name for one in failed.deciding]) == ("fail", ["loss_membership"])


def test_a_request_s_page_shows_no_more_than_a_few_checks() -> None:
    names = ["zlib", "min_k", "rmia", "lira", "target_rank", "min_k_plus_plus"]
    checks = [ATTACK | {"name": name} for name in names]
    assert len(run_view(_run(_judged("approximate", checks)), checks, "").deciding) == MOST_CHECKS
    assert len(run_view(_run(), checks, "").deciding) == MOST_CHECKS


# Words.


@pytest.mark.parametrize(
    "name",
    [
        "loss_membership",
        "zlib",
        "min_k",
        "min_k_plus_plus",
        "extraction_strength",
        "exact_memorisation",
        "target_rank",
        "reference_loss",
        "rmia",
        "lira",
        "tail_test",
        "sparse_test",
        "greedy_extraction",
        "sampled_extraction",
        "exposure",
        "relearning",
        "quantised_int8",
        "quantised_int4",
        "in_context",
        "jailbreak_prompts",
        "paraphrased",
        "translated",
        "probe",
        "prompted_baseline",
        "blind_baseline",
        "residual_fraction",
        "utility_retain",
        "utility_holdout",
        "utility_similar",
        "forget_loss",
        "process",
        "certified_bound",
        "stored_bytes",
        "utility_downstream",
        "utility_retain_balanced",
        "utility_holdout_balanced",
        "utility_worst_group",
        "calibration",
        "index_search",
    ],
)
def test_every_check_has_words_of_its_own(name: str) -> None:
    words = CHECKS[name]
    assert words.title != name.replace("_", " ").capitalize()
    assert words.meaning.endswith(".")
    assert words.family in QUANTITIES


def test_every_threshold_and_each_of_the_eight_has_words() -> None:
    assert set(THRESHOLDS) >= set(asdict(Margins()))
    assert len(EIGHT_METHODS) == 8
    assert set(EIGHT_METHODS) <= set(CHECKS)


# The report.


def test_every_threshold_is_shown_a_new_one_by_its_name() -> None:
    verdict = _judged("exact", [PROCESS])
    verdict["margins"] |= {"residual_share": 0.1}
    shown = {one.name: one.value for one in report_view(_run(verdict), [PROCESS], "").thresholds}
    assert shown[THRESHOLDS["membership"]] == "0.15"
    assert shown[THRESHOLDS["power"]] == "0.99"
    assert shown["residual share"] == "0.1"
    assert len(shown) == len(verdict["margins"])


@pytest.mark.parametrize(
    ("verdict", "by", "guarantee", "said"),
    [
        ("pass", "process", "exact", "can be replayed"),
        ("pass", "process", "certified", "no more than the bound says"),
        ("pass", "statistics", "approximate", "Not recovered by these attacks, at this power"),
        ("fail", "statistics", "approximate", "not put into service"),
        ("inconclusive", "statistics", "approximate", "That is no pass"),
        (None, None, "exact", "There is no verdict"),
    ],
)
def test_a_verdict_is_told_for_what_it_is(
    verdict: str | None, by: str | None, guarantee: str, said: str
) -> None:
    kept = None if verdict is None else {"verdict": verdict, "by": by, "summary": "So."}
    view = report_view(_run(kept, guarantee=guarantee), [], "")
    assert said in view.meaning
    assert view.verdict == (verdict or "not judged")


def test_numbers_are_told_once_and_the_adjusted_p_value_where_there_is_one() -> None:
    verdict = {
        "verdict": "fail",
        "checks": [{"name": "zlib", "verdict": "fail", "reason": "found", "adjusted": 0.02}],
        "margins": {},
    }
    checks = [
        make_check(
            name="zlib",
            p_value=0.00001,
            positive_control=0.00001,
            details={"auc_before": 0.98},
            estimate=0.71234,
            low=0.6,
            high=0.8,
            n=1200,
        ),
        make_check(name="min_k", p_value=0.031, positive_control=None),
    ]
    first, second = report_view(_run(verdict), checks, "").checks
    assert (first.p_value, first.adjusted) == ("< 0.0001 → < 0.0001", "0.02")
    assert (first.measured, first.interval) == ("0.98 → 0.71 AUC", "0.60 to 0.80")
    assert (first.n, first.verdict, first.reason) == ("1,200", "fail", "found")
    assert (second.p_value, second.adjusted) == ("0.031", "")
    assert (second.measured, second.verdict) == ("0.50 AUC", "not judged")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (USE | {"details": {"accuracy_before": 0.9, "accuracy_after": 0.95}}, "90.0% → 95.0%"),
        (USE | {"estimate": -0.012}, "-1.2%"),
        (
            make_check(
                name="utility_similar",
                family="comparison",
                details={"accuracy_before": 0.9, "accuracy_after": 0.95},
            ),
            "90.0% → 95.0%",
        ),
        (
            make_check(
                name="calibration", family="comparison", details={"before": 0.04}, estimate=0.0512
            ),
            "4.0 → 5.1 percentage points",
        ),
        (make_check(name="prompted_baseline", family="comparison", estimate=0.712), "0.71 AUC"),
        (make_check(family="comparison", details={"before": 0.04}, estimate=0.05), "0.04 → 0.05"),
        (
            make_check(
                family="comparison",
                estimate=-0.4,
                low=-0.5,
                details={"before": 0.98, "after": 0.58},
            ),
            "0.98 → 0.58 AUC",
        ),
        (make_check(family="loss", estimate=-0.02), "-0.02 nats"),
        (make_check(family="sparse", estimate=1.7), ""),
        (PROCESS, "0 wrong"),
    ],
)
def test_a_check_is_told_from_before_to_after(check: Mapping[str, Any], said: str) -> None:
    (row,) = report_view(_run(), [check], "").checks
    assert row.measured.removesuffix(" accuracy") == said


def test_a_change_has_its_interval() -> None:
    rows = report_view(_run(), [USE, CHANGE], "").checks
    assert [one.interval for one in rows] == ["change -1.0% to +1.0%", "change -0.50 to -0.30"]
    similar = USE | {"name": "utility_similar", "family": "comparison"}
    similar["details"] = {"accuracy_before": 0.9, "accuracy_after": 0.9}
    told = make_check(name="prompted_baseline", family="comparison", low=0.6123, high=0.8)
    rows = report_view(_run(), [similar, told], "").checks
    assert [one.interval for one in rows] == ["change -1.0% to +1.0%", "0.61 to 0.80"]


SPARSE = make_check(name="sparse_test", family="sparse", estimate=0.0, low=None, high=None)
FURTHER = make_check(name="probe", family="recovery")
SHOWN = make_check(name="calibration", family="comparison", p_value=None, positive_control=None)


def test_checks_are_in_groups_by_what_they_are_to_the_verdict() -> None:
    checks = [SHOWN, FURTHER, ATTACK, SPARSE, USE, PROCESS]
    approximate = report_view(_run(_judged("approximate", checks)), checks, "").groups
    assert [(one.title, [row.name for row in one.rows]) for one in approximate] == [
        (ROLES["rests"], ["loss_membership", "sparse_test", "utility_retain"]),
        (ROLES["can fail"], ["probe"]),
        (ROLES["shown"], ["calibration", "process"]),
    ]
    exact = report_view(_run(_judged("exact", checks)), checks, "")
    assert [(one.title, len(one.rows)) for one in exact.groups] == [
        (ROLES["rests"], 1),
        (ROLES["shown"], 5),
    ]
    badges = {one.name: one.badge for one in exact.checks}
    assert (badges["process"], badges["loss_membership"]) == ("pass", "shown: fail")
    assert badges["calibration"] == "reported"
    unsure = [ATTACK, make_check(name="probe", family="recovery", positive_control=0.9)]
    badges = {
        one.name: one.badge
        for one in report_view(_run(_judged("approximate", unsure)), unsure, "").checks
    }
    assert badges == {"loss_membership": "fail", "probe": PROVES_NOTHING}
    (unjudged,) = report_view(_run(), checks, "").groups
    assert (unjudged.title, len(unjudged.rows)) == (ROLES["measured"], 6)


def test_of_one_data_subject_it_is_said_how_little_can_be_seen() -> None:
    lead = ATTACK | {"n": 1, "m": 28, "p_value": 0.07}
    one = report_view(_run(_judged("approximate", [lead, SPARSE])), [lead, SPARSE], "")
    assert "among 28 never seen stands highest once in 29 times" in one.meaning
    assert "once in 100 is asked for" in one.meaning
    many = [lead | {"n": 2}, SPARSE]
    assert "stands highest" not in report_view(_run(_judged("approximate", many)), many, "").meaning
    exact = [lead, PROCESS]
    assert "stands highest" not in report_view(_run(_judged("exact", exact)), exact, "").meaning


def test_a_summary_calls_checks_by_their_titles() -> None:
    lead = make_check(name="min_k", details={"leading": 1.0}, low=0.2, high=0.8)
    checks = [lead, make_check(name="min_k_plus_plus", p_value=1e-9, estimate=0.9, high=0.95)]
    summary = report_view(_run(_judged("approximate", checks)), checks, "").summary
    assert f"“{check_words('min_k_plus_plus').title}”" in summary
    assert "min" not in summary.replace("minimum", "")[: summary.index("(")]
    by_process = report_view(_run(_judged("exact", [PROCESS])), [PROCESS], "").summary
    assert by_process.startswith("By its process")


def test_facts_count_data_subjects_and_no_records() -> None:
    checks = [PROCESS, make_check(n=20, m=80)]
    facts = {one.name: one.value for one in report_view(_run(), checks, "").facts}
    assert facts["Works on"] == "notes-lm@1 → notes-lm@2"
    assert facts["Data subjects forgotten (n)"] == "20"
    assert facts["Never seen, to compare (m)"] == "80"
    assert facts["Method"].startswith("gradient ascent: ")
    assert facts["Guarantee"] == "approximate: rests on measurements only"


def test_what_was_tested_is_told_by_what_the_attacker_has() -> None:
    checks = [
        make_check(name="relearning", family="recovery", threat_model="T3"),
        make_check(name="zlib"),
        make_check(name="utility_retain", family="utility"),
        make_check(name="min_k"),
    ]
    told = [(one.attacker, one.titles) for one in report_view(_run(), checks, "").tested]
    assert told == [
        ("With the model's scores (T1)", (check_words("zlib").title, check_words("min_k").title)),
        ("With the model's weights (T3)", (check_words("relearning").title,)),
        ("Whether it is as useful as before", (check_words("utility_retain").title,)),
    ]


def test_what_would_settle_it_is_told_of_the_undecided_only() -> None:
    checks = [
        make_check(name="zlib") | {"would_settle": "much more"},
        make_check(name="min_k") | {"would_settle": "nothing"},
    ]
    verdict = {
        "verdict": "inconclusive",
        "checks": [
            {"name": "zlib", "verdict": "inconclusive", "reason": ""},
            {"name": "min_k", "verdict": "pass", "reason": ""},
        ],
    }
    told = report_view(_run(verdict), checks, "").would_settle
    assert [one.value for one in told] == ["much more"]
    verdict["verdict"] = "pass"
    assert report_view(_run(verdict), checks, "").would_settle == ()
    unproven = _judged("exact", [FURTHER, SPARSE])
    assert unproven["verdict"] == "inconclusive"
    assert report_view(_run(unproven), [FURTHER, SPARSE], "").would_settle == ()


def test_an_exact_run_needs_none_of_the_eight() -> None:
    rows = report_view(_run(_judged("exact", [PROCESS])), [PROCESS], "").eight
    assert {one.reason for one in rows} == {BY_PROCESS}


def test_the_leading_attack_s_plots_come_first() -> None:
    checks = [
        make_check(name="zlib", curves=ROC),
        make_check(name="rmia", curves=ROC, details={"leading": 1.0}),
        make_check(name="min_k"),
    ]
    view = report_view(_run(), checks, "")
    assert view.leading is not None
    assert view.leading.name == "rmia"
    assert [len(one.charts) for one in view.checks] == [1, 1, 0]
    unmarked = report_view(_run(), checks[:1] + checks[2:], "").leading
    assert unmarked is not None
    assert unmarked.name == "zlib"
    assert report_view(_run(), checks[2:], "").leading is None


def test_each_of_the_eight_is_run_or_says_why_not() -> None:
    verdict = {
        "verdict": "pass",
        "checks": [{"name": "probe", "verdict": "pass", "reason": "not recovered"}],
    }
    not_run = {"translated": "No translations were supplied.", "downstream": "No test is named."}
    result = {"not_run": [{"name": name, "reason": why} for name, why in not_run.items()]}
    view = report_view(_run(verdict, result=result), [make_check(name="probe")], "")
    rows = {one.title: one for one in view.eight}
    assert len(rows) == 8
    probed = rows[EIGHT_METHODS["probe"]]
    assert (probed.ran, probed.verdict, probed.reason) == (True, "pass", "not recovered")
    spoken = rows[EIGHT_METHODS["translated"]]
    assert (spoken.ran, spoken.reason) == (False, "No translations were supplied.")
    assert rows[EIGHT_METHODS["utility_downstream"]].reason == "No test is named."
    assert rows[EIGHT_METHODS["relearning"]].reason == "No reason was recorded."
    assert [(one.name, one.value) for one in view.not_tested] == [
        (CHECKS["translated"].title, "Not tested: No translations were supplied."),
        (CHECKS["utility_downstream"].title, "Not tested: No test is named."),
    ]


def test_each_request_s_own_subject_has_its_verdict() -> None:
    own = {"request": str(KEY), "p_value": 0.31, "adjusted": 1.0}
    own |= {"verdict": "inconclusive", "reason": "not singled out"}
    verdict = {"verdict": "pass", "checks": [], "subjects": [own]}
    (row,) = report_view(_run(verdict), [], "").subjects
    assert (row.request, row.short_id) == (str(KEY), "0000beef")
    assert (row.p_value, row.adjusted, row.verdict) == ("0.31", "1", "inconclusive")


def test_the_process_is_told_by_digests_counts_and_the_command_that_repeats_it() -> None:
    result = {
        "manifest_digest": "3f" * 32,
        "manifest_root": "ab" * 32,
        "metrics": {"epochs": 3},
        "environment": {"python": "3.11.9"},
    }
    exact = _run(result=result, method="sisa", guarantee="exact")
    view = report_view(exact, [PROCESS, make_check(details={"forget_mean": 1.0})], "")
    assert {one.name: one.value for one in view.process} == {
        "Manifest digest": "3f" * 32,
        "Manifest root": "ab" * 32,
        "Left in manifest": "0",
        "Untouched shards": "7",
    }
    assert [(one.name, one.value) for one in view.environment] == [("python", "3.11.9")]
    assert view.replay == f"lethe replay {KEY}"
    assert report_view(_run(), [], "").replay is None


def test_an_accepted_verdict_shows_the_promise_and_not_the_reason() -> None:
    accepted = {"reason": "Ana asked twice", "due_at": (NOW + timedelta(days=9)).isoformat()}
    view = report_view(_run({"verdict": "inconclusive"}, accepted=accepted), [], "")
    assert view.accepted_until == NOW + timedelta(days=9)
    assert "Ana" not in str(view)
