"""JSON Lines: one JSON object per line in UTF-8. Lines of white space only are no rows.

There is no header: the columns are the keys of all objects, and an absent key is the same as null.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import BinaryIO

from workers.connectors.errors import RowUnreadable


def columns(stream: BinaryIO) -> Iterator[str]:
    """Yields the keys of one row after the other."""
    for _, row in _rows(stream, 0):
        yield from row


def batches(
    stream: BinaryIO, columns: Sequence[str] | None, *, size: int, start: int
) -> Iterator[list[dict[str, object]]]:
    """Yields the rows, at most `size` at a time.

    With `columns`, an absent key is None; without, each row has the keys of its own line.
    """
    batch: list[dict[str, object]] = []
    for _, row in _rows(stream, start):
        batch.append(row if columns is None else {name: row.get(name) for name in columns})
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def count(stream: BinaryIO, *, start: int) -> int:
    """Returns the number of rows, after decoding every one of them."""
    return sum(1 for _ in _rows(stream, start))


def rewrite(stream: BinaryIO, target: BinaryIO, *, removed: Collection[int], start: int) -> None:
    """Writes the file without the lines at the positions `removed`; all other bytes are kept."""
    for position, (line, _) in enumerate(_rows(stream, start), start):
        if position not in removed:
            target.write(line)


def _rows(stream: BinaryIO, position: int) -> Iterator[tuple[bytes, dict[str, object]]]:
    byte_order_mark = b"\xef\xbb\xbf"
    for line in stream:
        text = line.removeprefix(byte_order_mark)
        byte_order_mark = b""
        if text.isspace() or not text:
            continue
        yield line, _parsed(text, position)
        position += 1


def _parsed(text: bytes, position: int) -> dict[str, object]:
    problem = "it is not a JSON object"
    try:
        row = json.loads(text.decode())
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    except (ValueError, RecursionError):
        problem = "it is not valid JSON, or a number or the nesting is too large"
    else:
        if isinstance(row, dict):
            return row
    # Raised out here, so that the parser's error, which holds the line, is not chained to it.
    raise RowUnreadable(position, None, problem)
