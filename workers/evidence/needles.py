"""What is looked for in stored bytes, and one pass that looks for all of it.

A needle is what one record left behind, in every form that a store may write it in. It is never
shown: not in a repr, not in an error, not in evidence.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Kind = Literal["id", "vector", "text"]
Words: TypeAlias = "npt.NDArray[np.unsignedinteger]"

LEAST_BYTES = 4
_TEXT_CODES = ("utf-8", "utf-16-le", "utf-16-be")
_ENDS = 8
_PIECE_BYTES = 1 << 20
_TABLE_BITS = 18
# Fibonacci hashing (Knuth, volume 3, section 6.4): 2^64 over the golden ratio.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
# An anchor is chosen among so many places: a long text is told by any few of its bytes.
_ANCHOR_PLACES = 64


class Readable(Protocol):
    """A binary stream that is read forwards."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end."""


@dataclass(frozen=True, slots=True)
class Needle:
    """One thing to look for, found where any of its forms is.

    Attributes:
        kind: what it is.
        forms: the bytes that a store may have written for it.

    Raises:
        ValueError: there is no form, or one is shorter than four bytes or one byte over and over:
            that is in every file.
    """

    kind: Kind
    forms: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.forms:
            raise ValueError(f"a needle of kind {self.kind} has no form to look for")
        if any(len(form) < LEAST_BYTES or len(set(form)) == 1 for form in self.forms):
            raise ValueError(
                f"a needle of kind {self.kind} is shorter than {LEAST_BYTES} bytes or always the "
                "same byte, and would be found in every file"
            )


