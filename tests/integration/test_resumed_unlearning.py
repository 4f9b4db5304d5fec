"""An approximate run that is cut off goes on from its last checkpoint, to the same bits."""

import dataclasses
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.core.clock import utc_now
from app.core.config import Settings
from app.core.security import Role
from app.execution.rules import Claim
from app.manifest.rules import UnlearnJob
from app.models import Checkpoint, Step
from tests.integration.town import Json, Town
from tests.integration.worlds import LANGUAGE, notes
from workers.artifacts import ArtifactStore
from workers.jobs import job_of
from workers.steps import Desk, Result
from workers.steps.unlearn import unlearn

# So many that some are trained on and some held out, whatever the dataset's key.
PEOPLE = 24
LATER = utc_now() + timedelta(days=60)


class Killed(Exception):
    """Stands for SIGKILL, at a place that the test chooses."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"checkpoint_seconds": 0.0})


def unlearning(town: Town, method: str, parameters: Json) -> UnlearnJob:
    """Ask for somebody's erasure and stop before the worker does its part; return its job."""
    town.dataset("notes", notes(PEOPLE))
    policy = {"allowed_methods": [method], "method_parameters": {method: parameters}}
    town.model("lm", "notes", "causal_lm", LANGUAGE, policy=policy, holdout_share=0.5)
    request = town.ask(town.trained_on("lm", PEOPLE)[0].email)
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/approve", {})
    while rung := [one for one in town.doorbell.bells if one.task != "run_step"]:
        town.doorbell.bells.remove(rung[0])
        town.answer(rung[0])
    with town.database.transaction() as session:
        step = session.scalars(select(Step).where(Step.kind == "unlearn")).one()
        claimed = Claim(step.id, step.run_id, "unlearn", step.epoch, 1)
        job = job_of(session, town.settings, claimed)
    assert isinstance(job, UnlearnJob)
    return job


@pytest.mark.parametrize("method", ["gradient_ascent", "npo", "scrub"])
def test_killed_at_any_checkpoint_it_ends_in_the_same_bits(town: Town, method: str) -> None:
    parameters = {"max_steps": 50, "unmeasured_steps": 0, "learning_rate": 1e-5}
    job = unlearning(town, method, parameters)
    store = ArtifactStore(town.settings.artifacts_url)
    kept: dict[str, str] = {}

    def keep(values: Result) -> None:
        kept[values["chain"]] = values["object_digest"]

    whole = unlearn(job, Desk(store, lambda share: None, keep))
    assert whole["steps"] == 50
    assert len(kept) == 5
    for chain, digest in kept.items():
        seen: list[float] = []
        cut = dataclasses.replace(job, checkpoints={chain: digest})
        again = unlearn(cut, Desk(store, seen.append, lambda values: None))
        done = int(chain.rpartition(":")[2])
        assert again == whole | {"resumed_after": done}
        # One report a step, and one at the end.
        assert len(seen) == 50 - done + 1


def test_a_run_that_was_killed_goes_on_and_leaves_no_checkpoint_behind(town: Town) -> None:
    parameters = {"max_steps": 30, "unmeasured_steps": 0, "learning_rate": 1e-5}
    job = unlearning(town, "gradient_ascent", parameters)
    store = ArtifactStore(town.settings.artifacts_url)

    def told(values: Result) -> None:
        with town.database.transaction() as session:
            session.add(Checkpoint(model_id=job.model.model_id, created_at=utc_now(), **values))
        raise Killed

    with pytest.raises(Killed):
        unlearn(job, Desk(store, lambda share: None, told))
    town.settle()
    (request,) = town.ok(Role.DPO, "GET", "/v1/erasure-requests")["items"]
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    (step,) = (one for one in town.run(action["run"])["steps"] if one["kind"] == "unlearn")
    assert (step["state"], step["result"]["steps"]) == ("done", 30)
    assert step["result"]["resumed_after"] == 10

    # What was stored in between has seen the person, and goes with the version before.
    promise = {"reason": "no stronger method in time", "commitment_due_at": LATER.isoformat()}
    town.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request['id']}/accept", promise)
    town.settle()
    assert town.request(request["id"])["state"] == "completed"
    with town.database.transaction() as session:
        left = session.scalars(select(Checkpoint.chain)).all()
        assert not [chain for chain in left if ":" in chain]
