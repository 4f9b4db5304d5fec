"""Runs serve many requests, steps are published once, and what arrives meanwhile is not lost."""

import base64
import json
import threading
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select

from app.core.clock import utc_now
from app.core.queue import Bell
from app.core.security import Role
from app.execution import service as execution
from app.execution.service import LeaseLostError
from app.manifest.rules import TrainShardJob
from app.models import AuditLeaf, Run, Step
from tests.integration.town import Town
from tests.integration.worlds import CLASSIFIER, points


@pytest.fixture
def trained(town: Town) -> Town:
    town.dataset("d", points(12))
    town.model("m", "d", "classifier", CLASSIFIER, shards=3, slices=2, holdout_share=0)
    return town


def runs_of(town: Town, kind: str) -> list[Run]:
    with town.database.transaction() as session:
        return list(session.scalars(select(Run).where(Run.kind == kind).order_by(Run.id)))


def approve_only(town: Town, request_id: str) -> None:
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request_id}/approve", {})


NOWHERE: dict[str, list[object]] = {
    "datasets": [],
    "models": [],
    "derived": [],
    "unknown_lineage": [],
}


def test_requests_approved_together_share_one_run(trained: Town) -> None:
    town = trained
    asked = [town.ask(("customer_id", f"C00{n}"))["id"] for n in (1, 2, 3)]
    for request_id in asked:
        approve_only(town, request_id)
    town.settle()
    assert [town.request(one)["state"] for one in asked] == ["completed"] * 3
    (run,) = runs_of(town, "unlearn")
    assert run.state == "done"
    assert {a["run"] for one in asked for a in town.request(one)["actions"]} >= {str(run.id)}
    trained_shards = [one.shard for one in town.work.jobs if isinstance(one, TrainShardJob)][3:]
    assert len(trained_shards) == len(set(trained_shards)) <= 3
    assert all(town.trace(("customer_id", f"C00{n}")) == NOWHERE for n in (1, 2, 3))


def test_a_request_that_comes_during_a_rebuild_gets_the_next_run(trained: Town) -> None:
    town = trained
    first = town.ask(("customer_id", "C001"))["id"]
    second = town.ask(("customer_id", "C002"))["id"]
    approve_only(town, first)
    while not any(one.state == "running" for one in runs_of(town, "unlearn")):
        town.answer(town.doorbell.bells.pop(0))
    approve_only(town, second)
    town.settle()
    assert town.request(first)["state"] == "completed"
    assert town.request(second)["state"] == "completed"
    one, two = runs_of(town, "unlearn")
    assert two.base_version_id == one.new_version_id
    assert town.trace(("customer_id", "C001")) == town.trace(("customer_id", "C002")) == NOWHERE


def test_a_training_that_starts_before_and_ends_after_is_erased_from_too(trained: Town) -> None:
    town = trained
    request_id = town.ask(("customer_id", "C001"))["id"]
    inputs = {"inputs": [{"dataset": "d", "version": "1"}]}
    town.ok(Role.ENGINEER, "POST", "/v1/models/m/train", inputs)
    while not any(one.state == "running" for one in runs_of(town, "train")):
        town.answer(town.doorbell.bells.pop(0))
    approve_only(town, request_id)
    town.settle()
    assert town.request(request_id)["state"] == "completed"
    assert town.trace(("customer_id", "C001")) == NOWHERE


