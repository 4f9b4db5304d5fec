"""SQL of manifests: what a model version is trained on, and what it leaves out."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Uuid, exists, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.models import (
    Action,
    Artifact,
    Checkpoint,
    Commitment,
    Dataset,
    DatasetVersion,
    Edge,
    ErasedRecord,
    ManifestExclusion,
    Model,
    ModelInput,
    ModelSlice,
    ModelVersion,
    SuppressedRecord,
)

REPLACED = ("superseded", "destroyed")


def lock_manifests(session: Session) -> None:
    """Hold back suppressions while a manifest is made (see `app.lineage.repository`)."""
    session.execute(text("SELECT pg_advisory_xact_lock(hashtext('lethe.manifests'))"))


# Whom a suppressed key names, by the other keys of the same person in each dataset as well: what
# was indexed after the request need not carry the identifier that the request gave. As the trace.
EXCLUDE = """
WITH direct AS (
    SELECT s.received_at, r.dataset_version_id, r.record_no, r.bucket, r.role, r.owner_key,
        v.dataset_id
    FROM suppression s
    JOIN subject_record r ON r.subject_key = s.subject_key
    JOIN dataset_version v ON v.id = r.dataset_version_id
    WHERE s.lifted_at IS NULL
), found AS (
    SELECT received_at, dataset_version_id, record_no, bucket FROM direct
    UNION
    SELECT o.received_at, r.dataset_version_id, r.record_no, r.bucket
    FROM (SELECT DISTINCT received_at, dataset_id, owner_key FROM direct WHERE role <> 2) o
    JOIN dataset_version v ON v.dataset_id = o.dataset_id
    JOIN subject_record r ON r.subject_key = o.owner_key AND r.dataset_version_id = v.id
    WHERE r.role = 0
)
INSERT INTO manifest_exclusion (model_version_id, dataset_version_id, record_no, bucket)
SELECT :version, s.dataset_version_id, s.record_no, s.bucket
FROM suppressed_record s JOIN model_input i ON i.dataset_version_id = s.dataset_version_id
WHERE i.model_version_id = :version AND s.lifted_at IS NULL
UNION
SELECT :version, f.dataset_version_id, f.record_no, f.bucket
FROM found f
JOIN dataset_version v ON v.id = f.dataset_version_id
JOIN model_input i ON i.dataset_version_id = v.id AND i.model_version_id = :version
WHERE v.collected_at IS NULL OR v.collected_at <= f.received_at
ON CONFLICT DO NOTHING
"""


NEWLY_EXCLUDED = """
SELECT x.dataset_version_id, x.record_no, x.bucket
FROM manifest_exclusion x
WHERE x.model_version_id = :version AND x.bucket < :holdout_from
    AND NOT EXISTS (
        SELECT 1 FROM manifest_exclusion old
        WHERE old.model_version_id = :base
            AND old.dataset_version_id = x.dataset_version_id AND old.record_no = x.record_no
    )
ORDER BY x.dataset_version_id, x.record_no
"""


def exclude_suppressed(session: Session, version_id: UUID) -> None:
    """Write down which records of its inputs a version's training leaves out."""
    session.execute(text(EXCLUDE), {"version": version_id})


def copy_exclusions(session: Session, base_id: UUID, version_id: UUID) -> None:
    """Give a version the exclusions of the version it starts from."""
    rows = select(
        literal(version_id, Uuid),
        ManifestExclusion.dataset_version_id,
        ManifestExclusion.record_no,
        ManifestExclusion.bucket,
    ).where(ManifestExclusion.model_version_id == base_id)
    columns = ["model_version_id", "dataset_version_id", "record_no", "bucket"]
    session.execute(insert(ManifestExclusion).from_select(columns, rows))


def newly_excluded(
    session: Session, base: ModelVersion, version_id: UUID
) -> list[tuple[int, int, int]]:
    """Return (dataset version, record number, bucket) of what a version leaves out, its base not.

    Records of the holdout are not among them: nothing was trained on those.
    """
    rows = session.execute(
        text(NEWLY_EXCLUDED),
        {"version": version_id, "base": base.id, "holdout_from": base.holdout_from},
    )
    return [(dataset, record, bucket) for dataset, record, bucket in rows]


def excluded(session: Session, version: ModelVersion) -> list[tuple[int, int, int]]:
    """Return (dataset version, record number, bucket) of all that a version leaves out."""
    query = select(
        ManifestExclusion.dataset_version_id, ManifestExclusion.record_no, ManifestExclusion.bucket
    ).where(ManifestExclusion.model_version_id == version.id)
    rows = session.execute(
        query.order_by(ManifestExclusion.dataset_version_id, ManifestExclusion.record_no)
    )
    return [(dataset, record, bucket) for dataset, record, bucket in rows]


