"""From a run's stored evidence to its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core.config import Settings
from app.models import Model, Run
from app.verification import repository
from app.verification.checks import Check, Margins, Verdict
from app.verification.rules import Judgement, judge, judge_own
from lethe.methods import METHODS

CHECK_FIELDS = tuple(one.name for one in fields(Check))


def store(session: Session, run: Run, checks: Sequence[dict[str, Any]], now: datetime) -> None:
    """Store what an evaluation measured."""
    repository.put(session, run.id, checks, now)


def verdict_of(session: Session, settings: Settings, run: Run, now: datetime) -> Verdict:
    """Return a run's verdict, judged now if it has none; accepting it later does not change it."""
    if run.verdict is None:
        return judge_run(session, settings, run, now).verdict
    verdict: Verdict = run.verdict["verdict"]
    return verdict


def judge_run(session: Session, settings: Settings, run: Run, now: datetime) -> Judgement:
    """Judge a run by its evidence and store the verdict with it.

    A method that ended as failed left the model as it was, so its verdict is `fail`, whatever was
    measured afterwards.
    """
    checks = [_check(one) for one in repository.of_run(session, run.id)]
    margins = margins_of(settings, session.get_one(Model, run.model_id).policy)
    judgement = judge(METHODS[run.method or ""].guarantee, checks, margins)
    reasons = repository.failed_unlearning(session, run.id)
    if reasons:
        summary = f"The method failed and left the model as it was: {reasons[0]}"
        judgement = Judgement("fail", judgement.by, judgement.checks, summary)
    own = judge_own(judgement, checks, repository.own_p_values(session, run.id), margins)
    singled_out = sum(one.verdict == "fail" for one in own)
    if singled_out and judgement.verdict != "fail":
        summary = f"Of {len(own)} requests, {singled_out} concern people who still look trained on."
        judgement = Judgement("fail", judgement.by, judgement.checks, summary)
    run.verdict = asdict(judgement) | {
        "margins": asdict(margins),
        "subjects": [asdict(one) for one in own],
    }
    audit.record(session, "run_judged", now, run=run.id, verdict=judgement.verdict)
    return judgement


def margins_of(settings: Settings, policy: Mapping[str, Any]) -> Margins:
    """Return the margins that the operator set, with what a model's policy says of its use."""
    drop = policy.get("utility_drop")
    return Margins(
        membership=settings.membership_margin,
        alpha=settings.alpha,
        power=settings.sparse_power,
        utility_drop=settings.utility_drop if drop is None else drop,
    )


def _check(measured: dict[str, Any]) -> Check:
    return Check(**{name: measured[name] for name in CHECK_FIELDS})
