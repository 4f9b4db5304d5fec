"""What exists: datasets, models, what was derived from what, and what is served."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core import queue
from app.core.artifacts import read_object
from app.core.config import Settings
from app.core.errors import ConflictError, InvalidInputError, NotFoundError
from app.core.security import new_wrapped_key
from app.inventory import repository
from app.inventory.rules import wrong_with_methods, wrong_with_recipe
from app.inventory.schemas import (
    ArtifactRef,
    DatasetIn,
    DatasetVersionIn,
    DeploymentIn,
    EdgeIn,
    InputRef,
    ModelIn,
    PolicyIn,
)
from app.manifest.rules import model_prefix
from app.models import (
    Artifact,
    Dataset,
    DatasetVersion,
    Deployment,
    Model,
    ModelVersion,
    Run,
    Suppression,
    new_id,
)

BUCKETS = 65_536


class DatasetNotFoundError(NotFoundError):
    """No dataset, or no version of it, has this name."""


class ModelNotFoundError(NotFoundError):
    """No model, or no live version of it, has this name."""


class ManifestNotFoundError(NotFoundError):
    """No manifest of this model version is stored."""

    advice = (
        "A version trained here has one from the end of its training until an erasure replaces it. "
        "If it should be there, see that the service can read the store of LETHE_ARTIFACTS_URL."
    )


class SourceMovedError(ConflictError):
    """The dataset version's file was rewritten meanwhile."""

    slug = "source-moved"
    advice = "Nothing to do: the step is tried again on the present file."


class UriTakenError(ConflictError):
    """Files of another dataset version lie at this URI, within it or around it."""

    slug = "uri-taken"
    advice = "Give each version files of its own: an erasure rewrites them and removes the old."


class SuppressionNeededError(ConflictError):
    """The request is open, or an exact retraining without the records is still promised."""

    slug = "suppression-needed"
    advice = "Wait until the request has closed and GET /v1/commitments shows its promise as kept."


class NameTakenError(ConflictError):
    """This name is taken."""

    slug = "name-taken"
    advice = "Use another name, or read what is registered under this one."


def register_dataset(
    session: Session, settings: Settings, body: DatasetIn, now: datetime
) -> Dataset:
    """Register a dataset and give it the key of its buckets and record digests.

    Raises:
        NameTakenError: the name is taken.
    """
    _, wrapped = new_wrapped_key(settings.vault_secret.get_secret_value(), f"dataset:{body.name}")
    row = Dataset(
        name=body.name,
        owner=body.owner.model_dump(),
        aliases=[one.model_dump() for one in body.aliases],
        mentions=[one.model_dump() for one in body.mentions],
        wrapped_key=wrapped,
        created_at=now,
    )
    _insert(session, row)
    audit.record(session, "dataset_registered", now, dataset=row.id)
    return row


def add_dataset_version(
    session: Session, name: str, body: DatasetVersionIn, now: datetime
) -> DatasetVersion:
    """Register a snapshot; it is found by no trace until it is indexed.

    Raises:
        DatasetNotFoundError: there is no such dataset.
        NameTakenError: the dataset has that version.
        UriTakenError: another version's files lie there.
    """
    dataset = get_dataset(session, name)
    if repository.uri_is_taken(session, body.uri):
        raise UriTakenError
    artifact = repository.ensure_artifact(
        session, "dataset_version", name, body.version, "complete", now
    )
    row = DatasetVersion(
        dataset_id=dataset.id,
        version=body.version,
        artifact_id=artifact.id,
        uri=body.uri,
        format=body.format,
        rewritable=body.rewritable,
        state="registered",
        collected_at=body.collected_at,
        created_at=now,
    )
    _insert(session, row)
    audit.record(session, "dataset_version_registered", now, dataset_version=row.id)
    return row


def get_dataset(session: Session, name: str) -> Dataset:
    """Return a dataset.

    Raises:
        DatasetNotFoundError: there is none of that name.
    """
    row = repository.dataset(session, name)
    if row is None:
        raise DatasetNotFoundError
    return row


def get_dataset_version(session: Session, name: str, version: str) -> DatasetVersion:
    """Return a dataset version.

    Raises:
        DatasetNotFoundError: there is none of that name.
    """
    row = repository.dataset_version(session, name, version)
    if row is None:
        raise DatasetNotFoundError
    return row


