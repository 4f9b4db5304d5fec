"""SQL of runs: queued, joined, one at a time on a model."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.models import (
    Action,
    Dataset,
    DatasetVersion,
    ErasureRequest,
    Evidence,
    MeasuredRate,
    Model,
    ModelVersion,
    Run,
    Step,
)

ACTIVE = ("running", "verifying", "promoting")


def add_run(session: Session, run: Run) -> Run:
    """Insert a run."""
    session.add(run)
    session.flush()
    return run


def locked_run(session: Session, run_id: UUID) -> Run | None:
    """Return the run, locked until the transaction ends."""
    return session.get(Run, run_id, with_for_update=True, populate_existing=True)


def runs(session: Session, after: UUID | None, limit: int) -> Sequence[Run]:
    """Return runs by id."""
    query = select(Run).order_by(Run.id).limit(limit)
    return session.scalars(query if after is None else query.where(Run.id > after)).all()


def steps(session: Session, run_id: UUID) -> Sequence[Step]:
    """Return a run's steps in the order they are done."""
    query = select(Step).where(Step.run_id == run_id)
    return session.scalars(query.order_by(Step.stage, Step.target, Step.id)).all()


def stage_steps(session: Session, run_id: UUID, stage: int) -> Sequence[Step]:
    """Return the steps of one stage."""
    query = select(Step).where(Step.run_id == run_id, Step.stage == stage)
    return session.scalars(query.order_by(Step.target)).all()


def model_is_busy(session: Session, model_id: UUID, besides: UUID) -> bool:
    """Say whether another run is changing the model now."""
    busy = exists().where(
        Run.model_id == model_id,
        Run.id != besides,
        Run.state.in_(ACTIVE),
    )
    return bool(session.scalar(select(busy)))


def is_retraining(session: Session, model_id: UUID, methods: Collection[str]) -> bool:
    """Say whether a run by one of these methods is changing the model now."""
    active = exists().where(
        Run.model_id == model_id, Run.method.in_(methods), Run.state.in_(ACTIVE)
    )
    return bool(session.scalar(select(active)))


def has_begun(session: Session, model_id: UUID) -> bool:
    """Say whether a model has, or had, a version that was served, or a run is to make one."""
    made = exists().where(ModelVersion.model_id == model_id, ModelVersion.promoted_at.is_not(None))
    coming = exists().where(Run.model_id == model_id, Run.state.in_(("queued", *ACTIVE)))
    return bool(session.scalar(select(made | coming)))


def waiting_runs(session: Session, model_id: UUID) -> Sequence[UUID]:
    """Return queued runs of a model, oldest first."""
    query = select(Run.id).where(Run.model_id == model_id, Run.state == "queued")
    return session.scalars(query.order_by(Run.created_at)).all()


def queued_run(session: Session, base_version_id: UUID, method: str) -> Run | None:
    """Return the run that has not started, locked, so that an action can join.

    It may have been queued on a version that this one has replaced: it goes on from this one.
    """
    version = select(ModelVersion.id, ModelVersion.base_version_id)
    replaced = version.where(ModelVersion.id == base_version_id).cte(recursive=True)
    replaced = replaced.union(version.join(replaced, ModelVersion.id == replaced.c.base_version_id))
    return session.scalar(
        select(Run)
        .where(
            Run.kind == "unlearn",
            Run.state == "queued",
            Run.base_version_id.in_(select(replaced.c.id)),
            Run.method == method,
        )
        .order_by(Run.created_at)
        .limit(1)
        .with_for_update()
    )


def requests_and_deadline(session: Session, run_id: UUID) -> tuple[int, datetime | None]:
    """Return how many requests a run serves, and the earliest of their deadlines."""
    query = (
        select(func.count(Action.request_id.distinct()), func.min(ErasureRequest.due_at))
        .join(ErasureRequest, ErasureRequest.id == Action.request_id)
        .where(Action.run_id == run_id)
    )
    requests, due_at = session.execute(query).one()
    return requests, due_at


def actions_of_run(session: Session, run_id: UUID) -> Sequence[Action]:
    """Return the actions that a run carries out, locked."""
    query = select(Action).where(Action.run_id == run_id).order_by(Action.id)
    return session.scalars(query.with_for_update()).all()


def runs_of_request(session: Session, request_id: UUID) -> Sequence[Run]:
    """Return the runs that carry out a request's actions, locked."""
    mine = select(Action.run_id).where(Action.request_id == request_id)
    query = select(Run).where(Run.id.in_(mine)).order_by(Run.id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).all()


def actions_of_request(session: Session, request_id: UUID) -> Sequence[Action]:
    """Return a request's actions, locked."""
    query = select(Action).where(Action.request_id == request_id).order_by(Action.id)
    return session.scalars(query.with_for_update()).all()


def locked_model(session: Session, name: str) -> Model | None:
    """Return a model by name, locked: a run that starts has its old layout or its new one.

    Whoever needs a model and dataset versions locks the model first.
    """
    return session.scalar(select(Model).where(Model.name == name).with_for_update())


def dataset_version(session: Session, name: str, version: str) -> DatasetVersion | None:
    """Return a dataset version by the dataset's name and its own, locked."""
    return session.scalar(
        select(DatasetVersion)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(Dataset.name == name, DatasetVersion.version == version)
        .with_for_update(of=DatasetVersion)
    )


def put_rate(
    session: Session, model_id: UUID | None, device: str, rate: float, now: datetime
) -> None:
    """Keep the newest rate of a model on one class of worker, in seconds per record pass."""
    measured = {"seconds_per_record_pass": rate, "measured_at": now}
    statement = insert(MeasuredRate).values(model_id=model_id, device=device, **measured)
    session.execute(
        statement.on_conflict_do_update(index_elements=["model_id", "device"], set_=measured)
    )


def evidence(session: Session, run_id: UUID) -> list[dict[str, Any]]:
    """Return a run's measured checks."""
    query = select(Evidence.body).where(Evidence.run_id == run_id).order_by(Evidence.id)
    return list(session.scalars(query))
