"""Taking requests in: duplicates, links, identity, calling off, the clock, and who sees what."""

from typing import Any

from sqlalchemy import func, select

from app.core.security import Role
from app.models import SuppressedRecord, Suppression
from tests.integration.town import Town, problem_of
from tests.integration.worlds import CLASSIFIER, points

REQUESTS = "/v1/erasure-requests"
EMAIL, CUSTOMER = ("email", "person3@example.org"), ("customer_id", "C003")


def body(*identifiers: tuple[str, str], **more: object) -> dict[str, Any]:
    return {
        "subject": {"identifiers": [{"type": t, "value": v} for t, v in identifiers]},
        "regime": "gdpr",
        "identity_verified": True,
    } | more


def submit(town: Town, token: str, *identifiers: tuple[str, str], **more: object) -> Any:
    response = town.call_with(token, "POST", REQUESTS, body(*identifiers, **more))
    assert response.status_code == 202, response.text
    return response.json()


def decide(town: Town, request: dict[str, Any], verb: str, **sent: object) -> Any:
    return town.ok(Role.DPO, "POST", f"{REQUESTS}/{request['id']}/{verb}", sent)


def refused(town: Town, request: dict[str, Any], verb: str, **sent: object) -> dict[str, Any]:
    return town.refused(Role.DPO, 409, "POST", f"{REQUESTS}/{request['id']}/{verb}", sent)


def in_force(town: Town) -> tuple[int, int]:
    """How many keys and how many records are suppressed."""
    with town.database.transaction() as session:
        keys, records = (
            session.scalar(select(func.count()).select_from(table).where(table.lifted_at.is_(None)))
            for table in (Suppression, SuppressedRecord)
        )
    return keys or 0, records or 0


def test_the_open_request_for_the_same_person_is_named_and_a_closed_one_is_none(
    town: Town,
) -> None:
    town.dataset("d", points(5))
    first = town.ask(EMAIL, CUSTOMER)
    assert first["state"] == "awaiting_approval"
    # The same two identifiers, in another order and another spelling.
    same = body(CUSTOMER, ("email", " Person3@EXAMPLE.org "))
    problem = town.refused(Role.PORTAL, 409, "POST", REQUESTS, same)
    assert problem["type"] == "/problems/open-request-exists"
    assert problem["request"] == first["id"]
    assert len(town.ok(Role.PORTAL, "GET", REQUESTS)["items"]) == 1

    assert town.approve(first["id"])["state"] == "completed"
    second = town.ask(EMAIL, CUSTOMER)
    assert second["id"] != first["id"]
    assert second["state"] == "completed"
    assert second["actions"] == []  # nothing was left to erase


def test_overlapping_requests_are_linked_and_handled_together(town: Town) -> None:
    town.dataset("d", points(5))
    town.model("m", "d", "classifier", CLASSIFIER, holdout_share=0)
    other = town.new_token(Role.PORTAL)
    both = town.ask(EMAIL, CUSTOMER)
    subset = town.ask(EMAIL)
    elsewhere = submit(town, other, EMAIL, CUSTOMER)
    stranger = town.ask(("email", "person1@example.org"))
    town.settle()

    ids = sorted([both["id"], subset["id"], elsewhere["id"]])
    for one in ids:
        shown = town.ok(Role.DPO, "GET", f"{REQUESTS}/{one}")
        assert shown["linked"] == [other_id for other_id in ids if other_id != one]
    assert town.request(stranger["id"])["linked"] == []

    for one in ids:
        decide(town, {"id": one}, "approve")
    town.settle()

    shown = [town.ok(Role.DPO, "GET", f"{REQUESTS}/{one}") for one in ids]
    assert [one["state"] for one in shown] == ["completed"] * 3
    assert all(one["linked"] == [] for one in shown)
    runs = {
        action["run"]
        for one in shown
        for action in one["actions"]
        if action["kind"] == "model_version"
    }
    assert len(runs) == 1  # one training carries out all three
    for one in ids:
        response = town.call(Role.DPO, "GET", f"{REQUESTS}/{one}/certificate")
        assert response.status_code == 200


def test_an_unverified_request_waits_goes_on_when_verified_and_ends_when_not(town: Town) -> None:
    town.dataset("d", points(5))
    verified, refuted = (
        town.ask(("email", f"person{number}@example.org"), identity_verified=False)
        for number in range(2)
    )
    assert verified["state"] == refuted["state"] == "awaiting_identity"
    assert verified["actions"] == []
    refused(town, verified, "approve")
    decide(town, verified, "identity", verified=True)
    decide(town, refuted, "identity", verified=False, reason="no proof within two weeks")
    town.settle()
    assert town.request(verified["id"])["state"] == "awaiting_approval"
    ended = town.request(refuted["id"])
    assert (ended["state"], ended["sla"]["status"]) == ("rejected", "met")
    assert ended["closed_at"] is not None
    refused(town, verified, "identity", verified=True)
    refused(town, refuted, "identity", verified=True)


