"""A compute worker, or its child, killed with SIGKILL: the run ends once, to the same bits."""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.config import Settings
from app.core.db import Database
from app.core.queue import CeleryDoorbell, celery_app
from app.core.security import Role
from app.core.testing import RecordingDoorbell
from app.execution.rules import Claim
from app.manifest.rules import TrainShardJob, UnlearnJob
from app.models import AuditLeaf, AuditPending, Checkpoint, ModelSlice, ModelVersion, Run, Step
from app.supervisor.commands import worker_command
from tests.integration.town import Town, TrainedOn
from tests.integration.worlds import CLASSIFIER, LANGUAGE, notes, points
from workers.artifacts import ArtifactStore
from workers.jobs import job_of
from workers.steps import Desk
from workers.steps.train import train
from workers.steps.unlearn import unlearn

LEASE_SECONDS = 2.0
# Long enough that a slice takes about a second, so that there is a middle to be killed in.
SLOW = CLASSIFIER | {"training": {"epochs": 300, "batch_size": 1}}
# So many that they are spread over slices, trained on and held out, whatever the dataset's key.
PEOPLE, SHARDS, SLICES = 24, 2, 3


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "lease_seconds": LEASE_SECONDS,
            "heartbeat_seconds": LEASE_SECONDS / 5,
            "checkpoint_seconds": 0.1,
        }
    )


@contextmanager
def compute_worker(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Celery worker of the compute role in a process group of its own."""
    environment = os.environ | {
        "LETHE_ENVIRONMENT": "production",
        "LETHE_DATABASE_URL": settings.database_url.get_secret_value(),
        "LETHE_REDIS_URL": settings.redis_url.get_secret_value(),
        "LETHE_ARTIFACTS_URL": settings.artifacts_url,
        "LETHE_SUBJECT_SECRET": settings.subject_secret.get_secret_value(),
        "LETHE_VAULT_SECRET": settings.vault_secret.get_secret_value(),
        "LETHE_SIGNING_KEYS": str(settings.signing_keys),
        "LETHE_LEASE_SECONDS": str(settings.lease_seconds),
        "LETHE_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
        "LETHE_CHECKPOINT_SECONDS": str(settings.checkpoint_seconds),
    }
    with log.open("ab") as output:
        worker = subprocess.Popen(
            worker_command("compute", f"killed-{time.monotonic_ns()}"),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            yield worker
        finally:
            kill_group(worker)
            worker.wait(10)


def kill_group(worker: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The worker's warm child: the spawned process that runs multiprocessing's `spawn_main`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(status[1]) == pid and b"spawn_main" in command:
                found.append(int(entry.name))
    return found


def wait_for(done: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


class RemoteTown(Town):
    """A town whose compute steps go through the broker to real workers."""

    def before_the_last_slice(self) -> TrainedOn:
        """A person whose erasure trains slices with several others after their own.

        So that there is a middle to be killed in.
        """
        people = self.trained_on("m", PEOPLE)

        def after(somebody: TrainedOn) -> int:
            shard, piece = somebody.shard, somebody.slice
            return sum(one.shard == shard and one.slice > piece for one in people)

        return max(people, key=after)

    def unlearned(self) -> dict[str, Any] | None:
        """Sweep and pump; return what the approximate method's step brought, once it did."""
        self.sweep()
        self.pump()
        with self.database.transaction() as session:
            return session.scalars(select(Step.result).where(Step.kind == "unlearn")).one()

    def start_erasure(self, somebody: TrainedOn) -> str:
        request = self.ask(somebody.customer)
        self.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/approve", {})
        return str(request["id"])

    def pump(self) -> None:
        """Answer control bells here; send compute bells to the broker."""
        remote = CeleryDoorbell(celery_app(self.settings.redis_url.get_secret_value()))
        while self.doorbell.bells:
            bell = self.doorbell.bells.pop(0)
            if bell.task == "run_step":
                remote.send(bell)
            else:
                self.answer(bell)

    def checkpoints(self) -> int:
        with self.database.transaction() as session:
            return session.scalar(select(func.count()).select_from(Checkpoint)) or 0

    def finish(self, request_id: str, seconds: float) -> dict[str, Any]:
        """Sweep and pump, as beat and control workers do, until the request has ended."""

        def ended() -> bool:
            self.sweep()
            self.pump()
            return self.request(request_id)["state"] in {"completed", "failed"}

        wait_for(ended, seconds, "the request to end")
        return self.request(request_id)


@pytest.fixture
def empty_town(
    database: Database, doorbell: RecordingDoorbell, settings: Settings, tmp_path: Path
) -> RemoteTown:
    folder = tmp_path / "data"
    folder.mkdir()
    return RemoteTown(database, doorbell, settings, folder)


@pytest.fixture
def remote_town(empty_town: RemoteTown) -> RemoteTown:
    town = empty_town
    town.dataset("d", points(PEOPLE, 2))
    town.model("m", "d", "classifier", SLOW, shards=SHARDS, slices=SLICES, holdout_share=0)
    return town


def bits(town: Town, version: int) -> dict[tuple[int, int], tuple[str, str | None]]:
    with town.database.transaction() as session:
        rows = session.scalars(
            select(ModelSlice)
            .join(ModelVersion, ModelVersion.id == ModelSlice.model_version_id)
            .where(ModelVersion.version == version)
        ).all()
        return {(one.shard, one.slice): (one.chain, one.object_digest) for one in rows}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "child"])
