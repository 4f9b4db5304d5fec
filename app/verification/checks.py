"""One measured check, and what it says by itself: pass, fail or too little to tell."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Final, Literal

Family = Literal[
    "membership",
    "tail",
    "sparse",
    "extraction",
    "recovery",
    "shift",
    "utility",
    "loss",
    "comparison",
    "process",
    "storage",
]
Verdict = Literal["pass", "fail", "inconclusive"]

CHANCE: Final = 0.5
ATTACKS: Final = frozenset({"membership", "tail", "sparse", "extraction", "recovery"})
COUNTS: Final = frozenset({"process", "storage"})
SPARSE_PART: Final = 1 / 2
LEADING_PART: Final = 1 / 8
TAIL_PART: Final = 1 / 8
OTHERS_PART: Final = 1 / 4
"""Parts of alpha. The sparse test has most: a pass rests on how surely it sees a leak of a few."""


@dataclass(frozen=True, slots=True)
class Check:
    """One measured check.

    By family:
    - `membership`, `extraction`, `recovery`: attacks. `estimate` is the AUC of "looks like a
      member", from 0 to 1, forget set against holdout, with its 90 % interval and a two-sided
      `p_value`. `details["leading"]` is 1 for the membership attack that told the most before
      unlearning, `details["calibrated"]` where scores are set against models that never saw them.
    - `tail`: `p_value` of the most member-like unit of the forget set, already Holm-adjusted over
      its `n` units; `m` is the number of holdout units.
    - `sparse`: `p_value` of a part of the forget set being remembered; `details["power"]` is how
      often the test sees a leak of `details["share"]` at level `details["alpha"]`.
    - `shift`: `p_value` of forget set and holdout differing by themselves, whatever the model.
    - `utility`: `estimate` is accuracy after minus before, with its 95 % interval; one record has
      none. `details["balanced"]` where it is the mean over classes.
    - `loss`, `comparison`: shown; they decide nothing.
    - `process`, `storage`: `estimate` counts what does not hold (records still in the manifest or
      in a file, shards that should be untouched and are not), so 0 is what must be.

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
        by_p_value = self.family in ATTACKS | {"shift"}
        if (self.p_value if by_p_value else self.estimate) is None:
            raise ValueError(f"The check {self.name} lacks the number it is judged by")
        if by_p_value and self.family not in {"tail", "sparse"} and self.estimate is None:
            raise ValueError(f"The check {self.name} lacks its estimate or interval")
        if self.family == "membership" and self.low is None:
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

    @property
    def leads(self) -> bool:
        """Whether a pass rests on it: the leading attack and the two tests of its ranks."""
        return self.family in {"tail", "sparse"} or self.details.get("leading") == 1

    @property
    def part(self) -> float | None:
        """Its own part of alpha; None for the other attacks, which share theirs."""
        own = {"tail": TAIL_PART, "sparse": SPARSE_PART}
        return own.get(self.family, LEADING_PART if self.leads else None)


@dataclass(frozen=True, slots=True)
class Margins:
    """How far from chance, and how sure.

    `membership` is the distance of an AUC from 0.5 that still counts as none, `alpha` the chance
    that a run which forgot is failed by its attacks, `power` how surely a leak of one in ten must
    have been seen for a pass, `utility_drop` in accuracy, 0 to 1.
    """

    membership: float = 0.15
    alpha: float = 0.01
    power: float = 0.99
    utility_drop: float = 0.02


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """What one check says; `reported` is for checks that decide nothing here.

    `adjusted` is the p-value after the adjustment for the number of attacks.
    """

    name: str
    verdict: Verdict | Literal["reported"]
    reason: str
    adjusted: float | None = None


def judge_check(check: Check, margins: Margins, shifted: bool = False) -> CheckVerdict:
    """Returns what one check says by itself; its p-values are taken as they are.

    `shifted` says that forget set and holdout can be told apart without the model, so that only a
    calibrated attack means anything.
    """
    verdict = {
        "shift": _judge_shift,
        "tail": _judge_tail,
        "sparse": _judge_sparse,
        "membership": _judge_attack,
        "extraction": _judge_attack,
        "recovery": _judge_attack,
        "utility": _judge_utility,
        "process": _judge_count,
        "storage": _judge_count,
    }.get(check.family, _report)(check, margins)
    if shifted and check.family in ATTACKS and not check.details.get("calibrated"):
        verdict = replace(
            verdict,
            verdict="inconclusive" if check.leads or verdict.verdict == "fail" else "reported",
            reason=f"{verdict.reason} But the two sets differ without any model, so this says "
            "nothing. Needed: an attack calibrated by models that never saw the records.",
        )
    return replace(verdict, adjusted=check.p_value if check.family in ATTACKS else None)


def succeeds(p_value: float | None, margins: Margins) -> bool:
    """Returns whether an attack succeeded, by its p-value."""
    return p_value is not None and p_value < margins.alpha


