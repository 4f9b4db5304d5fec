"""What can be wrong with a dataset's files, and what to do about it.

The texts name columns, row numbers and file numbers, and never a cell, a file name or a URI: a
cell is a person's, and the other two can hold an identifier or a credential.
"""

from app.core.errors import InvalidInputError, NotFoundError


class UnknownFormat(InvalidInputError):
    """The format of the files is not known."""

    slug = "unknown-format"
    advice = (
        "Name the format when registering the version: parquet, csv or jsonl. Files named .parquet,"
        " .csv, .csv.gz, .jsonl or .jsonl.gz need no format, if a folder holds one kind only."
    )


class SourceMissing(NotFoundError):
    """There is no file at the URI of the dataset version."""

    slug = "source-missing"
    advice = (
        "Check the URI, that the workers (not only this machine) can reach it, and that the storage"
        " driver of its protocol is installed."
    )


class SourceUnreadable(InvalidInputError):
    """A file is damaged or not in the format of the dataset version."""

    slug = "source-unreadable"
    advice = (
        "Open the file with the program that wrote it, write it again and register it as a new "
        "version."
    )

    def __init__(self, problem: str, file_number: int | None = None) -> None:
        self.damage = problem
        which = "The file" if file_number is None else f"File {file_number} (from 0, by name)"
        super().__init__(f"{which} cannot be read: {problem}.")


class ColumnMissing(InvalidInputError):
    """A column that was asked for is in none of the files."""

    slug = "column-missing"
    advice = "Compare the column names with the files; upper and lower case differ."

    def __init__(self, column: str) -> None:
        self.column = column
        super().__init__(f"No file has a column named {column!r}.")


class RowUnreadable(InvalidInputError):
    """A row cannot be read as a record."""

    slug = "row-unreadable"
    advice = "Correct the row, or leave it out, and register the file as a new version."

    def __init__(self, row: int, column: str | None, problem: str) -> None:
        self.row = row
        self.column = column
        where = f"Row {row} (from 0, over all files)"
        where += f", column {column!r}," if column is not None else ""
        super().__init__(f"{where} cannot be read: {problem}.")


class RewriteFailed(InvalidInputError):
    """The files without the erased rows do not add up."""

    slug = "rewrite-failed"
    advice = "Check that nobody changes the dataset version's files, index it again and retry."
