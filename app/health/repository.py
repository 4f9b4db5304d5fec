"""SQL for health: heartbeats and counts, never a person."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import exists, extract, func, select
from sqlalchemy.orm import Session

from app.models import AuditPending, ErasureRequest, Run, Step, Worker

SILENT_AFTER = timedelta(seconds=60)


def workers_alive(session: Session, now: datetime) -> set[str]:
    """Return the worker roles heard from within the last minute."""
    query = select(Worker.role).distinct().where(Worker.heartbeat_at >= now - SILENT_AFTER)
    return set(session.scalars(query))


def worker_alive(session: Session, role: str, host: str, now: datetime) -> bool:
    """Tell whether a worker of this role on this host was heard from within the last minute."""
    heard = exists().where(
        Worker.role == role,
        Worker.name.startswith(f"{role}@{host}-", autoescape=True),
        Worker.heartbeat_at >= now - SILENT_AFTER,
    )
    return bool(session.scalar(select(heard)))


def prediction_ratios(
    session: Session, bounds: Sequence[float]
) -> list[tuple[str, list[int], float]]:
    """Return, by method, how many runs took at most each bound times what was predicted.

    With the number of all runs last, and the sum of their ratios.
    """
    actual = extract("epoch", Run.finished_at - Run.started_at)
    ratio = actual / Run.predicted_seconds
    query = (
        select(
            Run.method,
            *(func.count().filter(ratio <= bound) for bound in bounds),
            func.count(),
            func.sum(ratio),
        )
        .where(Run.state == "done", Run.method.is_not(None), Run.predicted_seconds > 0)
        .group_by(Run.method)
        .order_by(Run.method)
    )
    return [
        (str(method), list(counted), float(total))
        for method, *counted, total in session.execute(query)
    ]


def counts(session: Session) -> dict[str, dict[str, int]]:
    """Return how many requests, runs and steps stand in each state, and what the log waits for."""
    counted = {}
    for name, table in (("requests", ErasureRequest), ("runs", Run), ("steps", Step)):
        query = select(table.state, func.count()).group_by(table.state)
        counted[name] = dict(session.execute(query).all())
    pending = session.scalar(select(func.count()).select_from(AuditPending)) or 0
    counted["log_entries"] = {"pending": pending}
    return counted
