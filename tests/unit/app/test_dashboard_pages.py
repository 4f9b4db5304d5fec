"""The dashboard through a browser's eyes: sign-in, pages and decisions, on a real database."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.access.service import revoke_api_key
from app.audit import service as audit
from app.certificate import service as certificate
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.db import Database
from app.core.identifiers import Identifier
from app.core.security import Role
from app.core.signing import SigningKeys, create_signing_keys
from app.dashboard.session import COOKIE, LIFETIME, sign_session
from app.intake import service as intake
from app.main import create_app
from app.models import Action, Artifact, ErasureRequest, Suppression
from lethe.certificate import verify_bundle
from tests.factories import (
    make_action,
    make_api_key,
    make_candidate,
    make_check,
    make_commitment,
    make_dataset_version,
    make_evidence,
    make_model,
    make_model_version,
    make_request,
    make_run,
    make_step,
)

DAY = timedelta(days=1)
ANA = Identifier("email", "ana.keller@example.org")
TOKEN = re.compile(r'name="form_token" value="([0-9a-f]{64})"')


@dataclass
class Office:
    """The service, and the API keys of those who use it."""

    database: Database
    settings: Settings
    keys: SigningKeys
    now: datetime = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        self.app = create_app(self.settings, database=self.database, signing_keys=self.keys)
        with self.database.transaction() as session:
            made = {role: make_api_key(session, role=role, now=self.now) for role in Role}
        self.ids = {role: key_id for role, (key_id, _) in made.items()}
        self.tokens = {role: token for role, (_, token) in made.items()}

    def browser(self, role: Role | None = None, base_url: str = "http://lethe.test") -> TestClient:
        """Return a browser, signed in where a role is given; it follows no redirect by itself."""
        client = TestClient(
            self.app, base_url=base_url, follow_redirects=False, raise_server_exceptions=False
        )
        client.headers["Accept"] = "text/html,application/xhtml+xml"
        if role is not None:
            answer = client.post("/dashboard/sign-in", data={"api_key": self.tokens[role]})
            assert answer.status_code == 303, answer.text
        return client

    @contextmanager
    def rows(self) -> Iterator[Session]:
        """Open a transaction of the test's own."""
        with self.database.transaction() as session:
            yield session

    def request(
        self,
        state: str = "received",
        *,
        identifiers: tuple[Identifier, ...] = (),
        received_at: datetime | None = None,
        closed_at: datetime | None = None,
        reference: str | None = None,
        regime: str = "gdpr",
    ) -> UUID:
        """Make a request of the portal; return its id."""
        with self.rows() as session:
            return make_request(
                session,
                settings=self.settings,
                portal_id=self.ids[Role.PORTAL],
                now=self.now,
                state=state,
                identifiers=identifiers,
                received_at=received_at,
                closed_at=closed_at,
                reference=reference,
                regime=regime,
            ).id

    def state(self, request_id: UUID) -> str:
        """Return where a request stands."""
        with self.rows() as session:
            return session.get_one(ErasureRequest, request_id).state


@pytest.fixture
def office(database: Database, settings: Settings) -> Office:
    return Office(database, settings, create_signing_keys(settings.signing_keys, "lethe.test/log"))


def page_of(request_id: UUID) -> str:
    return f"/dashboard/requests/{request_id}"


def send(browser: TestClient, request_id: UUID, decision: str, **fields: str) -> httpx2.Response:
    """Send a form of the request's page, with the token that the page holds."""
    token = TOKEN.findall(browser.get(page_of(request_id)).text)[0]
    return browser.post(f"{page_of(request_id)}/{decision}", data={"form_token": token, **fields})


# Nobody comes in without a key.


@pytest.mark.parametrize(
    "path",
    ["", "/requests/{id}", "/certificates/{id}", "/certificates/{id}/file"],
)
def test_no_page_is_open(office: Office, path: str) -> None:
    address = "/dashboard" + path.format(id=office.request())
    answer = office.browser().get(address)
    assert answer.status_code == 303
    assert answer.headers["Location"] == f"/dashboard/sign-in?next={address}"