def register_model(session: Session, body: ModelIn, now: datetime) -> Model:
    """Register a model family.

    Raises:
        NameTakenError: the name is taken.
        InvalidInputError: the recipe's or a method's name or parameters are not valid.
    """
    _refuse(wrong_with_recipe(body.recipe, body.parameters))
    _refuse_policy(body.policy)
    row = Model(
        name=body.name,
        recipe=body.recipe,
        parameters=body.parameters,
        # Secret: what a certified removal promises rests on noise that is drawn from it.
        seed=secrets.token_hex(16),
        shards=body.shards,
        slices=body.slices,
        holdout_from=round(BUCKETS * (1 - body.holdout_share)),
        policy=body.policy.model_dump(mode="json"),
        created_at=now,
    )
    _insert(session, row)
    audit.record(session, "model_registered", now, model=row.id)
    return row


def get_model(session: Session, name: str, *, lock: bool = False) -> Model:
    """Return a model.

    Raises:
        ModelNotFoundError: there is none of that name.
    """
    row = repository.model(session, name, lock=lock)
    if row is None:
        raise ModelNotFoundError
    return row


def set_policy(session: Session, name: str, policy: PolicyIn, now: datetime) -> Model:
    """Change a model's erasure policy.

    Raises:
        ModelNotFoundError: there is no such model.
        InvalidInputError: a method's name or parameters are not valid.
    """
    _refuse_policy(policy)
    # Runs before their model, as a run that starts locks them.
    for run_id in repository.unschedule_runs(session, get_model(session, name).id):
        queue.ring(session, "advance_run", run_id)
    row = get_model(session, name, lock=True)
    row.policy = policy.model_dump(mode="json")
    audit.record(session, "policy_changed", now, model=row.id)
    return row


def _refuse_policy(policy: PolicyIn) -> None:
    _refuse(wrong_with_methods(policy.allowed_methods or (), policy.method_parameters))


def _refuse(wrong: str | None) -> None:
    if wrong is not None:
        raise InvalidInputError(wrong)


def add_model_version(
    session: Session, name: str, inputs: Sequence[InputRef], now: datetime
) -> ModelVersion:
    """Register a version trained elsewhere: live, its lineage declared, or unknown without inputs.

    Raises:
        ModelNotFoundError, DatasetNotFoundError: a name is unknown.
    """
    model = get_model(session, name, lock=True)
    trained_on = [get_dataset_version(session, one.dataset, one.version) for one in inputs]
    row = _new_version(
        session, model, trained_on, "declared" if trained_on else "unknown", "external", now
    )
    row.state, row.promoted_at = "live", now
    audit.record(session, "model_version_registered", now, model_version=row.id)
    return row


def _new_version(
    session: Session,
    model: Model,
    trained_on: Sequence[DatasetVersion],
    lineage: str,
    method: str,
    now: datetime,
) -> ModelVersion:
    number = repository.next_version(session, model.id)
    artifact = repository.ensure_artifact(
        session, "model_version", model.name, str(number), lineage, now
    )
    row = ModelVersion(
        id=new_id(),
        model_id=model.id,
        version=number,
        artifact_id=artifact.id,
        state="training",
        method=method,
        # Of a training elsewhere no shard is known, and nobody was held out.
        shards=1,
        slices=1,
        holdout_from=BUCKETS,
        created_at=now,
    )
    session.add(row)
    session.flush()
    repository.add_inputs(session, row.id, [one.id for one in trained_on])
    for one in trained_on:
        repository.add_edge(session, one.artifact_id, artifact.id, "trained_on", "lethe", now)
    return row


def add_edge(session: Session, body: EdgeIn, now: datetime) -> None:
    """Say that influence flows from one artifact to another; both become known if they are not.

    Raises:
        InvalidInputError: an artifact would derive from itself.
    """
    parent, child = _artifact(session, body.parent, now), _artifact(session, body.child, now)
    if parent == child:
        raise InvalidInputError("An artifact cannot derive from itself.")
    repository.add_edge(session, parent, child, body.relation, "declared", now)
    audit.record(session, "edge_declared", now, artifact=child)


def _artifact(session: Session, ref: ArtifactRef, now: datetime) -> int:
    return repository.ensure_artifact(session, ref.kind, ref.name, ref.version, "declared", now).id


def deploy(session: Session, body: DeploymentIn, now: datetime) -> Deployment:
    """Say what a deployment serves: a new one, or an existing one switched.

    Raises:
        ModelNotFoundError: the model has no such live version.
    """
    # Locked: a version that is being replaced is not put into service beside its successor.
    model = get_model(session, body.model, lock=True)
    version = repository.live_version(session, model.id, body.version)
    if version is None:
        raise ModelNotFoundError("The model has no such live version.")
    row = repository.deployment(session, body.name)
    if row is None:
        artifact = repository.ensure_artifact(
            session, "deployment", body.name, None, "complete", now
        )
        row = Deployment(
            name=body.name,
            artifact_id=artifact.id,
            model_version_id=version.id,
            url=body.url,
            history=[],
            created_at=now,
            updated_at=now,
        )
        session.add(row)
        session.flush()
    serve(session, row, version, now)
    return row


