"""Templates into responses: headers that every page carries, and errors as pages for people.

Nothing here is loaded from another host, and no page needs JavaScript.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from importlib.resources import files
from inspect import isawaitable
from types import MappingProxyType
from typing import Any, Final
from zoneinfo import ZoneInfo

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from app.access.problems import MEDIA_TYPE
from app.core.config import Settings
from app.dashboard.session import Visitor

ROOT: Final = "/dashboard"
HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'; object-src 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
)
STATIC_FILES: Final[Mapping[str, str]] = MappingProxyType(
    {"style.css": "text/css", "report.css": "text/css", "icon.svg": "image/svg+xml"}
)
_CODE: Final = re.compile("`([^`]*)`")
_FOLDER = files("app.dashboard") / "static"
STATIC: Final = MappingProxyType({name: (_FOLDER / name).read_bytes() for name in STATIC_FILES})


def render(
    request: Request,
    template: str,
    visitor: Visitor | None = None,
    *,
    status: int = 200,
    **values: object,
) -> HTMLResponse:
    """Render a page for a visitor, or for nobody in particular."""
    settings: Settings = request.app.state.settings
    zone = ZoneInfo(settings.controller_time_zone)
    page = TEMPLATES.get_template(template).render(visitor=visitor, zone=zone, **values)
    return HTMLResponse(page, status, headers=dict(HEADERS))


def see_other(path: str) -> RedirectResponse:
    """Send the browser to another page, with GET (RFC 9110 §15.4.4)."""
    return RedirectResponse(path, 303, headers=dict(HEADERS))


def static_file(name: str) -> Response:
    """Return one of the files that pages are dressed with; its address changes with its content."""
    headers = dict(HEADERS) | {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(STATIC[name], media_type=STATIC_FILES[name], headers=headers)


Handler = Callable[[Request, Exception], Response | Awaitable[Response]]


def add_error_pages(app: FastAPI) -> None:
    """Have the registered error handlers answer with pages where a browser looks at the dashboard.

    They run after the transaction was rolled back, which an error page made within a route is not.
    """
    handlers: Mapping[Any, Handler] = dict(app.exception_handlers)
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, _page_or_problem(handler))


def _page_or_problem(handler: Handler) -> Handler:
    async def answer(request: Request, error: Exception) -> Response:
        response = handler(request, error)
        problem = await response if isawaitable(response) else response
        of_dashboard = request.url.path == ROOT or request.url.path.startswith(f"{ROOT}/")
        reads_html = "text/html" in request.headers.get("Accept", "")
        if not (of_dashboard and reads_html and problem.media_type == MEDIA_TYPE):
            return problem
        if problem.status_code == 401:
            following = f"?next={request.url.path}" if request.method == "GET" else ""
            return see_other(f"{ROOT}/sign-in{following}")
        told = json.loads(bytes(problem.body))
        return render(request, "problem.html", status=problem.status_code, problem=told)

    return answer


def told_moment(moment: datetime, zone: ZoneInfo) -> str:
    """Return a moment as every page and paper tells it: its minute, cut and not rounded."""
    return f"{moment.astimezone(zone):%-d %b %Y, %H:%M}"


def _static_url(name: str) -> str:
    return f"{ROOT}/static/{name}?{hashlib.sha256(STATIC[name]).hexdigest()[:12]}"


def _words(name: str) -> str:
    return name.replace("_", " ")


@pass_context
def _day(context: Context, moment: datetime) -> str:
    return f"{moment.astimezone(context['zone']):%-d %b %Y}"


@pass_context
def _moment(context: Context, moment: datetime) -> str:
    return told_moment(moment, context["zone"])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def _with_code(text: str) -> Markup:
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 escaped before


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("app.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "words": _words,
        "day": _day,
        "moment": _moment,
        "duration": _duration,
        "number": _number,
        "with_code": _with_code,
    }
    environment.globals |= {"root": ROOT, "static": _static_url}
    return environment


TEMPLATES: Final = _environment()
