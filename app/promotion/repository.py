"""SQL for switching versions and for what nothing needs any more."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import CompoundSelect, Select, delete, select, union
from sqlalchemy.orm import Session

from app.models import Checkpoint, ModelSlice, ModelVersion

IN_USE = ("live", "training")
Digests = CompoundSelect[str | None, str | None]
Pairs = Select[str | None, str | None]


def unneeded_objects(session: Session, model_id: UUID) -> list[str]:
    """Return a model's stored objects that no live version and no version in training needs."""
    stored = select(Checkpoint.object_digest, Checkpoint.manifest_digest).where(
        Checkpoint.model_id == model_id
    )
    ever: Digests = union(*_of_versions(model_id, ("superseded", "failed")), stored)
    return sorted(_digests(session, ever) - objects_in_use(session, model_id))


def objects_in_use(session: Session, model_id: UUID) -> set[str]:
    """Return the stored objects that a model's live versions and one in training are made of."""
    return _digests(session, union(*_of_versions(model_id, IN_USE)))


def _of_versions(model_id: UUID, states: Sequence[str]) -> tuple[Pairs, Pairs]:
    those = (ModelVersion.model_id == model_id) & ModelVersion.state.in_(states)
    slices = (
        select(ModelSlice.object_digest, ModelSlice.manifest_digest)
        .join(ModelVersion, ModelVersion.id == ModelSlice.model_version_id)
        .where(those)
    )
    return slices, select(ModelVersion.manifest_digest, ModelVersion.manifest_digest).where(those)


def _digests(session: Session, query: Digests) -> set[str]:
    return {one for row in session.execute(query) for one in row if one is not None}


def forget_checkpoints(session: Session, model_id: UUID, objects: Sequence[str]) -> None:
    """Drop the checkpoints whose objects were destroyed, so that nothing resumes from them."""
    session.execute(
        delete(Checkpoint).where(
            Checkpoint.model_id == model_id, Checkpoint.object_digest.in_(objects)
        )
    )


def superseded_versions(session: Session, model_id: UUID) -> Sequence[ModelVersion]:
    """Return versions whose objects are about to go or gone."""
    return session.scalars(
        select(ModelVersion).where(
            ModelVersion.model_id == model_id,
            ModelVersion.state.in_(["superseded", "failed"]),
            ModelVersion.destroyed_at.is_(None),
        )
    ).all()
