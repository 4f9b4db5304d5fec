"""What makes a record the same record: its digest, and its number after other rows are gone.

A dataset version numbers its records by position in the first file. When records are erased, the
rewritten file has fewer rows, but the numbers of the others stay, so that manifests and the index
need no change. `erased` is always the ascending list of erased record numbers, each once.
"""

import base64
import datetime as dt
import decimal
import hmac
import json
import math
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from typing import Final, TypeAlias

_Plain: TypeAlias = bool | int | float | str | list["_Plain"] | None

_MICROSECOND: Final = dt.timedelta(microseconds=1)
_dumps: Final = json.JSONEncoder(
    ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False
).encode


def record_digest(key: bytes, row: Mapping[str, object]) -> bytes:
    """Returns the 16 bytes that identify a record's content: HMAC-SHA256(key, canonical)[:16].

    Keyed, since the plain hash of a row of few possible values can be reversed by trying. Equal
    rows have equal digests, whatever the order of columns; see `canonical` for what equal means.

    Raises:
        TypeError: a cell is of a type that no connector yields.
    """
    return hmac.digest(key, canonical(row), "sha256")[:16]


def canonical(row: Mapping[str, object]) -> bytes:
    """Returns the one way to write a row: JSON in the manner of RFC 8785, with type tags.

    One object, keys sorted by code point, no white space, everything beyond ASCII escaped; a column
    that is null is left out, so that an absent key of JSON Lines and a null of Parquet are the
    same. Text, booleans, integers and finite floats are written as JSON writes them (floats by
    their shortest repr, so 1 and 1.0 differ). Everything else is an array that starts with a tag:

        ["float", "nan" | "inf" | "-inf"]   ["decimal", text]      ["bytes", base64]
        ["instant", ISO in UTC]             ["datetime", ISO]      ["date", ISO]
        ["time", ISO]                       ["duration", µs]       ["uuid", text]
        ["list", items …]                   ["map", [key, value] … sorted by key]

    Thus two rows are written alike only if they are equal. Unlike RFC 8785 this keeps integers
    beyond 2^53, the difference between 1 and 1.0, and text that is no valid Unicode.
    """
    cells = {name: _plain(cell) for name, cell in row.items() if cell is not None}
    return _dumps(cells).encode("ascii")


def logical_numbers(start: int, count: int, erased: Sequence[int]) -> list[int]:
    """Returns the record numbers of `count` rows from position `start` of the rewritten file."""
    # erased[i] - i is the position that the first record after erased[i] has in the file.
    before = bisect_right(range(len(erased)), start, key=lambda i: erased[i] - i)
    numbers: list[int] = []
    number = start + before
    while len(numbers) < count:
        end = erased[before] if before < len(erased) else number + count
        numbers.extend(range(number, min(end, number + count - len(numbers))))
        number = end + 1
        before += 1
    return numbers


def physical_positions(record_numbers: Iterable[int], erased: Sequence[int]) -> list[int]:
    """Returns where records stand in the rewritten file, in the order given.

    The inverse of `logical_numbers`.

    Raises:
        ValueError: a record is among the erased ones, and so in no place.
    """
    positions = []
    for number in record_numbers:
        before = bisect_left(erased, number)
        if before < len(erased) and erased[before] == number:
            raise ValueError("an erased record has no position; leave the erased ones out")
        positions.append(number - before)
    return positions


def _plain(cell: object) -> _Plain:
    if cell is None or isinstance(cell, str | bool | int):
        return cell
    return _tagged(cell)


@singledispatch
def _tagged(cell: object) -> _Plain:
    raise TypeError(f"a cell of type {type(cell).__name__} has no canonical form")


@_tagged.register
def _(cell: float) -> _Plain:
    return cell if math.isfinite(cell) else ["float", repr(cell)]


@_tagged.register
def _(cell: decimal.Decimal) -> _Plain:
    return ["decimal", str(cell)]


@_tagged.register
def _(cell: bytes) -> _Plain:
    return ["bytes", base64.b64encode(cell).decode("ascii")]


@_tagged.register
def _(cell: dt.datetime) -> _Plain:
    if cell.tzinfo is None:
        return ["datetime", cell.isoformat()]
    return ["instant", cell.astimezone(dt.UTC).isoformat()]


@_tagged.register
def _(cell: dt.date) -> _Plain:
    return ["date", cell.isoformat()]


@_tagged.register
def _(cell: dt.time) -> _Plain:
    return ["time", cell.isoformat()]


@_tagged.register
def _(cell: dt.timedelta) -> _Plain:
    return ["duration", cell // _MICROSECOND]


@_tagged.register
def _(cell: uuid.UUID) -> _Plain:
    return ["uuid", str(cell)]


@_tagged.register(list)
@_tagged.register(tuple)
def _(cell: Sequence[object]) -> _Plain:
    return ["list", *map(_plain, cell)]


@_tagged.register(dict)
def _(cell: dict[str, object]) -> _Plain:
    return ["map", *([key, _plain(cell[key])] for key in sorted(cell))]