def id_needle(value: str | int, integer_bits: Collection[Literal[32, 64]] = ()) -> Needle:
    """An id, as text in UTF-8 and UTF-16 and, where asked, as an integer in both byte orders.

    It is found within a longer one as well (C100 in C1007): nothing in a binary file says where a
    value ends, and missing it would be worse. Any 100 MB of random bytes hold a given 32-bit
    integer with probability 2 %, and small integers are everywhere: ask for them only where the
    store keeps ids in that form.

    Raises:
        ValueError: it is shorter than four bytes as text, or asked for as an integer and none, or
            too large for one.
    """
    text = str(value)
    forms = [text.encode(code, "surrogatepass") for code in _TEXT_CODES]
    if integer_bits and not isinstance(value, int):
        raise ValueError("an id that is text has no form as an integer")
    for bits in integer_bits:
        if not -(1 << (bits - 1)) <= int(value) < 1 << bits:
            raise ValueError(f"an id does not fit into {bits} bits")
        number = (int(value) % (1 << bits)).to_bytes(bits // 8, "little")
        forms += [number, number[::-1]]
    return Needle("id", tuple(dict.fromkeys(forms)))


def vector_needle(vector: npt.ArrayLike) -> Needle:
    """A vector (d,), as float32 and float16, little endian, whole or in part.

    Its first and its last eight components are looked for, so that one that is partly overwritten
    is found. Take it as the store gives it back: one that was normalised or quantised on its way in
    lies there in other bytes than those sent.

    Raises:
        ValueError: it is empty, not a vector, not finite, or all its components are the same.
    """
    values = np.asarray(vector, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError("a vector to look for must be one row of finite numbers")
    if np.unique(values).size == 1 and values.size > 1:
        raise ValueError("a vector of one number over and over would be found in every file")
    forms: list[bytes] = []
    for width in ("<f4", "<f2"):
        with np.errstate(over="ignore", under="ignore"):
            stored = values.astype(width)
        parts = [part for part in (stored[:_ENDS], stored[-_ENDS:]) if np.unique(part).size > 3]
        # Half precision of a short or tiny vector is too little to tell anything by.
        if np.isfinite(stored).all() and (width == "<f4" or parts):
            forms += [part.tobytes() for part in parts or [stored]]
    return Needle("vector", tuple(dict.fromkeys(forms)))


def text_needle(text: str) -> Needle:
    """A text as it is, as JSON escapes it, with and without ASCII only, and as CSV does.

    Each in UTF-8 and UTF-16. It is looked for as a whole; give parts of a long one as needles of
    their own where a store may have split it.

    Raises:
        ValueError: it is shorter than four bytes.
    """
    written = (
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        text.replace('"', '""'),
    )
    forms = dict.fromkeys(
        form.encode(code, "surrogatepass") for code in _TEXT_CODES for form in written
    )
    return Needle("text", tuple(forms))


class NeedleSearch:
    """Looks for many needles in one pass, in memory that does not grow with what is searched.

    Each form has an anchor, eight of its bytes (four of a shorter one) that as few other forms as
    possible hold. Every window of that width is hashed into a table of bits, numpy over a megabyte
    at a time; what the table lets through is compared byte by byte.
    """

    def __init__(self, needles: Sequence[Needle]) -> None:
        owners: defaultdict[bytes, set[int]] = defaultdict(set)
        for number, needle in enumerate(needles):
            for form in needle.forms:
                owners[form].add(number)
        self._overlap = max(map(len, owners), default=LEAST_BYTES) - 1
        self._piece_bytes = max(_PIECE_BYTES, 4 * self._overlap)
        tables = [
            _Anchors(8, {form: who for form, who in owners.items() if len(form) >= 8}),
            _Anchors(4, {form: who for form, who in owners.items() if len(form) < 8}),
        ]
        self._tables = [table for table in tables if table.values.size]

    def pieces(self, stream: Readable) -> Iterator[tuple[int, bytes]]:
        """Reads a stream in pieces that overlap, so that every needle is whole in one of them.

        Each comes with the number of its bytes that no piece before had.
        """
        kept = b""
        while fresh := filled(stream, self._piece_bytes):
            piece = kept + fresh
            yield len(fresh), piece
            kept = piece[-self._overlap :]

    def look(self, piece: bytes, found: set[int]) -> None:
        """Adds to `found` the numbers of the needles that a piece holds."""
        for table in self._tables:
            table.look(piece, found)


def filled(stream: Readable, size: int) -> bytes:
    """Reads `size` bytes, fewer only at the end, however little the stream gives at a time."""
    parts, missing = [], size
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class _Form(NamedTuple):
    form: bytes
    offset: int
    owners: set[int]


class _Anchors:
    """The anchors of one width, and the forms they stand for."""

    def __init__(self, width: Literal[4, 8], forms: dict[bytes, set[int]]) -> None:
        self._width = width
        self._type = np.dtype(f"<u{width}")
        self._forms: defaultdict[int, list[_Form]] = defaultdict(list)
        shared = Counter(window for form in forms for window in _windows(form, width))
        for form, owners in forms.items():
            anchor = min(_windows(form, width), key=lambda one: (shared[one], -len(set(one))))
            place = _Form(form, form.index(anchor), owners)
            self._forms[int.from_bytes(anchor, "little")].append(place)
        self.values = np.array(sorted(self._forms), dtype=self._type)
        self._table = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
        self._table[_hashed(self.values)] = True

    def look(self, piece: bytes, found: set[int]) -> None:
        for shift in range(min(self._width, len(piece) - self._width + 1)):
            count = (len(piece) - shift) // self._width
            words: Words = np.frombuffer(piece, self._type, count, shift)
            places = np.flatnonzero(self._table[_hashed(words)])
            if not places.size:
                continue
            words = words[places]
            nearest = np.searchsorted(self.values, words).clip(max=self.values.size - 1)
            real = self.values[nearest] == words
            starts = places[real] * self._width + shift
            for start, word in zip(starts.tolist(), words[real].tolist(), strict=True):
                self._compare(piece, start, word, found)

    def _compare(self, piece: bytes, start: int, word: int, found: set[int]) -> None:
        for form, offset, owners in self._forms[word]:
            # Where the form would begin before the piece, too little of it is left to match.
            if not owners <= found and piece.startswith(form, start - offset):
                found |= owners


def _windows(form: bytes, width: int) -> set[bytes]:
    places = min(len(form) - width + 1, _ANCHOR_PLACES)
    return {form[place : place + width] for place in range(places)}


def _hashed(words: Words) -> npt.NDArray[np.uint64]:
    spread: npt.NDArray[np.uint64] = words.astype(np.uint64) * _SPREAD
    return spread >> np.uint64(64 - _TABLE_BITS)