def incomplete_shards(session: Session, version_id: UUID) -> set[int]:
    """Return the shards that are not as training makes them.

    An approximate method has changed them, or slices of theirs were switched off.
    """
    query = select(ModelSlice.shard).where(
        ModelSlice.model_version_id == version_id, ModelSlice.manifest_digest.is_(None)
    )
    return set(session.scalars(query))


def copy_slices(session: Session, base_id: UUID, version_id: UUID, without: Iterable[int]) -> None:
    """Carry the shards over that nothing changes in."""
    query = select(ModelSlice).where(
        ModelSlice.model_version_id == base_id, ModelSlice.shard.not_in(list(without))
    )
    session.add_all(
        ModelSlice(
            model_version_id=version_id,
            shard=one.shard,
            slice=one.slice,
            chain=one.chain,
            object_digest=one.object_digest,
            manifest_digest=one.manifest_digest,
            records=one.records,
        )
        for one in session.scalars(query)
    )
    session.flush()


def slices(session: Session, version_id: UUID) -> Sequence[ModelSlice]:
    """Return a version's slices by shard and slice."""
    query = select(ModelSlice).where(ModelSlice.model_version_id == version_id)
    return session.scalars(query.order_by(ModelSlice.shard, ModelSlice.slice)).all()


def put_slices(session: Session, rows: Iterable[ModelSlice]) -> None:
    """Insert a version's slices."""
    session.add_all(rows)
    session.flush()


def checkpoints(session: Session, model_id: UUID, shard: int) -> dict[str, str]:
    """Return chain → object of the stored checkpoints of one shard."""
    query = select(Checkpoint.chain, Checkpoint.object_digest).where(
        Checkpoint.model_id == model_id, Checkpoint.shard == shard
    )
    return dict(session.execute(query).all())


def inputs(session: Session, version_id: UUID) -> Sequence[tuple[DatasetVersion, Dataset]]:
    """Return what a model version is trained on.

    An erasure is published before or after this transaction: a file's place and the numbers of the
    records that it no longer holds belong together.
    """
    query = (
        select(DatasetVersion, Dataset)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .join(ModelInput, ModelInput.dataset_version_id == DatasetVersion.id)
        .where(ModelInput.model_version_id == version_id)
        .order_by(Dataset.name, DatasetVersion.version)
        .with_for_update(read=True, of=DatasetVersion)
        .execution_options(populate_existing=True)
    )
    return [(version, dataset) for version, dataset in session.execute(query)]


def erased_records(session: Session, dataset_version_id: int) -> tuple[int, ...]:
    """Return the record numbers that a dataset version's file no longer holds, sorted."""
    query = select(ErasedRecord.record_no).where(
        ErasedRecord.dataset_version_id == dataset_version_id
    )
    return tuple(session.scalars(query.order_by(ErasedRecord.record_no)))


def excluded_records(
    session: Session, version_id: UUID, dataset_version_id: int
) -> tuple[int, ...]:
    """Return the record numbers that a model version's training leaves out, sorted."""
    query = select(ManifestExclusion.record_no).where(
        ManifestExclusion.model_version_id == version_id,
        ManifestExclusion.dataset_version_id == dataset_version_id,
    )
    return tuple(session.scalars(query.order_by(ManifestExclusion.record_no)))


def suppressed_records(
    session: Session, request_ids: Sequence[UUID], version_id: UUID | None = None
) -> list[tuple[int, int, int]]:
    """Return (dataset version, record number, bucket) of requests, within a version's inputs."""
    query = (
        select(
            SuppressedRecord.dataset_version_id,
            SuppressedRecord.record_no,
            SuppressedRecord.bucket,
        )
        .distinct()
        .where(SuppressedRecord.request_id.in_(request_ids))
    )
    if version_id is not None:
        query = query.join(
            ModelInput, ModelInput.dataset_version_id == SuppressedRecord.dataset_version_id
        ).where(ModelInput.model_version_id == version_id)
    rows = session.execute(
        query.order_by(SuppressedRecord.dataset_version_id, SuppressedRecord.record_no)
    )
    return [(dataset, record, bucket) for dataset, record, bucket in rows]


def records_by_request(
    session: Session, request_ids: Sequence[UUID]
) -> dict[UUID, list[tuple[int, int]]]:
    """Return (dataset version, record number) of what each request suppresses."""
    rows = session.execute(
        select(
            SuppressedRecord.request_id,
            SuppressedRecord.dataset_version_id,
            SuppressedRecord.record_no,
        )
        .distinct()
        .where(SuppressedRecord.request_id.in_(request_ids))
        .order_by(
            SuppressedRecord.request_id,
            SuppressedRecord.dataset_version_id,
            SuppressedRecord.record_no,
        )
    )
    found: dict[UUID, list[tuple[int, int]]] = {}
    for request, dataset, record in rows:
        found.setdefault(request, []).append((dataset, record))
    return found