@pytest.mark.parametrize("decision", ["approve", "reject", "accept", "retry", "resume", "identity"])
def test_no_decision_is_open(office: Office, decision: str) -> None:
    request_id = office.request("awaiting_approval")
    answer = office.browser().post(f"{page_of(request_id)}/{decision}", data={"reason": "because"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard/sign-in")
    assert office.state(request_id) == "awaiting_approval"


@pytest.mark.parametrize("role", [Role.DPO, Role.AUDITOR, Role.ADMIN])
def test_a_reader_signs_in_and_out(office: Office, role: Role) -> None:
    browser = office.browser(role)
    page = browser.get("/dashboard")
    assert page.status_code == 200
    assert ("read only" in page.text) == (role != Role.DPO)
    token = TOKEN.findall(page.text)[0]
    assert browser.post("/dashboard/sign-out", data={"form_token": "0" * 64}).status_code == 403
    assert browser.post("/dashboard/sign-out", data={"form_token": token}).status_code == 303
    assert browser.get("/dashboard").status_code == 303


@pytest.mark.parametrize("role", [Role.PORTAL, Role.ENGINEER])
def test_other_roles_stay_outside(office: Office, role: Role) -> None:
    browser = office.browser()
    answer = browser.post("/dashboard/sign-in", data={"api_key": office.tokens[role]})
    assert answer.status_code == 403
    assert COOKIE not in answer.cookies
    forged = sign_session(
        office.settings.vault_secret.get_secret_value() + "x", office.ids[Role.DPO], office.now
    )
    browser.cookies.set(COOKIE, forged)
    assert browser.get("/dashboard").status_code == 303


def test_an_unknown_key_is_refused_and_not_repeated(office: Office) -> None:
    wrong = office.tokens[Role.DPO][:-3] + "abc"
    answer = office.browser().post("/dashboard/sign-in", data={"api_key": wrong})
    assert answer.status_code == 401
    assert "no valid API key" in answer.text
    assert wrong not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_for_this_site_and_no_script(
    office: Office, scheme: str, secure: bool
) -> None:
    browser = office.browser(base_url=f"{scheme}://lethe.test")
    answer = browser.post("/dashboard/sign-in", data={"api_key": office.tokens[Role.DPO]})
    flags = {flag.strip().lower() for flag in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/dashboard", "max-age=28800"} <= flags
    assert ("secure" in flags) == secure


def test_another_site_signs_nobody_in(office: Office) -> None:
    answer = office.browser().post(
        "/dashboard/sign-in",
        data={"api_key": office.tokens[Role.DPO]},
        headers={"Sec-Fetch-Site": "cross-site"},
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("following", "reached"),
    [
        ("/dashboard/requests/0193aaaa-0000-7000-8000-00000000beef", True),
        ("https://elsewhere.example/", False),
        ("//elsewhere.example", False),
        ("/dashboard\\@elsewhere.example", False),
        ("/v1/api-keys", False),
    ],
)
def test_signing_in_leads_to_the_dashboard_only(
    office: Office, following: str, reached: bool
) -> None:
    browser = office.browser()
    asked = browser.get("/dashboard/sign-in", params={"next": following})
    assert (f'value="{following}"' in asked.text) == reached
    form = {"api_key": office.tokens[Role.DPO], "following": following}
    answer = browser.post("/dashboard/sign-in", data=form)
    assert answer.headers["Location"] == (following if reached else "/dashboard")


def test_a_revoked_key_ends_its_sessions(office: Office) -> None:
    browser = office.browser(Role.DPO)
    with office.rows() as session:
        revoke_api_key(session, office.ids[Role.DPO], office.now)
    assert browser.get("/dashboard").status_code == 303


def test_a_session_ends(office: Office) -> None:
    browser = office.browser()
    secret = office.settings.vault_secret.get_secret_value()
    ended = sign_session(secret, office.ids[Role.DPO], office.now - LIFETIME)
    browser.cookies.set(COOKIE, ended)
    assert browser.get("/dashboard").status_code == 303


# The overview.


def test_an_empty_overview_says_what_will_come(office: Office) -> None:
    assert "No request yet" in office.browser(Role.DPO).get("/dashboard").text


def test_open_requests_are_listed_by_due_date_with_their_clocks(office: Office) -> None:
    later = office.request("executing", received_at=office.now - DAY, identifiers=(ANA,))
    late = office.request("failed", received_at=office.now - 60 * DAY, reference="portal-7")
    soon = office.request("awaiting_approval", received_at=office.now - 27 * DAY)
    closed = office.request(
        "completed", received_at=office.now - 20 * DAY, closed_at=office.now - 2 * DAY
    )
    text = office.browser(Role.DPO).get("/dashboard").text
    order = [UUID(one) for one in re.findall(r"/dashboard/requests/([0-9a-f-]{36})", text)]
    assert order == [late, soon, later, closed]
    counted = dict(re.findall(r"count-(\w+)[^>]*><strong>(\d+)", text))
    assert counted == {"breached": "1", "at_risk": "1", "on_track": "1", "met": "1"}
    assert "portal-7" in text
    assert text.count("waits for you") == 2
    assert ANA.value not in text


def test_the_overview_counts_actions_and_lists_open_promises(office: Office) -> None:
    request_id = office.request("executing")
    with office.rows() as session:
        request = session.get_one(ErasureRequest, request_id)
        kept, open_ = (make_model(session, now=office.now, name=name) for name in ("kept", "open"))
        for model, state in ((kept, "done"), (open_, "committed")):
            version = make_model_version(session, model=model, now=office.now)
            action = make_action(session, request=request, on=version, now=office.now, state=state)
            make_commitment(
                session,
                action=action,
                model=model,
                now=office.now,
                due_at=office.now + 9 * DAY,
                kept_at=office.now if state == "done" else None,
            )
        dataset = make_dataset_version(session, now=office.now)
        make_action(session, request=request, on=dataset, now=office.now)
    text = office.browser(Role.DPO).get("/dashboard").text
    assert "2 of 3" in text
    assert '<th scope="row">open</th>' in text
    assert '<th scope="row">kept</th>' not in text


# One request.


def test_identifiers_are_for_the_dpo_while_the_request_is_open(office: Office) -> None:
    sharp = Identifier("customer_id", "<script>P0042</script>")
    opened = office.request("executing", identifiers=(ANA, sharp))
    closed = office.request("completed", identifiers=(ANA,), closed_at=office.now)
    seen = office.browser(Role.DPO).get(page_of(opened)).text
    assert re.search(rf"<details.*?{re.escape(ANA.value)}.*?</details>", seen, re.DOTALL)
    assert "&lt;script&gt;P0042" in seen
    assert sharp.value not in seen
    assert ANA.value not in office.browser(Role.DPO).get(page_of(closed)).text
    for role in (Role.AUDITOR, Role.ADMIN):
        text = office.browser(role).get(page_of(opened)).text
        assert ANA.value not in text
        assert "P0042" not in text


def test_the_page_tells_the_clock_the_plan_and_the_log(office: Office) -> None:
    request_id = office.request("awaiting_approval", received_at=datetime(2026, 3, 2, tzinfo=UTC))
    with office.rows() as session:
        request = session.get_one(ErasureRequest, request_id)
        version = make_model_version(
            session, model=make_model(session, now=office.now, name="notes-lm"), now=office.now
        )
        make_action(
            session,
            request=request,
            on=version,
            now=office.now,
            method="gradient_ascent",
            guarantee="approximate",
            commitment_due_at=datetime(2026, 6, 1, tzinfo=UTC),
            candidates=[
                make_candidate(method="sisa", reason="The model has one shard with one slice."),
                make_candidate(
                    method="gradient_ascent",
                    chosen=True,
                    predicted_seconds=48.6,
                    finishes_at=datetime(2026, 3, 3, 9, 30, tzinfo=UTC),
                ),
            ],
        )
        audit.record(session, "request_received", office.now, request_id=request_id, regime="gdpr")
        audit.sequence(session, office.keys.log, office.now)
        audit.record(session, "request_traced", office.now, request_id=request_id)
    text = office.browser(Role.DPO).get(page_of(request_id)).text
    assert "The period ends on Thursday, 2026-04-02." in text
    assert "notes-lm@1" in text
    assert "The model has one shard with one slice." in text
    assert "49 s" in text
    assert "3 Mar 2026, 10:30" in text
    assert "1 Jun 2026" in text
    # Entry 0 to 4 made the API keys.
    assert "log #5" in text
    assert "not numbered yet" in text


def _inconclusive(office: Office) -> UUID:
    """Make a request whose run on a model could not be decided, and one that it followed."""
    request_id = office.request("verifying", identifiers=(ANA,))
    reason = "AUC 0.5, reaches beyond 0.5 ± 0.15."
    verdict = {
        "verdict": "inconclusive",
        "by": "statistics",
        "summary": "Too little evidence.",
        "checks": [{"name": "loss_membership", "verdict": "inconclusive", "reason": reason}],
        "margins": {"membership": 0.15, "alpha": 0.01, "utility_drop": 0.02},
    }
    with office.rows() as session:
        request = session.get_one(ErasureRequest, request_id)
        model = make_model(session, now=office.now, name="notes-lm")
        version = make_model_version(session, model=model, now=office.now)
        failed = make_run(
            session,
            now=office.now,
            base=version,
            state="failed",
            method="sisa",
            failure={"detail": "The weights are gone.", "advice": "Restore `them`."},
        )
        audit.record(session, "action_queued", office.now, request_id=request_id, run=failed.id)
        run = make_run(
            session,
            now=office.now,
            base=version,
            state="verifying",
            method="gradient_ascent",
            guarantee="approximate",
            verdict=verdict,
        )
        make_step(session, run=run, now=office.now, kind="unlearn", progress=0.25, state="running")
        make_evidence(session, run=run, check=make_check(n=1, m=27), now=office.now)
        make_action(
            session,
            request=request,
            on=version,
            now=office.now,
            state="verifying",
            method="gradient_ascent",
            guarantee="approximate",
            run=run,
        )
    return request_id


def test_evidence_is_drawn_and_judged(office: Office) -> None:
    text = office.browser(Role.AUDITOR).get(page_of(_inconclusive(office))).text
    assert "Can the person be told apart?" in text
    assert "allowed from 0.35 to 0.65" in text
    assert '<rect class="band" x="119.2" y="6" width="81.6"' in text
    assert "1 against 27 data subjects" in text
    assert "AUC 0.5, reaches beyond 0.5 ± 0.15." in text
    assert '<progress max="1" value="0.25"' in text
    assert "Unlearn, shard 0" in text


def test_a_run_that_another_one_followed_is_still_shown(office: Office) -> None:
    text = office.browser(Role.DPO).get(page_of(_inconclusive(office))).text
    assert "The weights are gone. Restore <code>them</code>." in text


def test_a_page_renews_itself_only_while_nothing_can_be_filled_in(office: Office) -> None:
    browser, refresh = office.browser(Role.DPO), 'http-equiv="refresh"'
    assert refresh in browser.get(page_of(office.request("executing"))).text
    assert refresh not in browser.get(page_of(office.request("awaiting_approval"))).text
    assert refresh not in browser.get(page_of(_inconclusive(office))).text
    closed = office.request("completed", closed_at=office.now)
    assert refresh not in browser.get(page_of(closed)).text


# Decisions.


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        ("received", set()),
        ("awaiting_identity", {"identity", "reject"}),
        ("awaiting_approval", {"approve", "reject"}),
        ("executing", set()),
        ("failed", {"retry", "reject"}),
        ("paused", {"resume", "reject"}),
    ],
)
def test_decisions_are_offered_to_the_dpo_where_they_apply(
    office: Office, state: str, offered: set[str]
) -> None:
    address = page_of(office.request(state))
    forms = re.compile(rf'action="{address}/(\w+)"')
    assert set(forms.findall(office.browser(Role.DPO).get(address).text)) == offered
    assert not forms.findall(office.browser(Role.AUDITOR).get(address).text)


def test_a_plan_is_approved(office: Office) -> None:
    request_id = office.request("awaiting_approval")
    answer = send(office.browser(Role.DPO), request_id, "approve", reason="")
    assert (answer.status_code, answer.headers["Location"]) == (303, page_of(request_id))
    assert office.state(request_id) == "approved"


def test_a_form_of_another_session_decides_nothing(office: Office) -> None:
    request_id = office.request("awaiting_approval")
    mine, theirs = office.browser(Role.DPO), office.browser(Role.DPO)
    token = TOKEN.findall(theirs.get("/dashboard").text)[0]
    for data in ({}, {"form_token": token}, {"form_token": "ä"}):
        answer = mine.post(f"{page_of(request_id)}/approve", data=data)
        assert answer.status_code == 403
        assert "text/html" in answer.headers["content-type"]
    assert office.state(request_id) == "awaiting_approval"


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.ADMIN])
def test_only_the_dpo_decides(office: Office, role: Role) -> None:
    request_id = office.request("awaiting_approval")
    browser = office.browser(role)
    token = TOKEN.findall(browser.get("/dashboard").text)[0]
    for decision in ("approve", "reject", "retry", "resume", "identity"):
        form = {"form_token": token, "reason": "because"}
        answer = browser.post(f"{page_of(request_id)}/{decision}", data=form)
        assert answer.status_code == 403
    assert office.state(request_id) == "awaiting_approval"


