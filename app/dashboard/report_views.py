"""What the report of one run says, in words and coordinates. Values in, values out.

HTML and PDF show the same values, so numbers are told here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.dashboard.check_views import NOT_JUDGED, CheckView
from app.dashboard.report_checks import (
    CheckRow,
    Group,
    check_row,
    in_groups,
    p_words,
    told,
)
from app.dashboard.report_meaning import meaning
from app.dashboard.report_words import (
    BY_PROCESS,
    COUNTED,
    EIGHT_METHODS,
    JUDGED,
    KINDS,
    THRESHOLDS,
    KindWords,
)
from app.dashboard.run_views import run_view
from app.dashboard.views import short_id
from app.dashboard.words import CHECKS, GUARANTEES, THREAT_MODELS, check_words, method_words
from app.runs.schemas import RunOut
from lethe.methods import EXACT

_NO_REASON: Final = "No reason was recorded."
_USE: Final = "Whether it is as useful as before"
_BYTES: Final = ("_digest", "_root")


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what is said of it."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Tested:
    """What was tried by somebody with this much access."""

    attacker: str
    titles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EightRow:
    """One of the eight methods of Lynch et al. 2024: run, with its verdict, or why it was not."""

    title: str
    check: str
    ran: bool
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """The verdict on one request's own data subject."""

    request: str
    short_id: str
    p_value: str
    adjusted: str
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportView:
    """All that the report of a run says; `verdict` is empty for one that is never judged."""

    run: str
    title: str
    subject: str
    state: str
    made_at: datetime
    words: KindWords
    verdict: str
    meaning: str
    summary: str
    accepted_until: datetime | None
    facts: tuple[Fact, ...]
    thresholds: tuple[Fact, ...]
    tested: tuple[Tested, ...]
    not_tested: tuple[Fact, ...]
    would_settle: tuple[Fact, ...]
    leading: CheckRow | None
    checks: tuple[CheckRow, ...]
    groups: tuple[Group, ...]
    eight: tuple[EightRow, ...]
    subjects: tuple[SubjectRow, ...]
    made: str
    process: tuple[Fact, ...]
    environment: tuple[Fact, ...]
    replay: str | None


def report_view(run: RunOut, checks: Sequence[Mapping[str, Any]], subject: str) -> ReportView:
    """Return the report of a run; `subject` names what it works on where it is no model."""
    view = run_view(run, checks, subject)
    said: Mapping[str, Any] = run.verdict or {}
    by, words = said.get("by"), KINDS[run.kind]
    rows = tuple(check_row(*pair) for pair in zip(checks, view.checks, strict=True))
    results = [one.result for one in run.steps if one.result is not None]
    not_run = [one for result in results for one in result.get("not_run", [])]
    return ReportView(
        run=str(run.id),
        title=view.title,
        subject=view.subject,
        state=run.state,
        made_at=_made_at(run),
        words=words,
        verdict=view.verdict or _unjudged(run, view.checks),
        meaning=meaning(run, checks),
        summary=view.summary or "",
        accepted_until=view.accepted_until,
        facts=_facts(run, view.subject, checks),
        thresholds=_thresholds(said.get("margins", {})),
        tested=_tested(checks, rows),
        not_tested=tuple(_not_tested(one) for one in not_run),
        would_settle=tuple(
            Fact(row.title, check["would_settle"])
            for check, row in zip(checks, rows, strict=True)
            if view.verdict == row.verdict == "inconclusive"
            and row.role != "shown"
            and check.get("would_settle")
        ),
        leading=_leading(checks, rows),
        checks=rows,
        groups=in_groups(rows),
        eight=tuple(
            _eight(title, rows, not_run, name, BY_PROCESS if by == "process" else _NO_REASON)
            for name, title in EIGHT_METHODS.items()
            if run.kind == JUDGED and checks
        ),
        subjects=tuple(_subject(one) for one in said.get("subjects", [])),
        made=(words.searched if checks else "") or words.made,
        process=_process(checks, results, words.counts),
        environment=_environment(results),
        replay=f"lethe replay {run.id}" if run.method in EXACT else None,
    )


def _made_at(run: RunOut) -> datetime:
    """Return when it was measured, which is the same before and after a verdict is acted upon."""
    later = "destroy" if run.kind != "destroy" else ""
    ended = [one.finished_at for one in run.steps if one.finished_at and one.kind != later]
    return max(ended, default=run.started_at or run.created_at)


def _unjudged(run: RunOut, checks: Sequence[CheckView]) -> str:
    if run.kind == JUDGED:
        return NOT_JUDGED
    return next((one.badge for one in checks), "")


