"""From rows to the index: who is in which record, as keyed hashes only.

An owner is the one person a record is filed under; an alias is another identifier of the owner; a
mention is somebody else. Cells leave this module as subject keys and buckets, never as text.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Protocol
from uuid import UUID

from workers.connectors.errors import RowUnreadable
from workers.connectors.formats import Row
from workers.connectors.source import Batch


class Role(IntEnum):
    """What a person is to a record; the smallest applies where several do."""

    OWNER = 0
    ALIAS = 1
    MENTION = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column that holds identifiers of one type, one per cell or a list of them."""

    name: str
    identifier_type: str


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """Which columns of a dataset name people."""

    owner: Column
    aliases: tuple[Column, ...] = ()
    mentions: tuple[Column, ...] = ()

    def columns(self) -> list[str]:
        """Returns the names of all columns to read, each once, the owner's first."""
        every = (self.owner, *self.aliases, *self.mentions)
        return list(dict.fromkeys(column.name for column in every))


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One person in one record. `bucket` (0 to 65535) and `owner_key` are those of its owner."""

    subject_key: UUID
    record_no: int
    bucket: int
    role: Role
    owner_key: UUID


class Hashers(Protocol):
    """The keyed hashes of one dataset. Both bring the value to its normal form themselves."""

    def subject_key(self, identifier_type: str, value: str) -> UUID | None:
        """Returns the subject key, or None for a value that is no identifier of that type."""

    def bucket(self, identifier_type: str, value: str) -> int:
        """Returns the owner's bucket, 0 to 65535, for a value that has a subject key."""


def index_rows(
    batch: Batch, spec: IndexSpec, hashers: Hashers, skipped: Counter[str]
) -> Iterator[IndexRow]:
    """Yields one row per person and record: the owner first, then aliases, then mentions.

    A record number is the row's position, so this is for a version that is indexed for the first
    time. Empty cells name nobody; a value that is no identifier of its column's type is left out
    and counted in `skipped` under the column's name. Numbers are read as the digits a person would
    give (17.0 as "17").

    Raises:
        RowUnreadable: the owner's cell is empty, is no identifier or names several.
    """
    for number, row in enumerate(batch.rows, batch.start):
        yield from _index_row(row, number, spec, hashers, skipped)


def owner_of(row: Row, number: int, column: Column) -> str:
    """Returns the text of the owner's cell of one row.

    Raises:
        RowUnreadable: the cell is empty or names several.
    """
    values = _identifiers(row.get(column.name))
    if len(values) != 1 or values[0] is None:
        problem = "the owner is not one identifier; each record needs exactly one"
        raise RowUnreadable(number, column.name, problem)
    return values[0]


def _index_row(
    row: Row, number: int, spec: IndexSpec, hashers: Hashers, skipped: Counter[str]
) -> Iterator[IndexRow]:
    owner = spec.owner
    value = owner_of(row, number, owner)
    owner_key = hashers.subject_key(owner.identifier_type, value)
    if owner_key is None:
        problem = f"the owner is no identifier of type {owner.identifier_type!r}"
        raise RowUnreadable(number, owner.name, problem)
    bucket = hashers.bucket(owner.identifier_type, value)
    yield IndexRow(owner_key, number, bucket, Role.OWNER, owner_key)
    seen = {owner_key}
    for role, columns in ((Role.ALIAS, spec.aliases), (Role.MENTION, spec.mentions)):
        for key in _keys(row, columns, hashers, skipped):
            if key not in seen:
                seen.add(key)
                yield IndexRow(key, number, bucket, role, owner_key)


def _keys(
    row: Row, columns: tuple[Column, ...], hashers: Hashers, skipped: Counter[str]
) -> Iterator[UUID]:
    for column in columns:
        for value in _identifiers(row.get(column.name)):
            key = None
            if value is not None:
                key = hashers.subject_key(column.identifier_type, value)
            if key is None:
                skipped[column.name] += 1
            else:
                yield key


def _identifiers(cell: object) -> list[str | None]:
    """Returns the values in a cell, without the empty ones; None for what cannot be a value."""
    cells = cell if isinstance(cell, list) else [cell]
    return [_text(one) for one in cells if not _is_empty(one)]


def _is_empty(cell: object) -> bool:
    if isinstance(cell, str):
        return not cell or cell.isspace()
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _text(cell: object) -> str | None:
    if isinstance(cell, bool):
        return None
    if isinstance(cell, float | Decimal):
        # A column of numbers with a gap is often stored as floats: 17.0 is customer 17.
        return str(int(cell)) if cell % 1 == 0 else None
    if isinstance(cell, bytes):
        return _decoded(cell)
    return str(cell) if isinstance(cell, str | int | UUID) else None


def _decoded(cell: bytes) -> str | None:
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return None
