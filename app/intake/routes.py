"""`/v1/erasure-requests`: what portals submit, and what DPOs decide before the work begins."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response

from app.access.dependencies import (
    OnceDep,
    PageDep,
    SessionDep,
    SettingsDep,
    as_json,
    portal_of,
    require,
)
from app.access.service import Caller
from app.core.clock import utc_now
from app.core.identifiers import Identifier
from app.core.security import Role
from app.intake import service
from app.intake.schemas import (
    ErasureRequestIn,
    ErasureRequestOut,
    ErasureRequestsOut,
    IdentityIn,
    ReasonIn,
    TimelineOut,
)
from app.intake.service import Submission

router = APIRouter(prefix="/v1/erasure-requests", tags=["Erasure requests"])
Portal = Annotated[Caller, Depends(require(Role.PORTAL))]
Reader = Annotated[Caller, Depends(require(Role.PORTAL, Role.DPO))]
Dpo = Annotated[Caller, Depends(require(Role.DPO))]


@router.post("", status_code=202, response_model=ErasureRequestOut)
def submit(
    body: ErasureRequestIn,
    caller: Portal,
    session: SessionDep,
    settings: SettingsDep,
    once: OnceDep,
) -> Response:
    """Submit a person's request to be erased; follow `Location` for what becomes of it."""

    def create() -> tuple[Any, str]:
        now = utc_now()
        submission = Submission(
            identifiers=[
                Identifier(one.type, one.value.get_secret_value())
                for one in body.subject.identifiers
            ],
            regime=body.regime,
            received_at=body.received_at,
            reference=body.reference,
            ground=body.ground,
            identity_verified=body.identity_verified,
        )
        row = service.receive(session, settings, caller.id, submission, now)
        out = service.describe(session, settings, row, now)
        return as_json(out), f"/v1/erasure-requests/{row.id}"

    return once.answer(caller, 202, create)


@router.get("")
def index(
    caller: Reader, session: SessionDep, settings: SettingsDep, page: PageDep
) -> ErasureRequestsOut:
    """List requests; a portal sees its own."""
    now = utc_now()
    rows = service.page(session, portal_of(caller), page.after, page.limit)
    items = [service.describe(session, settings, row, now) for row in rows]
    full = len(items) == page.limit
    return ErasureRequestsOut(items=items, next_cursor=items[-1].id if full else None)


@router.get("/{request_id}")
def show(
    request_id: UUID, caller: Reader, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Return a request: its state, clock, actions; never the person."""
    row = service.find(session, request_id, portal_of(caller))
    return service.describe(session, settings, row, utc_now())


@router.get("/{request_id}/timeline")
def timeline(request_id: UUID, caller: Reader, session: SessionDep) -> TimelineOut:
    """Return the request's entries in the log, oldest first."""
    row = service.find(session, request_id, portal_of(caller))
    return TimelineOut(items=service.timeline(session, row.id))


@router.post("/{request_id}/reject")
def reject(
    request_id: UUID, body: ReasonIn, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Refuse a request, with the reason that the law wants told (GDPR Art. 12(4), 17(3))."""
    row = service.reject(session, settings, request_id, body.reason, utc_now())
    return service.describe(session, settings, row, utc_now())


@router.post("/{request_id}/cancel")
def cancel(
    request_id: UUID, body: ReasonIn, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Call a request off before anything was erased, as when the person withdraws it."""
    row = service.cancel(session, settings, request_id, body.reason, utc_now())
    return service.describe(session, settings, row, utc_now())


@router.post("/{request_id}/extend")
def extend(
    request_id: UUID, body: ReasonIn, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Take the law's one extension, with the reason that the person was told in time."""
    row = service.extend(session, settings, request_id, body.reason, utc_now())
    return service.describe(session, settings, row, utc_now())


@router.post("/{request_id}/pause")
def pause(
    request_id: UUID, body: ReasonIn, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Hold a request where it stands, with a reason; the clock runs on."""
    row = service.pause(session, settings, request_id, body.reason, utc_now())
    return service.describe(session, settings, row, utc_now())


@router.post("/{request_id}/resume")
def resume(
    request_id: UUID, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Let a paused request go on."""
    row = service.resume(session, request_id, utc_now())
    return service.describe(session, settings, row, utc_now())


@router.post("/{request_id}/identity")
def identity(
    request_id: UUID, body: IdentityIn, _caller: Dpo, session: SessionDep, settings: SettingsDep
) -> ErasureRequestOut:
    """Record the identity check: verified requests go on, others are refused."""
    row = service.check_identity(
        session, settings, request_id, body.verified, body.reason, utc_now()
    )
    return service.describe(session, settings, row, utc_now())