def _thresholds(margins: Mapping[str, Any]) -> tuple[Fact, ...]:
    # The store keeps no order of them.
    known = [name for name in THRESHOLDS if name in margins]
    return tuple(
        Fact(THRESHOLDS.get(name, _words(name)), told(margins[name]))
        for name in [*known, *sorted(set(margins) - set(known))]
    )


def _facts(run: RunOut, subject: str, checks: Sequence[Mapping[str, Any]]) -> tuple[Fact, ...]:
    facts = [Fact("Works on", subject)]
    if run.method and method_words(run.method):
        facts.append(Fact("Method", f"{_words(run.method)}: {method_words(run.method)}"))
    if run.kind != JUDGED:
        # What a guarantee means is said of models that forget.
        return tuple(facts)
    if run.guarantee is not None and run.guarantee in GUARANTEES:
        facts.append(Fact("Guarantee", f"{run.guarantee}: {GUARANTEES[run.guarantee]}"))
    people = [one for one in checks if one["unit"] == "data_subject"]
    if people:
        facts.append(Fact("Data subjects forgotten (n)", told(max(one["n"] for one in people))))
        facts.append(Fact("Never seen, to compare (m)", told(max(one["m"] for one in people))))
    return tuple(facts)


def _not_tested(one: Mapping[str, str]) -> Fact:
    name = one["name"]
    known = name if name in CHECKS else f"utility_{name}"
    title = check_words(known if known in CHECKS else name).title
    return Fact(title, f"Not tested: {one['reason'].removesuffix('.')}.")


def _tested(checks: Sequence[Mapping[str, Any]], rows: Sequence[CheckRow]) -> tuple[Tested, ...]:
    titles: dict[tuple[bool, str], list[str]] = {}
    for check, row in zip(checks, rows, strict=True):
        is_use = check.get("family") == "utility"
        titles.setdefault((is_use, "" if is_use else row.threat_model), []).append(row.title)
    return tuple(
        Tested(_USE if is_use else f"With {THREAT_MODELS.get(code, code)} ({code})", tuple(named))
        for (is_use, code), named in sorted(titles.items())
    )


def _leading(checks: Sequence[Mapping[str, Any]], rows: Sequence[CheckRow]) -> CheckRow | None:
    """Return the attack that leads, or the first of those with plots where none is marked."""
    drawn = [pair for pair in zip(checks, rows, strict=True) if pair[1].charts]
    leads = [row for check, row in drawn if check.get("details", {}).get("leading")]
    return next(iter([*leads, *(row for _, row in drawn)]), None)


def _eight(
    title: str,
    rows: Sequence[CheckRow],
    not_run: Sequence[Mapping[str, str]],
    name: str,
    otherwise: str,
) -> EightRow:
    row = next((one for one in rows if one.name == name), None)
    if row is not None:
        return EightRow(title, row.title, True, row.badge, row.reason)
    names = {name, name.removeprefix("utility_")}
    reason = next((one["reason"] for one in not_run if one["name"] in names), otherwise)
    return EightRow(title, "", False, "not run", reason)


def _subject(one: Mapping[str, Any]) -> SubjectRow:
    return SubjectRow(
        request=one["request"],
        short_id=short_id(one["request"]),
        p_value=p_words(one.get("p_value")),
        adjusted=p_words(one.get("adjusted")),
        verdict=one["verdict"],
        reason=one["reason"],
    )


def _process(
    checks: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    counts: Sequence[str],
) -> tuple[Fact, ...]:
    """Return the steps' digests and `counts`, and what checks of process and files counted."""
    digests = [
        Fact(_words(name).capitalize(), value)
        for result in results
        for name, value in result.items()
        if (name.endswith(_BYTES) or name.startswith("digest")) and isinstance(value, str)
    ]
    counted = [_count(name, one[name]) for one in results for name in counts if name in one]
    counted += [
        _count(name, value)
        for check in checks
        if check.get("family") in {"process", "storage"}
        for name, value in sorted(check.get("details", {}).items(), key=_place)
    ]
    return tuple(dict.fromkeys([*digests, *counted]))


def _place(counted: tuple[str, float]) -> int:
    return [*COUNTED, counted[0]].index(counted[0])


def _count(name: str, value: float) -> Fact:
    return Fact(COUNTED.get(name, _words(name).capitalize()), told(value))


def _environment(results: Sequence[Mapping[str, Any]]) -> tuple[Fact, ...]:
    told = [one["environment"] for one in results if isinstance(one.get("environment"), dict)]
    return tuple(
        Fact(_words(name), str(value)) for name, value in (told[-1] if told else {}).items()
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