def test_a_request_is_refused_with_a_reason(office: Office) -> None:
    request_id = office.request("awaiting_approval", identifiers=(ANA,))
    browser = office.browser(Role.DPO)
    for nothing in ("no", "   ", "  a  ", "as agreed\u202e"):
        assert send(browser, request_id, "reject", reason=nothing).status_code == 422
    named = send(browser, request_id, "reject", reason=f"{ANA.value} withdrew it")
    assert named.status_code == 422
    assert "Say it without naming the person" in named.text
    assert ANA.value not in named.text
    assert office.state(request_id) == "awaiting_approval"
    assert send(browser, request_id, "reject", reason="A duty to keep.").status_code == 303
    assert "A duty to keep." in browser.get(page_of(request_id)).text
    assert office.state(request_id) == "rejected"


def test_an_inconclusive_verdict_is_accepted_until_the_end_of_a_day(office: Office) -> None:
    request_id = _inconclusive(office)
    browser = office.browser(Role.DPO)
    day = (office.now + 40 * DAY).date()
    answer = send(
        browser, request_id, "accept", reason="Retraining is due.", promise_by=day.isoformat()
    )
    assert answer.status_code == 303
    with office.rows() as session:
        action = session.scalars(select(Action).where(Action.request_id == request_id)).one()
        assert action.commitment_due_at is not None
        assert f"{action.commitment_due_at.astimezone(UTC):%H:%M:%S}" in {"21:59:59", "22:59:59"}
    text = browser.get(page_of(request_id)).text
    assert "Retraining is due." in text
    assert "/accept" not in text


