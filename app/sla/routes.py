"""`/v1/sla`: the clocks, for the DPO."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.access.dependencies import SessionDep, SettingsDep, require
from app.access.service import Caller
from app.core.clock import utc_now
from app.core.security import Role
from app.sla import service
from app.sla.schemas import SummaryOut

router = APIRouter(prefix="/v1/sla", tags=["Clocks"])


@router.get("/summary")
def summary(
    _caller: Annotated[Caller, Depends(require(Role.DPO))],
    session: SessionDep,
    settings: SettingsDep,
) -> SummaryOut:
    """Count requests by clock and by state; list the dated promises."""
    return SummaryOut.model_validate(service.summary(session, settings, utc_now()))
