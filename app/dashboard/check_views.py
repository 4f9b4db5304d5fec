"""One check as all three pages show it: its words, its part in the verdict, and its badge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.dashboard.intervals import IntervalPlot, plot_interval
from app.dashboard.words import PROVES_NOTHING, THREAT_MODELS, check_words
from app.verification.checks import ATTACKS, Family

NOT_JUDGED: Final = "not judged"
SHOWN_ONLY: Final = "Shown only"
_OWN_RANKS: Final = frozenset({"tail", "sparse"})


@dataclass(frozen=True, slots=True)
class CheckView:
    """One measured check with what it means, what it found and what was made of it.

    `role` is what it is to the run's verdict, a key of `report_words.ROLES`.
    """

    name: str
    title: str
    meaning: str
    verdict: str
    role: str
    reason: str
    estimate: float | None
    low: float | None
    high: float | None
    level: float | None
    n: int
    m: int
    unit: str
    p_value: float | None
    adjusted: float | None
    positive_control: float | None
    attacker: str
    reference: str
    plot: IntervalPlot | None

    @property
    def badge(self) -> str:
        """The verdict; one that decides nothing is said to be only shown."""
        if self.verdict == "reported":
            return "reported" if self.role == "shown" else PROVES_NOTHING
        return f"shown: {self.verdict}" if self.role == "shown" else self.verdict

    @property
    def decides(self) -> bool:
        """Whether the run's verdict may rest on it."""
        return self.verdict in {"pass", "fail", "inconclusive"} and self.role != "shown"


def check_view(check: Mapping[str, Any], verdict: Mapping[str, Any]) -> CheckView:
    """Return a check with its part of the run's verdict; before there is one it is `not judged`."""
    words = check_words(check["name"])
    judged = {one["name"]: one for one in verdict.get("checks", [])}.get(check["name"], {})
    said, reason = judged.get("verdict", NOT_JUDGED), judged.get("reason", "")
    # A certificate keeps no family, so there it is the one of its name.
    family: Family = check.get("family", words.family)
    margins: Mapping[str, float] = verdict.get("margins", {})
    details: Mapping[str, float] = check.get("details") or {}
    # A run that forgets nothing has no verdict as a whole, whatever its search found.
    alone = "verdict" in verdict and verdict["verdict"] is None
    leads = details.get("leading") == 1
    role = "told" if alone else _role(family, leads, said, reason, verdict.get("by"))
    return CheckView(
        name=check["name"],
        title=words.title,
        meaning=words.meaning,
        verdict=said,
        role=role,
        reason=reason,
        estimate=check["estimate"],
        low=check["low"],
        high=check["high"],
        level=check["level"],
        n=check["n"],
        m=check["m"],
        unit=check["unit"],
        p_value=check.get("p_value"),
        adjusted=judged.get("adjusted"),
        positive_control=check.get("positive_control"),
        attacker=THREAT_MODELS.get(check["threat_model"], check["threat_model"]),
        reference=check["reference"],
        plot=plot_interval(
            family,
            check["estimate"],
            check["low"],
            check["high"],
            membership_margin=margins.get("membership"),
            utility_drop=margins.get("utility_drop"),
        ),
    )


def _role(family: str, leads: bool, verdict: str, reason: str, by: str | None) -> str:
    if verdict == NOT_JUDGED:
        return "measured"
    if SHOWN_ONLY in reason:
        return "shown"
    if by == "statistics" and family in ATTACKS:
        return "rests" if leads or family in _OWN_RANKS else "can fail"
    return "shown" if verdict == "reported" else "rests"
