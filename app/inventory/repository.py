"""SQL for datasets, artifacts, edges, models, deployments and suppressions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import psycopg
from sqlalchemy import exists, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.models import (
    Artifact,
    Commitment,
    Dataset,
    DatasetVersion,
    Deployment,
    Edge,
    ErasedRecord,
    ErasureRequest,
    Model,
    ModelInput,
    ModelVersion,
    Run,
    SuppressedRecord,
    Suppression,
)

COPY_BYTES = 1 << 20


def unschedule_runs(session: Session, model_id: UUID) -> Sequence[UUID]:
    """Let every queued run of a model be looked at again; return them."""
    statement = update(Run).where(Run.model_id == model_id, Run.state == "queued")
    return session.scalars(statement.values(not_before=None).returning(Run.id)).all()


def dataset(session: Session, name: str) -> Dataset | None:
    """Return a dataset by name."""
    return session.scalar(select(Dataset).where(Dataset.name == name))


def datasets(session: Session) -> Sequence[Dataset]:
    """Return all datasets by name."""
    return session.scalars(select(Dataset).order_by(Dataset.name)).all()


def dataset_version(session: Session, name: str, version: str) -> DatasetVersion | None:
    """Return a dataset version by the dataset's name and its own."""
    return session.scalar(
        select(DatasetVersion)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(Dataset.name == name, DatasetVersion.version == version)
    )


def uri_is_taken(session: Session, uri: str) -> bool:
    """Say whether a dataset version's files lie there, within it or around it."""
    taken = func.rtrim(DatasetVersion.uri, "/")
    path = uri.rstrip("/")
    query = select(DatasetVersion.id).where(
        (taken == path)
        | func.starts_with(taken, f"{path}/")
        | func.starts_with(literal(path), taken.concat("/"))
    )
    return session.scalar(query.limit(1)) is not None


