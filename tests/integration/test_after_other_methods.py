"""A method on a version that another method, or another request of the same person, has changed."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.core.clock import utc_now
from app.core.config import Settings
from app.core.security import Role
from app.models import ModelSlice, ModelVersion
from tests.integration.town import Json, Town
from tests.integration.worlds import LANGUAGE, notes, points

ADAPTERS: Json = LANGUAGE | {
    "lora": {"r": 4, "alpha": 8, "target_modules": ["c_attn", "c_fc"]},
    "training": {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3},
}
CONVEX: Json = {
    "features": ["x0", "x1", "x2"],
    "label": "y",
    "classes": 2,
    "l2": 1e-1,
    "noise": 20.0,
}
APPROXIMATE: Json = {
    "allowed_methods": ["gradient_ascent"],
    "utility_drop": 0.9,
    "method_parameters": {"gradient_ascent": {"max_steps": 2, "learning_rate": 1e-5}},
}
PEOPLE = 60


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # So few records decide nothing, and the verdict is for a person to accept.
    return settings.model_copy(update={"alpha": 1e-12})


@pytest.fixture
def trained(town: Town) -> Town:
    town.dataset("notes", notes(PEOPLE))
    town.model("lm", "notes", "causal_lm", ADAPTERS, shards=3, slices=2, holdout_share=0.3)
    return town


def people_by_shard(town: Town, first_slice: int) -> dict[int, list[tuple[str, str]]]:
    """Who begins in that slice, by shard."""
    found: dict[int, list[tuple[str, str]]] = {}
    for one in town.trained_on("lm", PEOPLE):
        if one.slice == first_slice:
            found.setdefault(one.shard, []).append(one.email)
    return found


def of_the_model(request: Json) -> Json:
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    return dict(action)


def accepted(town: Town, request: Json) -> Json:
    """Accept its inconclusive verdict with a promise."""
    due = (utc_now() + timedelta(days=60)).isoformat()
    said = {"reason": "no stronger method in time", "commitment_due_at": due}
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/accept", said)
    town.settle()
    return town.request(request["id"])


def set_policy(town: Town, model: str, policy: Json) -> None:
    town.ok(Role.ENGINEER, "PUT", f"/v1/models/{model}/policy", policy)


def slices(town: Town, version: int) -> dict[tuple[int, int], ModelSlice]:
    query = (
        select(ModelSlice)
        .join(ModelVersion, ModelVersion.id == ModelSlice.model_version_id)
        .where(ModelVersion.version == version)
    )
    with town.database.transaction() as session:
        return {(one.shard, one.slice): one for one in session.scalars(query)}


def test_what_an_approximate_method_moved_is_switched_off_as_well(trained: Town) -> None:
    town = trained
    first, second = next(ones for ones in people_by_shard(town, 1).values() if len(ones) > 1)[:2]
    set_policy(town, "lm", APPROXIMATE)
    approximate = accepted(town, town.erase(first))
    assert of_the_model(approximate)["state"] == "committed"

    set_policy(town, "lm", {})
    exact = of_the_model(town.erase(second))
    assert (exact["method"], exact["state"]) == ("adapter_sharding", "done")
    assert town.run(exact["run"])["verdict"]["verdict"] == "pass"
    # It left the first person out too: the promise is kept.
    assert of_the_model(town.request(approximate["id"]))["guarantee"] == "exact"


def test_an_approximate_method_goes_on_from_the_slices_that_are_on(trained: Town) -> None:
    town = trained
    opens = utc_now() + timedelta(hours=2)
    window = {"start": f"{opens:%H:%M}", "end": f"{opens + timedelta(hours=1):%H:%M}"}
    set_policy(town, "lm", {"window": window})
    later = people_by_shard(town, 1)
    earlier = people_by_shard(town, 0)
    shard = next(one for one in later if len(earlier.get(one, ())) > 1)
    assert of_the_model(town.erase(later[shard][0]))["state"] == "done"
    assert slices(town, 2)[shard, 1].object_digest is None

    set_policy(town, "lm", APPROXIMATE | {"window": window})
    request = accepted(town, town.erase(earlier[shard][0]))
    assert of_the_model(request)["state"] == "committed"
    now = slices(town, 3)
    assert now[shard, 0].object_digest is None
    assert now[shard, 1].object_digest is not None


def test_who_was_in_a_slice_that_is_off_needs_no_steps(town: Town) -> None:
    town.dataset("notes", notes(PEOPLE))
    town.model("lm", "notes", "causal_lm", ADAPTERS, shards=3, slices=2, holdout_share=0.3)
    opens = utc_now() + timedelta(hours=2)
    window = {"start": f"{opens:%H:%M}", "end": f"{opens + timedelta(hours=1):%H:%M}"}
    set_policy(town, "lm", {"window": window})
    shard, ones = next(
        (shard, ones) for shard, ones in people_by_shard(town, 0).items() if len(ones) > 1
    )
    assert of_the_model(town.erase(ones[0]))["state"] == "done"
    assert slices(town, 2)[shard, 0].object_digest is None

    set_policy(town, "lm", APPROXIMATE | {"window": window})
    request = town.erase(ones[1])
    run = town.run(of_the_model(request)["run"])
    assert [one["kind"] for one in run["steps"]] == ["evaluate"]
    assert run["verdict"]["verdict"] == "inconclusive"
    assert slices(town, 3)[shard, 1].object_digest is None


def test_the_same_person_asking_twice_is_certified_twice(town: Town) -> None:
    town.dataset("d", points(PEOPLE))
    policy = {"allowed_methods": ["newton_removal"], "utility_drop": 0.5}
    town.model("m", "d", "convex", CONVEX, policy=policy)
    somebody = town.trained_on("m", PEOPLE)[0]
    first, second = town.ask(somebody.email), town.ask(somebody.customer)
    (earlier, later) = (
        town.run(of_the_model(town.approve(one["id"]))["run"]) for one in (first, second)
    )
    # Nothing is left to take out, and what was taken out is within the same bound.
    assert [one["kind"] for one in later["steps"]].count("remove") == 0
    assert later["failure"] is None
    assert later["verdict"]["verdict"] == "pass"
    bound = [
        [one["reason"] for one in run["verdict"]["checks"] if one["name"] == "certified_bound"]
        for run in (earlier, later)
    ]
    assert bound[0] == bound[1] != []


def test_a_switch_off_whose_measurement_failed_is_served_and_can_be_retried(trained: Town) -> None:
    town = trained
    shard, (somebody, *_) = next(
        (shard, ones) for shard, ones in people_by_shard(town, 1).items() if len(ones) > 1
    )
    seen = slices(town, 1)[shard, 1].object_digest or ""
    request_id = town.ask(somebody)["id"]
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request_id}/approve", {})
    while rung := [one for one in town.doorbell.bells if one.task != "run_step"]:
        town.doorbell.bells.remove(rung[0])
        town.answer(rung[0])
    # What it is compared with cannot be read.
    folder = Path(town.settings.artifacts_url.removeprefix("file://"))
    (stored,) = (one for one in folder.rglob(f"*{seen[-40:]}*") if one.is_file())
    stored.unlink()
    town.settle()
    assert town.request(request_id)["state"] == "failed"
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 2

    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request_id}/retry")
    town.settle()
    done = town.request(request_id)
    assert (done["state"], of_the_model(done)["method"]) == ("completed", "adapter_sharding")
    assert town.version("lm", 1)["state"] == town.version("lm", 2)["state"] == "destroyed"
    # Trained again without the person: nothing is left off.
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert all(one.manifest_digest for one in slices(town, deployment["version"]).values())
