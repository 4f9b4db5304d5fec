"""Runs and their steps: joined, started, claimed, kept alive, finished once.

Postgres holds all state; a worker that loses its lease can publish nothing, because each write
names the epoch under which the step was claimed (DESIGN decision 1). Fan-in is a query in the
transaction that finishes a stage's last step.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core import queue
from app.core.errors import AppError, ConflictError, NotFoundError, Problem
from app.core.lifecycle import ActionState, RunState, StepState, move
from app.execution import repository
from app.execution.rules import (
    EXACT_METHODS,
    Claim,
    after_failure,
    lease_until,
    retry_at,
)
from app.execution.schemas import RunOut, StepOut
from app.models import Action, DatasetVersion, Model, ModelSlice, ModelVersion, Run, Step

WORKER_SILENT_AFTER = timedelta(seconds=60)
CONTROL_KINDS = frozenset({"destroy"})
NewStep = tuple[str, str, dict[str, Any]]
"""A step to add: its kind, its target, its parameters."""


class LeaseLostError(AppError):
    """Another worker holds this step now, or it was cancelled; nothing was written."""

    slug = "lease-lost"
    advice = "Nothing to do: the step is carried out elsewhere."


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


# Queueing: what is to be done.


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
    version = _new_version(session, model, None, "train", now)
    repository.add_inputs(session, version, trained_on, now)
    run = _queue(
        session,
        Run(kind="train", model_id=model.id, new_version_id=version.id, method="train"),
        now,
    )
    version.run_id = run.id
    return run


def _dataset_version(session: Session, name: str, number: str) -> DatasetVersion:
    version = repository.dataset_version(session, name, number)
    if version is None:
        raise NotFoundError("No dataset, or no version of it, has this name.")
    return version


def queue_action(session: Session, action: Action, now: datetime) -> None:
    """Queue an action: join the run that has not started on its artifact, or make one."""
    if action.kind == "dataset_version":
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
        run = queue_unlearning(session, action.model_version_id, action.method, now)
        run.predicted_seconds = max(run.predicted_seconds or 0.0, _predicted(action))
    action.run_id = run.id
    if action.state != ActionState.QUEUED:
        action.state = move(ActionState(action.state), ActionState.QUEUED)
    audit.record(
        session, "action_queued", now, request_id=action.request_id, action=action.id, run=run.id
    )
    queue.ring(session, "advance_run", run.id)


def queue_unlearning(
    session: Session, base_version_id: UUID | None, method: str, now: datetime
) -> Run:
    """Return the queued run of this method on a model version, made if there is none.

    Raises:
        NotFoundError: there is no such model version.
    """
    version = None if base_version_id is None else session.get(ModelVersion, base_version_id)
    if version is None:
        raise NotFoundError("There is no such model version.")
    base = repository.successor(session, version)
    joined = repository.queued_run(session, base.id, method)
    if joined is not None:
        return joined
    return _queue(
        session,
        Run(
            kind="unlearn",
            method=method,
            guarantee="exact" if method in EXACT_METHODS else "approximate",
            model_id=base.model_id,
            base_version_id=base.id,
        ),
        now,
    )


def _predicted(action: Action) -> float:
    chosen = [one for one in action.plan["candidates"] if one["chosen"]]
    return float(chosen[0]["predicted_seconds"] or 0.0) if chosen else 0.0


def _queue(session: Session, run: Run, now: datetime) -> Run:
    run.state, run.created_at = RunState.QUEUED, now
    repository.add_run(session, run)
    audit.record(session, "run_queued", now, run=run.id, kind=run.kind)
    queue.ring(session, "advance_run", run.id)
    return run


# Starting: the manifest is made, the steps are laid out.


def start(session: Session, run: Run, now: datetime) -> bool:
    """Start a queued run; False while another run is changing the same model."""
    if run.model_id is not None:
        session.get_one(Model, run.model_id, with_for_update=True)
        if repository.model_is_busy(session, run.model_id, run.id):
            return False
    steps = _first_steps(session, run, now)
    _add_steps(session, run, 0, steps, now)
    if run.kind in {"train", "unlearn"}:
        _add_steps(session, run, 1, [("evaluate", "all", {})], now)
    if not steps:
        run.stage = 1
    set_run_state(session, run, RunState.RUNNING, now)
    for action in repository.actions_of_run(session, run.id):
        action.state = move(ActionState(action.state), ActionState.RUNNING)
    ring_stage(session, run)
    return True


def _first_steps(session: Session, run: Run, now: datetime) -> list[NewStep]:
    match run.kind:
        case "train":
            return _start_training(session, run)
        case "unlearn":
            return _start_unlearning(session, run, now)
        case _:
            return [(run.kind, "all", {})]


def _start_training(session: Session, run: Run) -> list[NewStep]:
    version = session.get_one(ModelVersion, run.new_version_id)
    repository.lock_manifests(session)
    repository.exclude_suppressed(session, version.id)
    return [_shard_step("train_shard", shard) for shard in range(version.shards)]


def _start_unlearning(session: Session, run: Run, now: datetime) -> list[NewStep]:
    base = repository.successor(session, session.get_one(ModelVersion, run.base_version_id))
    model = session.get_one(Model, base.model_id)
    version = _new_version(session, model, base, run.method or "", now)
    version.run_id, run.base_version_id, run.new_version_id = run.id, base.id, version.id
    trained_on = [one for one, _ in repository.inputs(session, base.id)]
    repository.add_inputs(session, version, trained_on, now)
    repository.add_edge(session, base.artifact_id, version.artifact_id, "replaced_by", run.id, now)
    repository.lock_manifests(session)
    if run.method not in EXACT_METHODS:
        repository.copy_exclusions(session, base.id, version.id)
        forget = repository.suppressed_records(session, _requests(session, run), base.id)
        shards = sorted({b % base.shards for _, _, b in forget if b < base.holdout_from})
        repository.copy_slices(session, base.id, version.id, shards)
        return [_shard_step("unlearn", shard) for shard in shards]
    repository.exclude_suppressed(session, version.id)
    shards = list(range(base.shards))
    if run.method == "sisa":
        shards = repository.newly_excluded_shards(session, base, version.id)
    repository.copy_slices(session, base.id, version.id, shards)
    return [_shard_step("train_shard", shard) for shard in shards]


def _requests(session: Session, run: Run) -> list[UUID]:
    return sorted({one.request_id for one in repository.actions_of_run(session, run.id)})


def _shard_step(kind: str, shard: int) -> NewStep:
    return kind, f"shard-{shard:04d}", {"shard": shard}


def _new_version(
    session: Session, model: Model, base: ModelVersion | None, method: str, now: datetime
) -> ModelVersion:
    number = repository.next_version(session, model)
    artifact = repository.add_artifact(session, model.name, str(number), now)
    layout = model if base is None else base
    version = ModelVersion(
        model_id=model.id,
        version=number,
        artifact_id=artifact.id,
        state="training",
        method=method,
        base_version_id=None if base is None else base.id,
        shards=layout.shards,
        slices=layout.slices,
        holdout_from=layout.holdout_from,
        created_at=now,
    )
    session.add(version)
    session.flush()
    return version


def add_stage(session: Session, run: Run, steps: list[NewStep], now: datetime) -> None:
    """Add steps to a run's present stage and ring for them."""
    _add_steps(session, run, run.stage, steps, now)
    ring_stage(session, run)


