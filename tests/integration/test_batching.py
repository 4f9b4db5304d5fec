"""Many requests, one run: waited for, joined, counted; and what comes too late waits its turn."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.core.clock import utc_now
from app.core.queue import Bell
from app.core.security import Role
from app.execution import service as execution
from app.manifest.rules import TrainShardJob
from tests.integration.town import Json, Town, problem_of
from tests.integration.worlds import CLASSIFIER, points

TINY: Json = CLASSIFIER | {"training": {"epochs": 1, "batch_size": 8}, "hidden": [4]}
TOGETHER: Json = {"batch_size": 20, "max_wait_hours": 48}
SHARDS = 20


def train(town: Town, people: int, shards: int) -> None:
    town.dataset("d", points(people, 2))
    town.model("m", "d", "classifier", TINY, shards=shards, slices=2, holdout_share=0)


@pytest.fixture
def trained(town: Town) -> Town:
    train(town, 12, 3)
    return town


def set_policy(town: Town, policy: Json) -> None:
    town.ok(Role.ENGINEER, "PUT", "/v1/models/m/policy", policy)
    town.settle()


def unlearning(town: Town) -> list[Json]:
    """The unlearning runs, oldest first, as the API shows them."""
    items: list[Json] = town.ok(Role.ENGINEER, "GET", "/v1/runs?limit=100")["items"]
    return [one for one in items if one["kind"] == "unlearn"]


def person(number: int) -> tuple[str, str]:
    return ("customer_id", f"C{number:03d}")


def on_model(request: Json) -> Json:
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    return dict(action)


def steps(run: Json, kind: str) -> list[Json]:
    return [one for one in run["steps"] if one["kind"] == kind]


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_twenty_people_at_once_are_one_run_and_one_promotion(town: Town) -> None:
    train(town, 60, SHARDS)
    set_policy(town, TOGETHER)
    before = len([one for one in town.work.jobs if isinstance(one, TrainShardJob)])
    requests = [town.erase(person(0))["id"]]
    alone = unlearning(town)[0]["predicted_seconds"]
    requests += [town.erase(person(number))["id"] for number in range(1, 19)]
    (run,) = unlearning(town)
    assert (run["state"], run["steps"]) == ("queued", [])
    assert seconds_between(run["created_at"], run["starts_at"]) == 48 * 3600
    # Nothing happens before its time, whatever is swept.
    town.sweep()
    town.settle()
    assert town.run(run["id"])["state"] == "queued"

    requests.append(town.erase(person(19))["id"])

    (run,) = unlearning(town)
    assert (run["state"], run["starts_at"]) == ("done", None)
    retrained = steps(run, "train_shard")
    places = [on_model(town.request(one))["found"]["shards"] for one in requests]
    hit = {one["shard"] for shards in places for one in shards}
    assert len(retrained) == len(hit) <= SHARDS
    assert len([one for one in town.work.jobs if isinstance(one, TrainShardJob)]) == before + len(
        hit
    )
    assert town.version("m", 2)["state"] == "live"
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 2
    assert len(deployment["history"]) == 2
    # Predicted for all of them together, and measured afterwards.
    assert run["predicted_seconds"] > alone
    assert run["actual_seconds"] == seconds_between(run["started_at"], run["finished_at"])
    for one in requests:
        assert town.request(one)["state"] == "completed"
        assert on_model(town.request(one))["run"] == run["id"]
        assert town.verified(one)
    found = town.trace(person(7))
    assert found["models"] == []
    told = town.http.get("/metrics").text
    assert 'lethe_prediction_ratio_count{method="sisa"} 1.0' in told
    assert 'lethe_prediction_ratio_bucket{le="+Inf",method="sisa"} 1.0' in told


def test_a_run_starts_when_it_has_waited_long_enough(trained: Town) -> None:
    town = trained
    set_policy(town, TOGETHER)
    town.erase(person(1))
    town.erase(person(2))
    (run,) = unlearning(town)
    early = datetime.fromisoformat(run["starts_at"]) - timedelta(seconds=1)
    for moment, rung in ((early, False), (early + timedelta(seconds=2), True)):
        with town.database.transaction() as session:
            execution.sweep(session, moment)
        assert (Bell("advance_run", UUID(run["id"])) in town.doorbell.bells) is rung
        town.doorbell.bells.clear()
    town.answer(Bell("advance_run", UUID(run["id"])), early)
    assert town.run(run["id"])["state"] == "queued"
    town.answer(Bell("advance_run", UUID(run["id"])), early + timedelta(seconds=2))
    town.settle()
    assert town.run(run["id"])["state"] == "done"


def test_a_changed_policy_lets_a_waiting_run_start(trained: Town) -> None:
    town = trained
    set_policy(town, TOGETHER)
    town.erase(person(1))
    assert unlearning(town)[0]["state"] == "queued"
    set_policy(town, {})
    assert unlearning(town)[0]["state"] == "done"


def test_a_nearer_deadline_that_joins_brings_the_start_forward(trained: Town) -> None:
    town = trained
    set_policy(town, {"batch_size": 20})
    first = town.erase(person(1))
    (run,) = unlearning(town)
    due = datetime.fromisoformat(first["due_at"])
    late = datetime.fromisoformat(run["starts_at"])
    assert timedelta(days=1) < due - late < timedelta(days=1, hours=1)
    # A request that came in two weeks ago, as a portal may hand it on.
    received = (utc_now() - timedelta(days=14)).isoformat()
    second = town.approve(town.ask(person(2), received_at=received)["id"])
    assert on_model(second)["run"] == run["id"]
    sooner = datetime.fromisoformat(town.run(run["id"])["starts_at"])
    assert sooner < late - timedelta(days=10)


def test_who_comes_during_a_rebuild_waits_for_the_next_run(trained: Town) -> None:
    town = trained
    first = town.ask(person(1))["id"]
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{first}/approve", {})
    while not (runs := unlearning(town)) or runs[0]["state"] == "queued":
        town.answer(town.doorbell.bells.pop(0))
    held, town.doorbell.bells[:] = [*town.doorbell.bells], []
    second = town.erase(person(2))
    running, waiting = unlearning(town)
    assert (running["state"], waiting["state"]) == ("running", "queued")
    assert on_model(second)["run"] == waiting["id"]
    # Another who comes joins it, though the version that it was queued on is replaced meanwhile.
    set_policy(town, {"batch_size": 3})
    town.doorbell.bells[:] = held
    town.settle()
    assert town.request(first)["state"] == "completed"
    third = town.erase(person(3))
    assert [one["state"] for one in unlearning(town)] == ["done", "queued"]
    assert on_model(third)["run"] == waiting["id"]
    town.erase(person(4))
    done = town.run(waiting["id"])
    assert (done["state"], done["base_version"], done["new_version"]) == ("done", 2, 3)
    assert town.request(second["id"])["state"] == "completed"


def test_a_nightly_window_holds_exact_retraining(trained: Town) -> None:
    town = trained
    opens = utc_now() + timedelta(hours=2)
    closes = opens + timedelta(hours=1)
    window = {"start": f"{opens:%H:%M}", "end": f"{closes:%H:%M}"}
    set_policy(town, {"window": window})
    request = town.erase(person(1))
    (run,) = unlearning(town)
    assert run["state"] == "queued"
    assert f"{datetime.fromisoformat(run['starts_at']):%H:%M}" == window["start"]
    plan = town.ok(Role.DPO, "GET", f"/v1/erasure-requests/{request['id']}/plan")
    (chosen,) = (
        one for action in plan["actions"] for one in action["candidates"] if one["method"] == "sisa"
    )
    assert datetime.fromisoformat(chosen["starts_at"]) == datetime.fromisoformat(run["starts_at"])


@pytest.mark.parametrize(
    "policy",
    [
        {"window": {"start": "22:00", "end": "22:00"}},
        {"window": {"start": "24:00", "end": "05:00"}},
        {"window": {"start": "22:00", "end": "05:00", "weekdays": []}},
        {"window": {"start": "22:00", "end": "05:00", "weekdays": ["caturday"]}},
        {"batch_size": 0},
        {"max_wait_hours": 0},
        {"budget_seconds": -1},
        {"utility_drop": 1},
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused(town: Town, policy: dict[str, Any]) -> None:
    body = {"name": "m", "policy": policy}
    problem_of(town.call(Role.ENGINEER, "POST", "/v1/models", body), 422)


def test_rates_are_kept_per_class_of_worker_and_predict(trained: Town) -> None:
    town = trained

    def predicted() -> float:
        request = town.ask(person(1))
        plan = town.ok(Role.DPO, "GET", f"/v1/erasure-requests/{request['id']}/plan")
        (action,) = (one for one in plan["actions"] if one["kind"] == "model_version")
        town.ok(
            Role.DPO,
            "POST",
            f"/v1/erasure-requests/{request['id']}/reject",
            {"reason": "only asked what it would cost"},
        )
        chosen = next(one for one in action["candidates"] if one["chosen"])
        return float(chosen["predicted_seconds"])

    measured = predicted()
    with town.database.transaction() as session:
        execution.beat(session, "compute@far-1", "compute", utc_now(), "A100")
    # Of that class nothing is known, neither of this model nor of its recipe: the default.
    default = predicted()
    assert default != measured
    with town.database.transaction() as session:
        execution.beat(session, "compute@far-1", "compute", utc_now())
    assert predicted() == default
    with town.database.transaction() as session:
        execution.beat(session, "compute@far-1", "compute", utc_now(), "cpu")
    assert predicted() == measured
