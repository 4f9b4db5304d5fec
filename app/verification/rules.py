"""From measured checks to a verdict, and from a verdict to what happens next.

A verdict has three values, and too little evidence is `inconclusive`, never `pass` (DESIGN
decision 9). What a pass says is "not recovered by these attacks at this power", never "erased". The
checks are measured elsewhere; here they are only judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from typing import Final, Literal

from lethe.methods.spec import Guarantee

Family = Literal["membership", "tail", "utility", "loss", "process"]
Verdict = Literal["pass", "fail", "inconclusive"]
NextStep = Literal["promote", "escalate", "await_acceptance", "fail"]

_CHANCE: Final = 0.5
_ATTACKS: Final = frozenset({"membership", "tail"})
_DECIDING: Final[Mapping[Guarantee, frozenset[str]]] = {
    "exact": frozenset({"process"}),
    "certified": frozenset({"process", "utility"}),
    "approximate": _ATTACKS | {"utility"},
}


@dataclass(frozen=True, slots=True)
class Check:
    """One measured check.

    By family:
    - `membership`: `estimate` is the AUC of "looks like a member", from 0 to 1, forget set against
      holdout, with its 90 % interval and a two-sided `p_value`.
    - `tail`: `p_value` of the most member-like unit of the forget set, already Holm-adjusted over
      its `n` units; `m` is the number of holdout units.
    - `utility`: `estimate` is accuracy after minus before, with its 95 % interval; one record has
      none.
    - `loss`: `estimate` is the mean loss of the forget set less that of the holdout, in nats.
    - `process`: `estimate` counts what does not hold (records still in the manifest, shards that
      should be untouched and are not), so 0 is what must be.

    `n` and `m` count units of the forget set and of the holdout. `positive_control` is the p-value
    of the same attack on the model before unlearning. `would_settle` names the evidence that would
    be enough.

    Raises:
        ValueError: a number is NaN or infinite, a p-value is not one, an interval does not hold its
            estimate, or a family lacks what it is judged by. A missing measurement is an error, not
            a verdict.
    """

    name: str
    family: Family
    unit: str
    n: int
    m: int
    estimate: float | None
    low: float | None
    high: float | None
    p_value: float | None
    positive_control: float | None
    details: Mapping[str, float]
    would_settle: str

    def __post_init__(self) -> None:
        """Refuses what cannot be judged."""
        numbers = [self.estimate, self.low, self.high, self.p_value, self.positive_control]
        if not all(isfinite(x) for x in [*numbers, *self.details.values()] if x is not None):
            raise ValueError(
                f"The check {self.name} has a number that is not finite; measure again"
            )
        if any(not 0 <= p <= 1 for p in (self.p_value, self.positive_control) if p is not None):
            raise ValueError(f"The check {self.name} has a p-value outside 0 to 1")
        judged_by = {"membership": self.p_value, "tail": self.p_value}.get(
            self.family, self.estimate
        )
        if judged_by is None:
            raise ValueError(f"The check {self.name} lacks the number it is judged by")
        if self.family == "membership" and (self.estimate is None or self.low is None):
            raise ValueError(f"The check {self.name} lacks its estimate or interval")
        if (self.low is None) is not (self.high is None):
            raise ValueError(f"The check {self.name} has half an interval")
        low, high = self.interval
        if self.estimate is not None and not low <= self.estimate <= high:
            raise ValueError(f"The interval of {self.name} does not hold its estimate")

    @property
    def interval(self) -> tuple[float, float]:
        """The interval; where none could be measured, all numbers."""
        if self.low is None or self.high is None:
            return (-inf, inf)
        return (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Margins:
    """How far from chance, and how sure; `utility_drop` is in accuracy, 0 to 1."""

    membership: float = 0.15
    alpha: float = 0.01
    utility_drop: float = 0.02


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """What one check says; `reported` is for checks that decide nothing here."""

    name: str
    verdict: Verdict | Literal["reported"]
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one run, what it rests on, and each check's own verdict."""

    verdict: Verdict
    by: Literal["process", "statistics"]
    checks: tuple[CheckVerdict, ...]
    summary: str


def judge(guarantee: Guarantee, checks: Sequence[Check], margins: Margins) -> Judgement:
    """Returns the verdict on a run that claims `guarantee`.

    1. The p-values of the attacks are adjusted together (Holm 1979), then each check is judged.
    2. `exact`: the process decides (DESIGN decision 9). Records that a model never saw can still be
       easier or harder than the holdout, so attacks and utility are shown and overrule nothing; an
       attack that succeeds is named in the summary, since a copy under another identifier is one
       explanation. Without a process check the verdict is `inconclusive`.
       `certified`: its bound decides in the same way, together with utility, which a bound says
       nothing of.
    3. `approximate`: the worst verdict of its membership, tail and utility checks. A pass
       needs a membership check and a tail check, because a mean cannot see a sparse leak. Process
       checks are shown and decide nothing.
    """
    # 1.
    attacks = sum(check.family in _ATTACKS for check in checks)
    judged = [(check, judge_check(check, margins, attacks)) for check in _holm(checks)]
    deciding = _DECIDING[guarantee]
    decided = tuple(verdict for check, verdict in judged if check.family in deciding)
    shown = tuple(
        verdict
        if check.family in deciding or verdict.verdict == "reported"
        else replace(verdict, reason=f"{verdict.reason} Shown only: it decides nothing here.")
        for check, verdict in judged
    )
    families = {check.family for check in checks}
    if guarantee != "approximate":
        # 2.
        missing = sorted({"process"} - families)
        attacked = [
            verdict.name
            for check, verdict in judged
            if check.family in _ATTACKS and verdict.verdict == "fail"
        ]
        verdict = _worst(decided, missing)
        failed = [one.name for one in decided if one.verdict == "fail"]
        useless = bool(failed) and all(name.startswith("utility") for name in failed)
        summary = (
            f"Failed: {', '.join(failed)}."
            if useless
            else _process_summary(guarantee, verdict, attacked)
        )
        return Judgement(verdict, "process", shown, summary)
    # 3.
    missing = sorted(_ATTACKS - families)
    verdict = _worst(decided, missing)
    summary = _statistics_summary(verdict, decided, missing, margins)
    return Judgement(verdict, "statistics", shown, summary)


