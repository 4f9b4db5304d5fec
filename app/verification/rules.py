"""From measured checks to a verdict, and from a verdict to what happens next.

A verdict has three values, and too little evidence is `inconclusive`, never `pass` (DESIGN
decision 9). What a pass says is "not recovered by these attacks at this power", never "erased". The
checks are measured elsewhere; here they are only judged. How often these rules are wrong is
measured by `lethe calibrate` and printed in docs/verification.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from app.verification.checks import (
    ATTACKS,
    COUNTS,
    OTHERS_PART,
    TAIL_PART,
    Check,
    CheckVerdict,
    Margins,
    Verdict,
    judge_check,
    succeeds,
)
from lethe.methods.spec import Guarantee

NextStep = Literal["promote", "escalate", "await_acceptance", "fail"]

_DECIDING: Final[Mapping[Guarantee, frozenset[str]]] = {
    "exact": COUNTS,
    "certified": COUNTS | {"utility"},
    "approximate": ATTACKS | {"utility", "storage"},
}


@dataclass(frozen=True, slots=True)
class OwnVerdict:
    """What is known of one request's own data subject."""

    request: str
    verdict: Verdict
    reason: str
    p_value: float | None
    adjusted: float | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one run, what it rests on, and each check's own verdict."""

    verdict: Verdict
    by: Literal["process", "statistics"]
    checks: tuple[CheckVerdict, ...]
    summary: str


def judge(guarantee: Guarantee, checks: Sequence[Check], margins: Margins) -> Judgement:
    """Returns the verdict on a run that claims `guarantee`.

    1. The p-values of the attacks are adjusted together, then each check is judged.
    2. `exact`: the process decides (DESIGN decision 9). Records that a model never saw can still be
       easier or harder than the holdout, so attacks and utility are shown and overrule nothing; an
       attack that succeeds is named in the summary, since a copy under another identifier is one
       explanation. Without a process check the verdict is `inconclusive`.
       `certified`: its bound decides in the same way, together with utility, which a bound says
       nothing of.
    3. `approximate`: any attack, in either direction, can fail it, and so can a loss of utility. A
       pass rests on the leading attack, whose interval must lie within the margin, on the sparse
       test, because a mean cannot see a leak of a few, and on a measured utility, without which a
       ruined model would pass. Process checks decide nothing.
    """
    # 1.
    shifted = _shifted(checks, margins)
    judged = [(one, judge_check(one, margins, shifted)) for one in adjust(checks)]
    deciding = _DECIDING[guarantee]
    decided = tuple(verdict for check, verdict in judged if check.family in deciding)
    shown = tuple(
        verdict
        if check.family in deciding or verdict.verdict == "reported"
        else replace(verdict, reason=f"{verdict.reason} Shown only: it decides nothing here.")
        for check, verdict in judged
    )
    if guarantee != "approximate":
        # 2.
        missing = [] if any(check.family == "process" for check in checks) else ["process"]
        missing += _unmeasured(checks) if guarantee == "certified" else []
        attacked = [
            verdict.name
            for check, verdict in judged
            if check.family in ATTACKS and verdict.verdict == "fail"
        ]
        verdict = _worst(decided, missing)
        process = [said.verdict for check, said in judged if check.family == "process"]
        by_process = verdict in {"pass", *process} or (verdict == "inconclusive" and not process)
        summary = (
            _process_summary(guarantee, verdict, attacked)
            if by_process
            else _statistics_summary(verdict, decided, missing, margins)
        )
        return Judgement(verdict, "process", shown, summary)
    # 3.
    leading = [check for check in checks if check.leads]
    missing = sorted({"membership", "sparse"} - {check.family for check in leading})
    missing += _unmeasured(checks)
    verdict = _worst(decided, missing)
    summary = _statistics_summary(verdict, decided, missing, margins)
    return Judgement(verdict, "statistics", shown, summary)


def judge_own(
    judgement: Judgement,
    checks: Sequence[Check],
    p_values: Mapping[str, float],
    margins: Margins,
) -> tuple[OwnVerdict, ...]:
    """Returns a verdict on each request's own data subject, by request, besides the run's.

    `p_values` say how surely each stands out from people never seen, unadjusted; they are adjusted
    over the requests (Holm 1979), at the tail test's part of alpha. One data subject can fail by
    statistics from one model, and can pass only by process. Where the sets of `checks` differ
    without any model, an attack that is not calibrated says nothing of anybody.
    """
    by_statistics = judgement.by == "statistics"
    misled = _shifted(checks, margins) and not any(
        one.leads and one.family == "membership" and one.details.get("calibrated") for one in checks
    )
    adjusted = dict(zip(p_values, _holm(list(p_values.values())), strict=True))
    verdicts = []
    for request, p_value in p_values.items():
        own = min(1.0, adjusted[request] / TAIL_PART)
        said = f"Stands out from people never seen with p {p_value:.3g}"
        if not by_statistics:
            verdict, reason = judgement.verdict, "As the run, by its process."
        elif misled:
            verdict = "inconclusive"
            reason = f"{said}, but so they do without any model: this says nothing."
        elif own < margins.alpha:
            verdict, reason = "fail", f"{said}, {own:.3g} adjusted: still looks trained on."
        else:
            verdict = "inconclusive"
            reason = (
                f"{said}, {own:.3g} adjusted: not singled out. One data subject cannot pass by "
                "statistics from one model; exact retraining would settle it."
            )
        verdicts.append(OwnVerdict(request, verdict, reason, p_value, own))
    return tuple(verdicts)


