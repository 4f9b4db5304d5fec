"""`/dashboard`: what the data protection officer reads, and the forms by which they decide."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Annotated
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Form, Request, Response
from sqlalchemy.orm import Session

from app import pipeline
from app.access.dependencies import SessionDep, SettingsDep
from app.certificate import service as certificate
from app.certificate.routes import MEDIA_TYPE
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.plain_text import Reason
from app.dashboard import pages, report_routes, repository, sign_in, views
from app.dashboard.certificate_views import certificate_view
from app.dashboard.request_views import RequestView, request_view
from app.dashboard.run_views import RunView, run_view
from app.dashboard.session import DeciderDep, Visitor, VisitorDep
from app.intake import service as intake
from app.intake.schemas import TimelineEntry
from app.models import Action, Artifact
from app.planning import service as planning
from app.runs import service as runs
from app.sla import service as sla

site = APIRouter(include_in_schema=False)
OPEN_LISTED, CLOSED_LISTED = 200, 50
Given = Annotated[Reason, Form()]
_DAY_ENDS = time(23, 59, 59)


@site.get("/dashboard")
def overview(request: Request, visitor: VisitorDep, session: SessionDep) -> Response:
    """List requests by due date, and the promises that are open."""
    now = utc_now()
    closed = repository.closed_counts(session)
    return pages.render(
        request,
        "overview.html",
        visitor,
        counts=views.clock_counts(repository.open_clocks(session), closed, now),
        opened=[views.listed(one, now) for one in repository.open_requests(session, OPEN_LISTED)],
        closed=[
            views.listed(one, now) for one in repository.closed_requests(session, CLOSED_LISTED)
        ],
        promises=[views.promise(*one, now) for one in repository.open_promises(session)],
    )


@site.get("/dashboard/requests/{request_id}")
def show(
    request_id: UUID,
    request: Request,
    visitor: VisitorDep,
    session: SessionDep,
    settings: SettingsDep,
) -> Response:
    """Show one request: its clock, plan, runs, evidence, log and what may be decided."""
    view = _view(session, settings, visitor, request_id, utc_now())
    return pages.render(request, "request.html", visitor, view=view)


def _view(
    session: Session, settings: Settings, visitor: Visitor, request_id: UUID, now: datetime
) -> RequestView:
    row = intake.find(session, request_id, None)
    _, actions = planning.planned(session, row.id, None)
    timeline = intake.timeline(session, row.id)
    seen = intake.identifiers_of(session, settings, row) if visitor.decides else None
    return request_view(
        row,
        intake.describe(session, settings, row, now),
        sla.clock_of(settings, row),
        actions=actions,
        runs=_runs(session, actions, timeline),
        timeline=timeline,
        promises=[views.promise(*one, now) for one in repository.promises_of(session, row.id)],
        identifiers=seen or (),
        certified=certificate.is_logged(session, row.id),
        now=now,
    )


def _runs(
    session: Session,
    actions: Sequence[tuple[Action, Artifact]],
    timeline: Sequence[TimelineEntry],
) -> list[RunView]:
    """Return every run of the request; the log also knows those that a stronger method followed."""
    subjects = {
        one.run_id: f"{artifact.name}@{artifact.version}"
        for one, artifact in actions
        if one.run_id is not None
    }
    logged = {UUID(str(entry.facts["run"])) for entry in timeline if "run" in entry.facts}
    return [
        run_view(
            runs.describe(session, run),
            runs.checks(session, run.id),
            subjects.get(run.id, ""),
        )
        for run in repository.runs(session, logged | subjects.keys())
    ]


@site.post("/dashboard/requests/{request_id}/approve")
def approve(
    request_id: UUID,
    _decider: DeciderDep,
    session: SessionDep,
    settings: SettingsDep,
    reason: Annotated[Reason | None, Form()] = None,
) -> Response:
    """Approve the plan, with a remark or without."""
    request = intake.lock(session, request_id)
    intake.check_reason(session, settings, request, reason)
    pipeline.approve(session, request, reason, utc_now())
    return _back_to(request_id)


@site.post("/dashboard/requests/{request_id}/accept")
def accept(
    request_id: UUID,
    _decider: DeciderDep,
    session: SessionDep,
    settings: SettingsDep,
    reason: Given,
    promise_by: Annotated[date, Form()],
) -> Response:
    """Accept inconclusive verdicts, promising exact retraining by the end of a day."""
    request = intake.lock(session, request_id)
    intake.check_reason(session, settings, request, reason)
    zone = ZoneInfo(settings.controller_time_zone)
    due_at = datetime.combine(promise_by, _DAY_ENDS, tzinfo=zone).astimezone(UTC)
    pipeline.accept(session, request, reason, due_at, utc_now())
    return _back_to(request_id)


@site.post("/dashboard/requests/{request_id}/reject")
def reject(
    request_id: UUID,
    _decider: DeciderDep,
    session: SessionDep,
    settings: SettingsDep,
    reason: Given,
) -> Response:
    """Refuse the request, with the reason that the law wants told."""
    intake.reject(session, settings, request_id, reason, utc_now())
    return _back_to(request_id)


@site.post("/dashboard/requests/{request_id}/retry")
def retry(request_id: UUID, _decider: DeciderDep, session: SessionDep) -> Response:
    """Try the failed actions again."""
    pipeline.retry(session, intake.lock(session, request_id), utc_now())
    return _back_to(request_id)


@site.post("/dashboard/requests/{request_id}/resume")
def resume(request_id: UUID, _decider: DeciderDep, session: SessionDep) -> Response:
    """Let a paused request go on."""
    intake.resume(session, request_id, utc_now())
    return _back_to(request_id)


@site.post("/dashboard/requests/{request_id}/identity")
def confirm_identity(
    request_id: UUID, _decider: DeciderDep, session: SessionDep, settings: SettingsDep
) -> Response:
    """Confirm that the person is who they say; the request goes on."""
    intake.check_identity(session, settings, request_id, True, None, utc_now())
    return _back_to(request_id)


@site.get("/dashboard/certificates/{request_id}")
def show_certificate(
    request_id: UUID, request: Request, visitor: VisitorDep, session: SessionDep
) -> Response:
    """Show a certificate in plain words, ready to print."""
    bundle = certificate.bundle(session, request_id)
    view = certificate_view(bundle, request.app.state.signing_keys.public)
    reports = repository.runs_by_artifact(session, request_id)
    return pages.render(request, "certificate.html", visitor, view=view, reports=reports)


@site.get("/dashboard/certificates/{request_id}/file")
def certificate_file(request_id: UUID, _visitor: VisitorDep, session: SessionDep) -> Response:
    """Return the certificate as the file that `lethe verify` checks."""
    name = f"lethe-certificate-{request_id}.json"
    headers = dict(pages.HEADERS) | {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(certificate.bundle(session, request_id), media_type=MEDIA_TYPE, headers=headers)


def _back_to(request_id: UUID) -> Response:
    return pages.see_other(f"{pages.ROOT}/requests/{request_id}")


router = APIRouter()
router.include_router(sign_in.router)
router.include_router(site)
router.include_router(report_routes.site)
router.include_router(report_routes.calls)