def ensure_artifact(
    session: Session, kind: str, name: str, version: str | None, lineage: str, now: datetime
) -> Artifact:
    """Return the artifact of that kind, name and version, made if it is new."""
    session.execute(
        insert(Artifact)
        .values(
            kind=kind,
            namespace="lethe",
            name=name,
            version=version,
            lineage=lineage,
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    return session.scalars(
        select(Artifact).where(
            Artifact.kind == kind,
            Artifact.namespace == "lethe",
            Artifact.name == name,
            Artifact.version.is_not_distinct_from(version),
        )
    ).one()


def add_edge(
    session: Session,
    parent: int,
    child: int,
    relation: str,
    source: str,
    now: datetime,
    run_id: UUID | None = None,
) -> None:
    """Add an edge, or bring a retired one back."""
    statement = insert(Edge).values(
        parent=parent, child=child, relation=relation, source=source, run_id=run_id, first_seen=now
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["parent", "child", "relation"], set_={"retired_at": None}
        )
    )


def retire_edge(session: Session, parent: int, child: int, relation: str, now: datetime) -> None:
    """Retire an edge; it stays in the graph's history."""
    session.execute(
        update(Edge)
        .where(Edge.parent == parent, Edge.child == child, Edge.relation == relation)
        .values(retired_at=now)
    )


def model(session: Session, name: str, *, lock: bool = False) -> Model | None:
    """Return a model by name, locked if its versions are about to change."""
    query = select(Model).where(Model.name == name)
    return session.scalar(query.with_for_update() if lock else query)


def models(session: Session) -> Sequence[Model]:
    """Return all models by name."""
    return session.scalars(select(Model).order_by(Model.name)).all()


def model_versions(session: Session, model_id: UUID) -> Sequence[ModelVersion]:
    """Return a model's versions, oldest first."""
    query = select(ModelVersion).where(ModelVersion.model_id == model_id)
    return session.scalars(query.order_by(ModelVersion.version)).all()


def model_version(session: Session, model_id: UUID, number: int) -> ModelVersion | None:
    """Return a model's version of that number."""
    query = select(ModelVersion).where(ModelVersion.model_id == model_id)
    return session.scalar(query.where(ModelVersion.version == number))


def next_version(session: Session, model_id: UUID) -> int:
    """Return the next free version number of a model whose row is locked."""
    query = select(func.max(ModelVersion.version)).where(ModelVersion.model_id == model_id)
    return (session.scalar(query) or 0) + 1


def add_inputs(session: Session, version_id: UUID, dataset_versions: Iterable[int]) -> None:
    """Say what a model version is trained on."""
    session.add_all(
        ModelInput(model_version_id=version_id, dataset_version_id=one) for one in dataset_versions
    )
    session.flush()


def live_version(session: Session, model_id: UUID, version: int | None) -> ModelVersion | None:
    """Return the model's live version of that number, or its newest live one."""
    query = select(ModelVersion).where(
        ModelVersion.model_id == model_id, ModelVersion.state == "live"
    )
    if version is not None:
        query = query.where(ModelVersion.version == version)
    return session.scalar(query.order_by(ModelVersion.version.desc()).limit(1))


def deployments(session: Session, version_id: UUID | None = None) -> Sequence[Deployment]:
    """Return deployments by name, or those that serve one model version, locked."""
    query = select(Deployment).order_by(Deployment.name)
    if version_id is not None:
        query = query.where(Deployment.model_version_id == version_id).with_for_update()
    return session.scalars(query).all()


def deployment(session: Session, name: str) -> Deployment | None:
    """Return a deployment by name."""
    return session.scalar(select(Deployment).where(Deployment.name == name))


def suppressions(session: Session, after: UUID | None, limit: int) -> Sequence[Suppression]:
    """Return suppressions in force, by id."""
    query = select(Suppression).where(Suppression.lifted_at.is_(None))
    if after is not None:
        query = query.where(Suppression.id > after)
    return session.scalars(query.order_by(Suppression.id).limit(limit)).all()


def is_relied_on(session: Session, request_id: UUID) -> bool:
    """Say whether a request is open, or has a promise that is not kept yet."""
    open_request = exists().where(
        ErasureRequest.id == request_id, ErasureRequest.closed_at.is_(None)
    )
    promised = exists().where(Commitment.request_id == request_id, Commitment.kept_at.is_(None))
    return bool(session.scalar(select(open_request | promised)))


def lift_suppression(
    session: Session, suppression: Suppression, reason: str, now: datetime
) -> None:
    """Lift a suppression and, with the last one of its request, the request's records."""
    suppression.lifted_at, suppression.lifted_reason = now, reason
    session.flush()
    left = session.scalar(
        select(func.count())
        .select_from(Suppression)
        .where(Suppression.request_id == suppression.request_id, Suppression.lifted_at.is_(None))
    )
    if not left:
        session.execute(
            update(SuppressedRecord)
            .where(SuppressedRecord.request_id == suppression.request_id)
            .values(lifted_at=now)
        )


def locked_dataset_version(session: Session, version_id: int) -> DatasetVersion:
    """Return a dataset version, locked until the transaction ends."""
    return session.get_one(DatasetVersion, version_id, with_for_update=True, populate_existing=True)


STAGE = """
CREATE TEMPORARY TABLE staged_record (
    subject_key uuid, record_no bigint, bucket integer, role smallint, owner_key uuid
) ON COMMIT DROP
"""
COPY_STAGED = "COPY staged_record (subject_key, record_no, bucket, role, owner_key) FROM STDIN"
# Sorted before it is inserted: nine times as fast as rows in the order of the file, since each
# partition's index is then filled from left to right.
LOAD = """
INSERT INTO subject_record
    (subject_key, dataset_version_id, record_no, bucket, role, owner_key)
SELECT subject_key, :version, record_no, bucket, role, owner_key
FROM staged_record
ORDER BY subject_key, record_no
ON CONFLICT DO NOTHING
"""


def load_index(session: Session, version_id: int, rows: Path) -> None:
    """Load hashed index rows, one tab-separated line each, by COPY into a stage and sorted."""
    connection = session.connection()
    connection.execute(text(STAGE))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        message = "the index is loaded through psycopg"
        raise TypeError(message)
    with rows.open("rb") as lines, driver.cursor() as cursor, cursor.copy(COPY_STAGED) as copy:
        while chunk := lines.read(COPY_BYTES):
            copy.write(chunk)
    connection.execute(text(LOAD), {"version": version_id})


def add_erased(
    session: Session, version_id: int, digests: Mapping[str, str], request_id: UUID, now: datetime
) -> None:
    """Write down which records (number → keyed digest) a dataset version's file no longer holds."""
    session.execute(
        insert(ErasedRecord).on_conflict_do_nothing(),
        [
            {
                "dataset_version_id": version_id,
                "record_no": int(record),
                "digest": bytes.fromhex(digest),
                "request_id": request_id,
                "erased_at": now,
            }
            for record, digest in digests.items()
        ],
    )
