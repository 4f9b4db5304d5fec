"""Evidence from what is stored: no statistics, only whether the erased is still there.

What an index no longer answers may still lie in its files: hnswlib's `mark_deleted` hides a vector
and saves it. And bytes that are packed or encrypted show nothing to one who looks for others, so a
file that cannot be looked into is counted as unreadable and never as clean.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from workers.evidence.needles import Needle, NeedleSearch, Readable, filled
from workers.evidence.types import Evidence

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Neighbours: TypeAlias = tuple[npt.ArrayLike, npt.ArrayLike]
Rejoined: TypeAlias = "io.BufferedReader[_Rejoined]"

_UNPACK: Final[dict[bytes, Callable[["Rejoined"], Readable]]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream, mode="rb"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda stream: _arrow(stream, "zstd"),
    b"\x04\x22\x4d\x18": lambda stream: _arrow(stream, "lz4"),
}
# Formats whose content may be compressed in parts: Parquet, ORC, Avro, Arrow, HDF5, PDF, ZIP (also
# npz and pt), 7z, RAR, framed snappy, Lucene.
_PACKED_STARTS: Final = (
    b"PAR1",
    b"PARE",
    b"ORC",
    b"Obj\x01",
    b"ARROW1",
    b"\x89HDF\r\n",
    b"%PDF",
    b"PK\x03\x04",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\xff\x06\x00\x00sNaPpY",
    b"\x3f\xd7\x6c\x17",
)
# Sorted tables of RocksDB and LevelDB say what they are in their last bytes only.
_PACKED_ENDS: Final = (
    0x88E241B785F4CFF7.to_bytes(8, "little"),
    0xDB4775248B80FB57.to_bytes(8, "little"),
)
_DAMAGED: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid)
_DEEPEST = 3
_HEAD_BYTES = 16
_SAMPLE_BYTES = 1 << 16
# Of eight bits a byte: compressed and encrypted bytes have 7.97 and more, floats at most 7.6.
_PACKED_ENTROPY = 7.95
_NAMED = 5
_MOST_ANSWERS = 4_000_000


class StoredFile(NamedTuple):
    """A file to look into.

    Attributes:
        name: how evidence calls it; it must name no person.
        stream: its bytes as they are stored, read once, forwards.
        decoded: what is packed in it comes as a further file, so that this one is looked at as it
            lies and not counted as unreadable.
    """

    name: str
    stream: Readable
    decoded: bool = False


def stored_bytes(
    files: Iterable[tuple[str, Readable] | StoredFile],
    needles: Sequence[Needle],
    *,
    controls: Sequence[Needle] = (),
) -> Evidence:
    """Count what is still found of the erased in stored files; 0 is what must be.

    Segments, write-ahead logs, snapshots, backups: any file, in one pass, in memory that does not
    grow with it. gzip, bzip2, xz, zstd and lz4 are unpacked, also within each other. A file that is
    damaged, is of a format that packs its content, or holds bytes as even as compressed or
    encrypted ones, is looked into as far as it goes and counted in `details["unreadable"]`: then
    finding nothing is no proof. What a kept record holds as well is found, too; leave that out of
    `needles`.

    Args:
        files: names and streams; a stream is read once, and not closed.
        needles: what the erased records left.
        controls: the same of records that are kept. Where not all are found, the files write their
            records in another form, and finding no needle shows nothing;
            `details["controls_found"]` says how many are.

    Returns:
        Evidence whose m is the number of files; `would_settle` names the first few that hold
        something or cannot be read.

    Raises:
        ValueError: there is no file or no needle.
    """
    if not needles:
        raise ValueError("without a needle nothing is looked for, and nothing shown")
    search, looked = NeedleSearch([*needles, *controls]), _Looked()
    for one in files:
        file = StoredFile(*one)
        found: set[int] = set()
        if not _look_into(file, search, found, looked):
            looked.unreadable.append(file.name)
        if any(number < len(needles) for number in found):
            looked.holding.append(file.name)
        looked.files += 1
        looked.found |= found
    if not looked.files:
        raise ValueError("without a file nothing is looked into, and nothing shown")
    return _evidence(needles, controls, looked)


def index_search(
    search: Callable[[npt.NDArray[np.float32], int], Neighbours],
    deleted_vectors: npt.ArrayLike,
    deleted_ids: npt.ArrayLike,
    k: int,
    near: float,
) -> Evidence:
    """Count the deleted records that an index still answers with; 0 is what must be.

    Each deleted vector is searched for. A record is still there if any answer has its id, or if an
    answer under another id lies within `near`: a copy of it, or a duplicate.

    Args:
        search: the index: vectors (n, d) and k to ids (n, ≤ k) and distances (n, ≤ k); an id of -1
            stands for no answer.
        deleted_vectors: (n, d).
        deleted_ids: (n,) integers or texts, as `search` gives them.
        k: how many answers to ask for: as many as the index has entries, for full depth.
        near: the distance, in the index's own measure, within which two records are the same.

    Raises:
        ValueError: a set is empty, lengths differ, a vector or a distance is not finite, or k < 1.
    """
    vectors, ids = _deleted(deleted_vectors, deleted_ids)
    if k < 1 or not np.isfinite(near):
        raise ValueError("an index must be asked for at least one answer, within a finite distance")
    still, close, answers = np.zeros(ids.size, bool), np.zeros(ids.size, bool), 0
    rows = max(1, _MOST_ANSWERS // k)
    for first in range(0, ids.size, rows):
        part = slice(first, first + rows)
        given, distances, present = _answers(search(vectors[part], k), ids[part])
        known = np.isin(given, ids)
        # Any deleted id that comes up is a find, whichever vector was asked for.
        still |= np.isin(ids, given[present & known])
        close[part] = (present & ~known & (distances <= near)).any(axis=1)
        answers += int(present.sum())
    return Evidence(
        name="index_search",
        family="storage",
        threat_model="T0",
        reference="what the index answers to the deleted vectors",
        unit="record",
        n=ids.size,
        m=answers,
        estimate=float((still | close).sum()),
        details={
            "found_ids": float(still.sum()),
            "near_duplicates": float(close.sum()),
            "k": float(k),
            "near": float(near),
        },
        would_settle="an index built anew without the records, and a look into its files",
    )


@dataclass
class _Looked:
    files: int = 0
    bytes: int = 0
    found: set[int] = field(default_factory=set)
    holding: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def _look_into(file: StoredFile, search: NeedleSearch, found: set[int], looked: _Looked) -> bool:
    """Look into one file; False if not all of it could be seen."""
    end = b""
    try:
        stream, packed = _unpacked(file)
        for fresh, piece in search.pieces(stream):
            search.look(piece, found)
            looked.bytes += fresh
            packed = packed or _is_even(piece)
            end = piece[-8:]
    except _DAMAGED:
        return False
    return file.decoded or not (packed or end in _PACKED_ENDS)


def _unpacked(file: StoredFile) -> tuple[Readable, bool]:
    """Return what a file holds, and whether parts of that are packed in a way not undone here."""
    stream: Readable = file.stream
    for _ in range(_DEEPEST):
        head = filled(stream, _HEAD_BYTES)
        stream = rejoined = io.BufferedReader(_Rejoined(head, stream))
        unpack = next((how for magic, how in _UNPACK.items() if head.startswith(magic)), None)
        if unpack is None or file.decoded:
            return stream, head.startswith(_PACKED_STARTS)
        stream = unpack(rejoined)
    return stream, True


class _Rejoined(io.RawIOBase):
    """A stream of which the first bytes were read already."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head, self._rest = head, rest

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        space = memoryview(buffer).cast("B")
        part = self._head[: len(space)] or self._rest.read(len(space))
        self._head = self._head[len(space) :]
        space[: len(part)] = part
        return len(part)


