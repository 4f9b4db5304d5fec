"""What could let a person's records survive in silence: late workers, lost lines, odd orders."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import event, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import pipeline
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.queue import Bell
from app.core.security import Role
from app.execution import service as execution
from app.manifest.rules import Job, TrainShardJob
from app.models import (
    Checkpoint,
    DatasetVersion,
    ErasedRecord,
    ModelSlice,
    Run,
    Step,
)
from tests.integration.town import Json, Town
from tests.integration.worlds import CLASSIFIER, LANGUAGE, Row, notes, points
from workers.artifacts import ArtifactStore
from workers.jobs import job_of
from workers.messages import Done, Failed
from workers.runner import Lease, Runner

NOWHERE: Json = {"datasets": [], "models": [], "derived": [], "unknown_lineage": []}


@pytest.fixture
def trained(town: Town) -> Town:
    town.dataset("d", points(12))
    town.model("m", "d", "classifier", CLASSIFIER, shards=3, slices=2, holdout_share=0)
    return town


def customer(person: str) -> tuple[str, str]:
    return "customer_id", person


def approve_only(town: Town, request_id: str) -> None:
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request_id}/approve", {})


def runs_of(town: Town, kind: str) -> list[Run]:
    with town.database.transaction() as session:
        return list(session.scalars(select(Run).where(Run.kind == kind).order_by(Run.id)))


def settle_until(town: Town, reached: Callable[[], bool]) -> None:
    """Answer bells one by one until something is so."""
    while not reached():
        town.answer(town.doorbell.bells.pop(0))


def next_step(town: Town, kind: str) -> UUID:
    """Answer bells until a step of a kind is rung for; return it unanswered."""
    while True:
        bell = town.doorbell.bells.pop(0)
        if bell.task in {"run_step", "control_step"} and bell.row is not None:
            with town.database.transaction() as session:
                if session.get_one(Step, bell.row).kind == kind:
                    return bell.row
        town.answer(bell)


def lose_leases(town: Town) -> None:
    """Let every lease run out and every wait be over."""
    past = utc_now() - timedelta(seconds=1)
    with town.database.transaction() as session:
        session.execute(update(Step).where(Step.state == "running").values(lease_until=past))
        session.execute(update(Step).where(Step.not_before.is_not(None)).values(not_before=past))


def finish(town: Town, rounds: int = 12) -> None:
    """Sweep and settle as often as retries need."""
    for _ in range(rounds):
        town.settle()
        lose_leases(town)
        town.sweep()
    town.settle()


def stored_objects(town: Town) -> set[str]:
    folder = Path(town.settings.artifacts_url.removeprefix("file://"))
    return {path.name for path in folder.rglob("*") if path.is_file()}


def data_files(town: Town) -> list[str]:
    return [path.read_text() for path in sorted(town.folder.iterdir())]


# Files.


class Interrupted:
    """A worker that does its work and is overtaken before it can say so."""

    def __init__(self, town: Town, meanwhile: Callable[[], None]) -> None:
        self.town, self.meanwhile = town, meanwhile

    def __call__(self, job: Job, lease: Lease) -> Done | Failed:
        outcome = self.town.work(job, lease)
        self.meanwhile()
        return outcome


def test_a_late_worker_does_not_take_the_published_file_away(trained: Town) -> None:
    town = trained
    approve_only(town, town.ask(customer("C001"))["id"])
    step = next_step(town, "erase_records")

    def overtaken() -> None:
        lose_leases(town)
        assert town.compute.run_step(step)

    late = Runner(town.database, town.settings, "compute", Interrupted(town, overtaken))
    assert late.run_step(step)
    town.settle()
    (left,) = data_files(town)
    assert "C001" not in left
    assert left.count("C002") == 3
    # The next erasure reads what this one left.
    assert town.erase(customer("C002"))["state"] == "completed"


def test_a_worker_killed_after_rewriting_leaves_no_copy(trained: Town) -> None:
    town = trained
    request = town.ask(customer("C001"))["id"]
    approve_only(town, request)
    step = next_step(town, "erase_records")

    class Killed(Exception):
        pass

    def killed() -> None:
        raise Killed

    dying = Runner(town.database, town.settings, "compute", Interrupted(town, killed))
    with pytest.raises(Killed):
        dying.run_step(step)
    assert len(data_files(town)) == 2
    finish(town, 3)
    assert town.request(request)["state"] == "completed"
    (left,) = data_files(town)
    assert "C001" not in left


def test_a_lost_answer_to_the_commit_loses_no_file(trained: Town) -> None:
    town = trained
    request = town.ask(customer("C001"))["id"]
    approve_only(town, request)
    step = next_step(town, "erase_records")

    # Committed, but the worker never hears of it.
    armed = {"yes": False}

    def arm() -> None:
        armed["yes"] = True

    def after_commit(_connection: object) -> None:
        if armed["yes"]:
            armed["yes"] = False
            raise ConnectionError("the answer to COMMIT was lost")

    cut = Runner(town.database, town.settings, "compute", Interrupted(town, arm))
    event.listen(Session, "after_commit", after_commit)
    try:
        with pytest.raises(ConnectionError):
            cut.run_step(step)
    finally:
        event.remove(Session, "after_commit", after_commit)
    finish(town, 3)
    assert town.request(request)["state"] == "completed"
    (left,) = data_files(town)
    assert left.count("C002") == 3


def test_a_file_replaced_under_a_reading_worker_is_read_again_where_it_is_now(
    trained: Town,
) -> None:
    town = trained
    first, second = (town.ask(customer(one))["id"] for one in ("C001", "C002"))
    approve_only(town, first)
    step = next_step(town, "erase_records")
    approve_only(town, second)
    other = next_step(town, "erase_records")

    class Slow:
        def __call__(self, job: Job, lease: Lease) -> Done | Failed:
            # Between claim and reading, the other erasure rewrites the file and the old one goes.
            assert town.compute.run_step(step)
            assert town.control.run_step(next_step(town, "destroy"))
            return town.work(job, lease)

    Runner(town.database, town.settings, "compute", Slow()).run_step(other)
    finish(town, 4)
    assert [town.request(one)["state"] for one in (first, second)] == ["completed"] * 2


def test_a_job_names_a_file_and_what_is_gone_from_it_as_of_one_moment(trained: Town) -> None:
    town = trained
    inputs = {"inputs": [{"dataset": "d", "version": "1"}]}
    town.ok(Role.ENGINEER, "POST", "/v1/models/m/train", inputs)
    step = next_step(town, "train_shard")
    moved: list[bool] = []

    def erase_meanwhile(*args: Any) -> None:
        statement = str(args[2])
        if moved or "FROM erased_record" not in statement:
            return
        moved.append(False)
        try:
            with town.database.transaction() as other:
                other.connection().exec_driver_sql("SET LOCAL lock_timeout = '200ms'")
                version = other.scalars(select(DatasetVersion).with_for_update()).one()
                version.uri = "file:///elsewhere.jsonl"
                request = UUID(int=0)
                other.add(
                    ErasedRecord(
                        dataset_version_id=version.id,
                        record_no=0,
                        digest=b"",
                        request_id=request,
                        erased_at=utc_now(),
                    )
                )
            moved[0] = True
        except OperationalError:
            pass  # it waits until the job is made

    event.listen(town.database.engine, "before_cursor_execute", erase_meanwhile)
    try:
        with town.database.transaction() as session:
            claimed = execution.claim(session, step, "w", 60.0, utc_now())
            assert claimed is not None
            job = job_of(session, town.settings, claimed)
    finally:
        event.remove(town.database.engine, "before_cursor_execute", erase_meanwhile)
    assert moved
    assert isinstance(job, TrainShardJob)
    (source,) = job.model.sources
    assert (source.erased == (0,)) == source.uri.endswith("elsewhere.jsonl")


def test_one_file_is_one_dataset_version(trained: Town) -> None:
    uri = f"file://{trained.folder}/d.jsonl"
    for other in (uri, f"file://{trained.folder}"):
        body = {"version": "2", "uri": other, "format": "jsonl"}
        problem = trained.refused(Role.ENGINEER, 409, "POST", "/v1/datasets/d/versions", body)
        assert problem["type"].endswith("uri-taken")


# What training leaves out, and what a trace finds.


def without_email(rows: list[Row], person: str) -> list[Row]:
    own = [row for row in rows if row["person"] == person]
    return [row | {"email": None} if row in own[1:] else row for row in rows]


def test_rows_that_come_back_without_the_identifier_asked_with_are_left_out(
    trained: Town,
) -> None:
    town = trained
    assert town.erase(("email", "person3@example.org"))["state"] == "completed"
    # The same person, and only one row still carries the e-mail that the request named.
    body = {
        "version": "2",
        "uri": town.write_jsonl("again", without_email(points(12), "C003")),
        "format": "jsonl",
    }
    town.ok(Role.ENGINEER, "POST", "/v1/datasets/d/versions", body)
    town.ok(Role.ENGINEER, "POST", "/v1/datasets/d/versions/2/index")
    town.settle()
    inputs = {"inputs": [{"dataset": "d", "version": "2"}]}
    run = town.ok(Role.ENGINEER, "POST", "/v1/models/m/train", inputs)
    town.settle()
    assert town.run(run["id"])["state"] == "done"
    assert town.trace(customer("C003"))["models"] == []


def test_what_was_made_from_a_version_that_is_gone_is_still_found(trained: Town) -> None:
    town = trained
    edge = {
        "parent": {"kind": "model_version", "name": "m", "version": "1"},
        "child": {"kind": "embedding_index", "name": "search"},
    }
    town.ok(Role.ENGINEER, "POST", "/v1/lineage/edges", edge)
    town.erase(customer("C001"))
    assert town.version("m", 1)["state"] == "destroyed"
    request = town.erase(customer("C002"))
    assert request["state"] == "partially_completed"
    assert "embedding_index" in {one["kind"] for one in request["actions"]}


@pytest.mark.parametrize("shards", [1, 3])
def test_a_version_trained_elsewhere_is_replaced_whole_or_named(town: Town, shards: int) -> None:
    town.dataset("d", points(12))
    body = {
        "name": "m",
        "recipe": "classifier",
        "parameters": CLASSIFIER,
        "shards": shards,
        "slices": 2,
        # Where it was trained nobody held anybody out.
        "holdout_share": 0.5,
    }
    town.ok(Role.ENGINEER, "POST", "/v1/models", body)
    inputs = {"inputs": [{"dataset": "d", "version": "1"}]}
    town.ok(Role.ENGINEER, "POST", "/v1/models/m/versions", inputs)
    town.ok(Role.ENGINEER, "POST", "/v1/deployments", {"name": "live", "model": "m"})
    for number in range(12):
        assert town.trace(customer(f"C{number:03d}"))["models"]
    request = town.erase(customer("C003"))
    assert request["state"] == "completed", request["failure"]
    (deployment,) = town.ok(Role.ENGINEER, "GET", "/v1/deployments")
    assert deployment["version"] == 2
    with town.database.transaction() as session:
        slices = {(one.shard, one.slice) for one in session.scalars(select(ModelSlice))}
    assert slices == {(shard, piece) for shard in range(shards) for piece in range(2)}
    stated = town.verified(request["id"])["predicate"]
    assert any("trained elsewhere" in one for one in stated["not_guaranteed"])


def test_data_that_is_indexed_while_a_request_is_open_is_erased_from_too(trained: Town) -> None:
    town = trained
    body = {"version": "2", "uri": town.write_jsonl("more", points(4)), "format": "jsonl"}
    town.ok(Role.ENGINEER, "POST", "/v1/datasets/d/versions", body)
    request = town.ask(customer("C001"))["id"]
    approve_only(town, request)
    settle_until(town, lambda: any(one.state == "running" for one in runs_of(town, "unlearn")))
    town.ok(Role.ENGINEER, "POST", "/v1/datasets/d/versions/2/index")
    town.settle()
    assert town.request(request)["state"] == "completed"
    assert town.trace(customer("C001")) == NOWHERE
    assert "C001" not in "".join(data_files(town))


def test_data_that_was_never_indexed_is_named_in_the_certificate(trained: Town) -> None:
    town = trained
    body = {"version": "2", "uri": town.write_jsonl("more", points(4)), "format": "jsonl"}
    town.ok(Role.ENGINEER, "POST", "/v1/datasets/d/versions", body)
    town.ok(Role.ENGINEER, "POST", "/v1/models", {"name": "bought"})
    inputs = {"inputs": [{"dataset": "d", "version": "2"}]}
    town.ok(Role.ENGINEER, "POST", "/v1/models/bought/versions", inputs)
    request = town.erase(customer("C001"))
    stated = town.verified(request["id"])["predicate"]["not_covered"]
    assert any("d@2" in one for one in stated)
    assert any("bought@1" in one for one in stated)


# Runs that fail, meet, or come twice.


def break_training(town: Town, shard: int) -> None:
    """From now on that shard's training fails for good."""

    class Broken:
        def __init__(self, work: Any) -> None:
            self.work, self.jobs = work, work.jobs

        def __call__(self, job: Job, lease: Lease) -> Done | Failed:
            if isinstance(job, TrainShardJob) and job.shard == shard:
                return Failed({"slug": "broken", "detail": "broken"}, permanent=True)
            outcome: Done | Failed = self.work(job, lease)
            return outcome

    town.compute = Runner(town.database, town.settings, "compute", Broken(town.work))


