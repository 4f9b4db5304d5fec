"""One check as a row of a run's report: its numbers told, and what it is to the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.dashboard.check_views import CheckView
from app.dashboard.plots import Chart, plot_roc, plot_scores
from app.dashboard.report_words import COMPARED_IN, POINTS, QUANTITIES, ROLES

_SMALLEST_P: Final = 1e-4


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
    badge: str
    reason: str
    reference: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The checks that are one thing to the verdict."""

    title: str
    rows: tuple[CheckRow, ...]


def check_row(check: Mapping[str, Any], shown: CheckView) -> CheckRow:
    """Return a check told."""
    curves: Mapping[str, Sequence[float]] = check.get("curves") or {}
    return CheckRow(
        name=shown.name,
        title=shown.title,
        meaning=shown.meaning,
        role=shown.role,
        threat_model=check["threat_model"],
        n=told(shown.n),
        m=told(shown.m),
        unit=shown.unit.replace("_", " ") + "s",
        measured=measured(check),
        interval=_interval(check),
        p_value=_from_to(p_words(shown.positive_control), p_words(shown.p_value)),
        adjusted=p_words(shown.adjusted),
        verdict=shown.verdict,
        badge=shown.badge,
        reason=shown.reason,
        reference=shown.reference,
        charts=tuple(one for one in (plot_roc(curves), plot_scores(curves)) if one is not None),
    )


def in_groups(rows: Sequence[CheckRow]) -> tuple[Group, ...]:
    """Return the rows by what they are to the verdict, those that it rests on first."""
    groups = [
        Group(title, tuple(one for one in rows if one.role == name))
        for name, title in ROLES.items()
    ]
    return tuple(one for one in groups if one.rows)


def measured(check: Mapping[str, Any]) -> str:
    """Return what a check measured, from before to after where both are known, with its unit."""
    estimate = check["estimate"]
    details: Mapping[str, float] = check.get("details") or {}
    # What the sparse test sums says nothing to a reader; its p-value does.
    if estimate is None or check.get("family") == "sparse":
        return ""
    quantity = _quantity(check)
    if quantity == "accuracy":
        rates = [details.get("accuracy_before"), details.get("accuracy_after")]
        known = [f"{rate:.1%}" for rate in rates if rate is not None]
        number = _from_to(*known) if len(known) == len(rates) else f"{estimate:+.1%}"
    elif _is_change(check):
        number = _from_to(_auc(details["before"]), _auc(details["after"]))
    elif quantity == "AUC":
        number = _from_to(_auc(details.get("auc_before")), _auc(estimate))
    elif quantity == POINTS:
        number = _from_to(_points(details.get("before")), _points(estimate))
    else:
        number = _from_to(told(details.get("before")), told(estimate))
    return f"{number} {quantity}".strip()


def _quantity(check: Mapping[str, Any]) -> str:
    details: Mapping[str, float] = check.get("details") or {}
    family = str(check.get("family"))
    # Some are only compared, whatever they are measured in.
    if family == "utility" or "accuracy_before" in details:
        return "accuracy"
    if "auc_before" in details or _is_change(check):
        return "AUC"
    return COMPARED_IN.get(check["name"], QUANTITIES.get(family, ""))


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
    quantity = _quantity(check)
    if quantity == "accuracy":
        return f"change {low:+.1%} to {high:+.1%}"
    if quantity == "AUC" and not _is_change(check):
        return f"{_auc(low)} to {_auc(high)}"
    if _is_change(check):
        return f"change {low:+.2f} to {high:+.2f}"
    return f"{told(low)} to {told(high)}"


def _is_change(check: Mapping[str, Any]) -> bool:
    """Tell whether the estimate is a difference of two that are kept beside it."""
    return check.get("family") == "comparison" and "after" in (check.get("details") or {})


def _auc(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _from_to(before: str, after: str) -> str:
    return f"{before} → {after}" if before else after
