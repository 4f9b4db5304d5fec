"""What can go wrong in the middle of the work ends in a clear failure; the served model stays."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.core.config import Settings
from app.core.security import Role
from app.manifest.rules import TrainShardJob, model_prefix
from app.models import ModelSlice, ModelVersion
from lethe.recipes.local_folder import folder_digest
from tests.integration.town import Json, Town
from tests.integration.worlds import CLASSIFIER, LANGUAGE, notes, points
from workers.artifacts import ArtifactStore
from workers.recipes import make_task
from workers.unlearn.task import Task

APPROXIMATE = {
    "allowed_methods": ["gradient_ascent"],
    "retraining_every_days": 20,
    # So few records lose much with every step of ascent; that is not what is tested here.
    "utility_drop": 0.9,
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # What could pass is not tried again here.
    return settings.model_copy(update={"step_attempts": 1})


def told(problem: Mapping[str, Any]) -> str:
    return f"{problem['detail']} {problem['advice']}"


def erase_and_fail(town: Town, somebody: tuple[str, str]) -> Json:
    """Ask for somebody's erasure, see it fail and the served version stay; return why."""
    before = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    request = town.erase(somebody)
    assert request["state"] == "failed"
    assert town.ok(Role.ENGINEER, "GET", "/v1/deployments") == before
    assert town.version("m", 1)["state"] == "live"
    assert "@example.org" not in json.dumps(request)
    failure: Json = request["failure"]
    return failure


def retried(town: Town) -> Json:
    """Retry the only request and return it."""
    (request,) = town.ok(Role.DPO, "GET", "/v1/erasure-requests")["items"]
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/retry")
    town.settle()
    return town.request(request["id"])


def test_more_memory_than_there_is(town: Town) -> None:
    town.dataset("d", notes(6))
    town.model("m", "d", "causal_lm", LANGUAGE, holdout_share=0)
    before = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    # 13 TB of weights in one matrix.
    config = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 2**20, "n_positions": 64}
    run = town.model("huge", "d", "causal_lm", LANGUAGE | {"config": config}, deployed=False)
    assert run["state"] == "failed"
    assert run["failure"]["type"] == "/problems/out-of-memory"
    assert "batch size" in told(run["failure"])
    assert town.ok(Role.ENGINEER, "GET", "/v1/deployments") == before


def test_nothing_to_retain(town: Town) -> None:
    town.dataset("d", points(6, each=1))
    alone, shards = town.alone_in_a_shard("d", 6)
    town.model(
        "m", "d", "classifier", CLASSIFIER, shards=shards, policy=APPROXIMATE, holdout_share=0
    )
    assert "retain set" in told(erase_and_fail(town, ("customer_id", alone)))


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A language model that was trained elsewhere, as a local safetensors checkpoint."""
    task: Task = make_task("causal_lm", LANGUAGE)
    folder = tmp_path / "base"
    task.build(0).save_pretrained(folder)  # type: ignore[operator]
    return folder


def test_a_missing_base_model(town: Town, base_folder: Path) -> None:
    town.dataset("d", notes(20))
    based: Json = {
        "text": "text",
        "checkpoint": {"path": str(base_folder), "sha256": folder_digest(base_folder)},
        "max_tokens": 48,
        "training": {"epochs": 1, "batch_size": 8},
    }
    town.model("m", "d", "causal_lm", based)
    away = base_folder.rename(base_folder.with_name("away"))
    assert "folder" in told(erase_and_fail(town, town.trained_on("m", 20)[0].email))
    shutil.move(away, base_folder)
    assert retried(town)["state"] == "completed"


def test_no_finite_number_at_the_first_step(town: Town) -> None:
    town.dataset("d", notes(24))
    overflow = {"rmu": {"layer": "transformer.h.0", "steering": 1e30, "max_steps": 3}}
    policy = {"allowed_methods": ["rmu"], "method_parameters": overflow}
    town.model("m", "d", "causal_lm", LANGUAGE, policy=policy, holdout_share=0.5)
    erase_and_fail(town, town.trained_on("m", 24)[0].email)
    (run,) = (
        town.run(one["id"])
        for one in town.ok(Role.ENGINEER, "GET", "/v1/runs")["items"]
        if one["method"] == "rmu"
    )
    assert run["verdict"]["verdict"] == "fail"
    (step,) = (one for one in run["steps"] if one["kind"] == "unlearn")
    assert step["result"]["status"] == "failed"
    assert step["result"]["steps"] == 1
    assert "finite" in run["verdict"]["summary"]


def test_weights_of_another_architecture(town: Town) -> None:
    town.dataset("d", points(40, each=1))
    town.model("m", "d", "classifier", CLASSIFIER, policy=APPROXIMATE, holdout_share=0.5)
    wider = CLASSIFIER | {"hidden": [9]}
    town.model("other", "d", "classifier", wider, deployed=False)
    with town.database.transaction() as session:
        mine, others = session.scalars(select(ModelSlice).order_by(ModelSlice.model_version_id))
        model, other = (
            session.get_one(ModelVersion, one.model_version_id).model_id for one in (mine, others)
        )
        store = ArtifactStore(town.settings.artifacts_url)
        digest = others.object_digest or ""
        store.put(model_prefix(model), store.get(model_prefix(other), digest))
        session.execute(
            update(ModelSlice)
            .where(ModelSlice.model_version_id == mine.model_version_id)
            .values(object_digest=digest)
        )
    assert "does not fit the model" in told(erase_and_fail(town, town.trained_on("m", 40)[0].email))


def test_a_damaged_checkpoint_is_told_and_once_deleted_trained_again(town: Town) -> None:
    town.dataset("d", points(30, each=2))
    town.model("m", "d", "classifier", CLASSIFIER, slices=3, holdout_share=0)
    last = next(one for one in town.trained_on("m", 30) if one.slice == 2)
    with town.database.transaction() as session:
        stored = session.scalars(select(ModelSlice.object_digest).where(ModelSlice.slice == 1))
        file = next((town.folder.parent / "artifacts").rglob(f"*{stored.one()}*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    failure = erase_and_fail(town, last.email)
    assert failure["type"] == "/problems/artifact-corrupt"
    assert "delete" in failure["advice"]
    file.unlink()
    assert retried(town)["state"] == "completed"
    result = next(one for one in reversed(town.work.jobs) if isinstance(one, TrainShardJob))
    assert result.checkpoints
    # The same bits again: training is a function of the records.
    assert file.read_bytes() == whole


def test_a_corrupt_checkpoint(town: Town) -> None:
    town.dataset("d", points(40, each=1))
    town.model("m", "d", "classifier", CLASSIFIER, policy=APPROXIMATE, holdout_share=0.5)
    with town.database.transaction() as session:
        (stored,) = session.scalars(select(ModelSlice.object_digest))
    file = next((town.folder.parent / "artifacts").rglob(f"*{stored}*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    failure = erase_and_fail(town, town.trained_on("m", 40)[0].email)
    assert "digest" in told(failure) or "corrupt" in failure["type"]
    file.write_bytes(whole)
    assert retried(town)["state"] in {"verifying", "completed"}