def test_a_failed_training_leaves_no_state_behind(town: Town) -> None:
    town.dataset("d", points(12))
    break_training(town, 2)
    run = town.model(
        "m", "d", "classifier", CLASSIFIER, shards=3, slices=2, holdout_share=0, deployed=False
    )
    assert run["state"] == "failed"
    assert stored_objects(town) == set()
    with town.database.transaction() as session:
        assert session.scalars(select(Checkpoint)).all() == []


def test_an_object_that_no_row_tells_of_goes_with_the_next_destruction(trained: Town) -> None:
    town = trained
    approve_only(town, town.ask(customer("C001"))["id"])
    step = next_step(town, "train_shard")
    with town.database.transaction() as session:
        claimed = execution.claim(session, step, "w", 60.0, utc_now())
        assert claimed is not None
        job = job_of(session, town.settings, claimed)
    # Stored by a worker of another environment that died before it could tell.
    store = ArtifactStore(town.settings.artifacts_url)
    assert isinstance(job, TrainShardJob)
    orphan = store.put(f"models/{job.model.model_id}", b"weights that saw C001")
    finish(town, 3)
    assert orphan not in stored_objects(town)
    assert town.erase(customer("C002"))["state"] == "completed"


def test_a_training_that_fails_after_an_approval_is_not_served_half(trained: Town) -> None:
    town = trained
    request = town.ask(customer("C001"))["id"]
    break_training(town, 2)
    inputs = {"inputs": [{"dataset": "d", "version": "1"}]}
    town.ok(Role.ENGINEER, "POST", "/v1/models/m/train", inputs)
    settle_until(town, lambda: any(one.state == "running" for one in runs_of(town, "train")))
    approve_only(town, request)
    # Approved while version 2 was in training, which then fails.
    settle_until(town, lambda: any(one.state == "failed" for one in runs_of(town, "train")))
    town.compute = Runner(town.database, town.settings, "compute", town.work)
    finish(town, 2)
    assert town.request(request)["state"] == "completed", town.request(request)
    states = {
        one["version"]: one["state"]
        for one in town.ok(Role.ENGINEER, "GET", "/v1/models/m")["versions"]
    }
    assert [number for number, state in states.items() if state == "live"] == [3]
    with town.database.transaction() as session:
        slices = {one.object_digest for one in session.scalars(select(ModelSlice))}
        assert slices
    assert town.trace(customer("C001")) == NOWHERE


