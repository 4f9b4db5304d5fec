"""Records taken out of what a model has stored of them: exactly from sums, certified by a step."""

from pathlib import Path

import pytest
from sqlalchemy import select

from app.core.security import Role
from app.manifest.rules import RemoveJob, TrainShardJob, model_prefix
from app.models import ModelSlice, ModelVersion
from lethe.recipes.local_folder import folder_digest
from tests.integration.town import Json, Town
from tests.integration.worlds import LANGUAGE, notes, points
from workers.artifacts import ArtifactStore
from workers.recipes import make_task
from workers.weights import load_tensors

COLUMNS: Json = {"features": ["x0", "x1", "x2"], "label": "y", "classes": 2}
CLOSED_FORM: Json = COLUMNS | {"fourier": {"width": 16, "length_scale": 2.0}}
CONVEX: Json = COLUMNS | {"l2": 1e-1, "noise": 20.0}
PEOPLE = 30


def somebody(town: Town) -> tuple[str, str]:
    """Somebody whom the model was trained on."""
    return town.trained_on("m", PEOPLE)[0].email


def of_the_model(request: Json) -> Json:
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    return dict(action)


def stored(town: Town, version: int) -> list[str | None]:
    """The stored states of a version of the only model, shard after shard."""
    query = (
        select(ModelSlice.object_digest)
        .join(ModelVersion, ModelVersion.id == ModelSlice.model_version_id)
        .where(ModelVersion.version == version)
        .order_by(ModelSlice.shard, ModelSlice.slice)
    )
    with town.database.transaction() as session:
        return list(session.scalars(query))


@pytest.mark.parametrize(("shards", "slices"), [(1, 1), (2, 3)])
def test_an_exact_removal_gives_the_bytes_of_a_training_without_the_records(
    town: Town, shards: int, slices: int
) -> None:
    town.dataset("d", points(PEOPLE))
    town.model("m", "d", "closed_form", CLOSED_FORM, shards=shards, slices=slices)
    request = town.erase(somebody(town))
    assert request["state"] == "completed"
    action = of_the_model(request)
    assert (action["method"], action["guarantee"]) == ("closed_form_head", "exact")
    run = town.run(action["run"])
    assert (run["verdict"]["verdict"], run["verdict"]["by"]) == ("pass", "process")
    assert [one["kind"] for one in run["steps"]].count("remove") == 1
    assert town.version("m", 1)["state"] == "destroyed"

    # Trained anew on what is left, with no checkpoint to go on from.
    town.train("m", "d")
    removed, trained = stored(town, 2), stored(town, 3)
    assert removed != stored(town, 1)
    assert removed[slices - 1 :: slices] == trained[slices - 1 :: slices]


def test_a_head_on_a_frozen_text_backbone_forgets_without_training(
    town: Town, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    make_task("causal_lm", LANGUAGE).build(0).save_pretrained(folder)  # type: ignore[operator]
    named = {"path": str(folder), "sha256": folder_digest(folder)}
    text = {"column": "text", "checkpoint": named, "max_tokens": 48, "width": 32}
    town.dataset("d", [row | {"y": place % 2} for place, row in enumerate(notes(PEOPLE))])
    town.model("m", "d", "closed_form", {"text": text, "label": "y", "classes": 2})
    before = len(town.work.jobs)
    request = town.erase(somebody(town))
    assert request["state"] == "completed"
    action = of_the_model(request)
    assert (action["method"], action["guarantee"]) == ("closed_form_head", "exact")
    verdict = town.run(action["run"])["verdict"]
    assert (verdict["verdict"], verdict["by"]) == ("pass", "process")
    assert town.verified(request["id"])["predicate"]["request"]["outcome"] == "completed"
    done = town.work.jobs[before:]
    (removal,) = (job for job in done if isinstance(job, RemoveJob))
    assert not any(isinstance(job, TrainShardJob) for job in done)

    # Trained anew on what is left.
    town.train("m", "d")
    ((removed,), (trained,)) = stored(town, 2), stored(town, 3)
    assert removed == trained != stored(town, 1)[0]
    store = ArtifactStore(town.settings.artifacts_url)
    state = load_tensors(store.get(model_prefix(removal.model.model_id), removed or ""))
    assert state.keys() == {"model/weights", "model/gram", "model/moments"}
    assert max(tensor.numel() for tensor in state.values()) == 33 * 33


def test_a_certified_removal_passes_by_its_bound_and_is_made_exact_later(town: Town) -> None:
    town.dataset("d", points(PEOPLE))
    policy = {"allowed_methods": ["newton_removal"], "utility_drop": 0.5}
    town.model("m", "d", "convex", CONVEX, policy=policy)
    request = town.erase(somebody(town))
    action = of_the_model(request)
    assert (action["method"], action["guarantee"]) == ("newton_removal", "certified")
    run = town.run(action["run"])
    assert (run["verdict"]["verdict"], run["verdict"]["by"]) == ("pass", "process")
    assert "Within its bound" in run["verdict"]["summary"]
    (removal,) = (one["result"] for one in run["steps"] if one["kind"] == "remove")
    assert 0 < removal["spent"] <= removal["budget"]
    assert action["state"] == "committed"
    statement = town.verified(request["id"])["predicate"]
    assert statement["commitments"][0]["fulfilled_at"] is None

    # A second person spends more of the same budget.
    again = town.run(of_the_model(town.erase(somebody(town)))["run"])
    (second,) = (one["result"] for one in again["steps"] if one["kind"] == "remove")
    assert second["spent"] > removal["spent"]

    # One training keeps both promises.
    first, _ = town.ok(Role.DPO, "GET", "/v1/commitments")
    town.ok(Role.ENGINEER, "POST", f"/v1/commitments/{first['id']}/start")
    town.settle()
    assert {one["state"] for one in town.ok(Role.DPO, "GET", "/v1/commitments")} == {"kept"}
    assert of_the_model(town.request(request["id"]))["guarantee"] == "exact"


def test_a_budget_that_is_spent_forces_training_again(town: Town) -> None:
    town.dataset("d", points(PEOPLE))
    policy = {"allowed_methods": ["newton_removal"]}
    town.model("m", "d", "convex", CONVEX | {"noise": 1e-6}, policy=policy)
    before = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    request = town.erase(somebody(town))
    assert request["state"] == "failed"
    assert town.ok(Role.ENGINEER, "GET", "/v1/deployments") == before
    verdict = town.run(of_the_model(request)["run"])["verdict"]
    assert verdict["verdict"] == "fail"
    assert "budget" in verdict["summary"]

    allowed = {"allowed_methods": ["newton_removal", "retrain"]}
    town.ok(Role.ENGINEER, "PUT", "/v1/models/m/policy", allowed)
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/retry")
    town.settle()
    done = town.request(request["id"])
    assert done["state"] == "completed"
    assert of_the_model(done)["method"] == "retrain"
