"""`/v1/erasure-requests/{id}/approve`, `/retry`, `/accept`, and promises brought forward."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends

from app import pipeline
from app.access.dependencies import SessionDep, SettingsDep, require
from app.access.service import Caller
from app.core.clock import utc_now
from app.core.security import Role
from app.intake import service as intake
from app.intake.schemas import AcceptIn, ApproveIn, ErasureRequestOut
from app.sla import service as sla

router = APIRouter(tags=["Decisions"])
Dpo = Annotated[Caller, Depends(require(Role.DPO))]


@router.post("/v1/erasure-requests/{request_id}/approve")
def approve(
    request_id: UUID, body: ApproveIn, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Approve the plan: the work begins, and no training takes the records in any more."""
    request, now = intake.lock(session, request_id), utc_now()
    intake.check_reason(session, settings, request, body.reason)
    pipeline.approve(session, request, body.reason, now)
    return intake.describe(session, settings, request, now)


@router.post("/v1/erasure-requests/{request_id}/retry")
def retry(
    request_id: UUID, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Try a failed request's failed actions again."""
    request, now = intake.lock(session, request_id), utc_now()
    pipeline.retry(session, request, now)
    return intake.describe(session, settings, request, now)


@router.post("/v1/erasure-requests/{request_id}/accept")
def accept(
    request_id: UUID, body: AcceptIn, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Accept inconclusive verdicts, with a reason and the date of the exact retraining promised."""
    request, now = intake.lock(session, request_id), utc_now()
    intake.check_reason(session, settings, request, body.reason)
    pipeline.accept(session, request, body.reason, body.commitment_due_at, now)
    return intake.describe(session, settings, request, now)


@router.get("/v1/commitments")
def commitments(
    _caller: Annotated[Caller, Depends(require(Role.DPO, Role.ENGINEER, Role.AUDITOR))],
    session: SessionDep,
) -> list[dict[str, Any]]:
    """List the dated promises: open, overdue or kept."""
    return sla.commitments(session, utc_now())


@router.post("/v1/commitments/{commitment_id}/start", status_code=202)
def start(
    commitment_id: UUID,
    _caller: Annotated[Caller, Depends(require(Role.DPO, Role.ENGINEER))],
    session: SessionDep,
) -> dict[str, int]:
    """Start the promised exact retraining now instead of at its date."""
    now = utc_now()
    sla.bring_forward(session, commitment_id, now)
    return {"runs_started": pipeline.start_promised(session, now)}
