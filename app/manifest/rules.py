"""What a step hands to a worker, and where a record belongs. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class SourceJob:
    """One dataset version to read: where, under which key, and what to leave out.

    `erased` are the record numbers that the file no longer holds, `excluded` those that it holds
    and training must not see; both sorted.
    """

    dataset_version_id: int
    uri: str
    format: str
    key: bytes = field(repr=False)
    owner_column: str
    owner_type: str
    erased: tuple[int, ...]
    excluded: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelJob:
    """A model as its manifest defines it: recipe, seed, layout and sources."""

    model_id: UUID
    recipe: str
    parameters: dict[str, Any]
    seed: str = field(repr=False)
    shards: int
    slices: int
    holdout_from: int
    default_phone_region: str | None
    sources: tuple[SourceJob, ...]


@dataclass(frozen=True, slots=True)
class SliceRef:
    """The stored state after one slice of one shard."""

    shard: int
    slice: int
    chain: str
    object_digest: str | None
    manifest_digest: str | None
    records: int


@dataclass(frozen=True, slots=True)
class IndexJob:
    """Read a dataset version and hash its identifiers."""

    dataset_version_id: int
    uri: str
    format: str
    owner: dict[str, str]
    aliases: tuple[dict[str, str], ...]
    mentions: tuple[dict[str, str], ...]
    dataset_key: bytes = field(repr=False)
    subject_secret: bytes = field(repr=False)
    default_phone_region: str | None


@dataclass(frozen=True, slots=True)
class TrainShardJob:
    """Train one shard; resume from the longest chain among `checkpoints` (chain → object)."""

    model: ModelJob
    shard: int
    checkpoints: dict[str, str]


@dataclass(frozen=True, slots=True)
class UnlearnJob:
    """Unlearn records of one shard from its present weights.

    `forget` are (dataset version, record number), `first_slice` the earliest slice with one;
    `checkpoints` as for training, one at most every `checkpoint_seconds`.
    """

    model: ModelJob
    shard: int
    method: str
    parameters: dict[str, Any]
    weights: str
    first_slice: int
    forget: tuple[tuple[int, int], ...]
    checkpoints: dict[str, str]
    checkpoint_seconds: float


@dataclass(frozen=True, slots=True)
class RemoveJob:
    """Take records out of what one shard has stored of them.

    `model` leaves them out already; `forget` are (dataset version, record number), `first_slice` is
    the earliest slice with one.
    """

    model: ModelJob
    shard: int
    method: str
    weights: str
    first_slice: int
    forget: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal has spent of its budget, in all; whether its guarantee holds."""

    within: bool
    spent: float
    budget: float


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """Measure a new version, against the one before where there is one.

    `forget` are (dataset version, record number) of the records to forget that can still be read,
    `requests` the same by the request that asks for them; `erased_digests` the keyed digests, in
    hex, of those that are in no file any more; `removals` what the removals from each shard have
    come to. `verification` is what the model's policy says of measuring, the rest the operator's
    limits.
    """

    model: ModelJob
    before: tuple[SliceRef, ...]
    after: tuple[SliceRef, ...]
    forget: tuple[tuple[int, int], ...]
    erased_digests: tuple[str, ...]
    method: str
    removals: tuple[Removal, ...]
    requests: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]
    verification: Mapping[str, Any]
    alpha: float
    margin: float
    share: float


@dataclass(frozen=True, slots=True)
class EraseJob:
    """Rewrite a dataset version's file without some records, at a new URI."""

    uri: str
    format: str
    key: bytes = field(repr=False)
    erased: tuple[int, ...]
    records: tuple[int, ...]
    target_uri: str


@dataclass(frozen=True, slots=True)
class DestroyJob:
    """Delete files, and of a model's objects all but those in use."""

    prefix: str | None
    objects: tuple[str, ...]
    in_use: frozenset[str]
    uris: tuple[str, ...]


Job = IndexJob | TrainShardJob | UnlearnJob | RemoveJob | EvaluateJob | EraseJob | DestroyJob


def uris_read(job: Job) -> tuple[str, ...]:
    """Return where a job reads records; an erasure that is published meanwhile moves them."""
    match job:
        case IndexJob() | EraseJob():
            return (job.uri,)
        case DestroyJob():
            return ()
        case _:
            return tuple(one.uri for one in job.model.sources)


def model_prefix(model_id: UUID) -> str:
    """Return the folder of a model's objects in the artifact store."""
    return f"models/{model_id}"


def shard_of(bucket: int, shards: int) -> int:
    """Return the shard of a bucket (DESIGN decision 6); the trace computes the same in SQL."""
    return bucket % shards


def slice_of(bucket: int, shards: int, slices: int) -> int:
    """Return the slice of a bucket within its shard; the trace computes the same in SQL."""
    return (bucket // shards) % slices


def erased_uri(uri: str, step_id: UUID, epoch: int) -> str:
    """Return where the rewritten file goes: beside the old one, its format's suffixes kept.

    Each claim of a step has a place of its own, so that a late worker never touches the file that
    another one has published.
    """
    folder, _, name = uri.rstrip("/").rpartition("/")
    stem, dot, suffixes = name.partition(".")
    stem = stem.split("~", 1)[0]
    return f"{folder}/{stem}~{step_id.hex[-12:]}-{epoch}{dot}{suffixes}"
