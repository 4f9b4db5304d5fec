"""Which files a URI names, in which order, and how they are opened.

A URI names one file, a folder (with its subfolders) or a glob. Files and folders whose name starts
with `_` or `.` are no data (`_SUCCESS`, unfinished writes). Compression is told by content, not by
name: gzip starts with 1f 8b, which no Parquet file and no UTF-8 text does.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Final, cast

import fsspec
import rfc8785
from fsspec.core import has_magic

from workers.connectors.errors import SourceMissing, SourceUnreadable

_GZIP_MAGIC: Final = b"\x1f\x8b"
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of one source: one single file, or the files under a root, sorted by name."""

    fs: fsspec.AbstractFileSystem = field(repr=False)
    root: str = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    single: bool

    def path(self, name: str) -> str:
        """Returns the path of one of `names` within `fs`."""
        return self.root if self.single else f"{self.root}/{name}"

    def gzipped(self, name: str) -> bool:
        """Says whether a file is gzip, by its first two bytes."""
        with self.fs.open(self.path(name), "rb") as stored:
            return bool(stored.read(2) == _GZIP_MAGIC)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """Opens a file for reading, unzipped; damage met while it is open tells which file.

        Raises:
            SourceUnreadable: with the file's number, from the reader within or from gzip.
        """
        gzipped = self.gzipped(name)
        with self.fs.open(self.path(name), "rb") as stored, ExitStack() as stack:
            stream: BinaryIO = stored
            if gzipped:
                unzipped = stack.enter_context(gzip.GzipFile(fileobj=stored, mode="rb"))
                stream = cast(BinaryIO, unzipped)
            try:
                yield stream
            except (gzip.BadGzipFile, EOFError, zlib.error):
                problem = "its gzip is damaged or cut short"
                raise SourceUnreadable(problem, self.names.index(name)) from None
            except SourceUnreadable as error:
                raise SourceUnreadable(error.damage, self.names.index(name)) from None

    def digest(self) -> str:
        """Returns SHA-256 in hex: of a single file's bytes as stored, or of the list of files.

        The list is the RFC 8785 JSON of [[name, SHA-256 in hex], …] sorted by name, so that adding,
        removing, renaming or changing a file changes it.
        """
        digests = [[name, self._file_digest(name)] for name in self.names]
        if self.single:
            return digests[0][1]
        return hashlib.sha256(rfc8785.dumps(digests)).hexdigest()

    def _file_digest(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.fs.open(self.path(name), "rb") as stored:
            while chunk := stored.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of a URI and the path in it, without a slash at the end.

    Raises:
        SourceMissing: the protocol is unknown or its driver is not installed.
    """
    try:
        # Listings are not cached: a version's files may have been written by another process.
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError):
        # Their texts repeat the URI.
        raise SourceMissing("The protocol of the URI cannot be used here.") from None
    return fs, path.rstrip("/") or "/"


def find_files(uri: str) -> SourceFiles:
    """Returns the files that a URI names.

    Raises:
        SourceMissing: there is none.
    """
    fs, path = filesystem(uri)
    if fs.isfile(path):
        return SourceFiles(fs, path, (path.rpartition("/")[2],), single=True)
    if fs.isdir(path):
        root, found = path, fs.find(path)
    elif has_magic(path):
        root, found = _fixed_part(path), [one for one in fs.glob(path) if fs.isfile(one)]
    else:
        raise SourceMissing
    relative = (str(one).removeprefix(f"{root}/") for one in found)
    names = tuple(sorted(name for name in relative if not _is_hidden(name)))
    if not names:
        raise SourceMissing("The folder or glob of the URI holds no file.")
    return SourceFiles(fs, root, names, single=False)


def _fixed_part(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if has_magic(part))])


def _is_hidden(name: str) -> bool:
    return any(part.startswith(("_", ".")) for part in name.split("/"))
