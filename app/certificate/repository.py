"""SQL for the facts of a certificate, and for the certificates."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import (
    Action,
    Artifact,
    Certificate,
    Commitment,
    Evidence,
    ModelSlice,
    Run,
    Step,
)


def actions(session: Session, request_id: UUID) -> Sequence[tuple[Action, Artifact, Run | None]]:
    """Return a request's actions, the artifacts they act on and the runs that carried them out."""
    query = (
        select(Action, Artifact, Run)
        .join(Artifact, Artifact.id == Action.artifact_id)
        .outerjoin(Run, Run.id == Action.run_id)
        .where(Action.request_id == request_id)
        .order_by(Action.kind.desc(), Artifact.name, Artifact.version)
    )
    return [(action, artifact, run) for action, artifact, run in session.execute(query)]


def step_result(session: Session, run_id: UUID, kind: str) -> dict[str, Any]:
    """Return what the step of that kind of a run reported, or nothing."""
    query = select(Step.result).where(Step.run_id == run_id, Step.kind == kind)
    return session.scalar(query) or {}


def destroyed_objects(session: Session, model_id: UUID | None) -> set[str]:
    """Return every stored object of a model that a run destroyed."""
    query = (
        select(Step.result)
        .join(Run, Run.id == Step.run_id)
        .where(Run.model_id == model_id, Step.kind == "destroy", Step.state == "done")
    )
    return {digest for result in session.scalars(query) if result for digest in result["destroyed"]}


def evidence(session: Session, run_id: UUID) -> list[dict[str, Any]]:
    """Return a run's measured checks."""
    query = select(Evidence.body).where(Evidence.run_id == run_id).order_by(Evidence.id)
    return list(session.scalars(query))


def objects(session: Session, version_id: UUID) -> Sequence[ModelSlice]:
    """Return what a model version is or was made of."""
    query = select(ModelSlice).where(
        ModelSlice.model_version_id == version_id, ModelSlice.object_digest.is_not(None)
    )
    return session.scalars(query.order_by(ModelSlice.shard, ModelSlice.slice)).all()


def commitments(session: Session, request_id: UUID) -> Sequence[tuple[Commitment, Artifact]]:
    """Return a request's promises with the artifacts they are about."""
    query = (
        select(Commitment, Artifact)
        .join(Action, Action.id == Commitment.action_id)
        .join(Artifact, Artifact.id == Action.artifact_id)
        .where(Commitment.request_id == request_id)
        .order_by(Commitment.id)
    )
    return [(commitment, artifact) for commitment, artifact in session.execute(query)]


def latest(session: Session, request_id: UUID) -> Certificate | None:
    """Return the newest revision of a request's certificate."""
    query = select(Certificate).where(Certificate.request_id == request_id)
    return session.scalar(query.order_by(Certificate.revision.desc()).limit(1))


def add(session: Session, certificate: Certificate) -> Certificate:
    """Insert a certificate."""
    session.add(certificate)
    session.flush()
    return certificate


def count(session: Session) -> int:
    """Return how many certificates were issued."""
    return session.scalar(select(func.count()).select_from(Certificate)) or 0
