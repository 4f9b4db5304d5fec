"""What the leading attack's scores amount to besides: shown, and decides nothing."""

import numpy as np

from workers.evidence.comparison import epsilon_lower_bound, epsilon_subjects_needed, paired_delong
from workers.evidence.membership import (
    HOLDOUT,
    Before,
    Scored,
    before_by_subject,
    by_subject,
)
from workers.evidence.types import Evidence

LEVEL = 0.95


def auc_change(forget: Scored, holdout: Scored, before: Before) -> Evidence:
    """How far unlearning moved the attack's AUC, on the same data subjects (DeLong et al. 1988).

    Args and errors are those of `attack_evidence`; two data subjects of each set are needed.
    """
    now = by_subject(forget, holdout)
    then = before_by_subject(forget, holdout, before)
    change = paired_delong(now, then, level=LEVEL)
    return Evidence(
        name="auc_change",
        family="comparison",
        threat_model="T1",
        reference="the same attack on the same data subjects before unlearning",
        unit="data_subject",
        n=now[0].size,
        m=now[1].size,
        estimate=change.difference,
        low=change.low,
        high=change.high,
        level=LEVEL,
        p_value=change.p_value,
        details={"after": change.first, "before": change.second},
        would_settle="more data subjects",
    )


def epsilon_bound(forget: Scored, holdout: Scored, before: Before) -> Evidence:
    """What epsilon of an (epsilon, 0) guarantee is at least, by the attack, with 95 % confidence.

    0 says that no threshold shows a leak, not that there is none. Source and method are those of
    `epsilon_lower_bound`; args and errors those of `attack_evidence`.
    """
    ours, others = by_subject(forget, holdout)
    bound = epsilon_lower_bound(ours, others, level=LEVEL)
    then = epsilon_lower_bound(*before_by_subject(forget, holdout, before), level=LEVEL)
    return Evidence(
        name="epsilon_bound",
        family="comparison",
        threat_model="T1",
        reference=HOLDOUT,
        unit="data_subject",
        n=ours.size,
        m=others.size,
        estimate=bound.epsilon,
        details={"before": then.epsilon, "level": LEVEL},
        would_settle=f"{epsilon_subjects_needed(1.0, level=LEVEL)} data subjects on both sides, to "
        "show an epsilon of 1",
    )


def comparable(forget: Scored, holdout: Scored) -> bool:
    """Whether both sets have two data subjects, as a standard error needs."""
    sides = (np.unique(np.asarray(side.subjects)).size for side in (forget, holdout))
    return min(sides) >= 2