def test_a_request_is_called_off_before_the_work_and_not_after(town: Town) -> None:
    town.dataset("d", points(5))
    for verb, end in (("reject", "rejected"), ("cancel", "cancelled")):
        request = town.ask(EMAIL)
        town.refused(Role.DPO, 422, "POST", f"{REQUESTS}/{request['id']}/{verb}", {})
        decide(town, request, verb, reason="the person withdrew it")
        town.settle()
        ended = town.request(request["id"])
        assert ended["state"] == end
        assert ended["closed_at"] is not None
        for again in ("reject", "cancel", "approve"):
            refused(town, request, again, reason="once more")
    assert town.ok(Role.DPO, "GET", "/v1/datasets/d/versions/1")["record_count"] == 15
    done = town.erase(EMAIL)
    assert done["state"] == "completed"
    refused(town, done, "cancel", reason="too late")


def test_cancelling_an_approved_request_lifts_its_suppressions_and_no_others(town: Town) -> None:
    town.dataset("d", points(5))
    kept, called_off = town.ask(("email", "person1@example.org")), town.ask(EMAIL)
    decide(town, kept, "approve")
    decide(town, called_off, "approve")
    assert in_force(town) == (2, 6)

    decide(town, called_off, "cancel", reason="the person withdrew it")

    assert in_force(town) == (1, 3)
    listed = town.ok(Role.ENGINEER, "GET", "/v1/suppressions")["items"]
    assert [one["request"] for one in listed] == [kept["id"]]
    town.settle()
    assert town.request(called_off["id"])["state"] == "cancelled"
    assert town.request(kept["id"])["state"] == "completed"


def test_a_suppression_is_lifted_by_a_dpo_with_a_reason_once(town: Town) -> None:
    town.dataset("d", points(5))
    town.erase(EMAIL)
    [listed] = town.ok(Role.DPO, "GET", "/v1/suppressions")["items"]
    path = f"/v1/suppressions/{listed['id']}"
    town.refused(Role.DPO, 422, "DELETE", path, {})
    town.ok(Role.DPO, "DELETE", path, {"reason": "new consent"})
    assert in_force(town) == (0, 0)
    town.refused(Role.DPO, 404, "DELETE", path, {"reason": "new consent"})


def test_the_clock_is_extended_once_in_time_and_says_so(town: Town) -> None:
    request = town.ask(EMAIL, identity_verified=False)
    extended = decide(town, request, "extend", reason="many systems are searched")
    assert extended["due_at"] > request["due_at"]
    # One month and then two: about three in all.
    assert 85 <= extended["sla"]["days_left"] <= 97
    refused(town, request, "extend", reason="many systems are searched")
    assert town.request(request["id"])["due_at"] == extended["due_at"]
    events = [one["event"] for one in timeline(town, request)]
    assert events.count("clock_extended") == 1

    late = town.ask(
        ("email", "late@example.org"), received_at="2026-01-05T08:00:00Z", identity_verified=False
    )
    refused(town, late, "extend", reason="the first month has passed")


def timeline(town: Town, request: dict[str, Any]) -> list[dict[str, Any]]:
    shown = town.ok(Role.PORTAL, "GET", f"{REQUESTS}/{request['id']}/timeline")
    items: list[dict[str, Any]] = shown["items"]
    return items


def test_the_timeline_tells_each_move_once_in_order_with_its_place_in_the_log(town: Town) -> None:
    town.dataset("d", points(5))
    request = town.erase(EMAIL)
    told = timeline(town, request)
    states = [
        one["event"].removeprefix("request_") for one in told if one["event"].startswith("request_")
    ]
    assert states[:5] == ["received", "traced", "planned", "awaiting_approval", "approved"]
    assert states[-1] == "completed"
    assert len(states) == len(set(states))
    places = [one["index"] for one in told]
    assert None not in places
    assert places == sorted(places)


def test_a_portal_sees_only_its_own(town: Town) -> None:
    town.dataset("d", points(5))
    other = town.new_token(Role.PORTAL)
    mine, theirs = town.erase(EMAIL), submit(town, other, ("email", "person1@example.org"))
    town.settle()
    assert [one["id"] for one in town.ok(Role.PORTAL, "GET", REQUESTS)["items"]] == [mine["id"]]
    for part in ("", "/timeline", "/plan", "/certificate"):
        own = town.call(Role.PORTAL, "GET", f"{REQUESTS}/{mine['id']}{part}")
        assert own.status_code == 200
        unknown = town.call(Role.PORTAL, "GET", f"{REQUESTS}/{theirs['id']}{part}")
        problem = problem_of(unknown, 404)
        # Another portal's request is told apart from no request by nothing.
        nothing = f"{REQUESTS}/00000000-0000-7000-8000-000000000000{part}"
        assert problem == problem_of(town.call(Role.PORTAL, "GET", nothing), 404)
    both = town.ok(Role.DPO, "GET", REQUESTS)["items"]
    assert {one["id"] for one in both} == {mine["id"], theirs["id"]}


def test_a_list_is_read_page_by_page(town: Town) -> None:
    made = [town.ask(("email", f"p{number}@example.org"))["id"] for number in range(5)]
    seen, cursor = [], ""
    for _ in range(4):
        page = town.ok(Role.DPO, "GET", f"{REQUESTS}?limit=2{cursor}")
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == made
