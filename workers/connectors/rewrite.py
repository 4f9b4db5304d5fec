"""Erasing records from files: a new version without them beside the old one.

The old version is left as it is, since other stages still read it; the caller removes it last. What
storage itself keeps of it (object versions, snapshots, backups) is not reached from here.
"""

import gzip
import shutil
import uuid
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from workers.connectors.errors import RewriteFailed
from workers.connectors.files import SourceFiles, filesystem, find_files
from workers.connectors.formats import Format, format_named


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A version without some rows: its digest as `Source.digest` gives it, and the counts."""

    uri: str = field(repr=False)
    digest: str
    rows_before: int
    rows_removed: int


def rewrite_without(
    uri: str,
    format: str | None,  # noqa: A002 - the word of the API
    positions: Collection[int],
    target_uri: str,
) -> Rewritten:
    """Writes what `uri` names to `target_uri`, without the rows at `positions`.

    Positions count all files' rows from 0. Format, schema, compression, file names and the order of
    the remaining rows are kept; a file whose rows all go remains, empty. A file becomes a file; a
    folder or glob becomes a folder, in which files that lose no row are byte for byte copies. The
    target appears only when it is whole and its rows were counted on reading it again; one that
    is there already (from a call that was cut off) is replaced. On an object store, where a folder
    is no object, a killed call can leave a part of it; call again.

    Raises:
        ValueError: source and target lie within each other.
        RewriteFailed: a position is in no file, or the rows do not add up.
        SourceMissing, UnknownFormat, SourceUnreadable, RowUnreadable: as for `open_source` and
            `Source.batches`.
    """
    files = find_files(uri)
    rows = format_named(format, files.names)
    fs, target = filesystem(target_uri)
    if fs == files.fs and _overlap(files.root, target):
        raise ValueError("the target of a rewrite must lie beside its source, not within it")
    gone = sorted(set(positions))
    path = f"{_unfinished(target)}{uuid.uuid4().hex}.part"
    unfinished = SourceFiles(fs, path, files.names, single=files.single)
    try:
        before = _write(files, rows, gone, unfinished)
        if gone and not 0 <= gone[0] <= gone[-1] < before:
            raise RewriteFailed("A position to erase is outside the files.")
        after = sum(_count(unfinished, rows, name, 0) for name in files.names)
        if after != before - len(gone):
            raise RewriteFailed("The rewritten files do not hold the rows that should remain.")
        digest = unfinished.digest()
        if not files.single and fs.exists(target):
            fs.rm(target, recursive=True)
        fs.mv(path, target, recursive=not files.single)
    finally:
        if fs.exists(path):
            fs.rm(path, recursive=True)
    return Rewritten(target_uri, digest, before, before - after)


def remove(uri: str) -> bool:
    """Removes a file, a folder with all that is in it, or the files of a glob.

    Unfinished rewrites to that URI, left by a killed process, are removed as well.

    Returns:
        True if there was something; False makes a second call harmless.

    Raises:
        ValueError: the URI names a root or a whole bucket.
        SourceMissing: the protocol cannot be used here.
    """
    fs, path = filesystem(uri)
    if "/" not in path.strip("/"):
        raise ValueError("refused to remove everything: the URI names no file or folder")
    for unfinished in fs.glob(f"{_unfinished(path)}*.part"):
        fs.rm(unfinished, recursive=True)
    found = [path] if fs.exists(path) else [one for one in fs.glob(path) if fs.isfile(one)]
    for one in found:
        fs.rm(one, recursive=True)
    return bool(found)


def _unfinished(target: str) -> str:
    # The dot keeps it out of a source that reads the folder.
    folder, _, name = target.rpartition("/")
    return f"{folder}/.{name}."


def _overlap(one: str, other: str) -> bool:
    one, other = f"{one}/", f"{other}/"
    return one.startswith(other) or other.startswith(one)


def _write(
    files: SourceFiles,
    rows: Format,
    positions: Sequence[int],
    target: SourceFiles,
) -> int:
    """Writes the files of `target` and returns the number of rows there were in `files`."""
    start = 0
    for name in files.names:
        end = start + _count(files, rows, name, start)
        removed = set(positions[bisect_left(positions, start) : bisect_left(positions, end)])
        target.fs.makedirs(target.path(name).rpartition("/")[0], exist_ok=True)
        if removed:
            zipped = files.gzipped(name)
            with files.opened(name) as stream, _created(target, name, zipped) as output:
                rows.rewrite(stream, output, removed=removed, start=start)
        else:
            _copy(files, target, name)
        start = end
    return start


def _count(files: SourceFiles, rows: Format, name: str, start: int) -> int:
    with files.opened(name) as stream:
        return rows.count(stream, start=start)


@contextmanager
def _created(target: SourceFiles, name: str, zipped: bool) -> Iterator[BinaryIO]:
    with target.fs.open(target.path(name), "wb") as stored:
        if not zipped:
            yield stored
            return
        # Neither name nor time in the gzip header: the same rows give the same bytes.
        with gzip.GzipFile(filename="", fileobj=stored, mode="wb", mtime=0) as output:
            yield cast(BinaryIO, output)


def _copy(files: SourceFiles, target: SourceFiles, name: str) -> None:
    if files.fs == target.fs:
        files.fs.cp_file(files.path(name), target.path(name))
        return
    source, copy = files.path(name), target.path(name)
    with files.fs.open(source, "rb") as stored, target.fs.open(copy, "wb") as output:
        shutil.copyfileobj(stored, output)