def test_a_promise_lies_ahead(office: Office) -> None:
    request_id = _inconclusive(office)
    browser = office.browser(Role.DPO)
    past = send(browser, request_id, "accept", reason="Because.", promise_by="2020-01-01")
    assert past.status_code == 409
    no_date = send(browser, request_id, "accept", reason="Because.", promise_by="soon")
    assert no_date.status_code == 422
    assert "/accept" in browser.get(page_of(request_id)).text


def test_a_failed_request_is_tried_again(office: Office) -> None:
    request_id = office.request("failed")
    assert send(office.browser(Role.DPO), request_id, "retry").status_code == 303
    assert office.state(request_id) == "executing"


def test_a_paused_request_goes_on(office: Office) -> None:
    request_id = office.request("awaiting_approval")
    with office.rows() as session:
        intake.pause(session, office.settings, request_id, "Asked the controller.", office.now)
    browser = office.browser(Role.DPO)
    assert "Asked the controller." in browser.get(page_of(request_id)).text
    assert send(browser, request_id, "resume").status_code == 303
    assert office.state(request_id) == "awaiting_approval"


def test_an_identity_is_confirmed(office: Office) -> None:
    request_id = office.request("awaiting_identity")
    assert send(office.browser(Role.DPO), request_id, "identity").status_code == 303
    assert office.state(request_id) == "received"


