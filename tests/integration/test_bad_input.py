"""What cannot be done is answered with a problem that says what to do, and loses nothing."""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from app.core.db import Database
from app.core.security import Role
from app.core.testing import RecordingDoorbell
from app.main import create_app
from tests.integration.town import Town, logged, problem_of

REQUESTS = "/v1/erasure-requests"
KEYS = "/v1/api-keys"
ANA = {"type": "email", "value": "ana.bad-input@example.org"}
PHONE = {"type": "phone", "value": "+49 1512 3456789"}
CUSTOMER = {"type": "customer_id", "value": "PAT77120"}


def body(*identifiers: Mapping[str, object], **more: object) -> dict[str, Any]:
    return {
        "subject": {"identifiers": list(identifiers or (ANA,))},
        "regime": "gdpr",
        "identity_verified": True,
    } | more


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and nobody else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def nothing_stored(town: Town) -> bool:
    return bool(town.ok(Role.PORTAL, "GET", REQUESTS)["items"] == [])


MALFORMED: Sequence[Mapping[str, object]] = [
    {"type": "email", "value": "no-at-sign.quandt"},
    {"type": "email", "value": "two@quandt@example.org"},
    {"type": "email", "value": "quandt@"},
    {"type": "phone", "value": "not-a-quandt-number"},
    {"type": "phone", "value": "0151 23456789"},  # no country
    {"type": "phone", "value": "+49 30 123456 ext. 7"},
    {"type": "customer_id", "value": ""},
    {"type": "customer_id", "value": "   "},
    {"type": "customer_id", "value": "q" * 300},
    {"type": "customer_id", "value": "quandt\u0000"},
    {"type": "customer_id", "value": "quandt\u200b77"},
    {"type": "customer_id", "value": "quandt\r\n77"},
    {"type": "E-Mail", "value": "quandt@example.org"},
    {"type": "quandt@example.org", "value": "email"},
    {"type": "", "value": "quandt@example.org"},
    {"type": "customer_id", "value": 77},
    {"type": "customer_id"},
]


def test_a_malformed_identifier_is_refused_and_not_repeated(
    town: Town, subtests: pytest.Subtests
) -> None:
    for identifier in MALFORMED:
        with subtests.test(str(identifier)[:80]):
            asked = town.refused(Role.PORTAL, 422, "POST", REQUESTS, body(identifier))
            traced = town.refused(
                Role.DPO, 422, "POST", "/v1/lineage/trace", {"identifiers": [identifier]}
            )
            assert "quandt" not in json.dumps([asked, traced]).lower()
    assert nothing_stored(town)


SENSELESS: Sequence[tuple[Mapping[str, object], str]] = [
    ({"regime": "lex_julia"}, "regime"),
    ({"regime": "GDPR"}, "regime"),
    ({"regime": 7}, "regime"),
    ({"subject": {"identifiers": []}}, "identifiers"),
    ({"subject": {}}, "identifiers"),
    ({"subject": {"identifiers": [ANA] * 21}}, "identifiers"),
    ({"received_at": "yesterday"}, "received_at"),
    ({"received_at": "2026-02-03T10:00:00"}, "received_at"),  # no time zone
    ({"received_at": 1780000000}, "not_an_rfc_3339_moment"),
    ({"received_at": "1780000000"}, "not_an_rfc_3339_moment"),
    ({"received_at": True}, "not_an_rfc_3339_moment"),
    ({"received_at": "2018-05-24T23:59:59Z"}, "GDPR"),
    ({"received_at": "0001-01-01T00:00:00+14:00"}, "received_at"),
    ({"received_at": "9999-12-31T23:59:59-14:00"}, "received_at"),
    ({"ground": "because"}, "ground"),
    ({"reference": "r" * 101}, "reference"),
    ({"reference": "r\u0000"}, "reference"),
    ({"reference": "  "}, "reference"),
    ({"reference": "4711\u202e"}, "reference"),
    ({"reference": "\u001b[2J4711"}, "reference"),
    ({"identity_verified": "perhaps"}, "identity_verified"),
    ({"identity_verified": "yes"}, "identity_verified"),
    ({"identity_verified": 1}, "identity_verified"),
]