def measures_the_second(town: Town, bell: Bell) -> bool:
    """Whether a bell is for the evaluation of the second unlearning run."""
    unlearning = runs_of(town, "unlearn")
    if bell.task != "run_step" or len(unlearning) < 2:
        return False
    with town.database.transaction() as session:
        step = session.get_one(Step, bell.row)
        return (step.kind, step.run_id) == ("evaluate", unlearning[1].id)


def test_one_person_asked_for_twice_through_two_portals_completes_twice(trained: Town) -> None:
    town = trained
    first = town.ask(customer("C001"))["id"]
    other = town.new_token(Role.PORTAL)
    body = {
        "subject": {"identifiers": [{"type": "customer_id", "value": "C001"}]},
        "regime": "gdpr",
        "identity_verified": True,
    }
    second = town.call_with(other, "POST", "/v1/erasure-requests", body).json()["id"]
    town.settle()
    approve_only(town, first)
    settle_until(town, lambda: any(one.state == "running" for one in runs_of(town, "unlearn")))
    approve_only(town, second)
    # The second run is measured when the first request has erased the file as well.
    held: list[Bell] = []
    while town.doorbell.bells:
        bell = town.doorbell.bells.pop(0)
        if measures_the_second(town, bell):
            held.append(bell)
        else:
            town.answer(bell)
    assert town.request(first)["state"] == "completed"
    town.doorbell.bells += held
    town.settle()
    shown = town.ok(Role.DPO, "GET", f"/v1/erasure-requests/{second}")
    assert shown["state"] == "completed", shown["failure"]


