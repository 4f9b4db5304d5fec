"""CSV files (RFC 4180: commas, double quotes, a header row) in UTF-8.

Every cell is a string and an empty cell is "": types guessed from the rows would change when a row
is erased, and with them the identity of every other record. Empty lines are no rows.
"""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final

from workers.connectors.errors import RowUnreadable, SourceUnreadable

_MAX_CELL_CHARACTERS: Final = 1 << 24
# Of the whole process: the module's own 131,072 characters are fewer than a document can have.
csv.field_size_limit(_MAX_CELL_CHARACTERS)


def columns(stream: BinaryIO) -> Iterator[str]:
    """Yields the names in the header row."""
    with _lines(stream) as lines:
        yield from _header(_Records(lines))


def batches(
    stream: BinaryIO, columns: Sequence[str] | None, *, size: int, start: int
) -> Iterator[list[dict[str, object]]]:
    """Yields the rows, at most `size` at a time; a column that is absent from the file is None."""
    with _lines(stream) as lines:
        records = _Records(lines)
        header = _header(records)
        names = header if columns is None else list(columns)
        batch: list[dict[str, object]] = []
        for _, cells in _rows(records, header, start):
            row = dict(zip(header, cells, strict=True))
            batch.append({name: row.get(name) for name in names})
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def count(stream: BinaryIO, *, start: int) -> int:
    """Returns the number of rows, after decoding every one of them."""
    with _lines(stream) as lines:
        records = _Records(lines)
        header = _header(records)
        return sum(1 for _ in _rows(records, header, start))


def rewrite(stream: BinaryIO, target: BinaryIO, *, removed: Collection[int], start: int) -> None:
    """Writes the file without the rows at the positions `removed`; all other bytes are kept."""
    with _lines(stream) as lines:
        records = _Records(lines)
        header = _header(records)
        target.write(_bytes(records.taken()))
        for position, (text, _) in enumerate(_rows(records, header, start), start):
            if position not in removed:
                target.write(_bytes(text))


class _Records:
    """The records of a file with the very text each was read from."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._taken: list[str] = []
        self._cells = csv.reader(self._tee(), strict=True)

    def _tee(self) -> Iterator[str]:
        byte_order_mark = "\ufeff"
        for line in self._lines:
            self._taken.append(line)
            yield line.removeprefix(byte_order_mark)
            byte_order_mark = ""

    def next(self) -> list[str] | None:
        """Returns the cells of the next record, [] for an empty line and None at the end."""
        return next(self._cells, None)

    def taken(self) -> str:
        """Returns the text read since the last call."""
        text = "".join(self._taken)
        self._taken.clear()
        return text


@contextmanager
def _lines(stream: BinaryIO) -> Iterator[Iterator[str]]:
    # Bytes that are no UTF-8 pass through as surrogates, so that the row can be named and a kept
    # line be written as it was.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        yield text
    finally:
        text.detach()


def _header(records: _Records) -> list[str]:
    try:
        names = records.next()
    except csv.Error:
        names = None
    if not names:
        raise SourceUnreadable("it has no header row")
    if len(set(names)) < len(names):
        raise SourceUnreadable("two columns have the same name")
    return names


def _rows(records: _Records, header: list[str], position: int) -> Iterator[tuple[str, list[str]]]:
    records.taken()
    while (cells := _cells(records, position)) is not None:
        if not cells:
            continue
        text = records.taken()
        if len(cells) != len(header):
            raise RowUnreadable(position, None, "it has more or fewer cells than the header")
        if not _is_utf8(text):
            raise RowUnreadable(position, None, "it is not UTF-8")
        yield text, cells
        position += 1


def _cells(records: _Records, position: int) -> list[str] | None:
    try:
        return records.next()
    except csv.Error:
        problem = "a quote is not closed or stands in the middle of a cell, or a cell is too long"
    raise RowUnreadable(position, None, problem)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")
