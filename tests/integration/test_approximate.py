"""Gradient ascent with a commitment: judged, accepted or escalated, and later made exact."""

import base64
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.core.clock import utc_now
from app.core.config import Settings
from app.core.security import Role
from lethe.certificate import verify_bundle
from lethe.methods import METHODS
from tests.integration.town import Json, Town
from tests.integration.worlds import LANGUAGE, notes

LATER = utc_now() + timedelta(days=60)
# So many that some are trained on and some held out, whatever the dataset's key.
PEOPLE = 24
POLICY = {"exact_not_before": LATER.isoformat()}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # A model of this size loses words with every step; the way is tested here, not the loss.
    return settings.model_copy(update={"utility_drop": 0.5})


@pytest.fixture
def trained(town: Town) -> Town:
    town.dataset("notes", notes(PEOPLE))
    town.model("lm", "notes", "causal_lm", LANGUAGE, policy=POLICY, holdout_share=0.5)
    return town


def somebody(town: Town) -> tuple[str, str]:
    """The e-mail of somebody whom the model was trained on."""
    return town.trained_on("lm", PEOPLE)[0].email


def model_action(request: Json) -> Json:
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    return dict(action)


def predicate(bundle: bytes) -> dict[str, Any]:
    payload = base64.b64decode(json.loads(bundle)["envelope"]["payload"])
    stated: dict[str, Any] = json.loads(payload)["predicate"]
    return stated


def test_the_planner_chooses_ascent_where_policy_forbids_exact_and_says_why(trained: Town) -> None:
    request = trained.ask(somebody(trained))
    plan = trained.ok(Role.DPO, "GET", f"/v1/erasure-requests/{request['id']}/plan")
    (action,) = (one for one in plan["actions"] if one["kind"] == "model_version")
    assert action["method"] == "impair_repair"
    assert action["guarantee"] == "approximate"
    assert datetime.fromisoformat(action["commitment_due_at"]) >= LATER
    against = {one["method"]: one["reason"] for one in action["candidates"] if not one["chosen"]}
    assert set(against) == {"sisa", "retrain"}
    assert all(against.values())


def test_inconclusive_waits_for_the_dpo_and_serves_the_old_version_meanwhile(trained: Town) -> None:
    request = trained.erase(somebody(trained))
    assert request["state"] == "verifying"
    run = trained.run(model_action(request)["run"])
    assert run["verdict"]["verdict"] == "inconclusive"
    (deployment,) = trained.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 1
    # A sweep, and then another, change nothing and fill no log.
    before = trained.ok(Role.PORTAL, "GET", f"/v1/erasure-requests/{request['id']}/timeline")
    for _ in range(2):
        trained.sweep()
        trained.settle()
    after = trained.ok(Role.PORTAL, "GET", f"/v1/erasure-requests/{request['id']}/timeline")
    assert after == before


def test_accepting_needs_a_reason_and_a_date_to_come(trained: Town) -> None:
    request = trained.erase(somebody(trained))
    path = f"/v1/erasure-requests/{request['id']}/accept"
    yesterday = (utc_now() - timedelta(days=1)).isoformat()
    assert (
        trained.call(Role.DPO, "POST", path, {"commitment_due_at": LATER.isoformat()}).status_code
        == 422
    )
    late = {"reason": "no stronger method in time", "commitment_due_at": yesterday}
    assert trained.call(Role.DPO, "POST", path, late).status_code == 409
    assert trained.request(request["id"])["state"] == "verifying"


def test_commitment_is_made_tracked_kept_and_certified_twice(trained: Town) -> None:
    town, person = trained, somebody(trained)
    request = town.erase(person)
    body = {"reason": "no stronger method in time", "commitment_due_at": LATER.isoformat()}
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/accept", body)
    town.settle()

    # Closed with a promise.
    request = town.request(request["id"])
    assert request["state"] == "completed"
    assert model_action(request)["state"] == "committed"
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 2
    assert town.version("lm", 1)["state"] == "destroyed"
    (commitment,) = town.ok(Role.DPO, "GET", "/v1/commitments")
    assert commitment["state"] == "open"
    first = predicate(town.certificate(request["id"]))
    assert first["commitments"][0]["fulfilled_at"] is None
    assert any("approximate" in one for one in first["not_guaranteed"])
    # The person's influence may remain, and a trace says so.
    found = town.trace(person)
    assert [one["model"] for one in found["models"]] == ["lm"]
    assert found["datasets"] == []

    # The promised exact retraining, brought forward.
    town.ok(Role.ENGINEER, "POST", f"/v1/commitments/{commitment['id']}/start")
    town.settle()

    (commitment,) = town.ok(Role.DPO, "GET", "/v1/commitments")
    assert commitment["state"] == "kept"
    assert model_action(town.request(request["id"]))["state"] == "done"
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 3
    bundle = town.certificate(request["id"])
    assert verify_bundle(bundle, town.keys.public).request_id == request["id"]
    second = predicate(bundle)
    assert second["revision"] == 2
    assert second["supersedes"] is not None
    assert second["commitments"][0]["fulfilled_at"] is not None
    (done,) = (one for one in second["done"] if one["kind"] == "model_version")
    assert (done["guarantee"], done["verdict"]) == ("exact", "pass")
    found = town.trace(person)
    assert found["models"] == []


