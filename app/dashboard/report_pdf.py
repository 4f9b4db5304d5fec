"""A run's report as a PDF that looks the same wherever it is made.

Typst gets the report as JSON through an input of its own, so nothing in it is read as markup. The
fonts are those that Typst carries, and the document's date is the run's.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from typing import Final, Literal
from zoneinfo import ZoneInfo

import typst

from app.dashboard.pages import TEMPLATES, told_moment
from app.dashboard.plots import Chart
from app.dashboard.report_checks import CheckRow
from app.dashboard.report_views import ReportView

_TEMPLATE: Final = (files("app.dashboard") / "templates" / "report.typ").read_bytes()
_ON_PAPER: Final = TEMPLATES.from_string(
    '{% from "macros.html" import chart as draw %}{{ draw(chart, paper=true) }}'
)


def report_pdf(view: ReportView, zone: ZoneInfo) -> bytes:
    """Return the report as PDF/UA-1 (ISO 14289-1), its times told in `zone`.

    A text with letters that the fonts lack makes a plain PDF, which no standard vouches for.
    """
    told = json.dumps(_document(view), default=lambda moment: _time(moment, zone))
    try:
        return _compiled(told, view.made_at, "ua-1")
    except typst.TypstError:
        return _compiled(told, view.made_at, None)


def _compiled(told: str, made_at: datetime, standard: Literal["ua-1"] | None) -> bytes:
    return typst.compile(
        _TEMPLATE,
        format="pdf",
        sys_inputs={"report": told},
        pdf_standards=standard,
        timestamp=int(made_at.timestamp()),
        ignore_system_fonts=True,
    )


def _document(view: ReportView) -> Mapping[str, object]:
    return asdict(view) | {
        "checks": [_check(one) for one in view.checks],
        "groups": [
            {"title": group.title, "rows": [_check(one) for one in group.rows]}
            for group in view.groups
        ],
        "leading": None if view.leading is None else _check(view.leading),
    }


def _check(row: CheckRow) -> Mapping[str, object]:
    return asdict(row) | {"charts": [_chart(one) for one in row.charts]}


def _chart(chart: Chart) -> Mapping[str, str]:
    drawn = _ON_PAPER.render(chart=chart)
    return {"svg": drawn, "title": chart.title, "description": chart.description}


def _time(moment: datetime, zone: ZoneInfo) -> str:
    return f"{told_moment(moment, zone)} ({zone.key})"
