"""A dataset version's rows, streamed from its files.

Reads and nothing else. Positions count the rows of all files in order from 0; a file is read in
batches, so memory does not grow with the dataset.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from workers.connectors.errors import ColumnMissing
from workers.connectors.files import SourceFiles, find_files
from workers.connectors.formats import Format, Row, format_named


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows. `start` is the position of the first one over all files."""

    start: int
    rows: list[Row] = field(repr=False)


class Source(Protocol):
    """Rows with named columns, in an order that does not change."""

    def columns(self) -> list[str]:
        """Returns the names of all columns, in order of first appearance."""

    def batches(self, columns: Sequence[str] | None = None, size: int = 10_000) -> Iterator[Batch]:
        """Yields all rows in order, at most `size` at a time, with all or the named columns."""

    def digest(self) -> str:
        """Returns a SHA-256 in hex that changes when any byte of the source does."""


def open_source(uri: str, format: str | None) -> "FileSource":  # noqa: A002 - the word of the API
    """Opens a file, a folder or a glob of files: Parquet, CSV or JSON Lines, also gzipped text.

    `format` is "parquet", "csv" or "jsonl"; None tells it from the names of the files. Nothing is
    read yet.

    Raises:
        SourceMissing: the URI names no file.
        UnknownFormat: the format is unknown or cannot be told.
    """
    files = find_files(uri)
    return FileSource(files, format_named(format, files.names))


@dataclass(frozen=True, slots=True)
class FileSource:
    """A source whose rows lie in files of one format, sorted by name."""

    files: SourceFiles
    format: Format = field(repr=False)

    def columns(self) -> list[str]:
        """Returns the union of all files' columns; for JSON Lines this reads every line.

        Raises:
            SourceUnreadable, RowUnreadable: a file or row is damaged.
        """
        return list(dict.fromkeys(self._column_names()))

    def batches(self, columns: Sequence[str] | None = None, size: int = 10_000) -> Iterator[Batch]:
        """Yields all rows in order, at most `size` at a time and never across two files.

        With `columns` every row has exactly these; a value that its file or line lacks is None.

        Raises:
            ColumnMissing: a named column is in no file (never for a source without any column, as
                JSON Lines without a line).
            SourceUnreadable, RowUnreadable: a file or row is damaged; the rows before it were
                yielded.
        """
        if columns is not None:
            self._require(columns)
        start = 0
        for name in self.files.names:
            with self.files.opened(name) as stream:
                for rows in self.format.batches(stream, columns, size=size, start=start):
                    yield Batch(start, rows)
                    start += len(rows)

    def digest(self) -> str:
        """Returns SHA-256 in hex over the bytes of the file, or over all names and digests."""
        return self.files.digest()

    def _column_names(self) -> Iterator[str]:
        for name in self.files.names:
            with self.files.opened(name) as stream:
                yield from self.format.columns(stream)

    def _require(self, columns: Sequence[str]) -> None:
        missing = dict.fromkeys(columns)
        any_column = False
        for name in self._column_names():
            any_column = True
            missing.pop(name, None)
            if not missing:
                return
        if any_column and missing:
            raise ColumnMissing(next(iter(missing)))
