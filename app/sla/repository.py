"""SQL for clocks and promises."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Commitment, ErasureRequest, Model


def open_requests(session: Session) -> Sequence[ErasureRequest]:
    """Return requests whose clock runs, most urgent first."""
    query = select(ErasureRequest).where(ErasureRequest.closed_at.is_(None))
    return session.scalars(query.order_by(ErasureRequest.due_at)).all()


def requests(session: Session) -> Sequence[ErasureRequest]:
    """Return all requests, most urgent first."""
    return session.scalars(select(ErasureRequest).order_by(ErasureRequest.due_at)).all()


def commitments(session: Session) -> Sequence[tuple[Commitment, Model]]:
    """Return all promises with their models, earliest due first."""
    query = select(Commitment, Model).join(Model, Model.id == Commitment.model_id)
    return [(one, model) for one, model in session.execute(query.order_by(Commitment.due_at))]


def unkept_commitments(session: Session) -> Sequence[Commitment]:
    """Return open promises, earliest due first."""
    query = select(Commitment).where(Commitment.kept_at.is_(None))
    return session.scalars(query.order_by(Commitment.due_at)).all()


def promised_by(session: Session, model_id: UUID) -> datetime | None:
    """Return the earliest date of a model's open promises."""
    query = select(func.min(Commitment.due_at))
    return session.scalar(
        query.where(Commitment.model_id == model_id, Commitment.kept_at.is_(None))
    )


def open_commitments(session: Session, model_id: UUID) -> Sequence[Commitment]:
    """Return a model's open promises, locked."""
    query = select(Commitment).where(Commitment.model_id == model_id, Commitment.kept_at.is_(None))
    return session.scalars(query.order_by(Commitment.id).with_for_update()).all()