def _judge_attack(check: Check, margins: Margins) -> CheckVerdict:
    """The leading attack can pass, fail or stay undecided; the others can only fail."""
    low, high = check.interval
    found = f"AUC {check.estimate:.3g}, 90 % interval {low:.3g} to {high:.3g}"
    if succeeds(check.p_value, margins):
        direction = (
            "the records still look trained on"
            if check.estimate is not None and check.estimate > CHANCE
            else "the records stand out as forgotten too much, which an observer can detect"
        )
        return CheckVerdict(check.name, "fail", f"{found}, p {check.p_value:.3g}: {direction}.")
    controlled = succeeds(check.positive_control, margins)
    if not check.leads:
        if controlled:
            reason = f"{found}: not recovered; before unlearning the same attack found the records."
            return CheckVerdict(check.name, "pass", reason)
        then = "it was not tried" if check.positive_control is None else "it was not sure of them"
        reason = f"{found}; on the version before {then}, so this proves nothing."
        return CheckVerdict(check.name, "reported", reason)
    within = f"0.5 ± {margins.membership:g}"
    if not (CHANCE - margins.membership <= low and high <= CHANCE + margins.membership):
        reason = f"{found}, reaches beyond {within}. Needed: {check.would_settle}."
        return CheckVerdict(check.name, "inconclusive", reason)
    if controlled:
        reason = f"{found}, within {within}; the same attack found the records before unlearning."
        return CheckVerdict(check.name, "pass", reason)
    reason = (
        f"{found}, within {within}, but the same attack was not sure of the records before "
        "unlearning either, so it shows nothing. Needed: a stronger attack."
    )
    return CheckVerdict(check.name, "inconclusive", reason)


def _judge_tail(check: Check, margins: Margins) -> CheckVerdict:
    finding = f"smallest adjusted p {check.p_value:.3g} of {check.n}"
    if succeeds(check.p_value, margins):
        return CheckVerdict(check.name, "fail", f"{finding}: at least one looks trained on.")
    needed = check.n / (TAIL_PART * margins.alpha)
    if check.m + 1 <= needed:
        reason = (
            f"{finding}; one who stayed could not be surely seen against {check.m} never seen, "
            f"which takes {needed:.0f}."
        )
        return CheckVerdict(check.name, "reported", reason)
    if succeeds(check.positive_control, margins):
        reason = f"{finding}; before unlearning the same test found somebody."
        return CheckVerdict(check.name, "pass", reason)
    return CheckVerdict(check.name, "reported", f"{finding}; before unlearning it found nobody.")


def _judge_sparse(check: Check, margins: Margins) -> CheckVerdict:
    finding = f"p {check.p_value:.3g}, {check.n} against {check.m}"
    if succeeds(check.p_value, margins):
        return CheckVerdict(check.name, "fail", f"{finding}: some still look trained on.")
    power = check.details.get("power", 0.0)
    sensitive = check.details.get("alpha", 1.0) <= SPARSE_PART * margins.alpha * (1 + 1e-9)
    seen = f"a leak of {check.details.get('share', 0.0):.0%} would be seen {power:.1%} of the time"
    if power >= margins.power and sensitive:
        return CheckVerdict(check.name, "pass", f"{finding}; {seen}.")
    reason = f"{finding}, but {seen}. Needed: {check.would_settle}."
    return CheckVerdict(check.name, "inconclusive", reason)


def _judge_shift(check: Check, margins: Margins) -> CheckVerdict:
    finding = f"without any model the two sets are told apart with AUC {check.estimate:.3g}"
    if succeeds(check.p_value, margins):
        reason = f"{finding}, p {check.p_value:.3g}: an attack may see that and not the training."
        return CheckVerdict(check.name, "reported", reason)
    return CheckVerdict(check.name, "reported", f"{finding}, p {check.p_value:.3g}: no shift seen.")


def _judge_utility(check: Check, margins: Margins) -> CheckVerdict:
    """Fails a drop that is surely over the limit; a pass surely excludes one of twice the limit.

    Balanced accuracy can only fail: few records of a rare class leave it undecided on any model.
    """
    low, high = check.interval
    limit, balanced = margins.utility_drop, "balanced" in check.details
    reason = f"{'balanced ' * balanced}accuracy changed by {check.estimate:+.3g}"
    if check.low is not None:
        reason += f", 95 % interval {low:+.3g} to {high:+.3g}"
    reason += f"; the limit is a drop of {limit:g}."
    if high < -limit:
        return CheckVerdict(check.name, "fail", reason)
    if balanced:
        return CheckVerdict(check.name, "reported", reason)
    if check.estimate is not None and check.estimate >= -limit and low >= -2 * limit:
        return CheckVerdict(check.name, "pass", reason)
    reason += f" Too few records to tell. Needed: {check.would_settle}."
    return CheckVerdict(check.name, "inconclusive", reason)


def _judge_count(check: Check, _margins: Margins) -> CheckVerdict:
    if "budget" in check.details:
        spent = f"{check.details['spent']:.3g} of {check.details['budget']:.3g} of the budget spent"
        return CheckVerdict(check.name, "fail" if check.estimate else "pass", f"{spent}.")
    if check.estimate:
        reason = f"{check.estimate:g} are not as they must be."
        return CheckVerdict(check.name, "fail", reason)
    if check.details.get("unreadable"):
        reason = f"{check.details['unreadable']:g} files could not be read."
        return CheckVerdict(check.name, "inconclusive", reason)
    if check.details.get("controls_found", 0) < check.details.get("controls", 0):
        reason = "Records that it must hold were not found either: it writes them in another form."
        return CheckVerdict(check.name, "inconclusive", reason)
    if check.family == "storage":
        return CheckVerdict(
            check.name, "pass", "Nothing of the records was found in what is stored."
        )
    reason = "No record to forget is in the manifest; untouched shards are unchanged."
    return CheckVerdict(check.name, "pass", reason)


def _report(check: Check, _margins: Margins) -> CheckVerdict:
    if check.family == "loss":
        reason = f"mean loss {check.estimate:+.3g} nats against the holdout's."
    else:
        low, high = check.interval
        reason = f"{check.estimate:.3g}"
        reason += f", interval {low:.3g} to {high:.3g}." if check.low is not None else "."
    return CheckVerdict(check.name, "reported", reason)