def test_a_run_survives_a_kill_to_the_same_bits(
    remote_town: RemoteTown, tmp_path: Path, victim: str
) -> None:
    town, log = remote_town, tmp_path / "worker.log"
    old, stored = bits(town, 1), town.checkpoints()
    request_id = town.start_erasure(town.before_the_last_slice())
    town.pump()
    with compute_worker(town.settings, log) as first:
        # In the middle: at least one slice of the new shard is stored and another is in work.
        wait_for(lambda: town.checkpoints() > stored, 60, "the first checkpoint")
        if victim == "worker":
            os.kill(first.pid, signal.SIGKILL)
            first.wait(10)
            # The child ends by itself when its parent's pipe closes.
            wait_for(lambda: not children(first.pid), 20, "the child to end")
            with compute_worker(town.settings, log):
                request = town.finish(request_id, 90)
        else:
            (child,) = children(first.pid)
            os.kill(child, signal.SIGKILL)
            request = town.finish(request_id, 90)

    assert request["state"] == "completed", request
    new = bits(town, 2)
    (shard,) = {place[0] for place in old if old[place] != new[place]}
    with town.database.transaction() as session:
        step = unlearning_step(session)
        assert len(session.scalars(select(ModelVersion)).all()) == 2
        entries = [
            *session.scalars(select(AuditLeaf.payload)),
            *session.scalars(select(AuditPending.payload)),
        ]
    # It was taken up again, went on from what was stored, and was published once.
    assert step.attempts >= 2
    assert (step.result or {})["resumed_after"] >= 0
    own = [one for one in entries if str(step.id).encode() in one]
    assert sum(b'"step_done"' in one for one in own) == 1
    # The same erasure without any kill, done from nothing in another store, gives the same bits.
    expected = uninterrupted(town, tmp_path, shard)
    assert expected == {place: one for place, one in new.items() if place[0] == shard}


@pytest.mark.slow
def test_an_approximate_run_survives_a_kill_to_the_same_bits(
    empty_town: RemoteTown, tmp_path: Path
) -> None:
    town, log = empty_town, tmp_path / "worker.log"
    slow = {"learning_rate": 1e-7, "max_steps": 400, "unmeasured_steps": 0}
    policy = {
        "allowed_methods": ["gradient_ascent"],
        "method_parameters": {"gradient_ascent": slow},
    }
    town.dataset("notes", notes(PEOPLE))
    town.model("lm", "notes", "causal_lm", LANGUAGE, policy=policy, holdout_share=0.5)
    stored = town.checkpoints()
    town.start_erasure(town.trained_on("lm", PEOPLE)[0])
    town.pump()
    with compute_worker(town.settings, log) as first:
        wait_for(lambda: town.checkpoints() > stored, 60, "the first checkpoint")
        os.kill(first.pid, signal.SIGKILL)
        first.wait(10)
        with compute_worker(town.settings, log):
            wait_for(lambda: town.unlearned() is not None, 90, "the step to end")
    told = town.unlearned()
    assert told is not None
    assert told["steps"] == 400
    assert 0 < told["resumed_after"] < 400

    # Without any kill, from the weights that were served: the same weights and the same losses.
    with town.database.transaction() as session:
        step = session.scalars(select(Step).where(Step.kind == "unlearn")).one()
        assert step.attempts >= 2
        claim = Claim(step.id, step.run_id, step.kind, step.epoch, step.attempts)
        job = job_of(session, town.settings, claim)
    assert isinstance(job, UnlearnJob)
    desk = Desk(ArtifactStore(town.settings.artifacts_url), lambda _: None, lambda _: None)
    whole = unlearn(dataclasses.replace(job, checkpoints={}), desk)
    assert whole | {"resumed_after": told["resumed_after"]} == told


def unlearning_step(session: Session) -> Step:
    query = select(Step).join(Run, Run.id == Step.run_id)
    return session.scalars(query.where(Run.kind == "unlearn", Step.kind == "train_shard")).one()


def uninterrupted(
    town: Town, tmp_path: Path, shard: int
) -> dict[tuple[int, int], tuple[str, str | None]]:
    with town.database.transaction() as session:
        step = unlearning_step(session)
        claim = Claim(step.id, step.run_id, step.kind, step.epoch, step.attempts)
        job = job_of(session, town.settings, claim)
    assert isinstance(job, TrainShardJob)
    desk = Desk(ArtifactStore(f"file://{tmp_path}/fresh"), lambda _: None, lambda _: None)
    result = train(dataclasses.replace(job, checkpoints={}), desk)
    return {(shard, one["slice"]): (one["chain"], one["object_digest"]) for one in result["slices"]}