def test_a_verdict_that_is_no_pass_escalates_to_exact_once_policy_allows(trained: Town) -> None:
    town = trained
    request = town.ask(somebody(town))
    # Allowed while the ascent is on its way.
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/approve", {})
    town.ok(Role.ENGINEER, "PUT", "/v1/models/lm/policy", {})
    town.settle()

    request = town.request(request["id"])
    assert request["state"] == "completed"
    action = model_action(request)
    assert (action["method"], action["guarantee"], action["state"]) == ("retrain", "exact", "done")
    plan = town.ok(Role.DPO, "GET", f"/v1/erasure-requests/{request['id']}/plan")
    (planned,) = (one for one in plan["actions"] if one["kind"] == "model_version")
    assert [one["method"] for one in planned["tried"]] == ["impair_repair"]
    assert town.version("lm", 2)["state"] in {"failed", "destroyed"}
    assert town.ok(Role.DPO, "GET", "/v1/commitments") == []


@pytest.mark.parametrize(
    ("collected", "left_out"),
    [
        ({}, True),
        ({"collected_at": "2020-01-01T00:00:00Z"}, True),
        ({"collected_at": "2999-01-01T00:00:00Z"}, False),
    ],
    ids=["unknown", "before", "after new consent"],
)
def test_training_after_an_erasure_leaves_the_person_out(
    trained: Town, collected: dict[str, str], left_out: bool
) -> None:
    town, person = trained, somebody(trained)
    request = town.erase(person)
    body = {"reason": "no stronger method in time", "commitment_due_at": LATER.isoformat()}
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/accept", body)
    town.settle()
    # The same rows come back in another file, and nobody says when they were collected.
    town.ok(
        Role.ENGINEER,
        "POST",
        "/v1/datasets/notes/versions",
        {
            "version": "again",
            "uri": town.write_jsonl("again", notes(PEOPLE)),
            "format": "jsonl",
        }
        | collected,
    )
    town.ok(Role.ENGINEER, "POST", "/v1/datasets/notes/versions/again/index")
    town.settle()
    inputs = {"inputs": [{"dataset": "notes", "version": "again"}]}
    run = town.ok(Role.ENGINEER, "POST", "/v1/models/lm/train", inputs)
    town.settle()
    assert town.run(run["id"])["state"] == "done"
    found = town.trace(person)
    # Back in the data, as the trace says, but not in the version trained on it.
    assert [one["version"] for one in found["datasets"]] == ["again"]
    assert [one["version"] for one in found["models"]] == [2] if left_out else [2, 3]


SHORT = {"max_steps": 12}
PARAMETERS: dict[str, Json] = {
    "gradient_ascent": SHORT,
    "grad_diff": SHORT,
    "npo": SHORT,
    "simnpo": SHORT,
    "scrub": SHORT,
    "ssd": {"alpha": 1.0},
    "rmu": SHORT | {"layer": "transformer.h.0", "alpha": 10.0, "steering": 20.0},
    "fine_tune": SHORT,
    "distill": {"max_steps": 3},
    "noise_and_prune": {"max_steps": 3},
    "impair_repair": {"max_steps": 3, "recovery_steps": 10},
    "task_vector": {},
    "influence": {"iterations": 3},
    "localised_ablation": {},
    "model_edit": {"layer": "transformer.h.0.mlp.c_proj", "value_steps": 5},
}


def test_every_method_of_steps_is_run_here() -> None:
    assert {spec.name for spec in METHODS.values() if spec.way == "steps"} == set(PARAMETERS)


@pytest.mark.parametrize(("method", "parameters"), PARAMETERS.items())
def test_every_approximate_method_runs_where_policy_names_it(
    town: Town, method: str, parameters: Json
) -> None:
    town.dataset("notes", notes(PEOPLE))
    # The full battery is in the tests above; what is asked here is that the method works.
    policy = {
        "allowed_methods": [method],
        "method_parameters": {method: parameters},
        "verification": {"battery": "short"},
    }
    town.model("lm", "notes", "causal_lm", LANGUAGE, policy=policy, holdout_share=0.5)
    request = town.erase(somebody(town))
    action = model_action(request)
    assert action["method"] == method
    run = town.run(action["run"])
    # Judged, whatever it came to: too little evidence, or a method that did not get anywhere.
    assert run["failure"] is None or run["failure"]["type"] == "/problems/not-forgotten", run
    assert run["verdict"]["verdict"] in {"inconclusive", "fail"}
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 1
