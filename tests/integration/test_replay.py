"""`lethe replay` repeats an exact run's training, and notices when something is not as it says."""

import dataclasses
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from app.core.migrations import migrate
from app.core.security import Role
from app.models import ModelSlice, ModelVersion
from app.supervisor.environment import development_environment
from app.supervisor.servers import EmbeddedServers
from tests.integration.town import Json, Town
from tests.integration.worlds import CLASSIFIER, points
from workers.cli import Replayed, ReplayImpossible, Trained, replay_shard, trained_by
from workers.evidence.process import manifest_root

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def erased(town: Town) -> Json:
    """The run that retrained the shard of one person out of twelve."""
    town.dataset("d", points(12))
    town.model("m", "d", "classifier", CLASSIFIER, shards=2, slices=2, holdout_share=0)
    request = town.erase(("email", "person3@example.org"))
    [action] = [one for one in request["actions"] if one["kind"] == "model_version"]
    return town.run(action["run"])


def trained(town: Town, run: Json) -> Trained:
    with town.database.transaction() as session:
        return trained_by(session, town.settings, UUID(run["id"]))


def replayed(town: Town, run: Json, shard: int) -> list[Replayed]:
    return replay_shard(trained(town, run), shard)


def runs(town: Town) -> list[Json]:
    listed: list[Json] = town.ok(Role.AUDITOR, "GET", "/v1/runs")["items"]
    return listed


def shard_of(run: Json) -> int:
    [shard] = [one["result"]["shard"] for one in run["steps"] if one["kind"] == "train_shard"]
    return int(shard)


