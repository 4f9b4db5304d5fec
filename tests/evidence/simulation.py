"""Scores of planted truth, and judging them through the real battery and the real rules."""

from dataclasses import fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from app.verification.checks import Check, Margins, Verdict
from app.verification.rules import judge
from workers.evidence.battery import Attacked, Limits, battery
from workers.evidence.membership import Attack, Before, Scored
from workers.evidence.types import Evidence
from workers.evidence.utility import utility

Truth = Literal["forgotten", "never_unlearned", "leak", "over_forgotten"]
Rows = npt.NDArray[np.float64]

HOLDOUT = 1_000
ATTACKS = 6
_ALIKE = 0.7
_KEPT = 0.7
_FIELDS = tuple(one.name for one in fields(Check))


def planted(
    truth: Truth, shift: float, n: int, generator: np.random.Generator
) -> tuple[Rows, Rows]:
    """Scores of n data subjects, then of the holdout, before and after: (n + 1,000, 6) each.

    Standard normal where never seen; any two attacks correlate by 0.7, and so does each with
    itself before. Being remembered adds `shift`; of a leak one in ten is, at least one.
    """

    def normal() -> Rows:
        common = generator.standard_normal((n + HOLDOUT, 1))
        own = generator.standard_normal((n + HOLDOUT, ATTACKS))
        scores: Rows = np.sqrt(_ALIKE) * common + np.sqrt(1 - _ALIKE) * own
        return scores

    nature = np.sqrt(_KEPT) * normal()
    before, after = (nature + np.sqrt(1 - _KEPT) * normal() for _ in range(2))
    before[:n] += shift
    remembered = {"never_unlearned": n, "leak": max(1, n // 10)}.get(truth, 0)
    after[:remembered] += shift
    if truth == "over_forgotten":
        after[:n] -= 2
    return before, after


def measured(before: Rows, after: Rows, n: int, limits: Limits) -> list[Evidence]:
    """What the battery makes of the scores, with a utility that lost nothing."""
    subjects = np.arange(len(after))
    attacked = [
        Attacked(
            Attack(f"attack_{j}"),
            Scored(after[:n, j], subjects[:n]),
            Scored(after[n:, j], subjects[n:]),
        )
        for j in range(ATTACKS)
    ]
    then = {one.attack.name: Before(before[:n, j], before[n:, j]) for j, one in enumerate(attacked)}
    same = np.arange(200) % 2
    return [*battery(attacked, then, limits), utility(same, same, same, same, "retain")]


def verdict_of(evidence: list[Evidence], margins: Margins) -> Verdict:
    """The verdict on an approximate run with this evidence."""
    checks = [Check(**{name: getattr(one, name) for name in _FIELDS}) for one in evidence]
    return judge("approximate", checks, margins).verdict


def rates(
    truth: Truth, shift: float, n: int, draws: int, margins: Margins, seed: int = 0
) -> dict[Verdict, float]:
    """Shares of the three verdicts over draws of planted scores."""
    generator = np.random.default_rng([seed, n, int(10 * shift)])
    limits = Limits(alpha=margins.alpha, margin=margins.membership)
    found = [
        verdict_of(measured(*planted(truth, shift, n, generator), n, limits), margins)
        for _ in range(draws)
    ]
    values: tuple[Verdict, ...] = ("pass", "fail", "inconclusive")
    return {value: found.count(value) / draws for value in values}
