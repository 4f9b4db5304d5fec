"""Bytes that show nothing to one who looks for others: unpacked where possible, else recognised."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from workers.evidence.needles import Readable, filled

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Rejoined: TypeAlias = "io.BufferedReader[_Rejoined]"

DAMAGED: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid)

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
PACKED_ENDS: Final = (
    0x88E241B785F4CFF7.to_bytes(8, "little"),
    0xDB4775248B80FB57.to_bytes(8, "little"),
)
# RFC 1950: deflate with a window of 32 KiB, at the four levels.
_ZLIB_STARTS: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_DEEPEST = 3
_HEAD_BYTES = 512

_WINDOW_BYTES = 1 << 12
_GLANCE_BYTES = 1 << 10
# Bits a byte over 4 KiB: encrypted bytes have 7.94 and more, gzip, bzip2, xz and zstd 7.85, floats
# at most 7.62, texts 5.8. Over 1 KiB compressed bytes have 7.46 and more, 32-bit floats 7.26.
_PACKED_ENTROPY = 7.75
_GLANCE_ENTROPY = 7.3


def unpacked(stream: Readable, decoded: bool) -> tuple[Readable, bool]:
    """Returns what a file holds, and whether parts of that are packed in a way not undone here.

    gzip, zlib, bzip2, xz, zstd and lz4 are undone, up to three within each other.

    Args:
        stream: the file's bytes as they are stored.
        decoded: leave them as they are.
    """
    for _ in range(_DEEPEST):
        head = filled(stream, _HEAD_BYTES)
        stream = rejoined = io.BufferedReader(_Rejoined(head, stream))
        unpack = _unpacking(head)
        if unpack is None or decoded:
            return stream, head.startswith(_PACKED_STARTS)
        stream = unpack(rejoined)
    return stream, True


def is_even(piece: bytes) -> bool:
    """Says whether any window of 4 KiB uses all bytes alike, as compressed and encrypted ones do.

    Windows lie side by side from the start, and one more at the end: what is packed in 8 KiB or
    more in a row is seen wherever it begins. A piece shorter than one window tells nothing. Blocks
    of lz4 and snappy without their frames are as uneven as floats, and are not told from them.
    """
    if len(piece) < _WINDOW_BYTES:
        return False
    whole = len(piece) // _WINDOW_BYTES
    content = np.frombuffer(piece, np.uint8)
    windows = content[: whole * _WINDOW_BYTES].reshape(whole, _WINDOW_BYTES)
    last = content[-_WINDOW_BYTES:].reshape(1, _WINDOW_BYTES)
    return _any_even(windows) or _any_even(last)


def _any_even(windows: npt.NDArray[np.uint8]) -> bool:
    # A quarter of each tells most that are text or numbers.
    doubtful = windows[_entropies(windows[:, :_GLANCE_BYTES]) > _GLANCE_ENTROPY]
    return bool((_entropies(doubtful) > _PACKED_ENTROPY).any())


def _entropies(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the entropy of each row's bytes, in bits a byte."""
    count, width = rows.shape
    places = rows + np.arange(0, count << 8, 1 << 8)[:, np.newaxis]
    counts = np.bincount(places.ravel(), minlength=count << 8).reshape(count, 1 << 8)
    known = np.arange(width + 1, dtype=np.float64)
    known[1:] *= np.log2(known[1:])
    entropies: npt.NDArray[np.float64] = np.log2(width) - known[counts].sum(axis=1) / width
    return entropies


def _unpacking(head: bytes) -> Callable[["Rejoined"], Readable] | None:
    if head.startswith(_ZLIB_STARTS) and _is_deflated(head):
        return _Inflated
    return next((how for magic, how in _UNPACK.items() if head.startswith(magic)), None)


def _is_deflated(head: bytes) -> bool:
    # Two bytes say little: a text on x^2 begins so, and a table of 376 rows.
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(head)
    except zlib.error:
        return False
    return inflate.eof or not head.isascii()


class _Inflated:
    """What a zlib stream (RFC 1950) holds, or several in a row."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end.

        Raises:
            EOFError, zlib.error: the stream is cut off or damaged.
        """
        given = b""
        while not given:
            ended = self._inflate.eof
            left = self._inflate.unused_data if ended else self._inflate.unconsumed_tail
            packed = left or self._stream.read(size)
            if ended:
                if not packed:
                    break
                self._inflate = zlib.decompressobj()
            given = self._inflate.decompress(packed, size)
            if not (given or packed):
                raise EOFError("a zlib stream is cut off")
        return given


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