def serve(session: Session, row: Deployment, version: ModelVersion, now: datetime) -> None:
    """Point a deployment at a version; the edge from the old one is retired."""
    old = session.get_one(ModelVersion, row.model_version_id)
    if old.id != version.id:
        repository.retire_edge(session, old.artifact_id, row.artifact_id, "served_by", now)
    row.model_version_id, row.updated_at = version.id, now
    row.history = [*row.history, {"version": version.version, "from": now.isoformat()}]
    repository.add_edge(session, version.artifact_id, row.artifact_id, "served_by", "lethe", now)
    audit.record(session, "deployment_switched", now, deployment=row.id, model_version=version.id)


def switch_deployments(session: Session, run: Run, now: datetime) -> None:
    """Serve a run's new version wherever its base was served."""
    version = session.get_one(ModelVersion, run.new_version_id)
    for row in repository.deployments(session, run.base_version_id):
        serve(session, row, version, now)


def lift_suppression(session: Session, suppression_id: UUID, reason: str, now: datetime) -> None:
    """Let a subject key be trained on again, for example after new consent.

    Raises:
        NotFoundError: there is no such suppression in force.
        SuppressionNeededError: an erasure still relies on it.
    """
    row = session.get(Suppression, suppression_id)
    if row is None or row.lifted_at is not None:
        raise NotFoundError("No suppression in force has this id.")
    if repository.is_relied_on(session, row.request_id):
        raise SuppressionNeededError
    repository.lift_suppression(session, row, reason, now)
    audit.record(session, "suppression_lifted", now, suppression=suppression_id)


def store_index(session: Session, run: Run, result: dict[str, Any], now: datetime) -> None:
    """Load what the indexing of a dataset version brought; from now on traces find its records."""
    version = repository.locked_dataset_version(session, run.dataset_version_id or 0)
    repository.load_index(session, version.id, Path(result["rows"]))
    version.state, version.indexed_at = "indexed", now
    version.digest, version.record_count = result["digest"], result["records"]
    version.skipped_identifiers = result["skipped"]
    session.get_one(Artifact, version.artifact_id).digest = result["digest"]
    audit.record(
        session,
        "dataset_version_indexed",
        now,
        dataset_version=version.id,
        records=result["records"],
        digest=result["digest"],
    )


def index_failed(session: Session, run: Run) -> None:
    """Let a dataset version be indexed again after a failure."""
    version = repository.locked_dataset_version(session, run.dataset_version_id or 0)
    version.state = "failed"


def store_erasure(
    session: Session, run: Run, request_id: UUID, result: dict[str, Any], now: datetime
) -> None:
    """Point a dataset version at its rewritten file; the old one is destroyed next.

    Raises:
        SourceMovedError: another erasure rewrote the file first, so this one's copy would bring
            that one's records back.
    """
    version = repository.locked_dataset_version(session, run.dataset_version_id or 0)
    if version.uri != result["source_uri"]:
        raise SourceMovedError
    if result["digests"]:
        repository.add_erased(session, version.id, result["digests"], request_id, now)
        version.uri = result["uri"]
        version.digest = result["digest_after"]
        session.get_one(Artifact, version.artifact_id).digest = result["digest_after"]
    audit.record(
        session,
        "records_erased",
        now,
        request_id=request_id,
        dataset_version=version.id,
        records=len(result["digests"]),
        digest_before=result["digest_before"],
        digest_after=result["digest_after"],
    )


def manifest(session: Session, settings: Settings, name: str, number: int) -> bytes:
    """Return the stored bytes of a model version's manifest.

    Raises:
        ModelNotFoundError: no model has this name.
        ManifestNotFoundError: it has no such version, or that has no manifest in the store.
        StoredObjectChangedError: the stored bytes are not those that were put there.
    """
    model = get_model(session, name)
    version = repository.model_version(session, model.id, number)
    digest = None if version is None else version.manifest_digest
    stored = digest and read_object(settings.artifacts_url, model_prefix(model.id), digest)
    if not stored:
        raise ManifestNotFoundError
    return stored


def describe_version(version: ModelVersion) -> dict[str, Any]:
    """Return a model version as the API shows it."""
    return {
        "id": str(version.id),
        "version": version.version,
        "state": version.state,
        "method": version.method,
        "shards": version.shards,
        "slices": version.slices,
        "manifest_digest": version.manifest_digest,
        "metrics": version.metrics,
        "created_at": version.created_at.isoformat(),
    }


def _insert(session: Session, row: Dataset | DatasetVersion | Model) -> None:
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:
        raise NameTakenError from error
