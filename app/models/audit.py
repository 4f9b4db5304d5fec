"""The tamper-evident log's tables: append-only by grants and triggers (DESIGN decision 13)."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigKey


class AuditPending(Base):
    """An entry written in the transaction of the change it tells of, not numbered yet."""

    __tablename__ = "audit_pending"
    id: Mapped[BigKey]
    request_id: Mapped[UUID | None] = mapped_column(index=True)
    event: Mapped[str]
    at: Mapped[datetime]
    payload: Mapped[bytes]


class AuditLeaf(Base):
    """A numbered entry; `leaf_hash` = SHA-256(0x00 ‖ payload) (RFC 9162 §2.1.1)."""

    __tablename__ = "audit_leaf"
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    pending_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    request_id: Mapped[UUID | None]
    event: Mapped[str]
    at: Mapped[datetime]
    payload: Mapped[bytes]
    leaf_hash: Mapped[bytes]
    __table_args__ = (Index("ix_audit_leaf_request_id", "request_id"),)


class AuditNode(Base):
    """The hash of one complete subtree: `level` 0 is a leaf, `index` counts from the left."""

    __tablename__ = "audit_node"
    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes]


class TreeHead(Base):
    """The signed root of the log at one size, as a C2SP signed note."""

    __tablename__ = "tree_head"
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root: Mapped[bytes]
    note: Mapped[str]
    created_at: Mapped[datetime]
