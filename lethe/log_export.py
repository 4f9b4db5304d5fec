"""The audit of an exported log: every entry, against the tree heads that were signed.

An export is NDJSON, one entry a line, in order and from the first on, as `/v1/audit/entries` lists
them:

    {"index": 0, "entry": "<base64>", "leaf_hash": "<hex, optional>"}

Whoever holds the service's database and its key can rewrite the log and sign it anew. What shows
it is a tree head kept elsewhere; hand it in as one of the checkpoints.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from lethe.encoding import decode_base64, decode_json, encode_base64
from lethe.merkle import GrowingTree, leaf_hash
from lethe.notes import Checkpoint


class LogInvalid(Exception):
    """The exported entries are not the log that was signed.

    Attributes:
        index: The first entry that is wrong, where one can be named.
        reason: What does not hold, in one sentence.
        advice: What the reader can do now.
    """

    def __init__(self, index: int | None, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason
        self.advice = advice


@dataclass(frozen=True, slots=True)
class AuditedLog:
    """A log whose entries lead to every root given.

    Attributes:
        entries: How many entries were read.
        covered: How many of them the largest checkpoint signs; the rest is not vouched for.
    """

    entries: int
    covered: int


def audit_log(lines: Iterable[bytes], checkpoints: Sequence[Checkpoint]) -> AuditedLog:
    """Recompute the root from all entries and compare it with each checkpoint at its size.

    Args:
        lines: The export, line by line; read once, in memory that grows with log(n) only.
        checkpoints: Tree heads whose signature was verified (`lethe.notes.open_checkpoint`).

    Raises:
        LogInvalid: An entry is missing, changed or malformed, or a root differs. The index is
            named where a stored leaf hash or a gap shows it.
    """
    tree = GrowingTree()
    _compare(tree, checkpoints)
    for leaf in _leaves(lines):
        tree.add(leaf)
        _compare(tree, checkpoints)
    covered = max((checkpoint.size for checkpoint in checkpoints), default=0)
    if tree.size < covered:
        raise LogInvalid(
            tree.size,
            f"the tree head signs {covered} entries and the export ends after {tree.size}",
            "Export the log again up to that size; entries that stay away were removed.",
        )
    return AuditedLog(tree.size, covered)


def _compare(tree: GrowingTree, checkpoints: Sequence[Checkpoint]) -> None:
    for checkpoint in checkpoints:
        if checkpoint.size == tree.size and checkpoint.root != tree.root():
            raise LogInvalid(
                None,
                f"the first {tree.size} entries have the root {encode_base64(tree.root())}, "
                f"the tree head signs {encode_base64(checkpoint.root)}",
                "An entry was changed, added or removed after the tree head was signed.",
            )


def _leaves(lines: Iterable[bytes]) -> Iterator[bytes]:
    for expected, line in zip(count(), lines):
        index, entry, stored = _read(expected, line)
        if index != expected:
            raise LogInvalid(
                expected,
                f"entry {expected} is missing: entry {index} stands in its place",
                "Export the log again from entry 0, in order; if it stays away, it was removed.",
            )
        leaf = leaf_hash(entry)
        if stored is not None and stored != leaf:
            raise LogInvalid(
                index,
                f"entry {index} is not what was logged: its leaf hash differs",
                "The entry was changed after it was logged; compare it with an earlier export.",
            )
        yield leaf


def _read(expected: int, line: bytes) -> tuple[int, bytes, bytes | None]:
    try:
        match decode_json(line):
            case {"index": int(index), "entry": str(entry), "leaf_hash": str(stored)}:
                return index, decode_base64(entry), bytes.fromhex(stored)
            case {"index": int(index), "entry": str(entry)}:
                return index, decode_base64(entry), None
            case _:
                raise _unreadable(expected)
    except ValueError as error:
        raise _unreadable(expected) from error


def _unreadable(index: int) -> LogInvalid:
    return LogInvalid(
        index,
        f"line {index + 1} of the export is not a log entry",
        'Each line reads {"index": …, "entry": "<base64>", "leaf_hash": "<hex>"}.',
    )
