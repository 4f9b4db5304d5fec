"""SQL of runs: queued, joined, one at a time on a model."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app.models import Action, Dataset, DatasetVersion, Evidence, Model, Run, Step

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


def waiting_runs(session: Session, model_id: UUID) -> Sequence[UUID]:
    """Return queued runs of a model, oldest first."""
    query = select(Run.id).where(Run.model_id == model_id, Run.state == "queued")
    return session.scalars(query.order_by(Run.created_at)).all()


def queued_run(session: Session, base_version_id: UUID, method: str) -> Run | None:
    """Return the run on this version that has not started, locked, so that an action can join."""
    return session.scalar(
        select(Run)
        .where(
            Run.kind == "unlearn",
            Run.state == "queued",
            Run.base_version_id == base_version_id,
            Run.method == method,
        )
        .with_for_update()
    )


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


def model(session: Session, name: str) -> Model | None:
    """Return a model by name."""
    return session.scalar(select(Model).where(Model.name == name))


def dataset_version(session: Session, name: str, version: str) -> DatasetVersion | None:
    """Return a dataset version by the dataset's name and its own, locked."""
    return session.scalar(
        select(DatasetVersion)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(Dataset.name == name, DatasetVersion.version == version)
        .with_for_update(of=DatasetVersion)
    )


def evidence(session: Session, run_id: UUID) -> list[dict[str, Any]]:
    """Return a run's measured checks."""
    query = select(Evidence.body).where(Evidence.run_id == run_id).order_by(Evidence.id)
    return list(session.scalars(query))