def test_a_run_that_waits_on_a_replaced_version_is_joined_and_starts(trained: Town) -> None:
    town = trained
    asked = [town.ask(customer(f"C00{n}"))["id"] for n in (1, 2, 3)]
    approve_only(town, asked[0])
    settle_until(town, lambda: any(one.state == "running" for one in runs_of(town, "unlearn")))
    approve_only(town, asked[1])
    settle_until(town, lambda: any(one.state == "promoting" for one in runs_of(town, "unlearn")))
    # Version 2 is live, and the run that waits still names version 1.
    destruction = next_step(town, "destroy")
    approve_only(town, asked[2])
    while bells := [one for one in town.doorbell.bells if one.row != destruction]:
        town.doorbell.bells.remove(bells[0])
        town.answer(bells[0])
    assert [one.state for one in runs_of(town, "unlearn")] == ["promoting", "queued"]
    town.doorbell.bells.append(Bell("control_step", destruction))
    town.settle()
    assert [town.request(one)["state"] for one in asked] == ["completed"] * 3


def test_a_step_that_ends_its_workers_ends_its_run(trained: Town) -> None:
    town = trained
    request = town.ask(customer("C001"))["id"]
    approve_only(town, request)
    next_step(town, "train_shard")

    class Deadly:
        def __call__(self, _job: Job, _lease: Lease) -> Done | Failed:
            raise KeyboardInterrupt

    town.compute = Runner(town.database, town.settings, "compute", Deadly())
    for _ in range(town.settings.step_attempts + 1):
        lose_leases(town)
        town.sweep()
        while town.doorbell.bells:
            try:
                town.answer(town.doorbell.bells.pop(0))
            except KeyboardInterrupt:
                continue
    assert town.request(request)["state"] == "failed"
    assert town.request(request)["failure"]["advice"]


