"""The report of a run: a page, and a PDF by the dashboard's session or by an API key."""

from typing import Annotated, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.orm import Session

from app.access.dependencies import SessionDep, SettingsDep, require
from app.access.service import Caller
from app.core.config import Settings
from app.core.security import Role
from app.dashboard import pages, repository
from app.dashboard.report_pdf import report_pdf
from app.dashboard.report_views import ReportView, report_view
from app.dashboard.session import VisitorDep
from app.runs import service as runs

site = APIRouter(include_in_schema=False)
calls = APIRouter(tags=["Runs"])
PDF: Final = "application/pdf"
Reader = Annotated[Caller, Depends(require(Role.DPO, Role.ENGINEER, Role.AUDITOR))]


@site.get("/dashboard/runs/{run_id}")
def show_report(
    run_id: UUID, request: Request, visitor: VisitorDep, session: SessionDep
) -> Response:
    """Show what was measured of a run, in plain words first."""
    return pages.render(request, "report.html", visitor, view=_view(session, run_id))


@site.get("/dashboard/runs/{run_id}/report.pdf")
def report_file(
    run_id: UUID, _visitor: VisitorDep, session: SessionDep, settings: SettingsDep
) -> Response:
    """Return the same as a PDF."""
    return _file(session, settings, run_id)


@calls.get(
    "/v1/runs/{run_id}/report.pdf",
    response_class=Response,
    responses={200: {"content": {PDF: {}}}},
)
def report(run_id: UUID, _caller: Reader, session: SessionDep, settings: SettingsDep) -> Response:
    """Return the report of a run's evidence as a PDF, in plain words first."""
    return _file(session, settings, run_id)


def _view(session: Session, run_id: UUID) -> ReportView:
    run = runs.get_run(session, run_id)
    checks = runs.checks(session, run.id)
    return report_view(runs.describe(session, run), checks, repository.dataset_name(session, run))


def _file(session: Session, settings: Settings, run_id: UUID) -> Response:
    body = report_pdf(_view(session, run_id), ZoneInfo(settings.controller_time_zone))
    name = f"lethe-report-{run_id}.pdf"
    headers = dict(pages.HEADERS) | {"Content-Disposition": f'inline; filename="{name}"'}
    return Response(body, media_type=PDF, headers=headers)
