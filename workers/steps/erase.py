"""Erasing records from a dataset version's file, and looking whether anything of them is left."""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from pydantic import JsonValue

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
_TEXTS_PER_RECORD: Final = 3
_CONTROLS: Final = 8


def erase(job: EraseJob, desk: Desk) -> Result:
    """Write the file again without the records; the old one stays until the version points here.

    A record that an earlier erasure took is left out; with none left, nothing is written. What goes
    is told by its keyed digests, so that later manifests can be shown not to hold it. The new file
    is searched for the longest texts of the records, as it lies and row by row: `stored_bytes` is
    that evidence, None where no record has a text long enough to be told by.

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
        return result | {"uri": job.uri, "digest_after": before, "stored_bytes": None}
    positions = dict(zip(physical_positions(records, job.erased), records, strict=True))
    digests, texts, controls = {}, [], list[list[str]]()
    for batch in source.batches():
        for place, row in enumerate(batch.rows, batch.start):
            if place in positions:
                digests[str(positions[place])] = record_digest(job.key, row).hex()
                texts.append(_long_texts(row.values()))
            elif len(controls) < _CONTROLS:
                controls.append(_long_texts(row.values()))
    desk.on_progress(0.4)
    rewritten = rewrite_without(job.uri, job.format, list(positions), job.target_uri)
    desk.on_progress(0.8)
    searched = _searched(job, source, texts, controls, positions)
    desk.on_progress(1.0)
    return result | {
        "digests": digests,
        "uri": rewritten.uri,
        "digest_after": rewritten.digest,
        "stored_bytes": searched,
    }


def _searched(
    job: EraseJob,
    source: Source,
    texts: Sequence[Sequence[str]],
    controls: Sequence[Sequence[str]],
    gone: Iterable[int],
) -> dict[str, JsonValue] | None:
    needles, kept = _needles(texts), _needles(controls)
    if not needles:
        return None
    evidence = _search(job, needles, kept)
    if evidence.estimate:
        # Rarely: someone who stays has written the same, or quoted it.
        needles = _needles(_unshared(texts, source, set(gone)))
        if not needles:
            return None
        evidence = _search(job, needles, kept)
    if evidence.estimate:
        remove(job.target_uri)
        raise RewriteFailed(
            f"The rewritten files still hold text of {evidence.estimate:g} erased records."
        )
    return evidence.as_dict()


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
    """Return a needle for each record that has texts: one that any of them finds."""
    return [
        Needle("text", tuple(chain.from_iterable(text_needle(one).forms for one in own)))
        for own in texts
        if own
    ]


def _long_texts(cells: Iterable[object]) -> list[str]:
    found = {
        one
        for one in _texts(cells)
        if len(one.encode("utf-8", "surrogatepass")) >= _LEAST_TEXT_BYTES
    }
    # What is one letter over and over, as a line of dashes, is nobody's.
    told = (one for one in found if len(set(one)) > 1)
    return sorted(told, key=lambda one: (-len(one), one))[:_TEXTS_PER_RECORD]


def _texts(cells: Iterable[object]) -> Iterator[str]:
    for cell in cells:
        if isinstance(cell, str):
            yield cell
        elif isinstance(cell, dict):
            yield from _texts(chain(cell.keys(), cell.values()))
        elif isinstance(cell, list | tuple):
            yield from _texts(cell)


class _Texts:
    """The texts in batches of cells as a stream of bytes, one after the other."""

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
            texts = "".join(f"{one}\0" for one in _texts(cells))
            self._bytes = io.BytesIO(texts.encode("utf-8", "surrogatepass"))
        return given