def test_a_decision_that_comes_too_late_leaves_nothing_behind(office: Office) -> None:
    request_id = office.request("completed", closed_at=office.now)
    answer = send(office.browser(Role.DPO), request_id, "approve")
    assert answer.status_code == 409
    assert "Illegal move" in answer.text
    # Approving suppresses the person's keys before it moves the request.
    with office.rows() as session:
        assert session.scalars(select(Suppression)).all() == []


# The certificate.


def _certified(office: Office) -> UUID:
    request_id = office.request("completed", closed_at=office.now)
    with office.rows() as session:
        request = session.get_one(ErasureRequest, request_id)
        lost = make_dataset_version(session, now=office.now, name="scans")
        make_action(
            session,
            request=request,
            on=lost,
            now=office.now,
            state="not_reachable",
            method="none",
            guarantee="none",
            reason="It is DICOM that Lethe cannot rewrite.",
            records=3,
        )
        version = make_model_version(
            session, model=make_model(session, now=office.now, name="net"), now=office.now
        )
        run = make_run(
            session,
            now=office.now,
            base=version,
            state="done",
            verdict={
                "verdict": "pass",
                "by": "process",
                "summary": "By its process.",
                "checks": [
                    {
                        "name": "loss_membership",
                        "verdict": "inconclusive",
                        "reason": "beyond. Shown only: it decides nothing here.",
                    }
                ],
                "margins": {"membership": 0.1, "alpha": 0.01, "utility_drop": 0.02},
            },
        )
        make_evidence(session, run=run, check=make_check(), now=office.now)
        make_action(
            session, request=request, on=version, now=office.now, state="done", run=run, records=4
        )
        certificate.issue(session, office.keys, request, office.now)
        assert session.get_one(Artifact, version.artifact_id).name == "net"
    with office.rows() as session:
        audit.sequence(session, office.keys.log, office.now)
    return request_id


