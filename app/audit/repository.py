"""SQL of the log: pending entries, leaves, complete subtrees, tree heads."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from app.audit.rules import Node
from app.models import AuditLeaf, AuditNode, AuditPending, TreeHead

SEQUENCER_LOCK = 0x6C657468_656C6F67


def add_pending(
    session: Session, request_id: UUID | None, event: str, at: datetime, payload: bytes
) -> int:
    """Insert an entry to be numbered; return its pending id."""
    row = AuditPending(request_id=request_id, event=event, at=at, payload=payload)
    session.add(row)
    session.flush()
    return row.id


def try_lock(session: Session) -> bool:
    """Take the sequencer's lock until the transaction ends, if nobody holds it."""
    return bool(
        session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": SEQUENCER_LOCK})
    )


def take_pending(session: Session, limit: int) -> Sequence[AuditPending]:
    """Take up to `limit` pending entries out of the queue, oldest first."""
    rows = session.scalars(select(AuditPending).order_by(AuditPending.id).limit(limit)).all()
    session.execute(delete(AuditPending).where(AuditPending.id.in_([row.id for row in rows])))
    return rows


def add_leaves(session: Session, leaves: Iterable[AuditLeaf], nodes: Iterable[Node]) -> None:
    """Append numbered entries and the subtrees that they complete."""
    session.add_all(leaves)
    session.add_all(AuditNode(level=one.level, index=one.index, hash=one.hash) for one in nodes)


def add_head(session: Session, size: int, root: bytes, note: str, now: datetime) -> TreeHead:
    """Append a signed tree head."""
    head = TreeHead(size=size, root=root, note=note, created_at=now)
    session.add(head)
    session.flush()
    return head


def head(session: Session, size: int | None = None) -> TreeHead | None:
    """Return the newest tree head, or the one at `size`."""
    query = select(TreeHead).order_by(TreeHead.size.desc()).limit(1)
    return session.scalar(query if size is None else query.where(TreeHead.size == size))


def node(session: Session, level: int, index: int) -> bytes:
    """Return one complete subtree's hash."""
    return session.get_one(AuditNode, (level, index)).hash


def leaves(session: Session, start: int, end: int) -> Sequence[AuditLeaf]:
    """Return the entries with start <= index < end."""
    query = select(AuditLeaf).where(AuditLeaf.index >= start, AuditLeaf.index < end)
    return session.scalars(query.order_by(AuditLeaf.index)).all()


def leaf_of_pending(session: Session, pending_id: int) -> AuditLeaf | None:
    """Return the leaf that a pending entry became, if it has been numbered."""
    return session.scalar(select(AuditLeaf).where(AuditLeaf.pending_id == pending_id))


def timeline(session: Session, request_id: UUID) -> list[tuple[str, datetime, bytes, int | None]]:
    """Return (event, at, payload, index or None while pending) of one request, oldest first."""
    numbered = select(
        AuditLeaf.pending_id, AuditLeaf.event, AuditLeaf.at, AuditLeaf.payload, AuditLeaf.index
    ).where(AuditLeaf.request_id == request_id)
    waiting = select(
        AuditPending.id, AuditPending.event, AuditPending.at, AuditPending.payload
    ).where(AuditPending.request_id == request_id)
    rows: list[tuple[int, str, datetime, bytes, int | None]] = [
        *session.execute(numbered),
        *((*row, None) for row in session.execute(waiting)),
    ]
    return [(e, a, b, i) for _, e, a, b, i in sorted(rows, key=lambda row: row[0])]
