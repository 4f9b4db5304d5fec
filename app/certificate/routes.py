"""`/v1/erasure-requests/{id}/certificate`, and the public keys that verify it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse

from app.access.dependencies import SessionDep, portal_of, require
from app.access.service import Caller
from app.certificate import service
from app.core.security import Role
from app.core.signing import SigningKeys

router = APIRouter(tags=["Certificates"])
MEDIA_TYPE = "application/vnd.lethe.certificate+json"


@router.get(
    "/v1/erasure-requests/{request_id}/certificate",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {}}}},
)
def certificate(
    request_id: UUID,
    caller: Annotated[Caller, Depends(require(Role.PORTAL, Role.DPO, Role.AUDITOR))],
    session: SessionDep,
) -> Response:
    """Return the newest certificate as a file that `lethe verify` checks offline."""
    bundle = service.bundle(session, request_id, portal_of(caller))
    return Response(bundle, media_type=MEDIA_TYPE)


@router.get("/v1/keys", response_class=PlainTextResponse)
def keys(
    request: Request,
    _caller: Annotated[
        Caller, Depends(require(Role.PORTAL, Role.DPO, Role.AUDITOR, Role.ENGINEER))
    ],
) -> str:
    """Return `lethe.pub`. An auditor who trusts nobody gets it by another way than this."""
    signing: SigningKeys = request.app.state.signing_keys
    return signing.public.format()
