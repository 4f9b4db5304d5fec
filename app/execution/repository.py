"""SQL of steps: claims by compare-and-set, fences, fan-in, heartbeats."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.models import (
    Checkpoint,
    ErasureRequest,
    Run,
    Step,
    Worker,
)


def add_steps(session: Session, steps: Iterable[Step]) -> None:
    """Insert steps."""
    session.add_all(steps)
    session.flush()


def step(session: Session, step_id: UUID) -> Step:
    """Return a step."""
    return session.get_one(Step, step_id)


def stage_steps(session: Session, run_id: UUID, stage: int) -> Sequence[Step]:
    """Return the steps of one stage."""
    query = select(Step).where(Step.run_id == run_id, Step.stage == stage)
    return session.scalars(query.order_by(Step.target)).all()


def results(session: Session, run_id: UUID, kind: str) -> list[dict[str, Any]]:
    """Return what a run's finished steps of one kind brought."""
    query = select(Step.result).where(Step.run_id == run_id, Step.kind == kind)
    return [one for one in session.scalars(query.order_by(Step.target)) if one is not None]


def claim(
    session: Session, step_id: UUID, worker: str, now: datetime, until: datetime
) -> Step | None:
    """Claim a step whose turn it is and that nobody holds; None if there is nothing to do."""
    claimed = session.execute(
        update(Step)
        .where(
            Step.id == step_id,
            or_(Step.state == "pending", (Step.state == "running") & (Step.lease_until < now)),
            or_(Step.not_before.is_(None), Step.not_before <= now),
            exists().where(
                Run.id == Step.run_id,
                Run.stage == Step.stage,
                Run.state.in_(["running", "promoting"]),
            ),
        )
        .values(
            state="running",
            epoch=Step.epoch + 1,
            attempts=Step.attempts + 1,
            lease_owner=worker,
            lease_until=until,
            started_at=func.coalesce(Step.started_at, now),
        )
        .returning(Step.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    if claimed is None:
        return None
    return session.get_one(Step, claimed, populate_existing=True)


def renew(session: Session, step_id: UUID, epoch: int, until: datetime, progress: float) -> bool:
    """Extend a lease; False when another worker holds the step or it was taken away."""
    return _fenced(session, step_id, epoch, lease_until=until, progress=progress)


def holds(session: Session, step_id: UUID, epoch: int) -> bool:
    """Say whether the step is still held under this epoch, and keep it so in this transaction."""
    query = select(Step.id).where(Step.id == step_id, Step.epoch == epoch, Step.state == "running")
    return session.scalar(query.with_for_update()) is not None


def close_step(session: Session, step_id: UUID, epoch: int, **values: Any) -> bool:
    """Write a step's end under its epoch; False when a later epoch or a cancellation came first."""
    return _fenced(session, step_id, epoch, lease_owner=None, lease_until=None, **values)


def _fenced(session: Session, step_id: UUID, epoch: int, **values: Any) -> bool:
    written = session.execute(
        update(Step)
        .where(Step.id == step_id, Step.epoch == epoch, Step.state == "running")
        .values(**values)
        .returning(Step.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    session.expire_all()
    return written is not None


def cancel_open_steps(session: Session, run_id: UUID, now: datetime) -> None:
    """Take every open step of a run away from its worker."""
    session.execute(
        update(Step)
        .where(Step.run_id == run_id, Step.state.in_(["pending", "running"]))
        .values(state="cancelled", finished_at=now, lease_owner=None, lease_until=None)
    )
    session.expire_all()


def put_checkpoint(session: Session, model_id: UUID, now: datetime, **values: Any) -> None:
    """Store where a checkpoint lies; the same chain is the same bits."""
    session.execute(
        insert(Checkpoint)
        .values(model_id=model_id, created_at=now, **values)
        .on_conflict_do_nothing()
    )


def free_workers(session: Session, role: str, now: datetime, since: datetime) -> int:
    """Return how many workers of a role were heard from since then, less the steps they hold."""
    alive = select(func.count()).where(Worker.role == role, Worker.heartbeat_at >= since)
    held = select(func.count()).where(
        Step.queue == role, Step.state == "running", Step.lease_until >= now
    )
    return (session.scalar(alive) or 0) - (session.scalar(held) or 0)


def due_steps(session: Session, queue: str, now: datetime, limit: int) -> Sequence[Step]:
    """Return a queue's steps whose turn it is and that nobody holds, or whose lease has run out."""
    return session.scalars(
        select(Step)
        .join(Run, Run.id == Step.run_id)
        .where(
            Step.queue == queue,
            Run.state.in_(["running", "promoting"]),
            Run.stage == Step.stage,
            or_(Step.state == "pending", (Step.state == "running") & (Step.lease_until < now)),
            or_(Step.not_before.is_(None), Step.not_before <= now),
        )
        .order_by(Step.id)
        .limit(limit)
    ).all()


def open_runs(session: Session, now: datetime) -> Sequence[Run]:
    """Return runs that may have something to do besides their steps; those that wait have not."""
    query = select(Run).where(
        Run.state.not_in(["done", "failed", "cancelled"]),
        or_(Run.not_before.is_(None), Run.not_before <= now),
    )
    return session.scalars(query.order_by(Run.created_at)).all()


def open_requests(session: Session, states: Sequence[str]) -> Sequence[UUID]:
    """Return requests in those states, most urgent first."""
    query = select(ErasureRequest.id).where(ErasureRequest.state.in_(states))
    return session.scalars(query.order_by(ErasureRequest.due_at)).all()


def beat(session: Session, name: str, role: str, device: str | None, now: datetime) -> None:
    """Write a worker's heartbeat; what it trains on stays known."""
    statement = insert(Worker).values(
        name=name, role=role, device=device, started_at=now, heartbeat_at=now
    )
    known = func.coalesce(statement.excluded.device, Worker.device)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"heartbeat_at": now, "device": known}
        )
    )