def _add_steps(
    session: Session,
    run: Run,
    stage: int,
    steps: list[NewStep],
    now: datetime,
) -> None:
    repository.add_steps(
        session,
        [
            Step(
                run_id=run.id,
                kind=kind,
                target=target,
                stage=stage,
                queue=queue.CONTROL if kind in CONTROL_KINDS else queue.COMPUTE,
                state=StepState.PENDING,
                parameters=parameters,
                created_at=now,
            )
            for kind, target, parameters in steps
        ],
    )


def ring_stage(session: Session, run: Run) -> None:
    """Ring for every step of the run's present stage."""
    for step in repository.stage_steps(session, run.id, run.stage):
        _ring_step(session, step)


def _ring_step(session: Session, step: Step) -> None:
    task: queue.Task = "control_step" if step.queue == queue.CONTROL else "run_step"
    queue.ring(session, task, step.id)


# Steps: claimed, kept alive, finished once.


def claim(
    session: Session, step_id: UUID, worker: str, lease_seconds: float, now: datetime
) -> Claim | None:
    """Claim a step, or return None when it is done, held or not due: nothing to do then."""
    step = repository.claim(session, step_id, worker, now, lease_until(now, lease_seconds))
    if step is None:
        return None
    return Claim(step.id, step.run_id, step.kind, step.epoch, step.attempts)