def test_what_a_job_cannot_be_made_from_fails_the_run(trained: Town) -> None:
    town = trained
    request = town.ask(customer("C001"))["id"]
    approve_only(town, request)
    wrong = town.settings.model_copy(update={"vault_secret": SecretStr("x" * 40)})
    town.compute = Runner(town.database, wrong, "compute", town.work)
    finish(town)
    shown = town.request(request)
    assert shown["state"] == "failed"
    assert "VAULT" in shown["failure"]["advice"]


def test_a_paused_request_whose_work_has_begun_cannot_be_called_off(trained: Town) -> None:
    town = trained
    first, second = (town.ask(customer(one))["id"] for one in ("C001", "C002"))
    approve_only(town, first)
    approve_only(town, second)
    settle_until(town, lambda: town.request(second)["state"] == "executing")
    path = f"/v1/erasure-requests/{second}"
    town.ok(Role.DPO, "POST", f"{path}/pause", {"reason": "a question"})
    problem = town.refused(Role.DPO, 409, "POST", f"{path}/cancel", {"reason": "withdrawn"})
    assert "called off" in problem["detail"]
    town.ok(Role.DPO, "POST", f"{path}/resume")
    town.settle()
    assert [town.request(one)["state"] for one in (first, second)] == ["completed"] * 2


