"""Runs: indexing, training, and what came of each."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response

from app.access.dependencies import OnceDep, PageDep, SessionDep, as_json, require
from app.access.service import Caller
from app.core.clock import utc_now
from app.core.security import Role
from app.runs import service
from app.runs.schemas import EvidenceOut, RunOut, RunsOut, TrainIn

router = APIRouter(tags=["Runs"])
Engineer = Annotated[Caller, Depends(require(Role.ENGINEER))]
Reader = Annotated[Caller, Depends(require(Role.DPO, Role.ENGINEER, Role.AUDITOR))]


@router.post("/v1/datasets/{name}/versions/{version}/index", status_code=202, response_model=RunOut)
def index(
    name: str, version: str, caller: Engineer, session: SessionDep, once: OnceDep
) -> Response:
    """Read a dataset version and index who is in it."""

    def create() -> tuple[Any, str]:
        run = service.queue_index(session, name, version, utc_now())
        return as_json(service.describe(session, run)), f"/v1/runs/{run.id}"

    return once.answer(caller, 202, create)


@router.post("/v1/models/{name}/train", status_code=202, response_model=RunOut)
def train(
    name: str, body: TrainIn, caller: Engineer, session: SessionDep, once: OnceDep
) -> Response:
    """Train a model's next version, without anyone on the suppression list."""

    def create() -> tuple[Any, str]:
        named = [(one.dataset, one.version) for one in body.inputs]
        layout = service.Layout(body.shards, body.slices)
        run = service.queue_training(session, name, named, layout, utc_now())
        return as_json(service.describe(session, run)), f"/v1/runs/{run.id}"

    return once.answer(caller, 202, create)


@router.get("/v1/runs")
def runs(_caller: Reader, session: SessionDep, page: PageDep) -> RunsOut:
    """List runs by id."""
    items = [
        service.describe(session, run) for run in service.runs(session, page.after, page.limit)
    ]
    full = len(items) == page.limit
    return RunsOut(items=items, next_cursor=items[-1].id if full else None)


@router.get("/v1/runs/{run_id}")
def run(run_id: UUID, _caller: Reader, session: SessionDep) -> RunOut:
    """Return a run with its steps."""
    return service.describe(session, service.get_run(session, run_id))


@router.get("/v1/runs/{run_id}/evidence")
def evidence(run_id: UUID, _caller: Reader, session: SessionDep) -> EvidenceOut:
    """Return a run's measured checks and its verdict."""
    found = service.get_run(session, run_id)
    return EvidenceOut(
        run=found.id, verdict=found.verdict, checks=service.checks(session, found.id)
    )