def test_a_field_that_makes_no_sense_is_named(town: Town, subtests: pytest.Subtests) -> None:
    for change, named in SENSELESS:
        with subtests.test(str(change)[:80]):
            problem = town.refused(Role.PORTAL, 422, "POST", REQUESTS, body(**change))
            assert named in problem["detail"]
    assert nothing_stored(town)


@pytest.mark.parametrize("name", ["ana.bad-input@example.org", "PAT77120", "quandt"])
def test_an_unknown_field_is_not_repeated(town: Town, name: str) -> None:
    for sent in (
        body() | {name: 1},
        body(ANA | {name: "x"}),
        body() | {"subject": {"identifiers": [ANA], name: {}}},
    ):
        problem = town.refused(Role.PORTAL, 422, "POST", REQUESTS, sent)
        assert name not in json.dumps(problem)
        assert "extra_forbidden" in problem["detail"]


def test_a_request_from_the_future_is_refused_and_one_from_the_past_counts_from_then(
    town: Town,
) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)  # noqa: TID251 the service's own clock runs on
    problem = town.refused(Role.PORTAL, 422, "POST", REQUESTS, body(received_at=ahead.isoformat()))
    assert "future" in problem["detail"]

    # 31 January: February has no 31st (Reg. 1182/71 Art. 3(2)(c)); the 28th is a Saturday in 2026,
    # so it ends on Monday, at the last second in Berlin.
    asked = town.ask(("email", "ana@example.org"), received_at="2026-01-31T09:00:00Z")
    assert asked["due_at"] == "2026-03-02T22:59:59Z"
    assert asked["sla"]["status"] == "breached"
    # 45 days by the calendar, Sunday or not.
    asked = town.ask(
        ("email", "bob@example.org"), received_at="2026-01-29T09:00:00Z", regime="ccpa"
    )
    assert asked["due_at"] == "2026-03-15T22:59:59Z"


NO_REASON = (
    "",
    "   ",
    "\u00a0\u00a0\u00a0",
    " a ",
    "as agreed\u202e",
    "\u001b]0;as agreed",
    "no\u200bne",
)


def test_a_reason_that_says_nothing_or_hides_something_is_refused(
    town: Town, subtests: pytest.Subtests
) -> None:
    request = town.ask(("email", "ana@example.org"), identity_verified=False)
    path = f"{REQUESTS}/{request['id']}"
    for call in ("extend", "reject", "cancel", "pause", "identity"):
        for said in NO_REASON:
            with subtests.test(call, said=said):
                sent = {"reason": said} | ({"verified": True} if call == "identity" else {})
                problem = town.refused(Role.DPO, 422, "POST", f"{path}/{call}", sent)
                assert "reason" in problem["detail"]
    lift = f"/v1/suppressions/{uuid4()}"
    assert "reason" in town.refused(Role.DPO, 422, "DELETE", lift, {"reason": "   "})["detail"]
    assert town.request(request["id"])["state"] == "awaiting_identity"
    # Several lines, and the joiners that Persian is written with, are a reason.
    lines = {"reason": "  Many records.\r\n\u0645\u06cc\u200c\u062e  "}
    assert town.ok(Role.DPO, "POST", f"{path}/extend", lines)["due_at"] > request["due_at"]


def test_an_identity_check_is_yes_or_no(town: Town, subtests: pytest.Subtests) -> None:
    path = f"{REQUESTS}/{town.ask(('email', 'ana@example.org'), identity_verified=False)['id']}"
    for said in ("yes", "true", 1):
        with subtests.test(said=said):
            town.refused(Role.DPO, 422, "POST", f"{path}/identity", {"verified": said})


def test_an_api_key_is_named_by_words_that_can_be_seen(
    town: Town, subtests: pytest.Subtests
) -> None:
    for name in ("", "   ", "audit\u202eor", "audit\u001b[8mor", "a\nb", "\u200b"):
        with subtests.test(name=name):
            sent = {"name": name, "role": "auditor"}
            assert "name" in town.refused(Role.ADMIN, 422, "POST", KEYS, sent)["detail"]
    made = town.ok(Role.ADMIN, "POST", KEYS, {"name": " the auditor ", "role": "auditor"})
    assert made["name"] == "the auditor"