def _arrow(stream: Rejoined, codec: str) -> Readable:
    unpacked: Readable = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec)
    return unpacked


def _is_even(piece: bytes) -> bool:
    """Say whether the first 64 KiB of a piece use all bytes alike, as packed ones do."""
    if len(piece) < _SAMPLE_BYTES:
        return False
    counts = np.bincount(np.frombuffer(piece, np.uint8, _SAMPLE_BYTES), minlength=256)
    shares = counts[counts > 0] / _SAMPLE_BYTES
    return float(-(shares * np.log2(shares)).sum()) > _PACKED_ENTROPY


def _evidence(needles: Sequence[Needle], controls: Sequence[Needle], looked: _Looked) -> Evidence:
    kinds = Counter(needles[number].kind for number in looked.found if number < len(needles))
    return Evidence(
        name="stored_bytes",
        family="storage",
        threat_model="T0",
        reference="the bytes of the files as they are stored",
        unit="record",
        n=len(needles),
        m=looked.files,
        estimate=float(kinds.total()),
        details={
            "files": float(looked.files),
            "bytes": float(looked.bytes),
            "needles": float(len(needles)),
            "found_ids": float(kinds["id"]),
            "found_vectors": float(kinds["vector"]),
            "found_texts": float(kinds["text"]),
            "unreadable": float(len(looked.unreadable)),
            "controls": float(len(controls)),
            "controls_found": float(len(looked.found) - kinds.total()),
        },
        would_settle=_would_settle(looked),
    )


def _would_settle(looked: _Looked) -> str:
    said = []
    if looked.holding:
        said.append(f"files written anew without the records: {_some(looked.holding)}")
    if looked.unreadable:
        said.append(f"what these hold, unpacked: {_some(looked.unreadable)}")
    return "; ".join(said) or "nothing more for these files; copies elsewhere are not seen"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _deleted(
    vectors: npt.ArrayLike, ids: npt.ArrayLike
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.generic]]:
    rows, names = np.asarray(vectors, dtype=np.float32), np.asarray(ids)
    if rows.ndim != 2 or not rows.size or names.shape != rows.shape[:1]:
        raise ValueError("deleted vectors must be rows, at least one, with as many ids")
    if not np.isfinite(rows).all():
        raise ValueError("a deleted vector is not finite")
    return rows, names


def _answers(
    answers: Neighbours, ids: npt.NDArray[np.generic]
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    given, distances = np.asarray(answers[0]), np.asarray(answers[1], dtype=np.float64)
    if given.ndim != 2 or given.shape != distances.shape or len(given) != ids.size:
        raise ValueError("the index must give one row of ids and distances for each vector")
    numbers = given.dtype.kind in "iu"
    if given.size and numbers != (ids.dtype.kind in "iu"):
        raise ValueError("the index gives ids of another type than the deleted ones")
    present = given.astype(np.int64) != -1 if numbers else np.ones(given.shape, dtype=np.bool_)
    if not np.isfinite(distances[present]).all():
        raise ValueError("the index gave a distance that is not finite")
    return given, distances, present