def heartbeat(
    session: Session, claimed: Claim, progress: float, lease_seconds: float, now: datetime
) -> bool:
    """Renew the lease and tell the progress (0 to 1); False when the lease is lost."""
    until = lease_until(now, lease_seconds)
    return repository.renew(session, claimed.step_id, claimed.epoch, until, progress)


def save_checkpoint(
    session: Session, claimed: Claim, model_id: UUID, values: dict[str, Any], now: datetime
) -> None:
    """Remember a stored checkpoint, so that another attempt resumes from it.

    Raises:
        LeaseLostError: the step is no longer this worker's.
    """
    if not repository.holds(session, claimed.step_id, claimed.epoch):
        raise LeaseLostError
    repository.put_checkpoint(session, model_id, now, **values)


def finish(session: Session, claimed: Claim, result: dict[str, Any], now: datetime) -> Step:
    """Finish a step under its epoch; the last one of a stage opens the next.

    Raises:
        LeaseLostError: a later epoch or a cancellation came first; nothing is written.
    """
    run = lock_run(session, claimed.run_id)
    written = repository.close_step(
        session,
        claimed.step_id,
        claimed.epoch,
        state=StepState.DONE,
        result=result,
        progress=1.0,
        finished_at=now,
    )
    if not written:
        raise LeaseLostError
    audit.record(session, "step_done", now, run=run.id, step=claimed.step_id, epoch=claimed.epoch)
    stage = repository.stage_steps(session, run.id, run.stage)
    if all(step.state == StepState.DONE for step in stage):
        run.stage += 1
        session.flush()
        ring_stage(session, run)
        queue.ring(session, "advance_run", run.id)
    return session.get_one(Step, claimed.step_id)


def fail(
    session: Session,
    claimed: Claim,
    failure: Problem,
    allowed: int,
    now: datetime,
    *,
    permanent: bool,
) -> None:
    """Record a failure: try again later, or fail the run when trying again cannot help.

    `failure` is for the person on call and holds no identifier.

    Raises:
        LeaseLostError: a later epoch or a cancellation came first; nothing is written.
    """
    run = lock_run(session, claimed.run_id)
    # What is superseded must go, however long a store does not answer: the clock tells of it.
    endless = claimed.kind in CONTROL_KINDS
    state = "pending" if endless else after_failure(claimed.attempts, allowed, permanent=permanent)
    values: dict[str, Any] = {"state": state, "failure": failure}
    values |= (
        {"not_before": retry_at(now, claimed.attempts)}
        if state == "pending"
        else {"finished_at": now}
    )
    if not repository.close_step(session, claimed.step_id, claimed.epoch, **values):
        raise LeaseLostError
    audit.record(
        session,
        "step_failed",
        now,
        run=run.id,
        step=claimed.step_id,
        epoch=claimed.epoch,
        attempts=claimed.attempts,
        state=state,
    )
    if state == "failed":
        repository.cancel_open_steps(session, run.id, now)
        run.failure = failure
        queue.ring(session, "advance_run", run.id)


