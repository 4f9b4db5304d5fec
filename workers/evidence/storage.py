"""Evidence from what is stored: no statistics, only whether the erased is still there.

What an index no longer answers may still lie in its files: hnswlib's `mark_deleted` hides a vector
and saves it. And bytes that are packed or encrypted show nothing to one who looks for others, so a
file that cannot be looked into is counted as unreadable and never as clean.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from workers.evidence.needles import Needle, NeedleSearch, Readable
from workers.evidence.packed import DAMAGED, PACKED_ENDS, is_even, unpacked
from workers.evidence.types import Evidence

Neighbours: TypeAlias = tuple[npt.ArrayLike, npt.ArrayLike]

_NAMED: Final = 5
_MOST_ANSWERS: Final = 4_000_000


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
    grow with it. gzip, zlib, bzip2, xz, zstd and lz4 are unpacked, also within each other. A file
    that is damaged, is of a format that packs its content, or holds 8 KiB in a row as even as
    compressed or encrypted ones (`is_even`), is looked into as far as it goes and counted in
    `details["unreadable"]`: then finding nothing is no proof. What a kept record holds as well is
    found, too; leave that out of `needles`.

    Args:
        files: names and streams; a stream is read once, and not closed.
        needles: what the erased records left.
        controls: the same of records that are kept. Where there are none, or not all are found,
            the files may write their records in another form, and finding no needle shows nothing;
            `details["controls_found"]` says how many are.

    Returns:
        Evidence whose m is the number of files; `would_settle` names the first few that hold
        something or cannot be read, and says which controls are missing.

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
        stream, packed = unpacked(file.stream, file.decoded)
        for fresh, piece in search.pieces(stream):
            search.look(piece, found)
            looked.bytes += fresh
            packed = packed or file.decoded or is_even(piece)
            end = piece[-8:]
    except DAMAGED:
        return False
    return file.decoded or not (packed or end in PACKED_ENDS)


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
        would_settle=_would_settle(looked, len(controls), len(looked.found) - kinds.total()),
    )


def _would_settle(looked: _Looked, controls: int, controls_found: int) -> str:
    said = []
    if not controls:
        said.append("the same look for records that are kept, to show that it finds what is there")
    elif controls_found < controls:
        said.append(
            f"the form in which these files write a record: of {controls} that are kept, "
            f"{controls_found} were found"
        )
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
