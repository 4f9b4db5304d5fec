"""Runs: queued, joined by many actions, started one at a time on a model, described."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core import queue
from app.core.errors import ConflictError, NotFoundError, Problem
from app.core.lifecycle import ActionState, RunState, move
from app.manifest.rules import erased_uri
from app.models import Action, DatasetVersion, Model, ModelVersion, Run, Step
from app.runs import repository
from app.runs.rules import Waiting, rates_of_steps, start_policy, starts_at
from app.runs.schemas import RunOut, StepOut
from lethe.methods import EXACT, guarantee_of


class RunNotFoundError(NotFoundError):
    """No run has this id."""


class NotReadyError(ConflictError):
    """A dataset version that this needs is not indexed."""

    slug = "not-ready"
    advice = "Index the dataset version and wait until its state is `indexed`."


class LayoutFixedError(ConflictError):
    """The model has a version, or is being trained, with other shards or slices."""

    slug = "layout-fixed"
    advice = (
        "Leave shards and slices out to train it as it is laid out, or register another model with "
        "these: people stay in the shards that their model's versions have."
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """In how many parts to train a model; None: as it is registered."""

    shards: int | None = None
    slices: int | None = None


def get_run(session: Session, run_id: UUID) -> Run:
    """Return a run.

    Raises:
        RunNotFoundError: there is none.
    """
    run = session.get(Run, run_id)
    if run is None:
        raise RunNotFoundError
    return run


def lock_run(session: Session, run_id: UUID) -> Run:
    """Return a run, locked until the transaction ends.

    Raises:
        RunNotFoundError: there is none.
    """
    run = repository.locked_run(session, run_id)
    if run is None:
        raise RunNotFoundError
    return run


def set_run_state(session: Session, run: Run, state: RunState, now: datetime) -> None:
    """Move a run, tell the log, and let the model's next run start when this one has ended."""
    run.state = move(RunState(run.state), state)
    if state == RunState.RUNNING:
        run.started_at = now
    if state in {RunState.DONE, RunState.FAILED, RunState.CANCELLED}:
        run.finished_at = now
        if run.model_id is not None:
            for waiting in repository.waiting_runs(session, run.model_id):
                queue.ring(session, "advance_run", waiting)
    audit.record(session, f"run_{state}", now, run=run.id, kind=run.kind)
    session.flush()


def queue_index(session: Session, name: str, number: str, now: datetime) -> Run:
    """Queue the reading and indexing of a dataset version.

    Raises:
        NotFoundError: there is no such dataset version.
        NotReadyError: it is being indexed, or has been.
    """
    version = _dataset_version(session, name, number)
    if version.state in {"indexing", "indexed"}:
        raise NotReadyError(f"The dataset version is {version.state} already.")
    version.state = "indexing"
    return _queue(session, Run(kind="index", dataset_version_id=version.id), now)


def queue_training(
    session: Session, name: str, named: Sequence[tuple[str, str]], layout: Layout, now: datetime
) -> Run:
    """Queue the training of a model's next version on (dataset, version) pairs.

    Raises:
        NotFoundError: there is no such model or dataset version.
        NotReadyError: a dataset version is not indexed.
        ConflictError: the model has no recipe.
        LayoutFixedError: it is too late for another layout.
    """
    model = repository.locked_model(session, name)
    if model is None:
        raise NotFoundError("No model has this name.")
    if model.recipe is None:
        raise ConflictError(
            "The model has no recipe.", advice="Register it with a recipe to have it trained here."
        )
    _lay_out(session, model, layout, now)
    trained_on = [_dataset_version(session, *one) for one in dict.fromkeys(named)]
    if any(one.state != "indexed" for one in trained_on):
        raise NotReadyError
    inputs = {"inputs": [one.id for one in trained_on]}
    run = Run(kind="train", model_id=model.id, method="train", parameters=inputs)
    return _queue(session, run, now)