def test_a_certificate_is_told_in_plain_words(office: Office) -> None:
    request_id = _certified(office)
    browser = office.browser(Role.AUDITOR)
    assert f'href="/dashboard/certificates/{request_id}"' in browser.get(page_of(request_id)).text
    text = browser.get(f"/dashboard/certificates/{request_id}").text
    assert "within the clock" in text
    assert "1 email" in text
    assert "<strong>dataset/scans@1</strong>: 3 records" in text
    assert "dataset/scans@1 was not reached: It is DICOM" in text
    assert "What a model gave out before the erasure" in text
    assert "allowed from 0.4 to 0.6" in text
    assert '<span class="verdict verdict-shown">shown: inconclusive</span>' in text
    assert "verdict-inconclusive" not in text
    assert "partially completed" in text


def test_the_file_is_what_lethe_verify_reads(office: Office) -> None:
    request_id = _certified(office)
    answer = office.browser(Role.DPO).get(f"/dashboard/certificates/{request_id}/file")
    assert f"lethe-certificate-{request_id}.json" in answer.headers["Content-Disposition"]
    assert verify_bundle(answer.content, office.keys.public).request_id == str(request_id)


def test_a_certificate_that_does_not_verify_is_not_shown(office: Office, tmp_path: Path) -> None:
    request_id = _certified(office)
    other = Office(
        office.database,
        office.settings,
        create_signing_keys(tmp_path / "other-keys", "lethe.test/log"),
    )
    answer = other.browser(Role.DPO).get(f"/dashboard/certificates/{request_id}")
    assert answer.status_code == 500
    assert "Step 2 fails" in answer.text
    assert "Do not hand it out" in answer.text


def test_without_a_certificate_the_page_says_when_there_will_be_one(office: Office) -> None:
    request_id = office.request("executing")
    browser = office.browser(Role.DPO)
    answer = browser.get(f"/dashboard/certificates/{request_id}")
    assert answer.status_code == 409
    assert "no certificate yet" in answer.text
    assert "Read the certificate" not in browser.get(page_of(request_id)).text


# What every page has, and what none has.


def test_pages_load_nothing_from_elsewhere_and_hold_no_script(office: Office) -> None:
    pages = [
        office.browser().get("/dashboard/sign-in"),
        *(
            office.browser(Role.DPO).get(address)
            for address in (
                "/dashboard",
                page_of(_inconclusive(office)),
                f"/dashboard/certificates/{_certified(office)}",
                "/dashboard/nowhere",
            )
        ),
    ]
    for page in pages:
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["Cache-Control"] == "no-store"
        assert "<script" not in page.text
        # The policy would leave inline styles out.
        assert " style=" not in page.text
        assert not re.findall(
            r'(?:src|href|action)="(?!/)', page.text.replace('href="#content"', "")
        )


def test_the_style_sheet_and_the_icon_are_ours(office: Office) -> None:
    browser = office.browser()
    linked = re.findall(r'href="(/dashboard/static/[^"]+)"', browser.get("/dashboard/sign-in").text)
    assert len(linked) == 2
    for address in linked:
        answer = browser.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert "http" not in re.sub(r'xmlns="[^"]+"', "", answer.text)
    assert browser.get("/dashboard/static/..%2Fpages.py").status_code in {404, 422}


def test_errors_are_pages_for_browsers_and_problems_for_programs(office: Office) -> None:
    browser, missing = office.browser(Role.DPO), page_of(office.ids[Role.DPO])
    page = browser.get(missing)
    assert page.status_code == 404
    assert "No erasure request has this id" in page.text
    assert page.headers["content-type"].startswith("text/html")
    problem = browser.get(missing, headers={"Accept": "application/json"})
    assert problem.headers["content-type"] == "application/problem+json"
    assert browser.get("/v1/api-keys").headers["content-type"] == "application/problem+json"


def test_the_api_s_document_leaves_the_pages_out(office: Office) -> None:
    paths = office.browser().get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path.startswith("/dashboard")]
