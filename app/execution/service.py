"""Steps: laid out, claimed, kept alive, finished once.

Postgres holds all state; a worker that loses its lease can publish nothing, because each write
names the epoch under which the step was claimed (DESIGN decision 1). Fan-in is a query in the
transaction that finishes a stage's last step.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core import queue
from app.core.errors import AppError, Problem
from app.core.lifecycle import StepState
from app.execution import repository
from app.execution.rules import Claim, NewStep, after_failure, lease_until, retry_at
from app.models import Run, Step

MOST_RUNG = 500
WORKER_SILENT_AFTER = timedelta(seconds=60)


CONTROL_KINDS = frozenset({"destroy"})


class LeaseLostError(AppError):
    """Another worker holds this step now, or it was cancelled; nothing was written."""

    slug = "lease-lost"
    advice = "Nothing to do: the step is carried out elsewhere."


def lay_out(session: Session, run: Run, stage: int, steps: list[NewStep], now: datetime) -> None:
    """Add the steps of one stage to a run; they are claimed when the run has come to it."""
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


def add_stage(session: Session, run: Run, steps: list[NewStep], now: datetime) -> None:
    """Add steps to a run's present stage and ring for them."""
    lay_out(session, run, run.stage, steps, now)
    ring_stage(session, run)


def ring_stage(session: Session, run: Run) -> None:
    """Ring for every step of the run's present stage."""
    for step in repository.stage_steps(session, run.id, run.stage):
        _ring_step(session, step)


def _ring_step(session: Session, step: Step) -> None:
    task: queue.Task = "control_step" if step.queue == queue.CONTROL else "run_step"
    queue.ring(session, task, step.id)


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
    run = session.get_one(Run, claimed.run_id, with_for_update=True, populate_existing=True)
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
    run = session.get_one(Run, claimed.run_id, with_for_update=True, populate_existing=True)
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

    Losing every message loses nothing: this rings again. A compute step may keep its worker for
    hours, so of those only as many are rung for as there are workers free, and one at least.
    """
    free = repository.free_workers(session, queue.COMPUTE, now, now - WORKER_SILENT_AFTER)
    due = [
        *repository.due_steps(session, queue.CONTROL, now, MOST_RUNG),
        *repository.due_steps(session, queue.COMPUTE, now, min(max(free, 1), MOST_RUNG)),
    ]
    for step in due:
        _ring_step(session, step)
    runs = repository.open_runs(session, now)
    for run in runs:
        queue.ring(session, "advance_run", run.id)
    moving = ("received", "traced", "planned", "approved", "executing", "verifying", "promoting")
    requests = repository.open_requests(session, moving)
    for request_id in requests:
        queue.ring(session, "advance", request_id)
    return len(due) + len(runs) + len(requests)


def beat(session: Session, name: str, role: str, now: datetime, device: str | None = None) -> None:
    """Write a worker's heartbeat: its health is this row. `device` is what it trains on."""
    repository.beat(session, name, role, device, now)