def judge_check(check: Check, margins: Margins, attacks: int = 1) -> CheckVerdict:
    """Returns what one check says by itself.

    The p-value is taken as it is; `judge` adjusts it first. `attacks` is how many membership and
    tail checks share `margins.alpha`: a tail test among them can only find something when the
    smallest p-value it can have, attacks * n / (m + 1), is under alpha.
    """
    match check.family:
        case "membership":
            return _judge_membership(check, margins)
        case "tail":
            return _judge_tail(check, margins, attacks)
        case "utility":
            return _judge_utility(check, margins)
        case "process":
            return _judge_process(check)
        case _:
            reason = f"mean loss {check.estimate:+.3g} nats against the holdout's."
            return CheckVerdict(check.name, "reported", reason)


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


def _judge_membership(check: Check, margins: Margins) -> CheckVerdict:
    low, high = check.interval
    interval = f"AUC {check.estimate:.3g}, 90 % interval {low:.3g} to {high:.3g}"
    if _succeeds(check.p_value, margins):
        direction = (
            "the records still look trained on"
            if check.estimate is not None and check.estimate > _CHANCE
            else "the records stand out as forgotten too much, which an observer can detect"
        )
        reason = f"{interval}, p {check.p_value:.3g}: {direction}."
        return CheckVerdict(check.name, "fail", reason)
    within = f"0.5 ± {margins.membership:g}"
    if not (_CHANCE - margins.membership <= low and high <= _CHANCE + margins.membership):
        reason = f"{interval}, reaches beyond {within}. Needed: {check.would_settle}."
        return CheckVerdict(check.name, "inconclusive", reason)
    return _pass_if_control_succeeds(check, margins, f"{interval}, within {within}")


def _judge_tail(check: Check, margins: Margins, attacks: int) -> CheckVerdict:
    p_value = f"smallest adjusted p {check.p_value:.3g} of {check.n}"
    if _succeeds(check.p_value, margins):
        return CheckVerdict(check.name, "fail", f"{p_value}: at least one looks trained on.")
    if attacks * check.n >= margins.alpha * (check.m + 1):
        needed = ceil(attacks * check.n / margins.alpha)
        reason = f"{p_value}, but a holdout of {check.m} cannot tell. Needed: {needed}."
        return CheckVerdict(check.name, "inconclusive", reason)
    return _pass_if_control_succeeds(check, margins, p_value)


def _pass_if_control_succeeds(check: Check, margins: Margins, finding: str) -> CheckVerdict:
    if _succeeds(check.positive_control, margins):
        reason = f"{finding}; the same attack found the records before unlearning."
        return CheckVerdict(check.name, "pass", reason)
    reason = (
        f"{finding}, but the same attack did not find the records before unlearning either, so it"
        " shows nothing. Needed: a stronger attack."
    )
    return CheckVerdict(check.name, "inconclusive", reason)


def _judge_utility(check: Check, margins: Margins) -> CheckVerdict:
    """Fails only a drop over the limit that is no accident; otherwise passes, never inconclusive.

    Doubt about utility need not stop an erasure: it is told, and can be measured again.
    """
    low, high = check.interval
    reason = f"accuracy changed by {check.estimate:+.3g}"
    if check.low is not None:
        reason += f", 95 % interval {low:+.3g} to {high:+.3g}"
    reason += f"; the limit is a drop of {margins.utility_drop:g}."
    over = check.estimate is not None and -check.estimate > margins.utility_drop
    if over and high < 0:
        return CheckVerdict(check.name, "fail", reason)
    if -low > margins.utility_drop:
        reason += " The drop may be over it: too few records to tell."
    return CheckVerdict(check.name, "pass", reason)


def _judge_process(check: Check) -> CheckVerdict:
    if "budget" in check.details:
        spent = f"{check.details['spent']:.3g} of {check.details['budget']:.3g} of the budget spent"
        return CheckVerdict(check.name, "fail" if check.estimate else "pass", f"{spent}.")
    if check.estimate:
        return CheckVerdict(
            check.name, "fail", f"{check.estimate:g} records or shards are not as they must be."
        )
    return CheckVerdict(
        check.name,
        "pass",
        "No record to forget is in the manifest; untouched shards are unchanged.",
    )


def _succeeds(p_value: float | None, margins: Margins) -> bool:
    return p_value is not None and p_value < margins.alpha


def _holm(checks: Sequence[Check]) -> list[Check]:
    """Returns the checks with the p-values of the attacks adjusted as one family (Holm 1979)."""
    adjusted = list(checks)
    attacks = [
        (check.p_value, place)
        for place, check in enumerate(checks)
        if check.family in _ATTACKS and check.p_value is not None
    ]
    largest = 0.0
    for rank, (p_value, place) in enumerate(sorted(attacks)):
        largest = max(largest, min(1.0, (len(attacks) - rank) * p_value))
        adjusted[place] = replace(checks[place], p_value=largest)
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
    if not attacked:
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
