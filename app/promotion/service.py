"""What is served counts: a new version takes the old one's place, and the old one is destroyed."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.execution.rules import NewStep
from app.models import Artifact, Model, ModelVersion, Run
from app.promotion import repository


def describe_trained(session: Session, run: Run, result: dict[str, Any]) -> None:
    """Keep what is known of a new version: manifest, environment, metrics."""
    version = session.get_one(ModelVersion, run.new_version_id)
    version.manifest_digest = result["manifest_digest"]
    version.environment, version.metrics = result["environment"], result["metrics"]
    session.get_one(Artifact, version.artifact_id).digest = result["manifest_digest"]


def publish_version(session: Session, run: Run, now: datetime) -> None:
    """Make a freshly trained version live; an engineer deploys it."""
    version = session.get_one(ModelVersion, run.new_version_id)
    version.state, version.promoted_at = "live", now
    audit.record(
        session,
        "model_version_trained",
        now,
        model_version=version.id,
        run=run.id,
        manifest_digest=version.manifest_digest,
    )


def promote_version(session: Session, run: Run, now: datetime) -> list[str]:
    """Put a run's new version in its base's place; return the stored objects to destroy.

    One that took its place already, before it was measured, stays there.
    """
    # As a deployment does: it serves the old version before this, and is switched, or the new one.
    session.get_one(Model, run.model_id, with_for_update=True)
    base = session.get_one(ModelVersion, run.base_version_id)
    version = session.get_one(ModelVersion, run.new_version_id)
    if version.promoted_at is None:
        base.state, base.superseded_at = "superseded", now
        version.state, version.promoted_at = "live", now
        audit.record(
            session,
            "model_version_promoted",
            now,
            model_version=version.id,
            run=run.id,
            manifest_digest=version.manifest_digest,
        )
    session.flush()
    return repository.unneeded_objects(session, version.model_id)


def discard_version(session: Session, run: Run, now: datetime) -> None:
    """Give up a version that is not to be served; its objects go with the next destruction.

    One that is served already stays: the version before it has seen the records.
    """
    if run.new_version_id is not None:
        version = session.get_one(ModelVersion, run.new_version_id)
        if version.promoted_at is None:
            version.state, version.superseded_at = "failed", now


def lay_out_destruction(session: Session, run: Run) -> list[NewStep]:
    """Return the step that destroys what a run that failed has left."""
    objects = [] if run.model_id is None else repository.unneeded_objects(session, run.model_id)
    return [("destroy", "all", {"objects": objects, "uris": run.parameters.get("uris", [])})]


def store_destruction(session: Session, run: Run, result: dict[str, Any], now: datetime) -> None:
    """Write down that superseded objects or files are gone."""
    if run.model_id is not None:
        repository.forget_checkpoints(session, run.model_id, result["destroyed"])
        for version in repository.superseded_versions(session, run.model_id):
            version.state, version.destroyed_at = "destroyed", now
            session.get_one(Artifact, version.artifact_id).destroyed_at = now
    audit.record(
        session, "artifacts_destroyed", now, run=run.id, destroyed=len(result["destroyed"])
    )
