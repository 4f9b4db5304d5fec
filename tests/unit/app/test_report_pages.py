"""The report through a browser's eyes and through the API, on a real database."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from app.audit import service as audit
from app.certificate import service as certificate
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.db import Database
from app.core.identifiers import Identifier
from app.core.security import Role
from app.core.signing import create_signing_keys
from app.main import create_app
from app.models import new_id
from tests.factories import (
    make_action,
    make_api_key,
    make_check,
    make_dataset_version,
    make_evidence,
    make_model,
    make_model_version,
    make_request,
    make_run,
    make_step,
)

ANA = Identifier("email", "ana.keller@example.org")
CURVES = {
    "false_alarms": [0.0, 0.01, 1.0],
    "hits_after": [0.0, 0.25, 1.0],
    "hits_before": [0.5, 0.75, 1.0],
    "edges": [0.0, 1.0, 2.0],
    "forget_shares": [0.5, 0.5],
    "holdout_shares": [0.75, 0.25],
}
READERS = {Role.DPO, Role.AUDITOR, Role.ADMIN}


@dataclass(frozen=True)
class Case:
    """One request that was closed after one run on a model, and the API keys of all roles."""

    http: TestClient
    tokens: Mapping[Role, str]
    request: UUID
    run: UUID
    erasing: UUID
    now: datetime

    def browser(self, role: Role) -> TestClient:
        """Sign in."""
        answer = self.http.post("/dashboard/sign-in", data={"api_key": self.tokens[role]})
        assert answer.status_code == 303, answer.text
        return self.http


@pytest.fixture
def case(database: Database, settings: Settings) -> Case:
    now, keys = utc_now(), create_signing_keys(settings.signing_keys, "lethe.test/log")
    with database.transaction() as session:
        made = {role: make_api_key(session, role=role, now=now) for role in Role}
        request = make_request(
            session,
            settings=settings,
            portal_id=made[Role.PORTAL][0],
            now=now,
            state="completed",
            identifiers=(ANA,),
            closed_at=now,
        )
        version = make_model_version(
            session, model=make_model(session, now=now, name="notes-lm"), now=now
        )
        own = {"request": str(request.id), "p_value": 0.25, "adjusted": 1.0}
        own |= {"verdict": "inconclusive", "reason": "Not singled out <b>."}
        run = make_run(
            session,
            now=now,
            base=version,
            state="done",
            method="gradient_ascent",
            guarantee="approximate",
            verdict={
                "verdict": "pass",
                "by": "statistics",
                "summary": "Not recovered by these attacks at this power.",
                "checks": [
                    {"name": "loss_membership", "verdict": "pass", "reason": "within 0.5 ± 0.15"},
                    {"name": "zlib", "verdict": "reported", "reason": "only told"},
                ],
                "margins": {"membership": 0.15, "alpha": 0.01, "utility_drop": 0.02},
                "subjects": [own],
            },
        )
        not_run = [{"name": "translated", "reason": "No translations <i>were</i> supplied."}]
        make_step(
            session,
            run=run,
            now=now,
            kind="evaluate",
            target="all",
            state="done",
            seconds=1.0,
            result={"status": "done", "manifest_digest": "3f" * 32, "not_run": not_run},
        )
        leading = make_check(curves=CURVES, details={"leading": 1.0})
        for one in (leading, make_check(name="zlib"), make_check(name="min_k", curves=CURVES)):
            make_evidence(session, run=run, check=one, now=now)
        erased = make_dataset_version(session, now=now, name="notes")
        erasing = make_run(
            session, now=now, dataset_version=erased, state="failed", method="erase_records"
        )
        for on, by in ((version, run), (erased, None)):
            make_action(session, request=request, on=on, now=now, state="done", run=by)
        certificate.issue(session, keys, request, now)
    with database.transaction() as session:
        audit.sequence(session, keys.log, now)
    http = TestClient(
        create_app(settings, database=database, signing_keys=keys),
        base_url="http://lethe.test",
        follow_redirects=False,
        raise_server_exceptions=False,
    )
    http.headers["Accept"] = "text/html,application/xhtml+xml"
    tokens = {role: token for role, (_, token) in made.items()}
    return Case(http, tokens, request.id, run.id, erasing.id, now)


@pytest.mark.parametrize("role", sorted(READERS))
def test_the_report_is_told_in_plain_words_first(case: Case, role: Role) -> None:
    text = case.browser(role).get(f"/dashboard/runs/{case.run}").text
    in_order = [
        "Not recovered by these attacks at this power.",
        "What was tested",
        "No translations &lt;i&gt;were&lt;/i&gt; supplied.",
        "Thresholds used",
        "Scores of both groups",
        "All checks",
        "within 0.5 ± 0.15",
        "The eight methods",
        "Not singled out &lt;b&gt;.",
        "3f" * 32,
    ]
    places = [text.index(said) for said in in_order]
    assert places == sorted(places)
    assert f'href="/dashboard/requests/{case.request}"' in text
    assert f'href="/dashboard/runs/{case.run}/report.pdf"' in text


def test_plots_are_drawn_on_the_server_and_those_of_others_on_demand(case: Case) -> None:
    text = case.browser(Role.DPO).get(f"/dashboard/runs/{case.run}").text
    # Two of the leading attack, two of another; the one without curves has none.
    assert text.count('<svg class="chart"') == 4
    assert text.count("<desc>") == 4
    assert re.search(r"<summary>[^<]+<code>min_k</code>", text)
    # 1 % of false alarms is one third along; a quarter found is a quarter up.
    assert 'class="line after" points="164.0,175.0 388.0,34.0 "' in text
    assert "<script" not in text
    assert " style=" not in text
    assert "<style" not in text
    assert 'href="/dashboard/static/report.css?' in text
    assert (
        case.http.get("/dashboard/static/report.css").headers["content-type"].startswith("text/css")
    )


def test_nobody_is_named(case: Case) -> None:
    text = case.browser(Role.DPO).get(f"/dashboard/runs/{case.run}").text
    assert ANA.value not in text


def test_the_pdf_is_for_a_session_as_the_page_is(case: Case) -> None:
    address = f"/dashboard/runs/{case.run}/report.pdf"
    assert case.http.get(address).status_code == 303
    answer = case.browser(Role.AUDITOR).get(address)
    assert answer.headers["content-type"] == "application/pdf"
    assert f"lethe-report-{case.run}.pdf" in answer.headers["Content-Disposition"]
    assert answer.content.startswith(b"%PDF-")


@pytest.mark.parametrize("role", list(Role))
def test_the_api_gives_the_pdf_to_those_who_may_read_evidence(case: Case, role: Role) -> None:
    bearer = {"Authorization": f"Bearer {case.tokens[role]}"}
    address = f"/v1/runs/{case.run}"
    answer = case.http.get(f"{address}/report.pdf", headers=bearer)
    allowed = role in {Role.DPO, Role.ENGINEER, Role.AUDITOR}
    assert (answer.status_code == 200) == allowed
    assert case.http.get(f"{address}/evidence", headers=bearer).status_code == answer.status_code
    assert answer.content.startswith(b"%PDF-") == allowed


def test_signing_in_leads_back_to_the_report(case: Case) -> None:
    address = f"/dashboard/runs/{case.run}"
    sent = case.http.get(address)
    assert sent.headers["Location"] == f"/dashboard/sign-in?next={address}"
    assert f'value="{address}"' in case.http.get(sent.headers["Location"]).text


def test_a_run_that_nobody_knows_is_not_found(case: Case) -> None:
    browser = case.browser(Role.DPO)
    for address in ("", "/report.pdf"):
        assert browser.get(f"/dashboard/runs/{new_id()}{address}").status_code == 404


def test_a_run_that_erases_records_is_told_by_its_dataset(case: Case) -> None:
    text = case.browser(Role.DPO).get(f"/dashboard/runs/{case.erasing}").text
    assert "notes@1" in text
    assert "Nothing was searched." in text
    assert "The eight methods" not in text


def test_the_request_s_page_shows_what_decided_and_links_to_all(case: Case) -> None:
    text = case.browser(Role.DPO).get(f"/dashboard/requests/{case.request}").text
    assert text.count('<article class="check">') == 1
    assert "Full report, 3 checks" in text
    assert f'href="/dashboard/runs/{case.run}"' in text
    assert f'href="/dashboard/runs/{case.run}/report.pdf"' in text


def test_the_certificate_s_page_links_to_the_report(case: Case) -> None:
    text = case.browser(Role.DPO).get(f"/dashboard/certificates/{case.request}").text
    assert f'href="/dashboard/runs/{case.run}"' in text