def test_a_suppression_is_not_lifted_under_an_open_request(trained: Town) -> None:
    town = trained
    request = town.ask(customer("C001"))["id"]
    approve_only(town, request)
    (one,) = town.ok(Role.ENGINEER, "GET", "/v1/suppressions")["items"]
    body = {"reason": "new consent"}
    town.refused(Role.DPO, 409, "DELETE", f"/v1/suppressions/{one['id']}", body)
    town.settle()
    assert town.request(request)["state"] == "completed"
    town.ok(Role.DPO, "DELETE", f"/v1/suppressions/{one['id']}", body)


def test_a_sweep_rings_no_more_than_the_workers_can_take(town: Town) -> None:
    town.dataset("d", points(12))
    body = {"name": "m", "recipe": "classifier", "parameters": CLASSIFIER, "shards": 64}
    town.ok(Role.ENGINEER, "POST", "/v1/models", body)
    inputs = {"inputs": [{"dataset": "d", "version": "1"}]}
    run = town.ok(Role.ENGINEER, "POST", "/v1/models/m/train", inputs)
    next_step(town, "train_shard")
    for _ in range(20):
        town.sweep()
    rung = [one for one in town.doorbell.bells if one.task == "run_step"]
    assert len(rung) < 64 + 40
    town.doorbell.bells.clear()
    for _ in range(100):
        town.sweep()
        town.settle()
    assert town.run(run["id"])["state"] == "done"


# Promises.


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # A model of this size loses words with every step of ascent; that is not what is tested here.
    return settings.model_copy(update={"utility_drop": 0.5})


def test_a_promise_is_kept_by_one_run_and_its_lost_bell_is_rung_again(town: Town) -> None:
    later = (utc_now() + timedelta(days=60)).isoformat()
    policy = {"exact_not_before": later}
    town.dataset("notes", notes(24))
    town.model("lm", "notes", "causal_lm", LANGUAGE, policy=policy, holdout_share=0.5)
    request = town.erase(town.trained_on("lm", 24)[0].customer)["id"]
    body = {"reason": "no stronger method in time", "commitment_due_at": later}
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request}/accept", body)
    town.settle()
    (commitment,) = town.ok(Role.DPO, "GET", "/v1/commitments")

    # What still waits for its promise is not lifted: no run could keep it.
    (one,) = town.ok(Role.ENGINEER, "GET", "/v1/suppressions")["items"]
    path = f"/v1/suppressions/{one['id']}"
    town.refused(Role.DPO, 409, "DELETE", path, {"reason": "new consent"})

    town.ok(Role.DPO, "POST", f"/v1/commitments/{commitment['id']}/start")
    settle_until(town, lambda: [one.state for one in runs_of(town, "unlearn")][1:] == ["running"])
    # The clock is watched every minute, and a retraining takes longer.
    watch_promises(town)
    settle_until(town, lambda: any(b.task == "keep_promises" for b in town.doorbell.bells))
    town.doorbell.bells.clear()
    finish(town, 2)
    (commitment,) = town.ok(Role.DPO, "GET", "/v1/commitments")
    assert commitment["state"] == "open"

    watch_promises(town)
    town.settle()
    (commitment,) = town.ok(Role.DPO, "GET", "/v1/commitments")
    assert commitment["state"] == "kept"
    assert [one.state for one in runs_of(town, "unlearn")] == ["done", "done"]


def watch_promises(town: Town) -> None:
    """Do what the beat does every minute."""
    with town.database.transaction() as session:
        pipeline.start_promised(session, utc_now())