def adjust(checks: Sequence[Check]) -> list[Check]:
    """Returns the checks with the attacks' p-values, and their controls', adjusted as one family.

    The three that a pass rests on have their own parts of alpha (Bonferroni): the sparse test half,
    the leading attack and the tail test an eighth each, so that their power does not fall with the
    number of other attacks. The last quarter is shared by all the others (Holm 1979). A run that
    forgot fails by chance at most alpha of the time.
    """
    p_values = _adjusted(checks, [one.p_value for one in checks])
    controls = _adjusted(checks, [one.positive_control for one in checks])
    return [
        replace(check, p_value=p_value, positive_control=control)
        for check, p_value, control in zip(checks, p_values, controls, strict=True)
    ]


def _adjusted(checks: Sequence[Check], values: Sequence[float | None]) -> list[float | None]:
    adjusted = list(values)
    others: dict[int, float] = {}
    for i, (check, value) in enumerate(zip(checks, values, strict=True)):
        if check.family in ATTACKS and value is not None:
            if check.part is None:
                others[i] = value
            else:
                adjusted[i] = min(1.0, value / check.part)
    for i, value in zip(others, _holm(list(others.values())), strict=True):
        adjusted[i] = min(1.0, value / OTHERS_PART)
    return adjusted


def after(verdict: Verdict, guarantee: Guarantee, stronger_possible: bool) -> NextStep:
    """Returns what follows a verdict.

    A pass is promoted. Otherwise a stronger method is tried where there is one in time. Where there
    is none, a DPO may accept an inconclusive verdict with a dated commitment (DESIGN decision 9),
    never a fail. Nothing is stronger than exact, and an exact run that cannot show its process is a
    fault for a person to look at, not something to accept.
    """
    if verdict == "pass":
        return "promote"
    if guarantee == "exact":
        return "fail"
    if stronger_possible:
        return "escalate"
    return "await_acceptance" if verdict == "inconclusive" else "fail"


def _shifted(checks: Sequence[Check], margins: Margins) -> bool:
    """Whether forget set and holdout are told apart without any model."""
    return any(one.family == "shift" and succeeds(one.p_value, margins) for one in checks)


def _unmeasured(checks: Sequence[Check]) -> list[str]:
    return [] if any(one.family == "utility" for one in checks) else ["utility"]


def _holm(p_values: Sequence[float]) -> list[float]:
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _worst(verdicts: Sequence[CheckVerdict], missing: Sequence[str]) -> Verdict:
    found = {verdict.verdict for verdict in verdicts}
    if "fail" in found:
        return "fail"
    return "inconclusive" if missing or "inconclusive" in found else "pass"


def _process_summary(guarantee: Guarantee, verdict: Verdict, attacked: Sequence[str]) -> str:
    shown = (
        "By its process: the model was trained without the records."
        if guarantee == "exact"
        else "Within its bound of a model trained without the records, as its method assumes."
    )
    summary = {
        "pass": shown,
        "fail": f"The process does not hold: the model cannot be called {guarantee}.",
        "inconclusive": f"No process check was recorded, so the run cannot be called {guarantee}.",
    }[verdict]
    if not attacked or verdict == "fail":
        return summary
    return (
        f"{summary} Shown, not decisive: {', '.join(attacked)} told the records from the holdout;"
        " look for copies under another identifier."
    )


def _statistics_summary(
    verdict: Verdict, decided: Sequence[CheckVerdict], missing: Sequence[str], margins: Margins
) -> str:
    names = ", ".join(check.name for check in decided if check.verdict == verdict)
    limits = f"margin {margins.membership:g}, alpha {margins.alpha:g}"
    if verdict == "pass":
        return f"Not recovered by these attacks at this power ({limits})."
    if verdict == "fail":
        return f"Failed: {names} ({limits})."
    causes = [f"undecided: {names}"] if names else []
    causes += [f"no {family} check was made" for family in missing]
    return f"Too little evidence: {'; '.join(causes)} ({limits})."
