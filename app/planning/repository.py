"""SQL for the facts of a plan, and for the actions that come out of it."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from app.models import (
    Action,
    Artifact,
    DatasetVersion,
    Deployment,
    Model,
    ModelInput,
    ModelSlice,
    ModelVersion,
    Run,
)


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


def queue_seconds(session: Session) -> float:
    """Return the predicted seconds of all runs that have not ended."""
    query = select(func.coalesce(func.sum(Run.predicted_seconds), 0.0)).where(
        Run.state.in_(["queued", "running"])
    )
    return float(session.scalar(query) or 0.0)


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
