"""SQL for evidence."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.models import Evidence, Step


def put(session: Session, run_id: UUID, checks: Sequence[dict[str, Any]], now: datetime) -> None:
    """Replace a run's evidence."""
    session.execute(delete(Evidence).where(Evidence.run_id == run_id))
    session.add_all(
        Evidence(run_id=run_id, name=one["name"], body=one, created_at=now) for one in checks
    )
    session.flush()


def of_run(session: Session, run_id: UUID) -> list[dict[str, Any]]:
    """Return a run's checks as they were measured."""
    query = select(Evidence.body).where(Evidence.run_id == run_id).order_by(Evidence.id)
    return list(session.scalars(query))


def failed_unlearning(session: Session, run_id: UUID) -> list[str]:
    """Return why unlearning steps of a run ended as failed, if any did."""
    query = select(Step.result).where(Step.run_id == run_id, Step.kind.in_(["unlearn", "remove"]))
    results = [one for one in session.scalars(query) if one is not None]
    return [str(one["reason"]) for one in results if one["status"] == "failed"]


def own_p_values(session: Session, run_id: UUID) -> dict[str, float]:
    """Return how surely each request's data subject stands out by itself, by request."""
    query = (
        select(Step.result)
        .where(Step.run_id == run_id, Step.kind == "evaluate")
        .order_by(Step.created_at, Step.id)
    )
    results = [one for one in session.scalars(query) if one is not None]
    return {request: p for one in results for request, p in one.get("own", {}).items()}
