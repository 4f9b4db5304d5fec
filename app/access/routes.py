"""`/v1/api-keys`: the admin's calls."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from app.access import repository, service
from app.access.dependencies import PageDep, SessionDep, as_json, refuse_once, require
from app.access.schemas import ApiKeyIn, ApiKeyOut, NewApiKeyOut
from app.access.service import Caller
from app.core.clock import utc_now
from app.core.security import Role

router = APIRouter(prefix="/v1/api-keys", tags=["API keys"])
Admin = Annotated[Caller, Depends(require(Role.ADMIN))]


@router.post("", status_code=201, response_model=NewApiKeyOut, dependencies=[Depends(refuse_once)])
def create(body: ApiKeyIn, _caller: Admin, session: SessionDep) -> Response:
    """Make an API key. Its token is in this answer and nowhere else, so nothing replays it."""
    holder, token = service.create_api_key(session, body.name, body.role, utc_now())
    out = NewApiKeyOut(id=holder.id, name=holder.name, role=holder.role, token=token)
    return JSONResponse(as_json(out), 201, headers={"Cache-Control": "no-store"})


@router.get("")
def index(_caller: Admin, session: SessionDep, page: PageDep) -> dict[str, object]:
    """List API keys, revoked ones too."""
    rows = repository.api_keys(session, page.after, page.limit)
    return page.of([as_json(ApiKeyOut.model_validate(row)) for row in rows])


@router.delete("/{key_id}", status_code=204)
def revoke(key_id: UUID, _caller: Admin, session: SessionDep) -> None:
    """Revoke an API key at once."""
    service.revoke_api_key(session, key_id, utc_now())