def _lay_out(session: Session, model: Model, layout: Layout, now: datetime) -> None:
    shards, slices = layout.shards or model.shards, layout.slices or model.slices
    if (shards, slices) == (model.shards, model.slices):
        return
    if repository.has_begun(session, model.id):
        raise LayoutFixedError
    model.shards, model.slices = shards, slices
    audit.record(session, "model_laid_out", now, model=model.id)


def _dataset_version(session: Session, name: str, number: str) -> DatasetVersion:
    version = repository.dataset_version(session, name, number)
    if version is None:
        raise NotFoundError("No dataset, or no version of it, has this name.")
    return version


def queue_action(session: Session, action: Action, base: ModelVersion | None, now: datetime) -> Run:
    """Queue an action: join the run that has not started on its artifact, or make one; return it.

    `base` is the live version that has taken the place of the action's, None for a dataset's.
    """
    if base is None:
        run = _queue(
            session,
            Run(
                kind="erase_records",
                method=action.method,
                guarantee=action.guarantee,
                dataset_version_id=action.dataset_version_id,
            ),
            now,
        )
    else:
        run = queue_unlearning(session, base, action.method, now)
    action.run_id = run.id
    if action.state != ActionState.QUEUED:
        action.state = move(ActionState(action.state), ActionState.QUEUED)
    audit.record(
        session, "action_queued", now, request_id=action.request_id, action=action.id, run=run.id
    )
    queue.ring(session, "advance_run", run.id)
    return run


def queue_unlearning(session: Session, base: ModelVersion, method: str, now: datetime) -> Run:
    """Return the queued run of this method on a model version, made if there is none."""
    joined = repository.queued_run(session, base.id, method)
    if joined is not None:
        return joined
    run = Run(
        kind="unlearn",
        method=method,
        guarantee=guarantee_of(method),
        model_id=base.model_id,
        base_version_id=base.id,
    )
    return _queue(session, run, now)


def queue_destruction(session: Session, run: Run, now: datetime) -> None:
    """Queue the destruction of what a failed run has stored and nobody will use."""
    if run.new_version_id is not None:
        _queue(session, Run(kind="destroy", model_id=run.model_id), now)
    elif run.kind == "erase_records":
        destroyed = Run(
            kind="destroy",
            dataset_version_id=run.dataset_version_id,
            parameters={"uris": replaced_files(session, run)},
        )
        _queue(session, destroyed, now)


def is_retraining(session: Session, model_id: UUID) -> bool:
    """Say whether an exact run is changing a model now; one that is queued can be joined."""
    return repository.is_retraining(session, model_id, EXACT)


def _queue(session: Session, run: Run, now: datetime) -> Run:
    run.state, run.created_at = RunState.QUEUED, now
    repository.add_run(session, run)
    audit.record(session, "run_queued", now, run=run.id, kind=run.kind)
    queue.ring(session, "advance_run", run.id)
    return run


def schedule(session: Session, run: Run, promised_by: datetime | None) -> None:
    """Set when a queued run may start, by its model's policy, its deadlines and who has joined.

    `promised_by` is the earliest date of the model's open promises. Only unlearning waits.
    """
    if run.kind != "unlearn":
        return
    requests, due_at = repository.requests_and_deadline(session, run.id)
    dates = [due_at, promised_by if run.method in EXACT else None]
    waiting = Waiting(
        method=run.method or "",
        requests=requests,
        queued_at=run.created_at,
        due_at=min((one for one in dates if one is not None), default=None),
        predicted_seconds=run.predicted_seconds or 0.0,
    )
    policy = start_policy(session.get_one(Model, run.model_id).policy)
    run.not_before = starts_at(policy, waiting)
    session.flush()


def may_start(session: Session, run: Run, now: datetime) -> bool:
    """Say whether a run's time has come and no other one is changing its model.

    Holds until the transaction ends.
    """
    if run.not_before is not None and run.not_before > now:
        return False
    if run.model_id is None:
        return True
    session.get_one(Model, run.model_id, with_for_update=True)
    return not repository.model_is_busy(session, run.model_id, run.id)