NAMING = (
    "case ana.bad-input@example.org",
    "CASE ANA.BAD-INPUT@EXAMPLE.ORG",
    "patient PAT77120",
    "call +4915123456789",
    "call +49 (1512) 345-6789",
    "call 0049 1512 3456789",
)
DECISIONS: Mapping[str, Mapping[str, object]] = {
    "reject": {},
    "cancel": {},
    "extend": {},
    "approve": {},
    "identity": {"verified": True},
    "accept": {"commitment_due_at": "2099-01-01T00:00:00Z"},
}


def test_free_text_that_names_the_person_is_refused(town: Town, subtests: pytest.Subtests) -> None:
    sent = body(ANA, PHONE, CUSTOMER, reference="portal-4711", identity_verified=False)
    request = town.ok(Role.PORTAL, "POST", REQUESTS, sent)
    for said in NAMING:
        with subtests.test(said):
            problem = town.refused(Role.PORTAL, 422, "POST", REQUESTS, sent | {"reference": said})
            assert said not in json.dumps(problem)
            for verb, more in DECISIONS.items():
                path = f"{REQUESTS}/{request['id']}/{verb}"
                problem = town.refused(Role.DPO, 422, "POST", path, {"reason": said, **more})
                assert said not in json.dumps(problem)
    assert town.request(request["id"])["state"] == "awaiting_identity"


NOWHERE: Sequence[tuple[Role, str, str, object]] = [
    (Role.DPO, "GET", f"{REQUESTS}/{uuid4()}", None),
    (Role.DPO, "GET", f"{REQUESTS}/{uuid4()}/plan", None),
    (Role.DPO, "GET", f"{REQUESTS}/{uuid4()}/timeline", None),
    (Role.DPO, "GET", f"{REQUESTS}/{uuid4()}/certificate", None),
    (Role.DPO, "POST", f"{REQUESTS}/{uuid4()}/approve", {}),
    (Role.DPO, "POST", f"{REQUESTS}/{uuid4()}/retry", None),
    (Role.DPO, "POST", f"{REQUESTS}/{uuid4()}/reject", {"reason": "not ours"}),
    (Role.DPO, "POST", f"/v1/commitments/{uuid4()}/start", None),
    (Role.DPO, "DELETE", f"/v1/suppressions/{uuid4()}", {"reason": "new consent"}),
    (Role.ADMIN, "DELETE", f"/v1/api-keys/{uuid4()}", None),
    (Role.AUDITOR, "GET", f"/v1/runs/{uuid4()}", None),
    (Role.AUDITOR, "GET", f"/v1/runs/{uuid4()}/evidence", None),
    (Role.ENGINEER, "GET", "/v1/datasets/nowhere", None),
    (Role.ENGINEER, "GET", "/v1/datasets/nowhere/versions/1", None),
    (Role.ENGINEER, "POST", "/v1/datasets/nowhere/versions/1/index", None),
    (Role.ENGINEER, "GET", "/v1/models/nothing", None),
    (Role.ENGINEER, "POST", "/v1/models/nothing/versions", {}),
    (
        Role.ENGINEER,
        "POST",
        "/v1/models/nothing/train",
        {"inputs": [{"dataset": "d", "version": "1"}]},
    ),
    (Role.ENGINEER, "POST", "/v1/deployments", {"name": "live", "model": "nothing"}),
    (Role.ENGINEER, "GET", "/v1/no-such-address", None),
    # Before the first entry is numbered:
    (Role.AUDITOR, "GET", "/v1/audit/tree-head", None),
    (Role.AUDITOR, "GET", "/v1/audit/proofs/inclusion?index=0&size=5", None),
    (Role.AUDITOR, "GET", "/v1/audit/proofs/consistency?from=1&to=5", None),
]


def test_what_does_not_exist_is_a_404(town: Town, subtests: pytest.Subtests) -> None:
    for role, method, path, sent in NOWHERE:
        with subtests.test(f"{method} {path}"):
            town.refused(role, 404, method, path, sent)