def steps_done(session: Session, run: Run) -> bool:
    """Say whether the run has no step left at its present stage."""
    return not repository.stage_steps(session, run.id, run.stage)


def sweep(session: Session, now: datetime) -> int:
    """Ring for every due step, open run and open request; return how many bells were rung.

    Losing every message loses nothing: this rings again.
    """
    due = repository.due_steps(session, now)
    for step in due:
        _ring_step(session, step)
    runs = repository.open_runs(session)
    for run in runs:
        queue.ring(session, "advance_run", run.id)
    moving = ("received", "traced", "planned", "approved", "executing", "verifying", "promoting")
    requests = repository.open_requests(session, moving)
    for request_id in requests:
        queue.ring(session, "advance", request_id)
    return len(due) + len(runs) + len(requests)


def save_shard(session: Session, run: Run, result: dict[str, Any]) -> None:
    """Write down what a shard of a run's new version is made of."""
    repository.put_slices(
        session,
        [
            ModelSlice(
                model_version_id=run.new_version_id,
                shard=result["shard"],
                slice=one["slice"],
                chain=one["chain"],
                object_digest=one["object_digest"],
                manifest_digest=one["manifest_digest"],
                records=one["records"],
            )
            for one in result["slices"]
        ],
    )


def save_unlearned(session: Session, run: Run, result: dict[str, Any]) -> None:
    """Write down what an approximate method made of a shard.

    Slices before the first one with a record to forget keep their clean checkpoint; the state after
    a later slice has seen those records and is not carried over.
    """
    if run.base_version_id is None:
        message = "an unlearning run has a version before"
        raise ValueError(message)
    old = [
        one
        for one in repository.slices(session, run.base_version_id)
        if one.shard == result["shard"]
    ]
    last = max(one.slice for one in old)
    kept = [
        {
            "slice": one.slice,
            "chain": one.chain,
            "records": one.records,
            "object_digest": one.object_digest if one.slice < result["first_slice"] else None,
            "manifest_digest": one.manifest_digest if one.slice < result["first_slice"] else None,
        }
        for one in old
        if one.slice < last
    ]
    weights = {
        "slice": last,
        "chain": f"{run.method}:{result['object_digest']}",
        "records": old[-1].records,
        "object_digest": result["object_digest"],
        "manifest_digest": None,
    }
    save_shard(session, run, {"shard": result["shard"], "slices": [*kept, weights]})


def seconds_per_record_pass(session: Session, run: Run) -> float | None:
    """Return the training rate that a run's shards measured, or None if none was trained."""
    results = [one.result or {} for one in repository.stage_steps(session, run.id, 0)]
    passes = sum(one.get("record_passes", 0) for one in results)
    return sum(one["seconds"] for one in results if "seconds" in one) / passes if passes else None


def leaves_out(session: Session, run: Run, action: Action) -> bool:
    """Say whether an exact run's version replaces the action's and leaves its records out."""
    if run.new_version_id is None or action.model_version_id is None:
        return False
    version = session.get_one(ModelVersion, run.new_version_id)
    asked = session.get_one(ModelVersion, action.model_version_id)
    return repository.successor(session, asked).id == version.id and not (
        repository.still_in_manifest(session, action.request_id, version)
    )


def replaced_files(session: Session, run: Run) -> list[str]:
    """Return the files that a finished erasure has replaced."""
    results = [one.result or {} for one in repository.steps(session, run.id)]
    return [one["source_uri"] for one in results if one.get("digests")]


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


def beat(session: Session, name: str, role: str, now: datetime) -> None:
    """Write a worker's heartbeat: its health is this row."""
    repository.beat(session, name, role, now)


def workers_alive(session: Session, now: datetime) -> set[str]:
    """Return the worker roles heard from within the last minute."""
    return repository.workers_alive(session, now - WORKER_SILENT_AFTER)


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
