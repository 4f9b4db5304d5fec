"""Which records a model is trained on, and where: read from the sources, never from a plan.

A record's shard and slice follow from its owner's bucket (DESIGN decision 6); what training must
leave out is skipped here, on reading, so that no method can train on it. Records come in the order
of their digests, which depends on nothing but their content.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from app.core.identifiers import normalise, owner_bucket
from app.manifest.rules import ModelJob, SourceJob, shard_of, slice_of
from workers.connectors import open_source
from workers.connectors.index import Column, owner_of
from workers.connectors.records import logical_numbers, record_digest

KEPT_SOURCES = 4


@dataclass(frozen=True, slots=True)
class Record:
    """One record: where it is, whose (opaque within one source), its digest and its row."""

    dataset_version_id: int
    record_no: int
    bucket: int
    digest: bytes
    owner: str = field(repr=False)
    row: Mapping[str, object] = field(repr=False)


def shard_slices(model: ModelJob, shard: int) -> list[list[Record]]:
    """Return the records of one shard, slice by slice, each in the order of its digests."""
    slices: list[list[Record]] = [[] for _ in range(model.slices)]
    for record in _trained_on(model, lambda bucket: shard_of(bucket, model.shards) == shard):
        slices[slice_of(record.bucket, model.shards, model.slices)].append(record)
    return [_ordered(records) for records in slices]


def trained_records(model: ModelJob, limit: int) -> list[Record]:
    """Return up to `limit` records that the model is trained on: those of the smallest digests."""
    return _ordered(_trained_on(model, lambda _: True))[:limit]


def holdout_records(model: ModelJob, limit: int) -> list[Record]:
    """Return up to `limit` records that the model is never trained on, nor to leave out.

    Of whole owners, those with the smallest digest first, since part of somebody's records is less
    like them than all. Who has more than are left to take is passed over; where nobody has fewer
    than the limit, the first is taken all the same.
    """
    by_owner: dict[str, list[Record]] = {}
    for source in model.sources:
        for record in _read(source, model.default_phone_region):
            if record.bucket >= model.holdout_from and not _excluded(source, record):
                by_owner.setdefault(record.owner, []).append(record)
    owners = sorted(by_owner.values(), key=lambda records: min(one.digest for one in records))
    taken: list[Record] = []
    for own in owners:
        if len(taken) + len(own) <= limit:
            taken += own
    return _ordered(taken or next(iter(owners), []))


def records_by_number(model: ModelJob, wanted: Sequence[tuple[int, int]]) -> list[Record]:
    """Return the records of these (dataset version, record number), excluded ones as well."""
    asked = set(wanted)
    return _ordered(
        record
        for source in model.sources
        for record in _read(source, model.default_phone_region)
        if (record.dataset_version_id, record.record_no) in asked
    )


def _trained_on(model: ModelJob, wanted: Callable[[int], bool]) -> Iterator[Record]:
    for source in model.sources:
        for record in _read(source, model.default_phone_region):
            if (
                record.bucket < model.holdout_from
                and wanted(record.bucket)
                and not _excluded(source, record)
            ):
                yield record


def _excluded(source: SourceJob, record: Record) -> bool:
    return record.record_no in _set_of(source.excluded)


def _ordered(records: Sequence[Record] | Iterator[Record]) -> list[Record]:
    return sorted(records, key=lambda one: (one.digest, one.dataset_version_id, one.record_no))


@lru_cache(maxsize=KEPT_SOURCES)
def _set_of(numbers: tuple[int, ...]) -> frozenset[int]:
    return frozenset(numbers)


def _read(source: SourceJob, region: str | None) -> tuple[Record, ...]:
    return _read_file(
        source.dataset_version_id,
        source.uri,
        source.format,
        source.key,
        Column(source.owner_column, source.owner_type),
        source.erased,
        region,
    )


# A warm worker trains many shards of one source: it is read and hashed once. A rewritten file has
# another URI, so nothing stale is served.
@lru_cache(maxsize=KEPT_SOURCES)
def _read_file(
    dataset_version_id: int,
    uri: str,
    file_format: str,
    key: bytes,
    owner_column: Column,
    erased: tuple[int, ...],
    region: str | None,
) -> tuple[Record, ...]:
    records: list[Record] = []
    for batch in open_source(uri, file_format).batches():
        numbers = logical_numbers(batch.start, len(batch.rows), erased)
        for number, row in zip(numbers, batch.rows, strict=True):
            owner = normalise(
                owner_column.identifier_type, owner_of(row, number, owner_column), region
            )
            records.append(
                Record(
                    dataset_version_id=dataset_version_id,
                    record_no=number,
                    bucket=owner_bucket(key, owner),
                    digest=record_digest(key, row),
                    owner=owner,
                    row=row,
                )
            )
    return tuple(records)
