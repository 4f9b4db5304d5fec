"""The form that every check's result has."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

Family = Literal[
    "membership",  # attacks: are the forgotten told from people never seen?
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
ThreatModel = Literal["T0", "T1", "T2", "T3", "T4"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One measured check, with all that is needed to judge it.

    Attributes:
        name: the check.
        family: what kind of claim it is about.
        threat_model: what the attacker has. T0 storage, T1 scores, T2 prompts, T3 weights, T4 the
            model before and after.
        reference: what the estimate is compared with.
        unit: what n and m count.
        n: how many units were to be forgotten, or were scored.
        m: how many reference units they were compared with.
        estimate: the measured value.
        low, high: bounds of its confidence interval.
        level: coverage of that interval, such as 0.9.
        p_value: of the hypothesis that there is nothing to see, two-sided where both sides leak.
        positive_control: p-value of the same attack on the model before unlearning. An attack that
            does not see the records there proves nothing by not seeing them afterwards.
        details: further numbers, by name.
        would_settle: what more would make an unclear result clear.
        curves: rows of numbers for plots, by name; never judged, and no part of a certificate.

    Raises:
        ValueError: a number is NaN or infinite.
    """

    name: str
    family: Family
    threat_model: ThreatModel
    reference: str
    unit: Literal["data_subject", "record"]
    n: int
    m: int
    estimate: float | None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    p_value: float | None = None
    positive_control: float | None = None
    details: Mapping[str, float]
    would_settle: str
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        measured = (self.estimate, self.low, self.high, self.p_value, self.positive_control)
        numbers = [number for number in measured if number is not None]
        drawn = [number for row in self.curves.values() for number in row]
        if not all(map(math.isfinite, [*numbers, *self.details.values(), *drawn])):
            raise ValueError(f"the evidence {self.name} holds a number that is not finite")

    def as_dict(self) -> dict[str, JsonValue]:
        """All attributes, ready for JSON."""
        return {
            "name": self.name,
            "family": self.family,
            "threat_model": self.threat_model,
            "reference": self.reference,
            "unit": self.unit,
            "n": self.n,
            "m": self.m,
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "p_value": self.p_value,
            "positive_control": self.positive_control,
            "details": dict(self.details),
            "would_settle": self.would_settle,
            "curves": {name: list(row) for name, row in self.curves.items()},
        }
