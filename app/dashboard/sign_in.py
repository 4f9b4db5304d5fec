"""`/dashboard/sign-in` and `/dashboard/sign-out`, and the files that pages are dressed with."""

import re
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Form, Header, Request, Response

from app.access.dependencies import SessionDep, SettingsDep
from app.access.service import authenticate
from app.core.errors import UnauthenticatedError
from app.dashboard import pages
from app.dashboard.session import (
    READERS,
    ForeignFormError,
    SenderDep,
    close_session,
    open_session,
)

router = APIRouter(prefix="/dashboard", include_in_schema=False)
_PAGES: Final = re.compile(r"/dashboard(/(requests|certificates|runs)/[0-9a-f-]{36})?")
UNKNOWN_KEY: Final = "This is no valid API key. Copy it whole; it starts with lethe_."
WRONG_ROLE: Final = "This API key's role may not use the dashboard; use one of the role dpo."


@router.get("/sign-in")
def ask(request: Request, next: str = pages.ROOT) -> Response:  # noqa: A002 the query's own word
    """Ask for an API key."""
    return pages.render(request, "sign_in.html", problem=None, following=_own_page(next))


@router.post("/sign-in")
def sign_in(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    api_key: Annotated[str, Form(max_length=200)] = "",
    following: Annotated[str, Form(max_length=200)] = pages.ROOT,
    sec_fetch_site: Annotated[str, Header()] = "same-origin",
) -> Response:
    """Open a session for the holder of an API key of the role dpo, auditor or admin."""
    # Another site could otherwise sign a visitor in as somebody else.
    if sec_fetch_site not in {"same-origin", "none"}:
        raise ForeignFormError
    following = _own_page(following)
    try:
        caller = authenticate(session, api_key.strip())
    except UnauthenticatedError:
        return pages.render(
            request, "sign_in.html", status=401, problem=UNKNOWN_KEY, following=following
        )
    if caller.role not in READERS:
        return pages.render(
            request, "sign_in.html", status=403, problem=WRONG_ROLE, following=following
        )
    response = pages.see_other(following)
    open_session(response, request, settings.vault_secret.get_secret_value(), caller.id)
    return response


@router.post("/sign-out")
def sign_out(_sender: SenderDep) -> Response:
    """Close the session."""
    response = pages.see_other(f"{pages.ROOT}/sign-in")
    close_session(response)
    return response


@router.get("/static/{name}")
def static(name: Literal["style.css", "report.css", "icon.svg"]) -> Response:
    """Return a file that pages are dressed with."""
    return pages.static_file(name)


def _own_page(path: str) -> str:
    """Return `path` where it is one of the dashboard's pages: nobody is sent elsewhere."""
    return path if _PAGES.fullmatch(path) else pages.ROOT
