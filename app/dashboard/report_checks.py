"""One check as a row of a run's report: its numbers told, and what it is to the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.dashboard.plots import Chart, plot_roc, plot_scores
from app.dashboard.report_words import QUANTITIES, ROLES
from app.dashboard.run_views import SHOWN_ONLY, CheckView
from app.dashboard.words import PROVES_NOTHING
from app.verification.checks import ATTACKS

_SMALLEST_P: Final = 1e-4
_COMPARED: Final = frozenset({"membership", "extraction", "recovery", "shift"})
_OWN_RANKS: Final = frozenset({"tail", "sparse"})
NOT_JUDGED: Final = "not judged"


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One check in the table, with its plots where its curves were kept.

    `role` is a key of `ROLES`. `measured` and `p_value` are from before to after unlearning, where
    both are known.
    """

    name: str
    title: str
    meaning: str
    role: str
    threat_model: str
    n: str
    m: str
    unit: str
    measured: str
    interval: str
    p_value: str
    adjusted: str
    verdict: str
    reason: str
    reference: str
    charts: tuple[Chart, ...]

    @property
    def badge(self) -> str:
        """The verdict; one that decides nothing is said to be only shown."""
        if self.verdict == "reported":
            return "reported" if self.role == "shown" else PROVES_NOTHING
        return f"shown: {self.verdict}" if self.role == "shown" else self.verdict


@dataclass(frozen=True, slots=True)
class Group:
    """The checks that are one thing to the verdict."""

    title: str
    rows: tuple[CheckRow, ...]


def check_row(check: Mapping[str, Any], shown: CheckView, by: str | None) -> CheckRow:
    """Return a check told; `by` says what the run's verdict rests on."""
    curves: Mapping[str, Sequence[float]] = check.get("curves") or {}
    return CheckRow(
        name=shown.name,
        title=shown.title,
        meaning=shown.meaning,
        role=role(check, shown.verdict, shown.reason, by),
        threat_model=check["threat_model"],
        n=told(shown.n),
        m=told(shown.m),
        unit=shown.unit.replace("_", " ") + "s",
        measured=measured(check),
        interval=_interval(check),
        p_value=_from_to(p_words(shown.positive_control), p_words(shown.p_value)),
        adjusted=p_words(shown.adjusted),
        verdict=shown.verdict,
        reason=shown.reason,
        reference=shown.reference,
        charts=tuple(one for one in (plot_roc(curves), plot_scores(curves)) if one is not None),
    )


def role(check: Mapping[str, Any], verdict: str, reason: str, by: str | None) -> str:
    """Return what a check is to the run's verdict, as a key of `ROLES`."""
    family = check.get("family")
    if verdict == NOT_JUDGED:
        return "measured"
    if SHOWN_ONLY in reason:
        return "shown"
    if by == "statistics" and family in ATTACKS:
        leads = family in _OWN_RANKS or check.get("details", {}).get("leading") == 1
        return "rests" if leads else "can fail"
    return "shown" if verdict == "reported" else "rests"


def in_groups(rows: Sequence[CheckRow]) -> tuple[Group, ...]:
    """Return the rows by what they are to the verdict, those that it rests on first."""
    groups = [
        Group(title, tuple(one for one in rows if one.role == name))
        for name, title in ROLES.items()
    ]
    return tuple(one for one in groups if one.rows)


def measured(check: Mapping[str, Any]) -> str:
    """Return what a check measured, from before to after where both are known."""
    family, estimate = check.get("family"), check["estimate"]
    details: Mapping[str, float] = check.get("details") or {}
    # What the sparse test sums says nothing to a reader; its p-value does.
    if estimate is None or family == "sparse":
        return ""
    quantity = QUANTITIES.get(str(family), "")
    if family == "utility":
        rates = [details.get("accuracy_before"), details.get("accuracy_after")]
        known = [f"{rate:.1%}" for rate in rates if rate is not None]
        number = _from_to(*known) if len(known) == len(rates) else f"{estimate:+.1%}"
    elif _is_change(check):
        number = f"{_from_to(_auc(details['before']), _auc(details['after']))} AUC"
    elif family in _COMPARED or "auc_before" in details:
        number = _from_to(_auc(details.get("auc_before")), _auc(estimate))
    else:
        number = _from_to(told(details.get("before")), told(estimate))
    return f"{number} {quantity}".strip()


def told(value: float | str | None) -> str:
    """Return a number as it is read; nothing where there is none."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def p_words(value: float | None) -> str:
    """Return a p-value as it is read; nothing where there is none."""
    if value is None:
        return ""
    return "< 0.0001" if value < _SMALLEST_P else f"{value:.2g}"


def _interval(check: Mapping[str, Any]) -> str:
    low, high = check["low"], check["high"]
    if low is None or high is None:
        return ""
    if check.get("family") == "utility":
        return f"change {low:+.1%} to {high:+.1%}"
    if check.get("family") in _COMPARED:
        return f"{_auc(low)} to {_auc(high)}"
    if _is_change(check):
        return f"change {low:+.2f} to {high:+.2f}"
    return f"{told(low)} to {told(high)}"


def _is_change(check: Mapping[str, Any]) -> bool:
    """Tell whether the estimate is a difference of two that are kept beside it."""
    return check.get("family") == "comparison" and "after" in (check.get("details") or {})


def _auc(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _from_to(before: str, after: str) -> str:
    return f"{before} → {after}" if before else after
