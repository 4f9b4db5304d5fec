"""The report on paper: the same words as the page, and nothing of the data read as markup."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pypdf import PdfReader

from app.dashboard.report_pdf import report_pdf
from app.dashboard.report_views import Fact, ReportView, report_view
from app.runs.schemas import RunOut, StepOut
from tests.factories import make_check

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
KEY = UUID("0193aaaa-0000-7000-8000-00000000beef")
BERLIN = ZoneInfo("Europe/Berlin")
CURVES = {
    "false_alarms": [0.0, 0.01, 1.0],
    "hits_after": [0.0, 0.25, 1.0],
    "hits_before": [0.5, 0.75, 1.0],
    "edges": [0.0, 1.0, 2.0],
    "forget_shares": [0.5, 0.5],
    "holdout_shares": [0.75, 0.25],
}


def _view(verdict: dict[str, Any] | None = None, *checks: dict[str, Any]) -> ReportView:
    result = {
        "manifest_digest": "3f" * 32,
        "environment": {"python": "3.11.9"},
        "not_run": [{"name": "translated", "reason": "No translations were supplied."}],
    }
    step = StepOut(
        id=KEY,
        kind="evaluate",
        target="all",
        stage=1,
        state="done",
        progress=1.0,
        attempts=1,
        epoch=1,
        failure=None,
        started_at=NOW,
        finished_at=NOW,
        result=result,
    )
    run = RunOut(
        id=KEY,
        kind="unlearn",
        state="done",
        method="sisa",
        guarantee="exact",
        model="notes-lm",
        base_version=1,
        new_version=2,
        starts_at=None,
        predicted_seconds=None,
        actual_seconds=None,
        verdict=verdict,
        accepted={"reason": "x", "due_at": (NOW + timedelta(days=30)).isoformat()},
        failure=None,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW,
        steps=[step],
    )
    return report_view(run, checks, "")


def _full() -> ReportView:
    own = {"request": str(KEY), "p_value": 0.31, "adjusted": 1.0}
    own |= {"verdict": "inconclusive", "reason": "Not singled out."}
    verdict = {
        "verdict": "inconclusive",
        "by": "statistics",
        "summary": "Too little evidence.",
        "checks": [{"name": "zlib", "verdict": "inconclusive", "reason": "Reaches beyond."}],
        "margins": {"membership": 0.15, "alpha": 0.01},
        "subjects": [own],
    }
    leading = make_check(curves=CURVES, details={"leading": 1.0})
    return _view(verdict, leading, make_check(name="zlib", curves=CURVES))


def _text(pdf: bytes) -> str:
    pages = [page.extract_text() for page in PdfReader(BytesIO(pdf)).pages]
    return " ".join(" ".join(pages).split())


def test_the_paper_says_what_the_page_says() -> None:
    view = _full()
    text = _text(report_pdf(view, BERLIN))
    assert "1 Jul 2026, 14:00 (Europe/Berlin)" in text
    assert "31 Jul 2026, 14:00 (Europe/Berlin)" in text
    for said in (
        view.summary,
        view.meaning,
        view.run,
        "Not tested: No translations were supplied.",
        "more data subjects",
        "0.40 to 0.60",
        "Reaches beyond.",
        "Not singled out.",
        "3f" * 32,
        f"lethe replay {KEY}",
        "rate of false alarms (logarithmic)",
        *(one.title for one in view.eight),
        *(one.name for one in view.thresholds),
    ):
        assert said in text, said


def test_an_empty_report_is_still_one() -> None:
    text = _text(report_pdf(_view(), BERLIN))
    assert "Nothing was measured." in text
    assert "All checks" not in text


@pytest.mark.parametrize(
    "told",
    [
        '#panic("read as code")',
        "[ an open bracket",
        "$ an open formula",
        "*bold* _slanted_ `raw` = heading",
        "<script>alert(1)</script> & \\ @nobody //comment",
        '#read("/etc/hostname") #image("x.svg")',
    ],
)
def test_nothing_of_the_data_is_markup(told: str) -> None:
    view = replace(
        _full(), summary=told, not_tested=(Fact(told, told),), process=(Fact("Digest", told),)
    )
    assert _text(report_pdf(view, BERLIN)).count(told) == 4


def test_the_same_run_gives_the_same_bytes_accessible_and_dated() -> None:
    view = _full()
    pdf = report_pdf(view, BERLIN)
    assert pdf == report_pdf(view, BERLIN)
    assert pdf != report_pdf(replace(view, made_at=NOW + timedelta(days=1)), BERLIN)
    reader = PdfReader(BytesIO(pdf))
    assert b"<pdfuaid:part>1</pdfuaid:part>" in pdf
    assert reader.metadata is not None
    assert reader.metadata.title == f"Evidence report of run {KEY}"
    assert reader.metadata.creation_date == NOW


def test_letters_that_no_font_has_make_a_plain_pdf() -> None:
    pdf = report_pdf(replace(_full(), summary="證據 is told"), BERLIN)
    assert b"pdfuaid" not in pdf
    assert "is told" in _text(pdf)
