"""Runs: queued, joined by many actions, started one at a time on a model, described."""

from collections.abc import Sequence
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
from app.runs.schemas import RunOut, StepOut
from lethe.methods import EXACT, guarantee_of


class RunNotFoundError(NotFoundError):
    """No run has this id."""


class NotReadyError(ConflictError):
    """A dataset version that this needs is not indexed."""

    slug = "not-ready"
    advice = "Index the dataset version and wait until its state is `indexed`."


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
    session: Session, name: str, named: Sequence[tuple[str, str]], now: datetime
) -> Run:
    """Queue the training of a model's next version on (dataset, version) pairs.

    Raises:
        NotFoundError: there is no such model or dataset version.
        NotReadyError: a dataset version is not indexed.
        ConflictError: the model has no recipe.
    """
    model = repository.model(session, name)
    if model is None:
        raise NotFoundError("No model has this name.")
    if model.recipe is None:
        raise ConflictError(
            "The model has no recipe.", advice="Register it with a recipe to have it trained here."
        )
    trained_on = [_dataset_version(session, *one) for one in dict.fromkeys(named)]
    if any(one.state != "indexed" for one in trained_on):
        raise NotReadyError
    inputs = {"inputs": [one.id for one in trained_on]}
    run = Run(kind="train", model_id=model.id, method="train", parameters=inputs)
    return _queue(session, run, now)


def _dataset_version(session: Session, name: str, number: str) -> DatasetVersion:
    version = repository.dataset_version(session, name, number)
    if version is None:
        raise NotFoundError("No dataset, or no version of it, has this name.")
    return version


def queue_action(
    session: Session, action: Action, base: ModelVersion | None, now: datetime
) -> None:
    """Queue an action: join the run that has not started on its artifact, or make one.

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
        run.predicted_seconds = max(run.predicted_seconds or 0.0, _predicted(action))
    action.run_id = run.id
    if action.state != ActionState.QUEUED:
        action.state = move(ActionState(action.state), ActionState.QUEUED)
    audit.record(
        session, "action_queued", now, request_id=action.request_id, action=action.id, run=run.id
    )
    queue.ring(session, "advance_run", run.id)


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


def _predicted(action: Action) -> float:
    chosen = [one for one in action.plan["candidates"] if one["chosen"]]
    return float(chosen[0]["predicted_seconds"] or 0.0) if chosen else 0.0


def _queue(session: Session, run: Run, now: datetime) -> Run:
    run.state, run.created_at = RunState.QUEUED, now
    repository.add_run(session, run)
    audit.record(session, "run_queued", now, run=run.id, kind=run.kind)
    queue.ring(session, "advance_run", run.id)
    return run


def may_start(session: Session, run: Run) -> bool:
    """Say whether no other run is changing the run's model; holds until the transaction ends."""
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


def seconds_per_record_pass(session: Session, run: Run) -> float | None:
    """Return the training rate that a run's shards measured, or None if none was trained."""
    results = [one.result or {} for one in repository.stage_steps(session, run.id, 0)]
    passes = sum(one.get("record_passes", 0) for one in results)
    return sum(one["seconds"] for one in results if "seconds" in one) / passes if passes else None


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
        predicted_seconds=run.predicted_seconds,
        seconds=_seconds(run),
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
        if name not in {"rows", "uri", "source_uri", "digests", "checks"}
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
