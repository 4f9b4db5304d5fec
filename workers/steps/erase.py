"""Erasing records from a dataset version's file, and looking whether anything of them is left."""

import io
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from app.manifest.rules import EraseJob
from workers.connectors import RewriteFailed, Source, open_source
from workers.connectors.files import find_files
from workers.connectors.records import physical_positions, record_digest
from workers.connectors.rewrite import remove, rewrite_without
from workers.evidence.needles import Needle, NeedleSearch, text_needle
from workers.evidence.storage import StoredFile, stored_bytes
from workers.evidence.types import Evidence
from workers.steps import Desk, Result

# Shorter texts ("yes", a name, a city) are in other people's records as well.
_LEAST_TEXT_BYTES: Final = 24
# Any 1 GB of random bytes hold given six with probability 0.0004 %, and given four with 22 %.
_LEAST_IDENTIFIER_BYTES: Final = 6
# With a digit or an @, no plain decimal, and nothing that may stand between two cells of a file.
_IDENTIFIER: Final = re.compile(r'(?=.*[\d@])(?!-?\d*\.\d+$)[^,;|"\t\r\n]+')
_TEXTS_PER_RECORD: Final = 3
_CONTROLS: Final = 8


def erase(job: EraseJob, desk: Desk) -> Result:
    """Write the file again without the records; the old one stays until the version points here.

    A record that an earlier erasure took is left out; with none left, nothing is written. What goes
    is told by its keyed digests, so that later manifests can be shown not to hold it. The new file
    is searched, as it lies and row by row, for the longest texts of the records; for one without a
    long text for what looks like an identifier, where no kept record holds that as well. `checks`
    has that evidence; `not_run` says of how many records nothing could be looked for, and why.

    Raises:
        RewriteFailed: a text of an erased record is left that no kept record holds; the new file
            is removed.
    """
    gone = set(job.erased)
    records = [one for one in job.records if one not in gone]
    source = open_source(job.uri, job.format)
    before = source.digest()
    result: Result = {"source_uri": job.uri, "digests": {}, "digest_before": before}
    if not records:
        return result | {
            "uri": job.uri,
            "digest_after": before,
            "checks": [],
            "not_run": [
                _not_run("earlier erasures had taken all the records; nothing was written")
            ],
        }
    positions = dict(zip(physical_positions(records, job.erased), records, strict=True))
    digests, texts, controls = {}, [], list[list[str]]()
    for batch in source.batches():
        for place, row in enumerate(batch.rows, batch.start):
            if place in positions:
                digests[str(positions[place])] = record_digest(job.key, row).hex()
                texts.append(_telling_texts(row.values()))
            elif len(controls) < _CONTROLS and (told := _telling_texts(row.values())):
                controls.append(told)
    desk.on_progress(0.4)
    rewritten = rewrite_without(job.uri, job.format, list(positions), job.target_uri)
    desk.on_progress(0.8)
    searched = _searched(job, source, texts, controls, positions)
    desk.on_progress(1.0)
    return result | {
        "digests": digests,
        "uri": rewritten.uri,
        "digest_after": rewritten.digest,
        "checks": [] if searched is None else [searched.as_dict()],
        "not_run": _untold(len(texts), 0 if searched is None else searched.n),
    }


def _searched(
    job: EraseJob,
    source: Source,
    texts: Sequence[Sequence[str]],
    controls: Sequence[Sequence[str]],
    gone: Iterable[int],
) -> Evidence | None:
    kept = _needles(controls)
    if all(any(map(_is_long, own)) for own in texts):
        evidence = _search(job, _needles(texts), kept)
        if not evidence.estimate:
            return evidence
    # Someone who stays may have the same value; rarely also the same text, or quotes it.
    needles = _needles(_unshared(texts, source, set(gone)))
    if not needles:
        return None
    evidence = _search(job, needles, kept)
    if evidence.estimate:
        remove(job.target_uri)
        raise RewriteFailed(
            f"The rewritten files still hold text of {evidence.estimate:g} erased records."
        )
    return evidence


