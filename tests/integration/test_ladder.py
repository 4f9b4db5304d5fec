"""The ladder: a verdict that is no pass leads to the next method, each once and with its reason."""

from datetime import timedelta

import pytest

from app.core.clock import utc_now
from app.core.security import Role
from tests.integration.town import Json, Town
from tests.integration.worlds import LANGUAGE, notes

# So many that some are trained on and some held out, whatever the dataset's key.
PEOPLE = 24
LADDER = ["gradient_ascent", "npo", "fine_tune"]
POLICY: Json = {
    "allowed_methods": LADDER,
    "method_parameters": {method: {"max_steps": 2} for method in LADDER},
    "utility_drop": 0.625,
}


@pytest.fixture
def trained(town: Town) -> Town:
    town.dataset("notes", notes(PEOPLE))
    short = LANGUAGE | {"training": LANGUAGE["training"] | {"epochs": 4}}
    town.model("lm", "notes", "causal_lm", short, policy=POLICY, holdout_share=0.5)
    return town


def somebody(town: Town) -> tuple[str, str]:
    """Somebody whom the model was trained on."""
    return town.trained_on("lm", PEOPLE)[0].email


def planned(town: Town, request_id: str) -> Json:
    plan = town.ok(Role.DPO, "GET", f"/v1/erasure-requests/{request_id}/plan")
    (action,) = (one for one in plan["actions"] if one["kind"] == "model_version")
    return dict(action)


def unlearning(town: Town) -> list[Json]:
    items: list[Json] = town.ok(Role.ENGINEER, "GET", "/v1/runs?limit=100")["items"]
    return [one for one in items if one["kind"] == "unlearn"]


def test_each_approximate_method_is_tried_once_and_then_a_person_decides(trained: Town) -> None:
    town = trained
    request = town.erase(somebody(town))

    runs = unlearning(town)
    assert [one["method"] for one in runs] == LADDER
    verdicts = [one["verdict"]["verdict"] for one in runs]
    assert "pass" not in verdicts
    assert [one["state"] for one in runs[:-1]] == ["failed", "failed"]
    assert request["state"] == {"inconclusive": "verifying", "fail": "failed"}[verdicts[-1]]
    action = planned(town, request["id"])
    assert action["method"] == "fine_tune"
    assert action["reason"].startswith("After gradient_ascent, npo, without a pass. ")
    told = [(one["method"], one["verdict"], one["run"]) for one in action["tried"]]
    assert told == [(one["method"], one["verdict"]["verdict"], one["id"]) for one in runs[:-1]]
    assert all(one["reason"] and one["summary"] for one in action["tried"])
    assert action["commitment_due_at"] is not None
    # Served is still what was served, and a sweep tries nothing again.
    town.sweep()
    town.settle()
    assert len(unlearning(town)) == 3
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 1


def test_the_models_own_limit_of_utility_is_judged_by(trained: Town) -> None:
    trained.erase(somebody(trained))
    for run in unlearning(trained):
        assert run["verdict"]["margins"]["utility_drop"] == 0.625
    assert trained.settings.utility_drop != 0.625


def test_exact_comes_as_soon_as_it_is_allowed_and_in_time(trained: Town) -> None:
    town = trained
    later = (utc_now() + timedelta(days=60)).isoformat()
    everything = POLICY | {"allowed_methods": [*LADDER, "retrain"]}
    town.ok(Role.ENGINEER, "PUT", "/v1/models/lm/policy", everything | {"exact_not_before": later})
    request = town.ask(somebody(town))
    assert planned(town, request["id"])["method"] == "gradient_ascent"
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/approve", {})
    # Allowed while the second method is on its way.
    while [one["method"] for one in unlearning(town)] != LADDER[:2]:
        town.answer(town.doorbell.bells.pop(0))
    town.ok(Role.ENGINEER, "PUT", "/v1/models/lm/policy", everything)
    town.settle()
    action = planned(town, request["id"])
    assert (action["method"], action["guarantee"], action["state"]) == ("retrain", "exact", "done")
    assert [one["method"] for one in action["tried"]] == LADDER[:2]
    assert town.request(request["id"])["state"] == "completed"
