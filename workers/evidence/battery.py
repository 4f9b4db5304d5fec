"""From the scores of many attacks to the checks that a verdict is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from workers.evidence.change import auc_change, comparable, epsilon_bound
from workers.evidence.membership import (
    Attack,
    Before,
    Scored,
    attack_evidence,
    own_p_values,
    tail_test,
)
from workers.evidence.sparse import sparse_test
from workers.evidence.types import Evidence

Row = npt.NDArray[np.float64]


_COMPARISONS = (auc_change, epsilon_bound)
_NEARLY = 0.05
"""An AUC that a calibrated attack may tell less before unlearning, and still lead."""


@dataclass(frozen=True)
class Limits:
    """What the operator set.

    Attributes:
        alpha: chance that a run which forgot is failed by its attacks.
        margin: distance of an AUC from 0.5 that counts as none.
        share: of the forgotten, whose leak must not be missed.
    """

    alpha: float = 0.01
    margin: float = 0.15
    share: float = 0.1

    @property
    def tail_alpha(self) -> float:
        """Level of the tail test: an eighth of alpha, as the verdict's rules count it."""
        return self.alpha / 8

    @property
    def sparse_alpha(self) -> float:
        """Level of the sparse test: half of alpha, as the verdict's rules count it."""
        return self.alpha / 2


@dataclass(frozen=True)
class Attacked:
    """What one attack gave the records of both sets."""

    attack: Attack
    forget: Scored
    holdout: Scored


def battery(
    after: Sequence[Attacked], before: Mapping[str, Before], limits: Limits
) -> list[Evidence]:
    """Evidence of each attack, then of what follows from the leading one's scores.

    That is the tail test, the sparse test, and what decides nothing: the change of its AUC and the
    bound on epsilon.

    The leading attack is the membership attack with the highest AUC on the model before unlearning,
    chosen without a look at the model that is judged. One that scored members lowest does not lead,
    since the tail and the sparse test look among high scores alone.

    Args:
        after: the attacks on the model after unlearning.
        before: by the attack's name, what it gave the same records before.
        limits: what the operator set.

    Raises:
        ValueError: as `attack_evidence`.
    """
    checks = [
        attack_evidence(
            one.attack,
            one.forget,
            one.holdout,
            before=before.get(one.attack.name),
            margin=limits.margin,
        )
        for one in after
    ]
    place = leading(checks)
    if place is None:
        return checks
    checks[place] = replace(checks[place], details={**checks[place].details, "leading": 1.0})
    chosen = after[place]
    then = before[chosen.attack.name]
    calibrated = {"calibrated": float(chosen.attack.calibrated)}
    ranks = [
        tail_test(chosen.forget, chosen.holdout, before=then, alpha=limits.tail_alpha),
        sparse_test(
            chosen.forget,
            chosen.holdout,
            before=then,
            alpha=limits.sparse_alpha,
            share=limits.share,
        ),
    ]
    checks += [replace(one, details={**one.details, **calibrated}) for one in ranks]
    if comparable(chosen.forget, chosen.holdout):
        checks += [compare(chosen.forget, chosen.holdout, then) for compare in _COMPARISONS]
    return checks


def leading(checks: Sequence[Evidence]) -> int | None:
    """Place of the membership attack that told the most before unlearning; None without one.

    A calibrated one is taken if it told nearly as much: no shift of the data can mislead it.
    """
    told = [
        (one.details["auc_before"] + _NEARLY * one.details["calibrated"], -i)
        for i, one in enumerate(checks)
        if one.family == "membership" and "auc_before" in one.details
    ]
    return -max(told)[1] if told else None


def own(
    after: Sequence[Attacked], checks: Sequence[Evidence], of: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """P-value of each request's own data subjects by the leading attack, unadjusted.

    Args:
        after: the attacks on the model after unlearning.
        checks: what `battery` made of them.
        of: the data subjects of each request; of several, the most telling, by Bonferroni.

    Returns:
        By request; empty where no attack leads.
    """
    place = leading(checks)
    if place is None:
        return {}
    found = own_p_values(after[place].forget, after[place].holdout)
    own_values = {
        request: [found[subject] for subject in subjects if subject in found]
        for request, subjects in of.items()
    }
    return {
        request: min(1.0, len(values) * min(values))
        for request, values in own_values.items()
        if values
    }
