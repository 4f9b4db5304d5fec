"""Datasets, their records by subject key, artifacts and the edges between them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    SmallInteger,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Big, BigKey, Json, JsonList, UuidKey

PARTITIONS = 32


class Dataset(Base):
    """A collection of records, and which columns name people."""

    __tablename__ = "dataset"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    owner: Mapped[Json]
    aliases: Mapped[JsonList]
    mentions: Mapped[JsonList]
    wrapped_key: Mapped[bytes]
    """Key of buckets and record digests; never rotates (DESIGN decision 6)."""
    created_at: Mapped[datetime]


class Artifact(Base):
    """Anything that can hold a person's influence."""

    __tablename__ = "artifact"
    id: Mapped[BigKey]
    kind: Mapped[str]
    namespace: Mapped[str] = mapped_column(default="lethe")
    name: Mapped[str]
    version: Mapped[str | None]
    digest: Mapped[str | None]
    lineage: Mapped[str]
    created_at: Mapped[datetime]
    destroyed_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint(
            "kind", "namespace", "name", "version", postgresql_nulls_not_distinct=True
        ),
        CheckConstraint("lineage in ('complete', 'declared', 'unknown')", name="lineage"),
    )


class Edge(Base):
    """Influence flows from parent to child. Retired, never deleted (DESIGN decision 14)."""

    __tablename__ = "edge"
    parent: Mapped[Big] = mapped_column(ForeignKey("artifact.id"), primary_key=True)
    child: Mapped[Big] = mapped_column(ForeignKey("artifact.id"), primary_key=True, index=True)
    relation: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[UUID | None]
    source: Mapped[str]
    first_seen: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class DatasetVersion(Base):
    """One immutable snapshot at a URI; after an erasure the URI points to the rewritten file."""

    __tablename__ = "dataset_version"
    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    version: Mapped[str]
    artifact_id: Mapped[Big] = mapped_column(ForeignKey("artifact.id"), unique=True)
    uri: Mapped[str]
    format: Mapped[str]
    rewritable: Mapped[bool]
    state: Mapped[str]
    digest: Mapped[str | None]
    record_count: Mapped[int | None] = mapped_column(BigInteger)
    skipped_identifiers: Mapped[int | None] = mapped_column(BigInteger)
    collected_at: Mapped[datetime | None]
    """Suppressions received later cover it; unknown is covered by all."""
    created_at: Mapped[datetime]
    indexed_at: Mapped[datetime | None]
    __table_args__ = (UniqueConstraint("dataset_id", "version"),)


class SubjectRecord(Base):
    """Which records name which subject key. Hash-partitioned by subject key.

    `bucket` is the owner's 16-bit bucket; `role` 0 owner, 1 alias of the owner, 2 mention of
    somebody else; `owner_key` the subject key of the owner column.
    """

    __tablename__ = "subject_record"
    subject_key: Mapped[UUID] = mapped_column(primary_key=True)
    dataset_version_id: Mapped[int] = mapped_column(primary_key=True)
    record_no: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bucket: Mapped[int]
    role: Mapped[int] = mapped_column(SmallInteger)
    owner_key: Mapped[UUID]
    __table_args__ = ({"postgresql_partition_by": "HASH (subject_key)"},)


class ErasedRecord(Base):
    """A record that its dataset version's file no longer holds; the others keep their numbers."""

    __tablename__ = "erased_record"
    dataset_version_id: Mapped[int] = mapped_column(
        ForeignKey("dataset_version.id"), primary_key=True
    )
    record_no: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    digest: Mapped[bytes]
    """The record's keyed digest, to show later that no manifest holds it."""
    request_id: Mapped[UUID]
    erased_at: Mapped[datetime]


class Suppression(Base):
    """A subject key that training must leave out; covers data collected before `received_at`."""

    __tablename__ = "suppression"
    id: Mapped[UuidKey]
    subject_key: Mapped[UUID] = mapped_column(index=True)
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_request.id"), index=True)
    received_at: Mapped[datetime]
    created_at: Mapped[datetime]
    lifted_at: Mapped[datetime | None]
    lifted_reason: Mapped[str | None]


class SuppressedRecord(Base):
    """A record found for a request, suppressed by number as well as by key."""

    __tablename__ = "suppressed_record"
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_request.id"), primary_key=True)
    dataset_version_id: Mapped[int] = mapped_column(
        ForeignKey("dataset_version.id"), primary_key=True
    )
    record_no: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bucket: Mapped[int]
    lifted_at: Mapped[datetime | None]