def test_two_people_erased_from_one_file_at_once_are_both_gone(trained: Town) -> None:
    town = trained
    asked = [town.ask(("customer_id", f"C00{n}"))["id"] for n in (1, 2)]
    for request_id in asked:
        approve_only(town, request_id)
    # Both rewrites read the same file before either has published.
    while len([one for one in runs_of(town, "erase_records") if one.state == "running"]) < 2:
        bell = next(b for b in town.doorbell.bells if not is_erasing(town, b))
        town.doorbell.bells.remove(bell)
        town.answer(bell)
    steps = [b for b in town.doorbell.bells if is_erasing(town, b)]
    assert len({b.row for b in steps}) == 2
    threads = [threading.Thread(target=town.answer, args=(b,)) for b in steps[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(100):
        town.settle()
        if all(town.request(one)["state"] == "completed" for one in asked):
            break
        with town.database.transaction() as session:
            for step in session.scalars(select(Step).where(Step.not_before.is_not(None))):
                step.not_before = utc_now() - timedelta(seconds=1)
        town.sweep()
    assert [town.request(one)["state"] for one in asked] == ["completed"] * 2
    left = "".join(path.read_text() for path in town.folder.iterdir())
    assert "C001" not in left
    assert "C002" not in left
    assert left.count("C003") == 3
    assert len(list(town.folder.iterdir())) == 1


def is_erasing(town: Town, bell: Bell) -> bool:
    if bell.task != "run_step":
        return False
    with town.database.transaction() as session:
        return session.get_one(Step, bell.row).kind == "erase_records"


def test_a_step_is_carried_out_by_one_of_many_that_are_rung(trained: Town) -> None:
    town = trained
    approve_only(town, town.ask(("customer_id", "C001"))["id"])
    bell = until_step(town)
    assert bell.row is not None
    row = bell.row
    outcomes: list[bool] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(town.compute.run_step(row)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False, False, False, True]
    town.settle()
    with town.database.transaction() as session:
        done = [one for one in session.scalars(select(AuditLeaf)) if one.event == "step_done"]
    assert sum(str(row).encode() in one.payload for one in done) == 1


def test_a_late_worker_can_publish_nothing(trained: Town) -> None:
    town = trained
    approve_only(town, town.ask(("customer_id", "C001"))["id"])
    bell = until_step(town)
    assert bell.row is not None
    now = utc_now()
    with town.database.transaction() as session:
        late = execution.claim(session, bell.row, "late", 1.0, now - timedelta(seconds=60))
    assert late is not None
    with town.database.transaction() as session:
        fresh = execution.claim(session, bell.row, "fresh", 60.0, now)
    assert fresh is not None
    assert fresh.epoch == late.epoch + 1
    with town.database.transaction() as session:
        assert not execution.heartbeat(session, late, 0.5, 60.0, now)
        with pytest.raises(LeaseLostError):
            execution.finish(session, late, {}, now)
        with pytest.raises(LeaseLostError):
            execution.fail(session, late, {}, 5, now, permanent=True)
    with town.database.transaction() as session:
        model_id = session.get_one(Run, fresh.run_id).model_id
        assert model_id is not None
        with pytest.raises(LeaseLostError):
            execution.save_checkpoint(session, late, model_id, {}, now)
        assert execution.heartbeat(session, fresh, 0.5, 60.0, now)


def test_losing_every_message_loses_nothing(trained: Town) -> None:
    town = trained
    request_id = town.ask(("customer_id", "C001"))["id"]
    approve_only(town, request_id)
    for _ in range(60):
        town.doorbell.bells.clear()
        if town.request(request_id)["state"] == "completed":
            break
        town.sweep()
        for bell in [*town.doorbell.bells]:
            town.doorbell.bells.clear()
            town.answer(bell)
        town.answer(Bell("sequence_log", None))
    assert town.request(request_id)["state"] == "completed"


def test_a_permanent_failure_waits_for_a_person_and_serves_the_old_version(trained: Town) -> None:
    town = trained
    parameters = CLASSIFIER | {"label": "email"}
    inputs = {"name": "wrong", "recipe": "classifier", "parameters": parameters}
    town.ok(Role.ENGINEER, "POST", "/v1/models", inputs)
    run = town.train("wrong", "d")
    assert run["state"] == "failed"
    assert run["failure"]["advice"]
    assert [one["state"] for one in run["steps"]] == ["failed", "cancelled"]


def until_step(town: Town) -> Bell:
    """Answer bells until a training step of the unlearning run is rung for."""
    while True:
        bell = town.doorbell.bells.pop(0)
        if bell.task == "run_step" and is_unlearning(town, bell.row):
            return bell
        town.answer(bell)


def is_unlearning(town: Town, step_id: UUID | None) -> bool:
    with town.database.transaction() as session:
        step = session.get_one(Step, step_id)
        return session.get_one(Run, step.run_id).kind == "unlearn"


def test_a_paused_request_stands_still_until_it_is_resumed(trained: Town) -> None:
    town = trained
    request_id = town.ask(("customer_id", "C001"))["id"]
    path = f"/v1/erasure-requests/{request_id}"
    town.ok(Role.DPO, "POST", f"{path}/pause", {"reason": "asked the controller's lawyer"})
    assert town.call(Role.DPO, "POST", f"{path}/approve", {}).status_code == 409
    town.sweep()
    town.settle()
    assert town.request(request_id)["state"] == "paused"
    assert town.ok(Role.DPO, "POST", f"{path}/resume")["state"] == "awaiting_approval"
    assert town.call(Role.DPO, "POST", f"{path}/resume").status_code == 409
    assert town.approve(request_id)["state"] == "completed"


def test_what_no_connector_reaches_ends_partially_and_is_named(trained: Town) -> None:
    town = trained
    edge = {
        "parent": {"kind": "dataset_version", "name": "d", "version": "1"},
        "child": {"kind": "embedding_index", "name": "search"},
    }
    town.ok(Role.ENGINEER, "POST", "/v1/lineage/edges", edge)
    town.ok(Role.ENGINEER, "POST", "/v1/models", {"name": "bought"})
    town.ok(Role.ENGINEER, "POST", "/v1/models/bought/versions", {})
    request = town.erase(("customer_id", "C001"))
    assert request["state"] == "partially_completed"
    (lost,) = (one for one in request["actions"] if one["kind"] == "embedding_index")
    assert lost["state"] == "not_reachable"
    assert "rebuild" in lost["reason"] or "build the index again" in lost["reason"]
    payload = json.loads(town.certificate(request["id"]))["envelope"]["payload"]
    stated = json.loads(base64.b64decode(payload))["predicate"]
    assert stated["request"]["outcome"] == "partially_completed"
    assert any("search" in one for one in stated["not_covered"])
    assert any("bought" in one for one in stated["not_covered"])
