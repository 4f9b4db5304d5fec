"""Writing the log: an entry in its change's own transaction, then one sequencer that numbers it."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import repository, rules
from app.core import queue
from app.core.errors import InvalidInputError, NotFoundError
from app.models import AuditLeaf, TreeHead
from lethe.merkle import leaf_hash
from lethe.notes import Checkpoint, Signer

BATCH = 256
MAX_ENTRIES = 1000


class TreeHeadMissingError(NotFoundError):
    """The log has no entry yet, or no tree head at that size."""


def record(
    session: Session, event: str, at: datetime, *, request_id: UUID | None = None, **facts: object
) -> int:
    """Write an entry in this transaction and ring the sequencer; return its pending id.

    Facts are ids, digests, counts, words of closed lists: `rules.entry_payload` refuses others.
    A fact that is None is left out.
    """
    told = {
        name: str(fact) if isinstance(fact, UUID) else fact
        for name, fact in facts.items()
        if fact is not None
    }
    if request_id is not None:
        told["request"] = str(request_id)
    payload = rules.entry_payload(event, told, at)
    pending_id = repository.add_pending(session, request_id, event, at, payload)
    queue.ring(session, "sequence_log")
    return pending_id


def sequence(session: Session, signer: Signer, now: datetime) -> TreeHead | None:
    """Number up to 256 pending entries and sign the new tree head.

    Returns None when nothing waits or another sequencer holds the lock.
    """
    if not repository.try_lock(session):
        return None
    pending = repository.take_pending(session, BATCH)
    if not pending:
        return None
    last = repository.head(session)
    size = 0 if last is None else last.size
    leaves = [
        AuditLeaf(
            index=size + offset,
            pending_id=entry.id,
            request_id=entry.request_id,
            event=entry.event,
            at=entry.at,
            payload=entry.payload,
            leaf_hash=leaf_hash(entry.payload),
        )
        for offset, entry in enumerate(pending)
    ]
    frontier = [repository.node(session, *place) for place in rules.frontier_nodes(size)]
    grown = rules.append(frontier, size, [leaf.leaf_hash for leaf in leaves])
    repository.add_leaves(session, leaves, grown.nodes)
    checkpoint = Checkpoint(signer.verifier_key.name, grown.size, grown.root)
    note = signer.sign(checkpoint.format())
    for request_id in {leaf.request_id for leaf in leaves if leaf.event == "certificate_issued"}:
        queue.ring(session, "advance", request_id)
    if len(pending) == BATCH:
        queue.ring(session, "sequence_log")
    return repository.add_head(session, grown.size, grown.root, note, now)


def export_head(head: TreeHead, folder: Path) -> None:
    """Write a tree head outside the database: who holds database and key could rewrite history."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{head.size:020d}.checkpoint").write_text(head.note, encoding="utf-8")


def tree_head(session: Session) -> TreeHead:
    """Return the newest signed tree head.

    Raises:
        TreeHeadMissingError: the log is empty.
    """
    head = repository.head(session)
    if head is None:
        raise TreeHeadMissingError
    return head


def size(session: Session) -> int:
    """Return how many entries the newest tree head signs; 0 where the log is empty."""
    head = repository.head(session)
    return 0 if head is None else head.size


def entries(session: Session, start: int, end: int) -> Sequence[AuditLeaf]:
    """Return the entries with start <= index < end, at most 1,000.

    Raises:
        InvalidInputError: the range is empty or too long.
    """
    if not 0 <= start < end or end - start > MAX_ENTRIES:
        raise InvalidInputError(
            "The range is empty or too long.",
            advice=f"Ask for 0 <= start < end with at most {MAX_ENTRIES} entries.",
        )
    return repository.leaves(session, start, end)


def inclusion_proof(session: Session, index: int, size: int) -> tuple[bytes, ...]:
    """Return the audit path of entry `index` in the tree of `size` (RFC 9162 §2.1.3.1).

    Raises:
        TreeHeadMissingError: no tree head was signed at that size.
        InvalidInputError: the entry lies outside that tree.
    """
    if repository.head(session, size) is None:
        raise TreeHeadMissingError
    if not 0 <= index < size:
        raise InvalidInputError("`index` lies outside the tree.", advice="Ask for index < size.")
    return rules.inclusion_proof(index, size, partial(repository.node, session))


def consistency_proof(session: Session, old: int, new: int) -> tuple[bytes, ...]:
    """Return the proof that the tree of size `old` is a prefix of that of `new` (§2.1.4.1).

    Raises:
        TreeHeadMissingError: no tree head was signed at size `new`.
        InvalidInputError: `old` is 0 or greater than `new`.
    """
    if repository.head(session, new) is None:
        raise TreeHeadMissingError
    if not 1 <= old <= new:
        raise InvalidInputError("The sizes are out of order.", advice="Ask for 1 <= from <= to.")
    return rules.consistency_proof(old, new, partial(repository.node, session))


def receipt(
    session: Session, pending_id: int
) -> tuple[AuditLeaf, TreeHead, tuple[bytes, ...]] | None:
    """Return (leaf, newest tree head, inclusion proof) of an entry, or None while it is pending."""
    leaf = repository.leaf_of_pending(session, pending_id)
    if leaf is None:
        return None
    head = tree_head(session)
    return leaf, head, inclusion_proof(session, leaf.index, head.size)


def root(session: Session, size: int) -> bytes:
    """Return the root hash of the signed tree head at `size`.

    Raises:
        TreeHeadMissingError: no tree head was signed at that size.
    """
    head = repository.head(session, size)
    if head is None:
        raise TreeHeadMissingError
    return head.root


def timeline(session: Session, request_id: UUID) -> list[tuple[str, datetime, bytes, int | None]]:
    """Return (event, at, entry, index or None while it waits) of one request, oldest first."""
    return repository.timeline(session, request_id)
