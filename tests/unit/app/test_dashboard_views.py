"""What the dashboard makes of rows, without a database."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.lifecycle import REQUEST_MOVES, RequestState
from app.dashboard.certificate_views import signed_check
from app.dashboard.check_views import check_view
from app.dashboard.intervals import WIDTH, plot_interval
from app.dashboard.pages import TEMPLATES
from app.dashboard.report_checks import check_row
from app.dashboard.repository import ClosedCounts
from app.dashboard.request_views import MOVING, decisions, entry_view, stages
from app.dashboard.run_views import run_view
from app.dashboard.session import LIFETIME, read_session, sign_session
from app.dashboard.views import clock_counts, short_id, stored_sla
from app.dashboard.words import CHECKS, PROVES_NOTHING, WHAT_NEXT, check_words
from app.intake.schemas import TimelineEntry
from app.models import Action
from app.runs.schemas import RunOut, StepOut
from tests.factories import make_check

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECRET = "vault-secret-vault-secret-vault-secret"
KEY = UUID("0193aaaa-0000-7000-8000-00000000beef")
SHOWN = "Shown only: it decides nothing here."
CERTIFIED = (
    *("name", "threat_model", "reference", "unit", "n", "m"),
    *("estimate", "low", "high", "level"),
)


# Sessions.


def test_a_session_holds_until_its_eight_hours_are_over() -> None:
    cookie = sign_session(SECRET, KEY, NOW)
    assert read_session(SECRET, cookie, NOW + LIFETIME - timedelta(seconds=1)) == KEY
    assert read_session(SECRET, cookie, NOW + LIFETIME) is None


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_changed_session_is_none(place: int) -> None:
    cookie = sign_session(SECRET, KEY, NOW)
    other = "1" if cookie[place] != "1" else "2"
    assert read_session(SECRET, cookie[:place] + other + cookie[place + 1 :], NOW) is None


@pytest.mark.parametrize("cookie", ["", ".", "...", "a.b.c.d", "ä.ö.ü.ß"])
def test_what_nobody_signed_is_no_session(cookie: str) -> None:
    assert read_session(SECRET, cookie, NOW) is None


def test_another_secret_opens_nothing() -> None:
    assert read_session(SECRET + "x", sign_session(SECRET, KEY, NOW), NOW) is None


# Clocks.


def test_counts_are_those_of_the_clocks() -> None:
    clocks = [
        (NOW - 10 * DAY, NOW + 20 * DAY),
        (NOW - 25 * DAY, NOW + 3 * DAY),
        (NOW - 40 * DAY, NOW - 9 * DAY),
        (NOW - 41 * DAY, NOW - 10 * DAY),
    ]
    counts = clock_counts(clocks, ClosedCounts(5, 1), NOW)
    assert (counts.on_track, counts.at_risk, counts.breached) == (1, 1, 2)
    assert (counts.open, counts.met, counts.late) == (4, 5, 1)


def test_a_closed_request_keeps_how_it_stood() -> None:
    assert stored_sla(NOW - 30 * DAY, NOW, NOW + 90 * DAY, NOW - DAY).status == "met"
    assert stored_sla(NOW - 30 * DAY, NOW, NOW + 90 * DAY, NOW + DAY).status == "breached"


def test_a_short_id_is_its_end_since_requests_of_one_minute_begin_alike() -> None:
    assert short_id(KEY) == "0000beef"


# The way of a request.


@pytest.mark.parametrize(
    ("state", "now"),
    [
        (RequestState.RECEIVED, "received"),
        (RequestState.AWAITING_IDENTITY, "received"),
        (RequestState.AWAITING_APPROVAL, "planned"),
        (RequestState.PROMOTING, "promoting"),
    ],
)
def test_the_stage_of_a_request_is_marked(state: RequestState, now: str) -> None:
    standing = {stage.name: stage.standing for stage in stages(state, [])}
    assert [name for name, stands in standing.items() if stands == "now"] == [now]


@pytest.mark.parametrize("state", [RequestState.COMPLETED, RequestState.PARTIALLY_COMPLETED])
def test_every_stage_of_a_closed_request_is_done(state: RequestState) -> None:
    assert {stage.standing for stage in stages(state, [])} == {"done"}


def test_a_failed_request_stands_where_the_log_saw_it_last() -> None:
    events = ["request_received", "request_traced", "request_planned", "request_executing"]
    standing = {stage.name: stage.standing for stage in stages(RequestState.FAILED, events)}
    assert standing["executing"] == "now"
    assert standing["approved"] == "done"
    assert standing["verifying"] == "to come"


@pytest.mark.parametrize("state", RequestState)
def test_a_decision_is_offered_only_where_the_lifecycle_allows_it(state: RequestState) -> None:
    offered = decisions(state, [], False, NOW)
    following = REQUEST_MOVES[state]
    assert not offered.reject or RequestState.REJECTED in following
    assert not offered.approve or RequestState.APPROVED in following
    assert not offered.retry or RequestState.EXECUTING in following
    assert not offered.identity or RequestState.RECEIVED in following
    assert WHAT_NEXT[state]


def test_decisions_are_those_of_the_state() -> None:
    waiting = decisions(RequestState.AWAITING_APPROVAL, [], False, NOW)
    assert waiting.approve
    assert waiting.reject
    assert not waiting.retry
    assert decisions(RequestState.FAILED, [], False, NOW).reject
    begun = decisions(RequestState.FAILED, [Action(state="done")], False, NOW)
    assert begun.retry
    assert not begun.reject
    assert decisions(RequestState.VERIFYING, [], True, NOW).accept
    assert not any(decisions(state, [], False, NOW).any for state in MOVING)


def test_the_promise_offered_is_the_plan_s_date_unless_it_has_passed() -> None:
    def promised(*dates: datetime) -> datetime:
        actions = [Action(state="verifying", commitment_due_at=date) for date in dates]
        return decisions(RequestState.VERIFYING, actions, True, NOW).promise_by

    assert promised(NOW + 60 * DAY, NOW + 40 * DAY) == NOW + 60 * DAY
    assert promised(NOW - DAY) == NOW + DAY
    assert promised() == NOW + 30 * DAY


def test_an_entry_tells_words_and_no_ids() -> None:
    facts: dict[str, object] = {"method": "gradient_ascent", "action": str(KEY), "artifact": 7}
    entry = entry_view(TimelineEntry(event="action_planned", at=NOW, index=3, facts=facts))
    assert (entry.event, entry.facts) == ("Action planned", "method gradient ascent")


# Evidence.


def _plot(low: float, estimate: float, high: float, margin: float = 0.15) -> tuple[float, ...]:
    plot = plot_interval(
        "membership", estimate, low, high, membership_margin=margin, utility_drop=0.02
    )
    assert plot is not None
    assert plot.band is not None
    return (plot.band[0], plot.low, plot.estimate, plot.high, plot.band[1], plot.reference)


def test_a_membership_interval_is_drawn_on_0_to_1() -> None:
    # 24 units of edge on either side of 272: 0.35 → 119.2, 0.5 → 160, 0.65 → 200.8.
    assert _plot(0.25, 0.5, 0.75) == (119.2, 92.0, 160.0, 228.0, 200.8, 160.0)


@given(st.tuples(*[st.floats(0, 1)] * 3), st.floats(0.01, 0.49))
def test_an_interval_lies_within_its_band_exactly_when_it_is_drawn_so(
    values: tuple[float, float, float], margin: float
) -> None:
    low, estimate, high = sorted(values)
    left, drawn_low, drawn, drawn_high, right, _ = _plot(low, estimate, high, margin)
    assert 0 <= drawn_low <= drawn <= drawn_high <= WIDTH
    if drawn_low > left and drawn_high < right:
        assert 0.5 - margin <= low
        assert high <= 0.5 + margin


@given(
    st.sampled_from(["utility", "loss"]),
    st.tuples(*[st.floats(-50, 50, allow_subnormal=False)] * 3),
)
def test_any_interval_around_zero_is_drawn_inside_with_labels_apart(
    family: str, values: tuple[float, float, float]
) -> None:
    low, estimate, high = sorted(values)
    plot = plot_interval(
        "utility" if family == "utility" else "loss",
        estimate,
        low,
        high,
        membership_margin=0.15,
        utility_drop=0.02,
    )
    assert plot is not None
    assert plot.reference == WIDTH / 2
    assert 0 < plot.low <= plot.estimate <= plot.high < WIDTH
    assert (plot.band is None) == (family == "loss")
    places = [tick.x for tick in plot.ticks]
    assert all(after - before >= 34 for before, after in pairwise(places))


def test_without_an_interval_nothing_is_drawn() -> None:
    drawn = plot_interval("loss", 0.1, None, None, membership_margin=None, utility_drop=None)
    assert drawn is None


def test_a_check_is_shown_with_its_part_of_the_verdict() -> None:
    verdict = {
        "checks": [{"name": "loss_membership", "verdict": "pass", "reason": "within"}],
        "margins": {"membership": 0.2, "utility_drop": 0.02},
    }
    shown = check_view(make_check(n=3, m=9), verdict)
    assert (shown.verdict, shown.reason, shown.n, shown.m) == ("pass", "within", 3, 9)
    assert shown.plot is not None
    assert "allowed from 0.3 to 0.7" in shown.plot.description
    assert check_view(make_check(), {}).verdict == "not judged"


@pytest.mark.parametrize(
    ("by", "verdict", "reason", "badge", "role"),
    [
        ("process", "pass", "No record is in it.", "pass", "rests"),
        ("process", "inconclusive", f"Reaches beyond. {SHOWN}", "shown: inconclusive", "shown"),
        ("process", "fail", f"Found. {SHOWN}", "shown: fail", "shown"),
        ("process", "reported", "Not sure of the records before.", "reported", "shown"),
        ("statistics", "reported", "Not sure of the records before.", PROVES_NOTHING, "can fail"),
        ("statistics", "inconclusive", "Reaches beyond.", "inconclusive", "can fail"),
    ],
)
def test_run_report_and_certificate_give_a_check_one_badge(
    by: str, verdict: str, reason: str, badge: str, role: str
) -> None:
    said = {"name": "loss_membership", "verdict": verdict, "reason": reason}
    check = make_check()
    shown = check_view(check, {"by": by, "checks": [said], "margins": {}})
    assert (shown.badge, shown.role) == (badge, role)
    assert shown.decides == (verdict != "reported" and role != "shown")
    row = check_row(check, shown)
    assert (row.badge, row.role) == (badge, role)
    # A certificate says neither family nor by what it was judged; the guarantee tells.
    kept = {name: check[name] for name in CERTIFIED} | {**said, "margin": 0.15}
    guarantee = {"process": "exact", "statistics": "approximate"}[by]
    signed = signed_check(kept, guarantee)
    assert (signed.badge, signed.role) == (badge, role)


def test_a_check_without_words_of_its_own_keeps_its_name() -> None:
    assert check_words("relearning_speed").title == "Relearning speed"
    assert "loss_membership" in CHECKS


def _step(target: str, progress: float, seconds: float | None = None) -> StepOut:
    return StepOut(
        id=KEY,
        kind="train_shard",
        target=target,
        stage=0,
        state="running",
        progress=progress,
        attempts=1,
        epoch=1,
        failure=None,
        started_at=NOW,
        finished_at=None if seconds is None else NOW + timedelta(seconds=seconds),
        result=None,
    )


def _run(state: str, steps: list[StepOut], accepted: dict[str, str] | None = None) -> RunOut:
    return RunOut(
        id=KEY,
        kind="unlearn",
        state=state,
        method="sisa",
        guarantee="exact",
        model="digits",
        base_version=1,
        new_version=2,
        starts_at=None,
        predicted_seconds=None,
        actual_seconds=None,
        verdict={"verdict": "inconclusive", "summary": "Too little evidence"},
        accepted=accepted,
        failure=None,
        created_at=NOW,
        started_at=NOW,
        finished_at=None,
        steps=steps,
    )


def test_a_run_is_as_far_as_its_steps_together() -> None:
    view = run_view(_run("running", [_step("shard-0010", 1.0, 4.5), _step("all", 0.5)]), [], "")
    assert view.progress == 0.75
    assert view.subject == "digits@1 → digits@2"
    assert [(step.name, step.seconds) for step in view.steps] == [
        ("Train, shard 10", 4.5),
        ("Train shard", None),
    ]


def test_a_run_that_waits_says_when_it_starts() -> None:
    queued = _run("queued", [])
    later = queued.model_copy(update={"starts_at": NOW + DAY})
    assert run_view(later, [], "").starts_at == NOW + DAY
    at_once = queued.model_copy(update={"starts_at": NOW})
    assert run_view(at_once, [], "").starts_at is None
    macros = TEMPLATES.get_template("macros.html").make_module({"zone": UTC})
    shown = TEMPLATES.get_template("runs.html").render(
        view={"runs": [run_view(later, [], "")]}, show=macros
    )
    assert "starts on" in shown
    assert (NOW + DAY).isoformat() in shown


def test_an_inconclusive_verdict_waits_until_it_is_accepted() -> None:
    accepted = {"reason": "x", "at": NOW.isoformat(), "due_at": (NOW + DAY).isoformat()}
    assert run_view(_run("verifying", []), [], "").awaits_acceptance
    assert not run_view(_run("failed", []), [], "").awaits_acceptance
    assert not run_view(_run("verifying", [], accepted), [], "").awaits_acceptance


# Words and numbers.


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ 3.21 | duration }}", "3.2 s"),
        ("{{ 61.0 | duration }}", "61 s"),
        ("{{ 600.0 | duration }}", "10 min"),
        ("{{ 9000.0 | duration }}", "2.5 h"),
        ("{{ 864000.0 | duration }}", "10.0 days"),
        ("{{ 1220 | number }}, {{ 0.53411 | number }}, {{ 0.0 | number }}", "1,220, 0.534, 0"),
        ("{{ 'see `state` <b>' | with_code }}", "see <code>state</code> &lt;b&gt;"),
    ],
)
def test_numbers_and_words_are_told_plainly(template: str, shown: str) -> None:
    assert TEMPLATES.from_string(template).render() == shown
