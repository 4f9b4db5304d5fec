"""SQL for the overview; what one request's page shows comes from the slices' services."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session

from app.models import Action, Artifact, Commitment, DatasetVersion, ErasureRequest, Model, Run

_ENDED = ("done", "committed", "not_reachable")


class ListedRequest(NamedTuple):
    """A request, how many actions it has, how many ended, and whether a verdict waits for a DPO."""

    request: ErasureRequest
    actions: int
    ended: int
    awaits_acceptance: bool


class ClosedCounts(NamedTuple):
    """How many requests closed within their clock, and how many after it."""

    met: int
    late: int


def _listed() -> Select[ErasureRequest, int, int, bool]:
    mine = Action.request_id == ErasureRequest.id
    counted = select(func.count()).select_from(Action).where(mine)
    awaits = exists().where(
        mine,
        Run.id == Action.run_id,
        Run.state == "verifying",
        Run.accepted.is_(None),
        Run.verdict["verdict"].astext == "inconclusive",
    )
    return select(
        ErasureRequest,
        counted.scalar_subquery(),
        counted.where(Action.state.in_(_ENDED)).scalar_subquery(),
        awaits,
    )


def open_requests(session: Session, limit: int) -> list[ListedRequest]:
    """Return the open requests that are due first."""
    query = _listed().where(ErasureRequest.closed_at.is_(None))
    rows = session.execute(query.order_by(ErasureRequest.due_at, ErasureRequest.id).limit(limit))
    return [ListedRequest(*row) for row in rows]


def closed_requests(session: Session, limit: int) -> list[ListedRequest]:
    """Return the requests that closed last."""
    query = _listed().where(ErasureRequest.closed_at.is_not(None))
    rows = session.execute(query.order_by(ErasureRequest.closed_at.desc()).limit(limit))
    return [ListedRequest(*row) for row in rows]


def open_clocks(session: Session) -> Sequence[tuple[datetime, datetime]]:
    """Return (received at, due at) of every open request."""
    query = select(ErasureRequest.received_at, ErasureRequest.due_at)
    rows = session.execute(query.where(ErasureRequest.closed_at.is_(None)))
    return [(received_at, due_at) for received_at, due_at in rows]


def closed_counts(session: Session) -> ClosedCounts:
    """Count the closed requests."""
    in_time = ErasureRequest.closed_at <= ErasureRequest.due_at
    query = select(func.count().filter(in_time), func.count().filter(~in_time))
    return ClosedCounts(*session.execute(query.select_from(ErasureRequest)).one())


def open_promises(session: Session) -> Sequence[tuple[Commitment, str]]:
    """Return the promises that are not kept yet with their models' names, earliest due first."""
    query = select(Commitment, Model.name).join(Model, Model.id == Commitment.model_id)
    rows = session.execute(query.where(Commitment.kept_at.is_(None)).order_by(Commitment.due_at))
    return [(commitment, name) for commitment, name in rows]


def promises_of(session: Session, request_id: UUID) -> Sequence[tuple[Commitment, str]]:
    """Return a request's promises with their models' names, kept ones too."""
    query = select(Commitment, Model.name).join(Model, Model.id == Commitment.model_id)
    rows = session.execute(
        query.where(Commitment.request_id == request_id).order_by(Commitment.due_at)
    )
    return [(commitment, name) for commitment, name in rows]


def runs(session: Session, run_ids: set[UUID]) -> Sequence[Run]:
    """Return these runs, oldest first."""
    return session.scalars(select(Run).where(Run.id.in_(run_ids)).order_by(Run.id)).all()


def runs_by_artifact(session: Session, request_id: UUID) -> dict[str, UUID]:
    """Return the runs of a request, by artifact, named as a certificate names it."""
    query = select(Artifact, Action.run_id).join(Action, Action.artifact_id == Artifact.id)
    rows = session.execute(query.where(Action.request_id == request_id, Action.run_id.is_not(None)))
    return {
        f"{one.kind.removesuffix('_version')}/{one.name}@{one.version}": run_id
        for one, run_id in rows
        if run_id is not None
    }


def dataset_name(session: Session, run: Run) -> str:
    """Return the dataset version that a run works on, as "name@version"; "" where it is none."""
    query = select(Artifact).join(DatasetVersion, DatasetVersion.artifact_id == Artifact.id)
    artifact = session.scalar(query.where(DatasetVersion.id == run.dataset_version_id))
    return "" if artifact is None else f"{artifact.name}@{artifact.version}"
