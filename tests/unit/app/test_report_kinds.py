"""The reports of runs that change no model: each says what it did, and nothing of forgetting."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pypdf import PdfReader

from app.dashboard.certificate_views import signed_check
from app.dashboard.pages import TEMPLATES
from app.dashboard.report_pdf import report_pdf
from app.dashboard.report_views import ReportView, report_view
from app.dashboard.run_views import run_view
from app.runs.schemas import RunOut, StepOut
from app.verification.stored import files_verdict
from tests.factories import make_check

NOW = datetime(2026, 7, 1, 12, 9, 40, tzinfo=UTC)
KEY = UUID("0193aaaa-0000-7000-8000-00000000beef")
BERLIN = ZoneInfo("Europe/Berlin")
UNTRUE = (
    "equal to training without",
    "Guarantee",
    "not judged",
    "eight methods",
    "Nothing was measured",
    "was tested",
    "not tested either",
    "forgotten",
    "Method train",
)


def _step(kind: str, seconds: int, result: Mapping[str, Any] | None = None) -> StepOut:
    return StepOut(
        id=KEY,
        kind=kind,
        target="all",
        stage=0,
        state="done",
        progress=1.0,
        attempts=1,
        epoch=1,
        failure=None,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=seconds),
        result=None if result is None else dict(result),
    )


def _run(kind: str, result: Mapping[str, Any] | None = None, **more: Any) -> RunOut:
    method = kind if kind in {"train", "erase_records"} else None
    return RunOut(
        id=KEY,
        kind=kind,
        state="done",
        method=method,
        guarantee="exact" if kind == "erase_records" else None,
        model="notes-lm" if kind == "train" else None,
        base_version=None,
        new_version=1 if kind == "train" else None,
        starts_at=None,
        predicted_seconds=None,
        actual_seconds=None,
        verdict=None,
        accepted=None,
        failure=None,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW + timedelta(hours=1),
        steps=[_step(kind, 5, result)],
    ).model_copy(update=more)


def _search(found: float = 0, **details: float) -> dict[str, Any]:
    counted = {"unreadable": 0, "needles": 4, "files": 2, "bytes": 4096} | details
    return make_check(
        name="stored_bytes",
        family="storage",
        estimate=found,
        low=None,
        high=None,
        level=None,
        p_value=None,
        positive_control=None,
        threat_model="T0",
        unit="record",
        n=4,
        m=2,
        details=counted,
    )


def _erasing(
    *checks: dict[str, Any], result: Mapping[str, Any] | None = None
) -> tuple[RunOut, list[dict[str, Any]]]:
    """A run that erases records, its search judged as the service does."""
    return _run("erase_records", result, verdict=files_verdict(checks)), [*checks]


def _page(view: ReportView) -> str:
    return TEMPLATES.get_template("report.html").render(visitor=None, zone=BERLIN, view=view)


def _paper(view: ReportView) -> str:
    pages = PdfReader(BytesIO(report_pdf(view, BERLIN))).pages
    return " ".join(" ".join(page.extract_text() for page in pages).split())


def _both(view: ReportView) -> tuple[str, str]:
    return _page(view), _paper(view)


RUNS = {
    "erasing": _erasing(_search(controls=8, controls_found=8), result={"digest_before": "3f" * 32}),
    "erasing, nothing to look for": _erasing(),
    "training": (_run("train", {"manifest_digest": "3f" * 32}), []),
    "indexing": (_run("index", {"digest": "3f" * 32, "records": 1797, "skipped": 2}), []),
    "destroying": (_run("destroy"), []),
}


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_said_that_is_true_of_models_that_forget_only(name: str) -> None:
    run, checks = RUNS[name]
    view = report_view(run, checks, "notes@1")
    for text in _both(view):
        assert [one for one in UNTRUE if one in text] == []
        assert ("How the model was made" in text) == (name == "training")
        assert view.meaning in text


def test_a_search_is_told_with_what_was_looked_into_and_found() -> None:
    for text in _both(report_view(*RUNS["erasing"], "notes@1")):
        assert text.count("What was searched") == 1
        assert "What was found" in text
        assert "What the verdict rests on" not in text
        # The store keeps no order of what was counted.
        counted = [text.index(one) for one in ("4,096", "Could not be read", "looked for, to test")]
        assert counted == sorted(counted)
        assert "3f" * 32 in text
        assert "writes the file again without the records" in text


@pytest.mark.parametrize(
    ("check", "verdict", "said"),
    [
        (_search(controls=8, controls_found=8), "pass", "none was found; all 8 kept records"),
        (_search(unreadable=1), "inconclusive", "1 of 2 files could not be looked into"),
        (_search(controls=8, controls_found=5), "inconclusive", "3 of 8 kept records were not"),
        (_search(found=2), "fail", "Of 4 erased records, 2 were found."),
    ],
)
def test_what_a_search_came_to_is_said_plainly(
    check: dict[str, Any], verdict: str, said: str
) -> None:
    view = report_view(*_erasing(check), "notes@1")
    assert (view.verdict, view.checks[0].badge) == (verdict, verdict)
    assert said in view.meaning
    for text in _both(view):
        assert view.meaning in text
        assert "no part of it" not in text  # what a pass by process says of a model


def test_why_nothing_could_be_looked_for_is_said() -> None:
    result = {
        "digest_before": "3f" * 32,
        "not_run": [{"name": "stored_bytes", "reason": "no text is long enough"}],
    }
    run = _run("erase_records", result)
    for text in _both(report_view(run, [], "notes@1")):
        assert "Nothing was searched." in text
        assert "no text is long enough" in text
        assert "What was searched" not in text
        assert "The file before and after" in text
    assert run_view(run, [], "notes@1").has_report
    assert not run_view(_run("erase_records"), [], "notes@1").has_report


def test_a_certificate_says_of_what_was_not_searched_that_it_was_not() -> None:
    unsearched = _search() | {"n": 0, "m": 0, "estimate": None, "margin": None}
    unsearched |= {"verdict": "inconclusive", "reason": "Not looked for: no text is long enough."}
    macros = TEMPLATES.get_template("macros.html").make_module({"zone": BERLIN})
    told = macros.check(signed_check(unsearched, "exact"))  # type: ignore[attr-defined]
    assert "Not looked for: no text is long enough." in told
    assert "readings of files" not in told
    told = macros.check(signed_check(unsearched | {"n": 4, "m": 2}, "exact"))  # type: ignore[attr-defined]
    assert "4 records, in 2 readings of files" in told


def test_an_index_says_how_much_was_read() -> None:
    run, checks = RUNS["indexing"]
    for text in _both(report_view(run, checks, "notes@1")):
        assert "What was read" in text
        assert "1,797" in text


def test_page_and_paper_tell_one_time_before_and_after_promotion() -> None:
    judged = [_step("evaluate", 15)]
    waiting = _run("unlearn", state="verifying", finished_at=None, steps=judged)
    done = waiting.model_copy(
        update={
            "state": "done",
            "finished_at": NOW + timedelta(minutes=3),
            "steps": [*judged, _step("destroy", 170)],
        }
    )
    views = [report_view(one, [], "") for one in (waiting, done)]
    assert {one.made_at for one in views} == {NOW + timedelta(seconds=15)}
    for view in views:
        assert all("1 Jul 2026, 14:09" in text for text in _both(view))