def suppressed_in(session: Session, dataset_version_id: int) -> set[int]:
    """Return the record numbers of a dataset version that are suppressed now."""
    query = select(SuppressedRecord.record_no).where(
        SuppressedRecord.dataset_version_id == dataset_version_id,
        SuppressedRecord.lifted_at.is_(None),
    )
    return set(session.scalars(query))


def successor(session: Session, version: ModelVersion) -> ModelVersion:
    """Return the live version that has replaced this one, or itself."""
    while version.state in REPLACED:
        following = session.scalar(
            select(ModelVersion).where(
                ModelVersion.base_version_id == version.id,
                ModelVersion.state.in_(["live", *REPLACED]),
                ModelVersion.promoted_at.is_not(None),
            )
        )
        if following is None:
            break
        version = following
    return version


def next_version(session: Session, model: Model) -> int:
    """Lock the model and return its next version number."""
    session.get_one(Model, model.id, with_for_update=True)
    query = select(func.max(ModelVersion.version)).where(ModelVersion.model_id == model.id)
    return (session.scalar(query) or 0) + 1


def add_inputs(
    session: Session, version: ModelVersion, trained_on: Sequence[DatasetVersion], now: datetime
) -> None:
    """Say what a version is trained on, in the registry and in the lineage graph."""
    for one in trained_on:
        session.add(ModelInput(model_version_id=version.id, dataset_version_id=one.id))
        add_edge(session, one.artifact_id, version.artifact_id, "trained_on", version.run_id, now)
    session.flush()


def add_edge(
    session: Session, parent: int, child: int, relation: str, run_id: UUID | None, now: datetime
) -> None:
    """Add an edge to the lineage graph."""
    session.add(
        Edge(
            parent=parent,
            child=child,
            relation=relation,
            run_id=run_id,
            source="lethe",
            first_seen=now,
        )
    )


def add_artifact(session: Session, name: str, version: str, now: datetime) -> Artifact:
    """Insert the artifact of a new model version."""
    artifact = Artifact(
        kind="model_version", name=name, version=version, lineage="complete", created_at=now
    )
    session.add(artifact)
    session.flush()
    return artifact


def still_in_manifest(session: Session, request_id: UUID, version: ModelVersion) -> bool:
    """Say whether a version's manifest holds a record that a request found."""
    left_out = exists().where(
        ManifestExclusion.model_version_id == version.id,
        ManifestExclusion.dataset_version_id == SuppressedRecord.dataset_version_id,
        ManifestExclusion.record_no == SuppressedRecord.record_no,
    )
    query = (
        select(SuppressedRecord.record_no)
        .join(ModelInput, ModelInput.dataset_version_id == SuppressedRecord.dataset_version_id)
        .where(
            ModelInput.model_version_id == version.id,
            SuppressedRecord.request_id == request_id,
            SuppressedRecord.bucket < version.holdout_from,
            ~left_out,
        )
        .limit(1)
    )
    return session.scalar(query) is not None


def erased_digests(session: Session, request_ids: Sequence[UUID]) -> tuple[str, ...]:
    """Return the keyed digests, in hex, of these requests' records that are in no file any more.

    Another request of the same person may have been the one that erased them.
    """
    query = (
        select(ErasedRecord.digest)
        .distinct()
        .join(
            SuppressedRecord,
            (SuppressedRecord.dataset_version_id == ErasedRecord.dataset_version_id)
            & (SuppressedRecord.record_no == ErasedRecord.record_no),
        )
        .where(SuppressedRecord.request_id.in_(request_ids))
    )
    return tuple(sorted(digest.hex() for digest in session.scalars(query)))


def erased_from_inputs(session: Session, version_id: UUID) -> tuple[str, ...]:
    """Return the keyed digests, in hex, of all that was erased from a version's inputs."""
    query = (
        select(ErasedRecord.digest)
        .distinct()
        .join(ModelInput, ModelInput.dataset_version_id == ErasedRecord.dataset_version_id)
        .where(ModelInput.model_version_id == version_id)
    )
    return tuple(sorted(digest.hex() for digest in session.scalars(query)))


def promised_requests(session: Session, model_id: UUID) -> list[UUID]:
    """Return the requests to which an exact retraining of the model is promised."""
    query = select(Commitment.request_id).where(
        Commitment.model_id == model_id, Commitment.kept_at.is_(None)
    )
    return list(session.scalars(query))


def requests_of_run(session: Session, run_id: UUID) -> list[UUID]:
    """Return the requests whose actions a run carries out."""
    query = select(Action.request_id).distinct().where(Action.run_id == run_id)
    return list(session.scalars(query.order_by(Action.request_id)))
