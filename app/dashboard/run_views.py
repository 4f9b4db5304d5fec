"""Runs, their steps and their evidence, as a request's page shows them. Values in, values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from app.core.errors import Problem
from app.dashboard.check_views import CheckView, check_view
from app.dashboard.words import in_words
from app.runs.schemas import RunOut, StepOut

MOST_CHECKS: Final = 4
_TITLES: Final[Mapping[str, str]] = {
    "unlearn": "Unlearning",
    "erase_records": "Erasing records",
    "train": "Training",
    "index": "Indexing",
    "destroy": "Destroying what a failed run left",
}


@dataclass(frozen=True, slots=True)
class StepView:
    """One piece of a run; `progress` from 0 to 1."""

    name: str
    state: str
    progress: float
    attempts: int
    seconds: float | None
    failure: Problem | None


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its steps, its evidence and its verdict."""

    id: UUID
    title: str
    subject: str
    method: str | None
    guarantee: str | None
    state: str
    progress: float
    starts_at: datetime | None
    predicted_seconds: float | None
    seconds: float | None
    failure: Problem | None
    verdict: str | None
    summary: str | None
    accepted_reason: str | None
    accepted_until: datetime | None
    awaits_acceptance: bool
    steps: tuple[StepView, ...]
    checks: tuple[CheckView, ...]
    has_report: bool

    @property
    def deciding(self) -> tuple[CheckView, ...]:
        """The first few checks that led to the verdict, or of all while there is none."""
        led = [one for one in self.checks if one.decides and one.verdict == self.verdict]
        return tuple(led if self.verdict else self.checks)[:MOST_CHECKS]


def run_view(run: RunOut, checks: Sequence[Mapping[str, Any]], subject: str) -> RunView:
    """Return a run; `subject` names what it works on where it is no model."""
    said: Mapping[str, Any] = run.verdict or {}
    verdict: str | None = said.get("verdict")
    return RunView(
        id=run.id,
        title=_TITLES.get(run.kind, run.kind),
        subject=_subject(run) or subject,
        method=run.method,
        guarantee=run.guarantee,
        state=run.state,
        progress=sum(one.progress for one in run.steps) / len(run.steps) if run.steps else 0.0,
        starts_at=run.starts_at
        if run.starts_at is not None and run.starts_at > run.created_at
        else None,
        predicted_seconds=run.predicted_seconds,
        seconds=run.actual_seconds,
        failure=run.failure,
        verdict=verdict,
        summary=in_words(said.get("summary", ""), [one["name"] for one in checks]) or None,
        accepted_reason=run.accepted["reason"] if run.accepted else None,
        accepted_until=datetime.fromisoformat(run.accepted["due_at"]) if run.accepted else None,
        awaits_acceptance=run.state == "verifying"
        and verdict == "inconclusive"
        and run.accepted is None,
        steps=tuple(_step(one) for one in run.steps),
        checks=tuple(check_view(one, said) for one in checks),
        has_report=bool(
            checks or said or any((one.result or {}).get("not_run") for one in run.steps)
        ),
    )


def _subject(run: RunOut) -> str | None:
    versions = [number for number in (run.base_version, run.new_version) if number is not None]
    return None if run.model is None else " → ".join(f"{run.model}@{one}" for one in versions)


def _step(step: StepOut) -> StepView:
    return StepView(
        name=_step_name(step),
        state=step.state,
        progress=step.progress,
        attempts=step.attempts,
        seconds=None
        if step.started_at is None or step.finished_at is None
        else (step.finished_at - step.started_at).total_seconds(),
        failure=step.failure,
    )


def _step_name(step: StepOut) -> str:
    kind = step.kind.replace("_", " ").capitalize()
    _, is_shard, number = step.target.partition("shard-")
    if not is_shard:
        return kind
    return f"{kind.removesuffix(' shard')}, shard {int(number)}"