def test_a_method_that_an_address_does_not_take_is_a_405_that_names_those_it_does(
    town: Town,
) -> None:
    response = town.call(Role.ENGINEER, "PUT", "/v1/models", {})
    problem_of(response, 405)
    assert {"GET", "POST"} & set(response.headers["allow"].split(", "))


BODIES: Sequence[tuple[bytes, int]] = [
    (b"", 422),
    (b"not json", 422),
    (b"[]", 422),
    (b'"text"', 422),
    (b"null", 422),
    (b'{"regime": "gdpr"', 422),
    (b"\xff\xfe\x00", 400),
    (b"[" * 100_000, 400),
    (b'{"subject":' * 20_000, 400),
]


def test_a_body_that_is_no_json_object_is_refused(town: Town, subtests: pytest.Subtests) -> None:
    for content, status in BODIES:
        with subtests.test(repr(content[:20])):
            problem = problem_of(town.post_bytes(Role.PORTAL, REQUESTS, content), status)
            assert "body" in problem["detail"]


def test_a_value_that_no_column_can_hold_is_refused(town: Town, subtests: pytest.Subtests) -> None:
    for value in ("NaN", "-Infinity", "1e999", '"\\u0000"', '"\\ud800"'):
        with subtests.test(value):
            content = f'{{"name": "m", "parameters": {{"a": {value}}}}}'.encode()
            problem_of(town.post_bytes(Role.ENGINEER, "/v1/models", content), 422)
    assert town.ok(Role.ENGINEER, "GET", "/v1/models") == []


def test_a_range_that_does_not_exist_is_refused(town: Town, subtests: pytest.Subtests) -> None:
    town.token(Role.AUDITOR)
    town.settle()  # a tree head of size 1
    for path in (
        "/v1/audit/entries?start=5&end=5",
        "/v1/audit/entries?start=0&end=5000",
        "/v1/audit/entries?start=-1&end=5",
        f"/v1/audit/entries?start=0&end={2**80}",
        "/v1/audit/proofs/inclusion?index=1&size=1",
        "/v1/audit/proofs/consistency?from=0&to=1",
        "/v1/audit/proofs/consistency?from=2&to=1",
        "/v1/runs?limit=0",
        "/v1/runs?limit=201",
        "/v1/runs?cursor=not-a-uuid",
        "/v1/runs/not-a-uuid",
    ):
        with subtests.test(path):
            town.refused(Role.AUDITOR, 422, "GET", path)


def test_a_database_that_does_not_answer_is_a_503_without_values(
    town: Town, closed_port: int
) -> None:
    url = f"postgresql+psycopg://lethe_app:secret-word@127.0.0.1:{closed_port}/lethe"
    down = Database(url, RecordingDoorbell())
    headers = {"Authorization": f"Bearer {town.token(Role.PORTAL)}"}
    with logged() as lines:
        client = TestClient(
            create_app(town.settings, database=down, signing_keys=town.keys),
            raise_server_exceptions=False,
        )
        response = client.post(REQUESTS, json=body(), headers=headers)
        problem = problem_of(response, 503)
        assert "Idempotency-Key" in problem["advice"]
        problem_of(client.get("/health/ready"), 503)
        assert client.get("/health/live").status_code == 200
    said = response.text + lines.getvalue()
    for value in ("ana.bad-input", "secret-word", "Traceback"):
        assert value not in said
    assert "database_unreachable" in said
    down.dispose()


def test_a_person_who_is_in_no_dataset_gets_a_certificate_that_says_so(town: Town) -> None:
    rows: Sequence[Mapping[str, object]] = [{"person": "C001", "email": "someone@example.org"}]
    town.dataset("d", rows)
    request = town.ask(("email", "nobody@example.org"))
    assert request["state"] == "completed"
    assert request["actions"] == []
    statement = town.verified(request["id"])
    assert statement["predicate"]["found"] == statement["predicate"]["done"] == []
    assert statement["predicate"]["request"]["identifiers"] == {"email": 1}
    assert any("No record was found" in one for one in statement["predicate"]["not_guaranteed"])
