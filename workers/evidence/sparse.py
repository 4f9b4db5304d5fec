"""Is a part of the forgotten still remembered, too few to move a mean?

The conformal tail test sees one single data subject, but only against a holdout that grows with
the number forgotten (n/alpha). A share of them is seen against a far smaller one, by their ranks.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from workers.evidence.membership import HOLDOUT, Before, Scored, before_by_subject, by_subject
from workers.evidence.statistics import Sample
from workers.evidence.types import Evidence

_CUT = 0.05
"""Conformal p-values above it say nothing of a few; 0.02 to 0.1 do nearly as well."""
_NULL_DRAWS = 39_999
_PLANTED_DRAWS = 999
_CHUNK = 2_000_000

Counts = npt.NDArray[np.int64]


def sparse_test(
    forget: Scored,
    holdout: Scored,
    *,
    before: Before | None,
    alpha: float = 0.005,
    share: float = 0.1,
    seed: int = 0,
) -> Evidence:
    """Do more of the forgotten score as high as members than chance puts there?

    The statistic is the truncated product of the conformal p-values of the n forgotten against the
    m of the holdout (Zaykin et al. 2002, "Truncated product method for combining P-values", Genetic
    Epidemiology 22), as the sum of log(0.05 / p) over those up to 0.05. It depends on ranks alone;
    its distribution under a random order of all n + m is drawn. A holdout of fewer than 19 is
    blind.

    Power is measured, not assumed: among n who were never seen, a share is given the scores that
    some of the forgotten had before unlearning, over and over, and `details["power"]` says how
    often the test saw it at `alpha`. The scores after unlearning have no part in it but by how many
    of the holdout share the highest, above which nobody can be seen: were a leak among them,
    planting another on top would show more power than there is to see the first. And
    since n show little of how often one remembered does not stand out, each of those planted is
    left as never seen with chance 0.5 / (n + 1), Jeffreys' estimate where none of n was so.

    Args:
        forget: scores of the records to forget.
        holdout: scores of the records never seen; nobody is in both sets.
        before: the scores before unlearning, for the control and for the power.
        alpha: level at which a leak counts as seen.
        share: of the forgotten, whose leak must not be missed; at least one data subject.
        seed: of the draws that are planted.

    Raises:
        ValueError: a set is empty, lengths differ, a score is not finite, a data subject is in both
            sets, or alpha or share is not in (0, 1).
    """
    if not 0 < alpha < 1 or not 0 < share < 1:
        raise ValueError("alpha and share must be between 0 and 1")
    ours, others = by_subject(forget, holdout)
    n, m = ours.size, others.size
    statistic = _statistics(_counts(ours, others)[None, :], m)
    leaking = max(1, int(share * n + 1e-9))
    details = {"alpha": alpha, "share": share, "smallest_seen": float(_smallest_seen(n, m, alpha))}
    control = None
    if before is not None:
        then = _counts(*before_by_subject(forget, holdout, before))
        control = float(_p_values(_statistics(then[None, :], m), n, m)[0])
        planted = _planted(then, m, leaking, seed)
        # Where the version after gives many one highest score, nobody can stand above them.
        ties = int((others >= max(ours.max(), others.max())).sum())
        if ties > 1:
            planted = np.maximum(planted, ties)
        details["power"] = float((_p_values(_statistics(planted, m), n, m) < alpha).mean())
    return Evidence(
        name="sparse_test",
        family="sparse",
        threat_model="T1",
        reference=HOLDOUT,
        unit="data_subject",
        n=n,
        m=m,
        estimate=float(statistic[0]),
        p_value=float(_p_values(statistic, n, m)[0]),
        positive_control=control,
        details=details,
        would_settle=f"more data subjects, or an attack that sees {leaking} of {n} if they stayed",
    )


def _counts(ours: Sample, others: Sample) -> Counts:
    """How many of the others score at least as high as each of ours: (n,)."""
    ordered = np.sort(others)
    counts: Counts = (ordered.size - np.searchsorted(ordered, ours, side="left")).astype(np.int64)
    return counts


def _statistics(counts: Counts, m: int) -> Sample:
    """The truncated product, as a sum of logarithms, of each row: (rows, n) -> (rows,)."""
    surprise = np.maximum(0.0, np.log(_CUT * (m + 1) / np.arange(1, m + 2)))
    result: Sample = surprise[counts].sum(axis=1)
    return result


def _p_values(statistics: Sample, n: int, m: int) -> Sample:
    null = _null(n, m)
    # Equal sums differ by the order of their terms.
    below = np.searchsorted(null, statistics - 1e-9, side="left")
    result: Sample = (1 + null.size - below) / (null.size + 1)
    return result


def _planted(then: Counts, m: int, leaking: int, seed: int) -> Counts:
    """Rows of never seen data subjects, in each of which some are as they were: (draws, n)."""
    draws = np.random.default_rng(seed)
    rows = _random_orders(then.size, m, _PLANTED_DRAWS, draws)
    places, chosen = (
        draws.random(rows.shape).argsort(axis=1)[:, :leaking] for _ in ("places", "chosen")
    )
    hidden = draws.random(chosen.shape) < 0.5 / (then.size + 1)
    scores = np.where(hidden, np.take_along_axis(rows, places, axis=1), then[chosen])
    np.put_along_axis(rows, places, scores, axis=1)
    return rows


def _random_orders(n: int, m: int, draws: int, generator: np.random.Generator) -> Counts:
    """How many of the m are above each of the n in random orders, ascending: (draws, n)."""
    # Ours cut the others' range at random; how many of them lie above each cut is all we need.
    gaps = generator.dirichlet(np.ones(n + 1), draws)
    counts: Counts = generator.multinomial(m, gaps)[:, :n].cumsum(axis=1)
    return counts


@lru_cache(maxsize=16)
def _null(n: int, m: int) -> Sample:
    """The statistic of random orders, ascending: (draws,)."""
    generator = np.random.default_rng([n, m])
    rows = max(1, _CHUNK // n)
    found = [
        _statistics(_random_orders(n, m, min(rows, _NULL_DRAWS - first), generator), m)
        for first in range(0, _NULL_DRAWS, rows)
    ]
    return np.sort(np.concatenate(found))


def _smallest_seen(n: int, m: int, alpha: float) -> int:
    """How many must be remembered better than everybody never seen, for the test to see it."""
    # The others where a random order puts them on average.
    places = (np.arange(n) * (m + 1) / (n + 1)).astype(np.int64)
    for k in range(1, n + 1):
        counts = np.concatenate([np.zeros(k, dtype=np.int64), places[k:]])
        if _p_values(_statistics(counts[None, :], m), n, m)[0] < alpha:
            return k
    return n + 1
