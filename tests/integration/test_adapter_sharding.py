"""Adapters per shard: switched off at once where they have seen a person, trained again later."""

import json
from collections import Counter

import pytest
from sqlalchemy import select

from app.core.security import Role
from app.models import ModelSlice, ModelVersion
from tests.integration.town import Json, Town, TrainedOn
from tests.integration.worlds import LANGUAGE, notes

ADAPTERS: Json = LANGUAGE | {
    "lora": {"r": 4, "alpha": 8, "target_modules": ["c_attn", "c_fc"]},
    "training": {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3},
}
# So many that every slice has somebody, and the last slice of some shard several.
PEOPLE = 40


@pytest.fixture
def trained(town: Town) -> Town:
    town.dataset("notes", notes(PEOPLE))
    town.model("lm", "notes", "causal_lm", ADAPTERS, shards=3, slices=2, holdout_share=0)
    return town


def in_the_last_slice(town: Town) -> TrainedOn:
    """Somebody in a last slice with others, and with somebody in the slice before."""
    people = town.trained_on("lm", PEOPLE)
    inhabitants = Counter((one.shard, one.slice) for one in people)
    return next(
        one
        for one in people
        if one.slice == 1 and inhabitants[one.shard, 1] > 1 and inhabitants[one.shard, 0]
    )


def test_the_adapter_is_off_before_anything_is_computed(trained: Town) -> None:
    town = trained
    somebody = in_the_last_slice(town)
    shard = somebody.shard
    request_id = town.ask(somebody.email)["id"]
    plan = town.ok(Role.DPO, "GET", f"/v1/erasure-requests/{request_id}/plan")
    (action,) = (one for one in plan["actions"] if one["kind"] == "model_version")
    assert (action["method"], action["guarantee"]) == ("adapter_sharding", "exact")
    assert action["commitment_due_at"] is None
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request_id}/approve", {})
    answer_all_but_steps(town)

    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 2
    before, after = slices(town, 1), slices(town, 2)
    assert after[shard, 0] == before[shard, 0]
    assert after[shard, 1] is None
    others = {place for place in before if place[0] != shard}
    assert {place: after[place] for place in others} == {place: before[place] for place in others}


def test_it_is_certified_exact_and_trained_again_without_the_person(trained: Town) -> None:
    town = trained
    somebody = in_the_last_slice(town)
    shard = somebody.shard
    clean = slices(town, 1)[shard, 0]
    request = town.erase(somebody.email)
    assert request["state"] == "completed"
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    run = town.run(action["run"])
    assert run["verdict"]["verdict"] == "pass"
    assert run["verdict"]["by"] == "process"
    assert somebody.email[1] not in json.dumps(run)

    # The rest of the shard is trained on again, from the slice before, and takes its place.
    runs = town.ok(Role.ENGINEER, "GET", "/v1/runs")["items"]
    again = [town.run(one["id"]) for one in runs if one["method"] == "sisa"]
    assert [one["state"] for one in again] == ["done"]
    (trained_again,) = (one for one in again[0]["steps"] if one["kind"] == "train_shard")
    assert trained_again["result"]["shard"] == shard
    assert trained_again["result"]["resumed_after"] == 0
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 3
    now = slices(town, 3)
    assert now[shard, 0] == clean
    assert now[shard, 1] not in {None, clean}
    assert town.version("lm", 1)["state"] == town.version("lm", 2)["state"] == "destroyed"
    assert town.trace(somebody.email)["models"] == []


def test_where_nothing_would_be_left_the_shard_is_trained_again_at_once(town: Town) -> None:
    town.dataset("notes", notes(PEOPLE))
    town.model("lm", "notes", "causal_lm", ADAPTERS, slices=2, holdout_share=0)
    somebody = next(one for one in town.trained_on("lm", PEOPLE) if one.slice == 0)
    request = town.erase(somebody.email)
    assert request["state"] == "completed"
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    assert town.run(action["run"])["method"] == "sisa"
    # What was done is what is certified.
    assert action["method"] == town.version("lm", 2)["method"] == "sisa"
    assert "adapter_sharding" not in json.dumps(town.verified(request["id"]))


def answer_all_but_steps(town: Town) -> None:
    """Let the service do all that it does without a compute worker."""
    while rung := [one for one in town.doorbell.bells if one.task != "run_step"]:
        town.doorbell.bells.remove(rung[0])
        town.answer(rung[0])


def slices(town: Town, version: int) -> dict[tuple[int, int], str | None]:
    """Return (shard, slice) → stored object of a version."""
    query = (
        select(ModelSlice)
        .join(ModelVersion, ModelVersion.id == ModelSlice.model_version_id)
        .where(ModelVersion.version == version)
    )
    with town.database.transaction() as session:
        found = session.scalars(query).all()
        return {(one.shard, one.slice): one.object_digest for one in found}
