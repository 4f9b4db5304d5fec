"""`/v1/erasure-requests/{id}/plan`: what would be done, and why not otherwise."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends

from app.access.dependencies import SessionDep, portal_of, require
from app.access.service import Caller
from app.core.security import Role
from app.planning import service
from app.planning.schemas import CandidateOut, PlannedActionOut, PlanOut

router = APIRouter(prefix="/v1/erasure-requests", tags=["Erasure requests"])


@router.get("/{request_id}/plan")
def plan(
    request_id: UUID,
    caller: Annotated[Caller, Depends(require(Role.PORTAL, Role.DPO))],
    session: SessionDep,
) -> PlanOut:
    """Show one action per artifact: the method, its guarantee, cost and finish, and the reasons."""
    request, actions = service.planned(session, request_id, portal_of(caller))
    return PlanOut(
        request=request.id,
        due_at=request.due_at,
        actions=[
            PlannedActionOut(
                id=action.id,
                artifact=f"{artifact.name}@{artifact.version}"
                if artifact.version
                else artifact.name,
                kind=artifact.kind,
                state=action.state,
                method=action.method,
                guarantee=action.guarantee,
                reason=action.reason,
                found=action.found,
                commitment_due_at=action.commitment_due_at,
                candidates=[CandidateOut(**one) for one in action.plan["candidates"]],
                tried=action.plan.get("tried", []),
            )
            for action, artifact in actions
        ],
        unknown_lineage=(request.trace or {}).get("unknown_lineage", []),
    )
