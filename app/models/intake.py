"""API keys, idempotency, erasure requests and what is sealed with them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Json, JsonList, UuidKey


class ApiKey(Base):
    """A caller: its role, and the hash of its secret."""

    __tablename__ = "api_key"
    id: Mapped[UuidKey]
    name: Mapped[str]
    role: Mapped[str]
    secret_hash: Mapped[bytes]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class IdempotentCall(Base):
    """The answer given to one Idempotency-Key, to be given again (draft-ietf-httpapi-07)."""

    __tablename__ = "idempotent_call"
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_key.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """Keyed digest of the Idempotency-Key, in hex."""
    request_digest: Mapped[bytes]
    status: Mapped[int | None]
    body: Mapped[Json | None]
    location: Mapped[str | None]
    created_at: Mapped[datetime]


class ErasureRequest(Base):
    """What a person asked, and where it stands. Identifiers are sealed until it closes."""

    __tablename__ = "erasure_request"
    id: Mapped[UuidKey]
    portal_id: Mapped[UUID] = mapped_column(ForeignKey("api_key.id"))
    state: Mapped[str]
    resume_state: Mapped[str | None]
    regime: Mapped[str]
    ground: Mapped[str | None]
    reference: Mapped[str | None]
    identity_verified: Mapped[bool]
    identifier_types: Mapped[JsonList]
    subject_set: Mapped[bytes]
    sealed_identifiers: Mapped[bytes | None]
    received_at: Mapped[datetime]
    due_at: Mapped[datetime]
    extended: Mapped[bool] = mapped_column(default=False)
    sla_status: Mapped[str] = mapped_column(default="on_track")
    trace: Mapped[Json | None]
    decision_reason: Mapped[str | None]
    failure: Mapped[Json | None]
    created_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_erasure_request_open_subject",
            "portal_id",
            "subject_set",
            unique=True,
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index("ix_erasure_request_due_at", "due_at", postgresql_where=text("closed_at IS NULL")),
    )


class RequestKey(Base):
    """The wrapped data key of one open request; the row is deleted when the request closes."""

    __tablename__ = "request_key"
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_request.id"), primary_key=True)
    wrapped_key: Mapped[bytes]


class RequestSubject(Base):
    """The subject keys one request names."""

    __tablename__ = "request_subject"
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_request.id"), primary_key=True)
    subject_key: Mapped[UUID] = mapped_column(primary_key=True, index=True)