def _untold(records: int, told: int) -> list[dict[str, str]]:
    """Return what to say of the records for which nothing could be looked for."""
    if told == records:
        return []
    return [
        _not_run(
            f"of {records} erased records, {records - told} hold no long text and no identifier "
            f"of {_LEAST_IDENTIFIER_BYTES} characters or more that no kept record holds as well: "
            "nothing of them could be looked for in the new files"
        )
    ]


def _not_run(reason: str) -> dict[str, str]:
    return {"name": "stored_bytes", "reason": reason}


def _search(job: EraseJob, needles: Sequence[Needle], controls: Sequence[Needle]) -> Evidence:
    rows = (
        chain.from_iterable(row.values() for row in batch.rows)
        for batch in open_source(job.target_uri, job.format).batches()
    )
    decoded = StoredFile("rows", _Texts(rows))
    return stored_bytes(chain(_stored(job.target_uri), [decoded]), needles, controls=controls)


def _stored(uri: str) -> Iterator[StoredFile]:
    files = find_files(uri)
    for number, name in enumerate(files.names):
        with files.fs.open(files.path(name), "rb") as stream:
            yield StoredFile(f"file {number}", stream, decoded=True)


def _unshared(texts: Sequence[Sequence[str]], source: Source, gone: set[int]) -> list[list[str]]:
    """Leave out the texts that a record which is kept holds as well."""
    every = list(dict.fromkeys(chain.from_iterable(texts)))
    search, held = NeedleSearch([text_needle(one) for one in every]), set[int]()
    kept = (
        # A column's name stands in the file as well.
        chain(*((*row, *row.values()) for place, row in batch if place not in gone))
        for batch in (enumerate(one.rows, one.start) for one in source.batches())
    )
    for _, piece in search.pieces(_Texts(kept)):
        search.look(piece, held)
    shared = {every[number] for number in held}
    return [[one for one in own if one not in shared] for own in texts]


def _needles(texts: Iterable[Sequence[str]]) -> list[Needle]:
    """Return a needle for each record that has texts: one that any of the long ones finds.

    Any of the short ones, where none is long.
    """
    told = ([one for one in own if _is_long(one)] or own for own in texts)
    return [
        Needle("text", tuple(chain.from_iterable(text_needle(one).forms for one in own)))
        for own in told
        if own
    ]


def _telling_texts(cells: Iterable[object]) -> list[str]:
    """Return a record's longest texts, and the longest of what looks like an identifier."""
    # What is one letter over and over, as a line of dashes, is nobody's.
    values = {str(one) for one in _values(cells) if isinstance(one, str | int | uuid.UUID)}
    told = [one for one in values if len(set(one)) > 1]
    long = [one for one in told if _is_long(one)]
    short = [
        one
        for one in told
        if not _is_long(one)
        and _size(one) >= _LEAST_IDENTIFIER_BYTES
        and _IDENTIFIER.fullmatch(one)
    ]
    return [*_longest(long), *_longest(short)]


def _longest(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda one: (-len(one), one))[:_TEXTS_PER_RECORD]


def _is_long(text: str) -> bool:
    return _size(text) >= _LEAST_TEXT_BYTES


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _values(cells: Iterable[object]) -> Iterator[object]:
    """Yield what is in cells, also within lists and structs, the names of fields included."""
    for cell in cells:
        if isinstance(cell, dict):
            yield from _values(chain(cell.keys(), cell.values()))
        elif isinstance(cell, list | tuple):
            yield from _values(cell)
        elif cell is not None:
            yield cell


class _Texts:
    """What is in batches of cells, written as text or bytes already, as a stream of bytes."""

    def __init__(self, batches: Iterable[Iterable[object]]) -> None:
        self._batches = iter(batches)
        self._bytes = io.BytesIO()

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end."""
        while not (given := self._bytes.read(size)):
            cells = next(self._batches, None)
            if cells is None:
                return b""
            # A zero after each, so that no text begins in one cell and ends in the next.
            self._bytes = io.BytesIO(b"".join(_written(one) + b"\0" for one in _values(cells)))
        return given


def _written(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
