"""SQL for the facts of a plan, and for the actions that come out of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from app.models import (
    Action,
    Artifact,
    DatasetVersion,
    Deployment,
    MeasuredRate,
    Model,
    ModelInput,
    ModelSlice,
    ModelVersion,
    Run,
    Worker,
)
from app.runs.rules import Rate

SILENT_AFTER = timedelta(seconds=60)


def version_and_model(session: Session, version_id: UUID) -> tuple[ModelVersion, Model]:
    """Return a model version and its model."""
    version = session.get_one(ModelVersion, version_id)
    return version, session.get_one(Model, version.model_id)


def slice_records(session: Session, version_id: UUID) -> dict[tuple[int, int], int]:
    """Return how many records each (shard, slice) of a version was trained on."""
    query = select(ModelSlice.shard, ModelSlice.slice, ModelSlice.records)
    rows = session.execute(query.where(ModelSlice.model_version_id == version_id))
    return {(shard, piece): records for shard, piece, records in rows}


def sources_present(session: Session, version_id: UUID) -> bool:
    """Say whether every dataset version that a model version was trained on is indexed."""
    missing = exists().where(
        ModelInput.model_version_id == version_id,
        DatasetVersion.id == ModelInput.dataset_version_id,
        DatasetVersion.state != "indexed",
    )
    return not session.scalar(select(missing))


def is_served(session: Session, version_id: UUID) -> bool:
    """Say whether a deployment serves the version."""
    return bool(session.scalar(select(exists().where(Deployment.model_version_id == version_id))))


def queue_seconds(session: Session, now: datetime) -> float:
    """Return the predicted seconds of all runs that have not ended and do not wait for a time."""
    query = select(func.coalesce(func.sum(Run.predicted_seconds), 0.0)).where(
        Run.state.in_(["queued", "running"]), or_(Run.not_before.is_(None), Run.not_before <= now)
    )
    return float(session.scalar(query) or 0.0)


def rates(session: Session, model: Model) -> tuple[Rate, ...]:
    """Return what was measured of a model and of all models of its recipe."""
    query = (
        select(MeasuredRate)
        .join(Model, Model.id == MeasuredRate.model_id)
        .where(or_(Model.id == model.id, Model.recipe == model.recipe))
    )
    return tuple(
        Rate(one.model_id == model.id, one.device, one.seconds_per_record_pass, one.measured_at)
        for one in session.scalars(query)
    )


def devices(session: Session, now: datetime) -> frozenset[str]:
    """Return the classes of the compute workers heard from within the last minute."""
    query = select(Worker.device).where(
        Worker.device.is_not(None), Worker.heartbeat_at >= now - SILENT_AFTER
    )
    return frozenset(one for one in session.scalars(query) if one is not None)


def found_by(session: Session, run_id: UUID) -> list[dict[str, Any]]:
    """Return where a run's actions found records; not locked, since it is only a prediction."""
    return list(session.scalars(select(Action.found).where(Action.run_id == run_id)))


def planned_artifacts(session: Session, request_id: UUID) -> set[int]:
    """Return the artifacts that the request has an action for."""
    query = select(Action.artifact_id).where(Action.request_id == request_id)
    return set(session.scalars(query))


def add_actions(session: Session, actions: Sequence[Action]) -> None:
    """Insert actions."""
    session.add_all(actions)
    session.flush()


def actions(session: Session, request_id: UUID) -> Sequence[tuple[Action, Artifact]]:
    """Return a request's actions with their artifacts, models first."""
    query = (
        select(Action, Artifact)
        .join(Artifact, Artifact.id == Action.artifact_id)
        .where(Action.request_id == request_id)
        .order_by(Action.kind.desc(), Artifact.name)
    )
    return [(action, artifact) for action, artifact in session.execute(query)]
