"""A call repeated with its Idempotency-Key is one call, however and whenever it is repeated."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import func, select

from app.core.security import Role
from app.models import ErasureRequest, IdempotentCall, RequestKey
from tests.conftest import DatabaseUrls
from tests.integration.town import Town, problem_of

REQUESTS = "/v1/erasure-requests"
KEY = {"Idempotency-Key": '"0d1f-4711"'}


def body(name: str = "ana", **more: object) -> dict[str, Any]:
    return {
        "subject": {"identifiers": [{"type": "email", "value": f"{name}@example.org"}]},
        "regime": "gdpr",
        "identity_verified": True,
    } | more


def count(town: Town, table: type[ErasureRequest | IdempotentCall | RequestKey]) -> int:
    with town.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_repeated_call_gets_the_first_answer_and_makes_nothing(town: Town) -> None:
    first = town.call(Role.PORTAL, "POST", REQUESTS, body(), **KEY)
    town.settle()
    assert town.request(first.json()["id"])["state"] == "completed"
    again = town.call(Role.PORTAL, "POST", REQUESTS, body(), **KEY)
    # The very same, although the request has moved on and a new one would be allowed now.
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert count(town, ErasureRequest) == 1
    assert {bell.task for bell in town.doorbell.bells} <= {"sequence_log"}
    without = town.call(Role.PORTAL, "POST", REQUESTS, body())
    assert without.json()["id"] != first.json()["id"]


def test_the_same_key_with_another_body_or_call_is_refused(town: Town) -> None:
    town.ok(Role.PORTAL, "POST", REQUESTS, body(), **KEY)
    problem = town.refused(Role.PORTAL, 422, "POST", REQUESTS, body("bob"), **KEY)
    assert "fresh key" in problem["advice"]
    town.refused(Role.PORTAL, 422, "POST", REQUESTS, body(reference="4712"), **KEY)
    assert count(town, ErasureRequest) == 1

    dataset = {"name": "d", "owner": {"column": "person", "type": "customer_id"}}
    town.ok(Role.ENGINEER, "POST", "/v1/datasets", dataset, **KEY)
    town.refused(Role.ENGINEER, 422, "POST", "/v1/models", {"name": "d"}, **KEY)


def test_every_creating_call_is_repeated_by_its_key(town: Town) -> None:
    owner = {"column": "person", "type": "customer_id"}
    uri = town.write_jsonl("d", [{"person": "C001"}])
    edge = {"parent": {"kind": "model", "name": "a"}, "child": {"kind": "cache", "name": "b"}}
    calls = [
        ("/v1/datasets", {"name": "d", "owner": owner}),
        ("/v1/datasets/d/versions", {"version": "1", "uri": uri, "format": "jsonl"}),
        ("/v1/datasets/d/versions/1/index", None),
        ("/v1/models", {"name": "m"}),
        ("/v1/models/m/versions", {}),
        ("/v1/deployments", {"name": "live", "model": "m"}),
        ("/v1/lineage/edges", edge),
    ]
    for number, (path, sent) in enumerate(calls):
        key = {"Idempotency-Key": f'"call-{number}"'}
        first, again = (town.call(Role.ENGINEER, "POST", path, sent, **key) for _ in range(2))
        assert first.is_success, first.text
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers.get("location") == first.headers.get("location")
    assert len(town.ok(Role.ENGINEER, "GET", "/v1/models/m")["versions"]) == 1


def test_a_call_that_tells_a_secret_takes_no_key(town: Town) -> None:
    sent = {"name": "the auditor", "role": "auditor"}
    before = town.ok(Role.ADMIN, "GET", "/v1/api-keys")["items"]
    problem = town.refused(Role.ADMIN, 422, "POST", "/v1/api-keys", sent, **KEY)
    assert "Idempotency-Key" in problem["detail"]
    assert "revoke" in problem["advice"]
    assert town.ok(Role.ADMIN, "GET", "/v1/api-keys")["items"] == before
    assert "`POST /v1/api-keys`" in town.http.get("/openapi.json").json()["info"]["description"]


@pytest.mark.parametrize(
    "header", ["unquoted", '""', '"' + "k" * 129 + '"', '"open', "?1", "4711", '"a", "b"', "(a b)"]
)
def test_a_key_that_is_no_short_quoted_string_is_refused(town: Town, header: str) -> None:
    problem = town.refused(
        Role.PORTAL, 422, "POST", REQUESTS, body(), **{"Idempotency-Key": header}
    )
    assert "quoted" in problem["detail"]
    assert count(town, ErasureRequest) == 0


def test_another_callers_same_key_is_another_call(town: Town) -> None:
    other = town.new_token(Role.PORTAL)
    first = town.call(Role.PORTAL, "POST", REQUESTS, body(), **KEY)
    second = town.call_with(other, "POST", REQUESTS, body("bob"), **KEY)
    assert first.status_code == second.status_code == 202
    assert first.json()["id"] != second.json()["id"]


def test_a_refused_call_leaves_its_key_free(town: Town) -> None:
    town.refused(Role.PORTAL, 422, "POST", REQUESTS, body(regime="lex_julia"), **KEY)
    town.ok(Role.PORTAL, "POST", REQUESTS, body(), **KEY)


def together(
    town: Town, *calls: tuple[str, dict[str, Any], dict[str, str]]
) -> list[httpx2.Response]:
    """Send calls at the same moment, from threads of their own."""
    token, start = town.token(Role.PORTAL), Barrier(len(calls))

    def send(call: tuple[str, dict[str, Any], dict[str, str]]) -> httpx2.Response:
        path, sent, headers = call
        start.wait(10)
        return town.call_with(token, "POST", path, sent, **headers)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(send, calls))


def test_two_calls_at_once_with_one_key_make_one_request(town: Town) -> None:
    for turn in range(4):
        key = {"Idempotency-Key": f'"turn-{turn}"'}
        answers = together(town, *[(REQUESTS, body(f"p{turn}"), key)] * 4)
        assert [one.status_code for one in answers] == [202] * 4
        assert all(one.json() == answers[0].json() for one in answers)
        assert count(town, ErasureRequest) == turn + 1


def test_two_calls_at_once_with_two_keys_make_one_request_and_a_409_that_names_it(
    town: Town,
) -> None:
    for turn in range(4):
        calls = [
            (REQUESTS, body(f"p{turn}"), {"Idempotency-Key": f'"{turn}-{number}"'})
            for number in range(3)
        ]
        answers = together(town, *calls)
        made = [one.json()["id"] for one in answers if one.status_code == 202]
        assert len(made) == 1
        refused = [one for one in answers if one.status_code != 202]
        assert [problem_of(one, 409)["request"] for one in refused] == made * 2
        assert count(town, ErasureRequest) == turn + 1


FAILING_COMMIT = """
CREATE FUNCTION fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {action};
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER fail_at_commit AFTER INSERT ON erasure_request
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_at_commit()
"""


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("RAISE EXCEPTION 'refused at commit'", 500),
        ("PERFORM pg_terminate_backend(pg_backend_pid())", 503),
    ],
)
def test_a_commit_that_fails_is_never_answered_202(
    town: Town, database_urls: DatabaseUrls, action: str, status: int
) -> None:
    token = town.token(Role.PORTAL)
    town.settle()
    owner = database_urls.owner_url.replace("+psycopg", "")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(FAILING_COMMIT.format(action=action))
        response = town.call_with(token, "POST", REQUESTS, body(), **KEY)
        problem_of(response, status)
        assert count(town, ErasureRequest) == count(town, RequestKey) == 0
        assert count(town, IdempotentCall) == 0
        assert town.doorbell.bells == []
        connection.execute("DROP TRIGGER fail_at_commit ON erasure_request")
    # Sent again with the same key, as the problem advises, it is taken.
    assert town.call_with(token, "POST", REQUESTS, body(), **KEY).status_code == 202
