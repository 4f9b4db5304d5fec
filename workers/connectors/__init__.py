"""Datasets where they lie: reading, indexing and erasing records in files."""

from workers.connectors.errors import (
    ColumnMissing,
    RewriteFailed,
    RowUnreadable,
    SourceMissing,
    SourceUnreadable,
    UnknownFormat,
)
from workers.connectors.source import Batch, Source, open_source

__all__ = [
    "Batch",
    "ColumnMissing",
    "RewriteFailed",
    "RowUnreadable",
    "Source",
    "SourceMissing",
    "SourceUnreadable",
    "UnknownFormat",
    "open_source",
]
