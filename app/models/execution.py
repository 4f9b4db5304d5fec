"""Actions, the runs that carry them out, their steps, evidence, commitments and workers."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Big, BigKey, Json, UuidKey


class Run(Base):
    """One job that carries out the actions of many requests on one model or dataset version."""

    __tablename__ = "run"
    id: Mapped[UuidKey]
    kind: Mapped[str]
    state: Mapped[str]
    stage: Mapped[int] = mapped_column(SmallInteger, default=0)
    method: Mapped[str | None]
    guarantee: Mapped[str | None]
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("model.id"))
    base_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_version.id"))
    new_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_version.id"))
    dataset_version_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_version.id"))
    parameters: Mapped[Json] = mapped_column(default=dict)
    predicted_seconds: Mapped[float | None]
    not_before: Mapped[datetime | None]
    """When a queued run may start: the model's policy may let it wait for others."""
    verdict: Mapped[Json | None]
    accepted: Mapped[Json | None]
    failure: Mapped[Json | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        # One run at a time changes a model; the next one starts from what it leaves.
        Index(
            "uq_run_active_model",
            "model_id",
            unique=True,
            postgresql_where=text(
                "kind IN ('train','unlearn') AND state IN ('running','verifying','promoting')"
            ),
        ),
        # Actions on one model version join the run that has not started.
        Index(
            "uq_run_queued_base",
            "base_version_id",
            "method",
            unique=True,
            postgresql_where=text("kind = 'unlearn' AND state = 'queued'"),
        ),
    )


class Step(Base):
    """One claimed piece of a run: lease, heartbeat, and the epoch that fences every write."""

    __tablename__ = "step"
    id: Mapped[UuidKey]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"))
    kind: Mapped[str]
    target: Mapped[str]
    stage: Mapped[int] = mapped_column(SmallInteger)
    queue: Mapped[str]
    state: Mapped[str]
    parameters: Mapped[Json]
    epoch: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    result: Mapped[Json | None]
    failure: Mapped[Json | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("run_id", "kind", "target"),
        Index("ix_step_open", "state", postgresql_where=text("state IN ('pending','running')")),
    )


class Evidence(Base):
    """One measured check of a run."""

    __tablename__ = "evidence"
    id: Mapped[BigKey]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), index=True)
    name: Mapped[str]
    body: Mapped[Json]
    created_at: Mapped[datetime]


class Action(Base):
    """What a person's request means for one artifact."""

    __tablename__ = "action"
    id: Mapped[UuidKey]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_request.id"))
    artifact_id: Mapped[Big] = mapped_column(ForeignKey("artifact.id"))
    kind: Mapped[str]
    model_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_version.id"))
    dataset_version_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_version.id"))
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("run.id"), index=True)
    state: Mapped[str]
    method: Mapped[str]
    guarantee: Mapped[str]
    reason: Mapped[str]
    plan: Mapped[Json]
    found: Mapped[Json]
    commitment_due_at: Mapped[datetime | None]
    outcome: Mapped[Json | None]
    created_at: Mapped[datetime]
    __table_args__ = (UniqueConstraint("request_id", "artifact_id"),)


class Commitment(Base):
    """A dated promise: the next exact retraining must leave these records out."""

    __tablename__ = "commitment"
    id: Mapped[UuidKey]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_request.id"), index=True)
    action_id: Mapped[UUID] = mapped_column(ForeignKey("action.id"), unique=True)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("model.id"), index=True)
    kind: Mapped[str]
    reason: Mapped[str]
    starts_at: Mapped[datetime]
    due_at: Mapped[datetime]
    kept_at: Mapped[datetime | None]
    kept_by_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_version.id"))
    created_at: Mapped[datetime]


class Certificate(Base):
    """A signed statement for one closed request; a fulfilled commitment adds a revision."""

    __tablename__ = "certificate"
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_request.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    envelope: Mapped[Json]
    payload_digest: Mapped[str] = mapped_column(unique=True)
    pending_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    created_at: Mapped[datetime]


class Worker(Base):
    """A worker's health is its heartbeat row."""

    __tablename__ = "worker"
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    device: Mapped[str | None]
    """What a compute worker trains on; None until its child has told."""
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
