"""Parquet files: read batch by batch, rewritten row group by row group.

Cells come as Python's own types. Timestamps finer than a microsecond are cut to microseconds, since
`datetime` holds no more; the rewritten file keeps them in full.
"""

import contextlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import BinaryIO, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from workers.connectors.errors import RowUnreadable, SourceUnreadable

T = TypeVar("T")

_OUT_OF_RANGE: Final = (ValueError, OverflowError)


def columns(stream: BinaryIO) -> Iterator[str]:
    """Yields the names of the top-level columns."""
    yield from _opened(stream).schema_arrow.names


def batches(
    stream: BinaryIO, columns: Sequence[str] | None, *, size: int, start: int
) -> Iterator[list[dict[str, object]]]:
    """Yields the rows, at most `size` at a time; a column that is absent from the file is None."""
    file = _opened(stream)
    names = list(columns) if columns is not None else list(file.schema_arrow.names)
    present = set(names) & set(file.schema_arrow.names)
    for batch in _decoded(file, size, sorted(present)):
        cells = [
            _cells(batch.column(name), name, start) if name in present else [None] * batch.num_rows
            for name in names
        ]
        rows = (zip(*cells, strict=True)) if names else ((),) * batch.num_rows
        yield [dict(zip(names, row, strict=True)) for row in rows]
        start += batch.num_rows


def count(stream: BinaryIO, *, start: int) -> int:  # noqa: ARG001 - Format's signature
    """Returns the number of rows, after decoding every page."""
    return sum(batch.num_rows for batch in _decoded(_opened(stream), 10_000, None))


def rewrite(stream: BinaryIO, target: BinaryIO, *, removed: Collection[int], start: int) -> None:
    """Writes the file without the rows at the positions `removed`, at least one.

    Schema (with its metadata), order, row groups and each column's compression are kept; statistics
    and dictionaries are made anew, so that none remembers a removed value. Holds one row group in
    memory at a time.
    """
    file = _opened(stream)
    gone = sorted(position - start for position in removed)
    with pq.ParquetWriter(
        target,
        file.schema_arrow,
        compression=_compression(file),
        use_compliant_nested_type=False,  # the compliant type would rename the items of lists
    ) as writer:
        first = 0
        for number in range(file.num_row_groups):
            group = _damage_reported(partial(file.read_row_group, number))
            end = first + group.num_rows
            keep = [True] * group.num_rows
            for position in gone[bisect_left(gone, first) : bisect_left(gone, end)]:
                keep[position - first] = False
            kept = group.filter(pa.array(keep, pa.bool_()))
            if kept.num_rows:
                writer.write_table(kept, row_group_size=kept.num_rows)
            first = end


def _opened(stream: BinaryIO) -> pq.ParquetFile:
    file = _damage_reported(lambda: pq.ParquetFile(stream))
    if any(number > 1 for number in Counter(file.schema_arrow.names).values()):
        raise SourceUnreadable("two columns have the same name")
    return file


def _decoded(
    file: pq.ParquetFile, size: int, columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    batches = file.iter_batches(batch_size=size, columns=columns)
    while (batch := _damage_reported(lambda: next(batches, None))) is not None:
        yield batch


def _damage_reported(read: Callable[[], T]) -> T:
    try:
        return read()
    except pa.ArrowException:
        problem = "it is damaged or no Parquet file"
    except OSError as error:
        # Arrow reports a damaged page as an OSError without a number; one with a number comes from
        # the storage and is not the file's fault.
        if error.errno is not None:
            raise
        problem = "a page of the Parquet file is damaged"
    # Raised out here, so that Arrow's text, which can hold a cell, is not chained to it.
    raise SourceUnreadable(problem)


def _cells(column: pa.Array, name: str, start: int) -> list[object]:
    column = _in_microseconds(column)
    with contextlib.suppress(*_OUT_OF_RANGE):
        cells: list[object] = column.to_pylist()
        return cells
    bad = next(number for number, cell in enumerate(column) if not _in_range(cell))
    raise RowUnreadable(start + bad, name, "the value is outside Python's range")


def _in_range(cell: pa.Scalar) -> bool:
    try:
        cell.as_py()
    except _OUT_OF_RANGE:
        return False
    return True


def _in_microseconds(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return column.cast(pa.time64("us"), safe=False)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return column.cast(pa.duration("us"), safe=False)
    return column


def _compression(file: pq.ParquetFile) -> dict[str, str]:
    group = file.metadata.row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    return {
        chunk.path_in_schema: "NONE" if chunk.compression == "UNCOMPRESSED" else chunk.compression
        for chunk in chunks
    }
