"""The file formats by name. Each is a module with the four functions of `Format`."""

from collections.abc import Collection, Iterator, Sequence
from typing import BinaryIO, Final, Protocol, TypeAlias

from workers.connectors import delimited, json_lines, parquet
from workers.connectors.errors import UnknownFormat

Row: TypeAlias = dict[str, object]


class Format(Protocol):
    """How the rows of one file are read and written. `start` is the position of its first row."""

    def columns(self, stream: BinaryIO) -> Iterator[str]:
        """Yields the names of the columns, perhaps repeatedly, reading no further than asked."""

    def batches(
        self, stream: BinaryIO, columns: Sequence[str] | None, *, size: int, start: int
    ) -> Iterator[list[Row]]:
        """Yields the rows in order, at most `size` at a time; None where a column is absent."""

    def count(self, stream: BinaryIO, *, start: int) -> int:
        """Returns the number of rows, after decoding every one of them."""

    def rewrite(
        self, stream: BinaryIO, target: BinaryIO, *, removed: Collection[int], start: int
    ) -> None:
        """Writes the file without the rows at `removed` (at least one), the others unchanged."""


FORMATS: Final[dict[str, Format]] = {
    "csv": delimited,
    "jsonl": json_lines,
    "parquet": parquet,
}
_SUFFIXES: Final = {
    "csv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "pq": "parquet",
}


def format_named(name: str | None, file_names: Sequence[str]) -> Format:
    """Returns the format of that name, or for None the one that all file names end in.

    Raises:
        UnknownFormat: there is no such format, or the names end otherwise or differ.
    """
    if name is None:
        guesses = {_guess(file_name) for file_name in file_names}
        name = guesses.pop() if len(guesses) == 1 else None
        if name is None:
            raise UnknownFormat("The format cannot be told from the names of the files.")
    if name not in FORMATS:
        raise UnknownFormat("There is no format of that name.")
    return FORMATS[name]


def _guess(file_name: str) -> str | None:
    return _SUFFIXES.get(file_name.lower().removesuffix(".gz").rpartition(".")[2])
