"""Models, their versions, the checkpoints they are made of, and what serves them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Big, Json, JsonList, UuidKey


class Model(Base):
    """A family of model versions trained by one recipe."""

    __tablename__ = "model"
    id: Mapped[UuidKey]
    name: Mapped[str] = mapped_column(unique=True)
    recipe: Mapped[str | None]
    parameters: Mapped[Json]
    seed: Mapped[str]
    shards: Mapped[int]
    slices: Mapped[int]
    holdout_from: Mapped[int]
    """Records whose owner's bucket is this or more are never trained on (0..65536)."""
    policy: Mapped[Json]
    created_at: Mapped[datetime]


class ModelVersion(Base):
    """One trained artifact. `state`: training, live, superseded, destroyed, failed."""

    __tablename__ = "model_version"
    id: Mapped[UuidKey]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("model.id"))
    version: Mapped[int]
    artifact_id: Mapped[Big] = mapped_column(ForeignKey("artifact.id"), unique=True)
    state: Mapped[str]
    method: Mapped[str]
    base_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_version.id"))
    run_id: Mapped[UUID | None]
    shards: Mapped[int]
    slices: Mapped[int]
    holdout_from: Mapped[int]
    manifest_digest: Mapped[str | None]
    environment: Mapped[Json | None]
    metrics: Mapped[Json | None]
    created_at: Mapped[datetime]
    promoted_at: Mapped[datetime | None]
    superseded_at: Mapped[datetime | None]
    destroyed_at: Mapped[datetime | None]
    __table_args__ = (UniqueConstraint("model_id", "version"),)


class MeasuredRate(Base):
    """How fast a model last trained on one class of worker."""

    __tablename__ = "measured_rate"
    model_id: Mapped[UUID] = mapped_column(ForeignKey("model.id"), primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    seconds_per_record_pass: Mapped[float]
    measured_at: Mapped[datetime]


class ModelInput(Base):
    """A dataset version that a model version was trained on."""

    __tablename__ = "model_input"
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"), primary_key=True)
    dataset_version_id: Mapped[int] = mapped_column(
        ForeignKey("dataset_version.id"), primary_key=True, index=True
    )


class ManifestExclusion(Base):
    """A record of an input that this model version's training left out."""

    __tablename__ = "manifest_exclusion"
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"), primary_key=True)
    dataset_version_id: Mapped[int] = mapped_column(primary_key=True)
    record_no: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bucket: Mapped[int]


class Checkpoint(Base):
    """A stored training state, keyed by the chained digest of all it depends on (decision 6)."""

    __tablename__ = "checkpoint"
    model_id: Mapped[UUID] = mapped_column(ForeignKey("model.id"), primary_key=True)
    chain: Mapped[str] = mapped_column(primary_key=True)
    object_digest: Mapped[str]
    manifest_digest: Mapped[str]
    shard: Mapped[int]
    slice: Mapped[int]
    records: Mapped[int]
    """Records of this slice alone."""
    created_at: Mapped[datetime]
    __table_args__ = (Index("ix_checkpoint_object_digest", "object_digest"),)


class ModelSlice(Base):
    """Shard and slice of a model version → the checkpoint after it.

    The last slice of each shard is the shard's weights. `object_digest` is None where an
    approximate method left no clean state after that slice.
    """

    __tablename__ = "model_slice"
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"), primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True)
    slice: Mapped[int] = mapped_column(primary_key=True)
    chain: Mapped[str]
    object_digest: Mapped[str | None]
    manifest_digest: Mapped[str | None]
    records: Mapped[int]


class Deployment(Base):
    """Where a model version is served."""

    __tablename__ = "deployment"
    id: Mapped[UuidKey]
    name: Mapped[str] = mapped_column(unique=True)
    artifact_id: Mapped[Big] = mapped_column(ForeignKey("artifact.id"), unique=True)
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_version.id"), index=True)
    url: Mapped[str | None]
    history: Mapped[JsonList]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