def command(town: Town, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `lethe replay` with the settings of the town."""
    settings = town.settings
    return bare_command(
        folder,
        {
            "LETHE_DATABASE_URL": settings.database_url.get_secret_value(),
            "LETHE_REDIS_URL": settings.redis_url.get_secret_value(),
            "LETHE_SUBJECT_SECRET": settings.subject_secret.get_secret_value(),
            "LETHE_VAULT_SECRET": settings.vault_secret.get_secret_value(),
        },
        *arguments,
    )


def bare_command(
    folder: Path, environment: dict[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run `lethe replay`, found by the entry point that pyproject.toml declares."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["lethe.commands"]["replay"]
    metadata = folder / "declared-1.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Name: declared\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[lethe.commands]\nreplay = {target}\n")
    kept = {name: value for name, value in os.environ.items() if "LETHE_" not in name}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "replay", *arguments],
        cwd=folder,
        env={
            **kept,
            "COLUMNS": "200",
            "PYTHONPATH": f"{REPOSITORY}:{folder}",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_an_exact_run_comes_out_the_same_and_another_weight_is_noticed(
    town: Town, erased: Json, tmp_path: Path
) -> None:
    same = command(town, tmp_path, erased["id"])
    assert same.returncode == 0, same.stderr + same.stdout
    assert "4 equal" in same.stdout
    digests = {
        one for shard in (0, 1) for part in replayed(town, erased, shard) for one in part.manifest
    }
    assert f"of the {len(digests)} records of shard 0, 1:\n{manifest_root(digests)}" in same.stdout
    assert len(digests) == 3 * 11

    with town.database.transaction() as session:
        version = session.scalars(select(ModelVersion).where(ModelVersion.version == 2)).one()
        stored = session.get_one(ModelSlice, (version.id, 1, 1))
        other = session.get_one(ModelSlice, (version.id, 0, 1))
        stored.object_digest, other.object_digest = other.object_digest, stored.object_digest
    changed = command(town, tmp_path, erased["id"], "--shard", "1")
    assert changed.returncode == 1, changed.stderr
    assert "1 different" in changed.stdout
    assert "1 equal" in changed.stdout

    with town.database.transaction() as session:
        version = session.get_one(ModelVersion, version.id)
        version.environment = {**(version.environment or {}), "torch": "1.0"}
    elsewhere = command(town, tmp_path, erased["id"])
    assert elsewhere.returncode == 2
    assert "torch (1.0, here" in elsewhere.stdout


def test_records_that_left_the_source_since_are_told_from_weights_that_differ(
    town: Town, erased: Json
) -> None:
    shard = shard_of(erased)
    assert {one.outcome for one in replayed(town, erased, shard)} == {"equal"}
    [first] = [one for one in runs(town) if one["kind"] == "train"]
    # The first version held the person, whose records its source no longer gives.
    outcomes = [one.outcome for one in replayed(town, first, shard)]
    assert outcomes[-1] == "other records"
    assert {one.outcome for one in replayed(town, first, 1 - shard)} == {"equal"}


def test_another_recipe_or_environment_is_not_comparable(town: Town, erased: Json) -> None:
    past = trained(town, erased)
    model = dataclasses.replace(past.model, seed="another")
    outcomes = {
        one.outcome
        for one in replay_shard(dataclasses.replace(past, model=model), shard_of(erased))
    }
    assert outcomes == {"not comparable"}


def test_what_no_replay_can_show_is_refused(town: Town, erased: Json) -> None:
    [index, *_] = [one for one in runs(town) if one["kind"] == "index"]
    with pytest.raises(ReplayImpossible, match="trained no model version"):
        trained(town, index)
    policy = {
        "allowed_methods": ["fine_tune"],
        "method_parameters": {"fine_tune": {"max_steps": 1}},
    }
    town.model("n", "d", "classifier", CLASSIFIER, holdout_share=0.3, policy=policy)
    request = town.erase(town.trained_on("n", 12)[0].email)
    made = {one["artifact"]: one["run"] for one in request["actions"]}
    approximate = town.run(made["n@1"])
    assert approximate["guarantee"] == "approximate"
    with pytest.raises(ReplayImpossible, match="not exact"):
        trained(town, approximate)


def test_a_source_that_is_gone_is_said(town: Town, erased: Json) -> None:
    for file in town.folder.glob("*.jsonl"):
        file.unlink()
    with pytest.raises(ReplayImpossible):
        replayed(town, erased, 0)


def test_it_needs_no_more_than_the_folder_of_a_lethe_that_runs(
    embedded_servers: EmbeddedServers, tmp_path: Path
) -> None:
    migrate(embedded_servers.owner_url, embedded_servers.app_url)
    development_environment(embedded_servers.var)
    run = str(uuid4())
    for environment, arguments in (
        ({}, ["--var", str(embedded_servers.var)]),
        ({"LETHE_VAR": str(embedded_servers.var)}, []),
    ):
        asked = bare_command(tmp_path, environment, run, *arguments)
        assert asked.returncode == 2
        # It got as far as the database.
        assert "No run has this id" in asked.stderr
    named = {"LETHE_DATABASE_URL": embedded_servers.app_url}
    own = bare_command(tmp_path, named, run, "--var", str(embedded_servers.var))
    assert "LETHE_SUBJECT_SECRET must be set" in own.stderr


@pytest.mark.parametrize("files", [[], ["socket-folder", "keys/secrets.json"]])
def test_where_no_lethe_runs_it_says_so_and_makes_nothing(tmp_path: Path, files: list[str]) -> None:
    var = tmp_path / "var"
    for name in files:
        # As a supervisor leaves them that has ended.
        (var / name).parent.mkdir(parents=True, exist_ok=True)
        (var / name).write_text(str(tmp_path / "gone"))
    before = sorted(tmp_path.rglob("*"))
    refused = bare_command(tmp_path, {}, str(uuid4()), "--var", str(var))
    assert refused.returncode == 2
    assert f"No Lethe runs on the folder {var}" in refused.stderr
    assert "lethe up" in refused.stderr
    assert "Traceback" not in refused.stderr
    added = set(tmp_path.rglob("*")) - set(before)
    assert not [path for path in added if path.is_relative_to(var)]
