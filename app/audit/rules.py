"""The Merkle tree as the database holds it: complete subtrees, and the proofs made from them.

A node (level, index) is the hash over the leaves index·2^level up to, not including,
(index + 1)·2^level; it is stored once all of them are there and never changes. What is ragged at
the right edge is computed from complete nodes whenever it is asked for, so each proof reads
O(log n) rows.

Also here: what an entry of the log may say. The log outlives the person (DESIGN decision 10), so
only fields that name no one are let in, each in a form too narrow for free text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import rfc8785

from lethe.merkle import fold, node_hash

# Where a complete subtree is: its level, 0 for leaves, and its index from the left.
Position = tuple[int, int]

# Reads the hash of one stored node, by level and index.
NodeReader = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Node:
    """The hash (32 bytes) of one complete subtree."""

    level: int
    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """What appending leaves adds to the tree.

    Attributes:
        nodes: The subtrees that became complete, leaves included, children before parents.
        frontier: The hashes at `frontier_nodes(size)`.
        size: The number of leaves now.
        root: The root over them, 32 bytes.
    """

    nodes: tuple[Node, ...]
    frontier: tuple[bytes, ...]
    size: int
    root: bytes


def frontier_nodes(size: int) -> tuple[Position, ...]:
    """Return the complete subtrees that a tree of `size` leaves falls into, largest first."""
    return _cover(0, size)


def append(frontier: Sequence[bytes], size: int, leaf_hashes: Sequence[bytes]) -> Appended:
    """Append leaf hashes (32 bytes each) to a tree of `size` leaves.

    Args:
        frontier: The hashes at `frontier_nodes(size)`, in that order.
        size: The number of leaves before.
        leaf_hashes: The new leaves, by `lethe.merkle.leaf_hash`.

    Raises:
        ValueError: The frontier is not that of a tree of `size` leaves.
    """
    if size < 0 or len(frontier) != size.bit_count():
        raise ValueError("the frontier does not belong to a tree of this size")
    edge = list(frontier)
    nodes: list[Node] = []
    for leaf in leaf_hashes:
        level, index, joined = 0, size, leaf
        nodes.append(Node(level, index, joined))
        # A node with an odd index completes its parent.
        while index & 1:
            level, index, joined = level + 1, index >> 1, node_hash(edge.pop(), joined)
            nodes.append(Node(level, index, joined))
        edge.append(joined)
        size += 1
    return Appended(tuple(nodes), tuple(edge), size, fold(edge))


def root(size: int, get: NodeReader) -> bytes:
    """Return the root over the first `size` leaves, 32 bytes (RFC 9162 §2.1.1)."""
    return fold([get(*position) for position in frontier_nodes(size)])


def inclusion_nodes(index: int, size: int) -> tuple[tuple[Position, ...], ...]:
    """Return where the inclusion proof of a leaf comes from (RFC 9162 §2.1.3.1).

    Each group of positions folds into one hash of the proof, from the leaf's sibling upwards.

    Raises:
        ValueError: There is no leaf `index` in a tree of `size` leaves.
    """
    if not 0 <= index < size:
        raise ValueError("there is no such leaf in a tree of this size")
    start, end = 0, size
    groups: list[tuple[Position, ...]] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            groups.append(_cover(middle, end))
            end = middle
        else:
            groups.append(_cover(start, middle))
            start = middle
    return tuple(reversed(groups))


def inclusion_proof(index: int, size: int, get: NodeReader) -> tuple[bytes, ...]:
    """Return the inclusion proof of leaf `index` in the tree of `size` leaves (RFC 9162 §2.1.3.1).

    Raises:
        ValueError: There is no such leaf.
    """
    return _proof(inclusion_nodes(index, size), get)


def consistency_nodes(first: int, second: int) -> tuple[tuple[Position, ...], ...]:
    """Return where the consistency proof between two sizes comes from (RFC 9162 §2.1.4.1).

    Each group of positions folds into one hash of the proof, in the proof's order.

    Raises:
        ValueError: Not 0 < first <= second.
    """
    if not 0 < first <= second:
        raise ValueError("a consistency proof leads from a tree to the same or a larger one")
    start, end, known = 0, second, True
    groups: list[tuple[Position, ...]] = []
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            groups.append(_cover(middle, end))
            end = middle
        else:
            groups.append(_cover(start, middle))
            start, known = middle, False
    if not known:
        groups.append(_cover(start, end))
    return tuple(reversed(groups))


def consistency_proof(first: int, second: int, get: NodeReader) -> tuple[bytes, ...]:
    """Return the proof that the tree of `second` leaves extends that of `first`.

    Source: RFC 9162 §2.1.4.1.

    Raises:
        ValueError: Not 0 < first <= second.
    """
    return _proof(consistency_nodes(first, second), get)


def _proof(groups: Sequence[Sequence[Position]], get: NodeReader) -> tuple[bytes, ...]:
    return tuple(fold([get(*position) for position in group]) for group in groups)


def _split(width: int) -> int:
    """Return the largest power of two below `width` (RFC 9162 §2.1.1)."""
    return 1 << ((width - 1).bit_length() - 1)


def _cover(start: int, end: int) -> tuple[Position, ...]:
    """Return the complete subtrees from `start`, which is aligned to them, to `end`."""
    positions: list[Position] = []
    while start < end:
        level = (end - start).bit_length() - 1
        positions.append((level, start >> level))
        start += 1 << level
    return tuple(positions)


class EntryRefused(ValueError):
    """An entry holds what the log must not hold. The text quotes no value and no unknown name."""


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SLUG = re.compile(r"[a-z][a-z0-9_]{0,63}")

_TEXT_FIELDS: Final[Mapping[str, re.Pattern[str]]] = {
    # Which row of the service it is about: random ids that name nobody.
    "request": _UUID,
    "action": _UUID,
    "run": _UUID,
    "step": _UUID,
    "commitment": _UUID,
    "suppression": _UUID,
    "deployment": _UUID,
    "model": _UUID,
    "model_version": _UUID,
    "api_key": _UUID,
    # Content addresses, and the keyed commitment to the person.
    "digest": _DIGEST,
    "digest_before": _DIGEST,
    "digest_after": _DIGEST,
    "evidence_digest": _DIGEST,
    "manifest_digest": _DIGEST,
    "subject_commitment": _DIGEST,
    "supersedes": _DIGEST,
    # Words from closed lists.
    "regime": _SLUG,
    "state": _SLUG,
    "kind": _SLUG,
    "method": _SLUG,
    "guarantee": _SLUG,
    "verdict": _SLUG,
    "role": _SLUG,
}
# Counts, and the numbers of rows.
_COUNT_FIELDS: Final = frozenset(
    {
        "actions",
        "artifact",
        "artifacts",
        "attempts",
        "dataset",
        "dataset_version",
        "destroyed",
        "epoch",
        "records",
        "revision",
        "shard",
        "shards",
        "slice",
    }
)


def entry_payload(event: str, facts: Mapping[str, object], at: datetime) -> bytes:
    """Return the bytes of a log entry: RFC 8785 JSON of the event, its time and its facts.

    The forms of the fields bound it far below the 65,535 bytes that a tile of entries can hold
    (c2sp.org/tlog-tiles).

    Args:
        event: What happened, in the past tense, as `plan_approved`.
        facts: Fields from the allow-list: ids, digests, words and counts that name no person.
        at: When, with a time zone.

    Raises:
        EntryRefused: A field is not on the allow-list or not of its form.
    """
    if at.tzinfo is None:
        raise EntryRefused("the time of an entry needs a time zone")
    if not _SLUG.fullmatch(event):
        raise EntryRefused("an event is a word in lower case")
    told = {field: _checked_fact(field, value) for field, value in facts.items()}
    moment = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return rfc8785.dumps({**told, "event": event, "at": moment})


def _checked_fact(field: str, value: object) -> str | int:
    if field in _COUNT_FIELDS:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
            raise EntryRefused(f"`{field}` of an entry is a count")
        return value
    pattern = _TEXT_FIELDS.get(field)
    if pattern is None:
        raise EntryRefused("an entry holds a field that is not on the allow-list")
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise EntryRefused(f"`{field}` of an entry is not of the form that it must have")
    return value