def start(session: Session, run: Run, now: datetime) -> None:
    """Start a run and its actions."""
    set_run_state(session, run, RunState.RUNNING, now)
    for action in repository.actions_of_run(session, run.id):
        action.state = move(ActionState(action.state), ActionState.RUNNING)


def replaced_files(session: Session, run: Run) -> list[str]:
    """Return what an erasure leaves over: the file it replaced, copies of claims that were lost."""
    files = []
    for step in repository.stage_steps(session, run.id, 0):
        result = step.result or {}
        uri = session.get_one(DatasetVersion, run.dataset_version_id).uri
        copies = {erased_uri(uri, step.id, epoch) for epoch in range(1, step.epoch + 1)}
        replaced = {result["source_uri"]} if result.get("digests") else set()
        files += sorted((copies | replaced) - {uri})
    return files


def store_rates(session: Session, run: Run, now: datetime) -> None:
    """Keep how fast a run's shards were trained, on each class of worker that trained some."""
    steps = repository.stage_steps(session, run.id, 0)
    measured = rates_of_steps(tuple(one.result for one in steps if one.result is not None))
    for device, rate in measured.items():
        repository.put_rate(session, run.model_id, device, rate, now)


def failure_of(session: Session, actions: Sequence[Action]) -> Problem | None:
    """Return why a failed action's run failed, for the person on call."""
    for action in actions:
        if action.state == ActionState.FAILED and action.run_id is not None:
            return session.get_one(Run, action.run_id).failure
    return None


def actions_of_run(session: Session, run_id: UUID) -> Sequence[Action]:
    """Return the actions that a run carries out, locked."""
    return repository.actions_of_run(session, run_id)


def runs_of_request(session: Session, request_id: UUID) -> Sequence[Run]:
    """Return the runs that carry out a request's actions, locked.

    Whoever needs both locks the runs before the actions, as a run's own move does.
    """
    return repository.runs_of_request(session, request_id)


def actions_of_request(session: Session, request_id: UUID) -> Sequence[Action]:
    """Return a request's actions, locked."""
    return repository.actions_of_request(session, request_id)


def runs(session: Session, after: UUID | None, limit: int) -> Sequence[Run]:
    """Return runs by id."""
    return repository.runs(session, after, limit)


def checks(session: Session, run_id: UUID) -> list[dict[str, Any]]:
    """Return a run's measured checks."""
    return repository.evidence(session, run_id)


def describe(session: Session, run: Run) -> RunOut:
    """Return a run as the API shows it; where files lie stays inside."""
    model = None if run.model_id is None else session.get_one(Model, run.model_id).name
    return RunOut(
        id=run.id,
        kind=run.kind,
        state=run.state,
        method=run.method,
        guarantee=run.guarantee,
        model=model,
        base_version=_version_number(session, run.base_version_id),
        new_version=_version_number(session, run.new_version_id),
        starts_at=run.not_before if run.state == RunState.QUEUED else None,
        predicted_seconds=run.predicted_seconds,
        actual_seconds=_seconds(run),
        verdict=run.verdict,
        accepted=run.accepted,
        failure=run.failure,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        steps=[_describe_step(one) for one in repository.steps(session, run.id)],
    )


def _seconds(run: Run) -> float | None:
    if run.started_at is None or run.finished_at is None:
        return None
    return (run.finished_at - run.started_at).total_seconds()


def _version_number(session: Session, version_id: UUID | None) -> int | None:
    return None if version_id is None else session.get_one(ModelVersion, version_id).version


def _describe_step(step: Step) -> StepOut:
    shown = {
        name: value
        for name, value in (step.result or {}).items()
        if name not in {"rows", "uri", "source_uri", "digests", "checks", "own"}
    }
    return StepOut(
        id=step.id,
        kind=step.kind,
        target=step.target,
        stage=step.stage,
        state=step.state,
        progress=step.progress,
        attempts=step.attempts,
        epoch=step.epoch,
        failure=step.failure,
        started_at=step.started_at,
        finished_at=step.finished_at,
        result=shown or None,
    )
