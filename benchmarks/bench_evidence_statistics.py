"""The statistics of evidence against the plain loops that they must equal.

    python -m benchmarks.bench_evidence_statistics [--quick]

One thread, processor time. The loops are written out below, record by record, pair by pair and
threshold by threshold, and run in the same process; the fast form is the median of several runs.
Memory is the peak that numpy allocated during a call beyond its inputs, by tracemalloc, result
included.
"""

import argparse
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import stats

from workers.evidence.comparison import epsilon_lower_bound, paired_delong
from workers.evidence.reference_models import Likelihoods, lira_offline, lira_online, rmia_scores
from workers.evidence.statistics import Sample

RUNS = 25
A = 0.3


@dataclass(frozen=True)
class Case:
    """One statistic, in both forms; what they give must be equal.

    Attributes:
        goal: how many times as fast it must be.
    """

    name: str
    goal: int
    fast: Callable[[], Sample]
    plain: Callable[[], Sample]


def main() -> None:
    """Print one line for each statistic."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the records")
    options = parser.parse_args()
    table = Table(title="Statistics of evidence, one thread")
    table.add_column("what")
    for column in ("plain", "fast", "times as fast", "goal", "extra memory", "largest difference"):
        table.add_column(column, justify="right")
    for case in cases(1_000 if options.quick else 10_000):
        table.add_row(*measured(case))
    Console(width=120).print(table)


def cases(records: int) -> list[Case]:
    """Make the inputs: likelihoods of records of unlike difficulty, and scores of two models."""
    rng = np.random.default_rng(0)
    few, population = drawn(rng, records, 4), drawn(rng, records, 4)
    many = drawn(rng, records, 16)
    half = records // 2
    first = (rng.normal(0.3, 1, half), rng.normal(0, 1, half))
    second = (first[0] + rng.normal(0, 1, half), first[1] + rng.normal(0, 1, half))
    return [
        Case(
            f"RMIA {records:,} × {records:,}, 4 references",
            50,
            lambda: rmia_scores(few, population, a=A),
            lambda: plain_rmia(few, population),
        ),
        Case(
            f"LiRA online {records:,} × 16 references",
            100,
            lambda: lira_online(many),
            lambda: plain_lira(many, online=True),
        ),
        Case(
            f"LiRA offline {records:,} × 16 references",
            100,
            lambda: lira_offline(many),
            lambda: plain_lira(many, online=False),
        ),
        Case(
            f"paired DeLong {half:,} × {half:,}",
            100,
            lambda: np.array(paired_delong(first, second)[2:4]),
            lambda: plain_delong(first, second),
        ),
        Case(
            f"epsilon over all thresholds, {half:,} + {half:,}",
            50,
            lambda: np.array([epsilon_lower_bound(*first).epsilon]),
            lambda: plain_epsilon(*first),
        ),
    ]


def measured(case: Case) -> list[str]:
    """Run both forms; return the cells of the table."""
    start = time.process_time()
    expected = case.plain()
    plain = time.process_time() - start
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        found = case.fast()
        seconds.append(time.process_time() - start)
    fast = statistics.median(seconds)
    tracemalloc.start()
    found = case.fast()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    difference = float(np.abs(found - expected).max())
    return [
        case.name,
        f"{plain * 1e3:,.0f} ms",
        f"{fast * 1e3:.1f} ms",
        f"{plain / fast:,.0f}",
        f"{case.goal}",
        f"{peak:.1f} MiB",
        f"{difference:.0e}",
    ]


def drawn(rng: np.random.Generator, records: int, references: int) -> Likelihoods:
    """Draw log-likelihoods; each record was in a random half of the references."""
    difficulty = rng.gamma(2.0, 1.0, records)
    was_in = rng.random((references, records)).argsort(axis=0) < references // 2
    losses = difficulty * (0.8 + 0.4 * rng.random((references, records)) - 0.3 * was_in)
    return Likelihoods(-difficulty * (0.5 + 0.7 * rng.random(records)), -losses, was_in)


def plain_rmia(records: Likelihoods, population: Likelihoods) -> Sample:
    """Compare each record with the whole population, one record after the other."""
    beaten = plain_log_ratios(population)
    return np.array([np.mean(ratio > beaten) for ratio in plain_log_ratios(records)])


def plain_log_ratios(records: Likelihoods) -> Sample:
    """Log of p over its offline mean, record by record."""
    target, references, was_in = map(np.asarray, records)
    ratios = []
    for i in range(target.size):
        out = np.exp(references[~was_in[:, i], i]).mean()
        ratios.append(target[i] - math.log(((1 + A) * out + 1 - A) / 2))
    return np.array(ratios)


def plain_lira(records: Likelihoods, *, online: bool) -> Sample:
    """Fit and evaluate each record's normal distributions, one record after the other."""
    target, references, was_in = map(np.asarray, records)
    scores = []
    for i in range(target.size):
        observed = logit(target[i])
        inside, outside = (logit(references[mask, i]) for mask in (was_in[:, i], ~was_in[:, i]))
        out = outside.mean(), outside.std(ddof=1)
        if online:
            known = inside.mean(), inside.std(ddof=1)
            scores.append(stats.norm.logpdf(observed, *known) - stats.norm.logpdf(observed, *out))
        else:
            scores.append(-stats.norm.logsf(observed, *out))
    return np.array(scores)


def logit(log_likelihood: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Confidence log p/(1 - p)."""
    confidence: npt.NDArray[np.float64] = log_likelihood - np.log1p(-np.exp(log_likelihood))
    return confidence


def plain_delong(first: tuple[Sample, Sample], second: tuple[Sample, Sample]) -> Sample:
    """Difference and standard error from the matrices of all pairs, as in the paper of 1988."""
    kernels = [
        (above[:, None] > below[None, :]) + 0.5 * (above[:, None] == below[None, :])
        for above, below in (first, second)
    ]
    n, m = kernels[0].shape
    covariance = np.cov([one.mean(axis=1) for one in kernels]) / n
    covariance += np.cov([one.mean(axis=0) for one in kernels]) / m
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return np.array([kernels[0].mean() - kernels[1].mean(), math.sqrt(variance)])


def plain_epsilon(above: Sample, below: Sample) -> Sample:
    """Bound both rates at each threshold in turn, and keep the best epsilon."""
    best, alpha = 0.0, 0.05 / below.size / 4
    for threshold in below:
        hits = int((above > threshold).sum())
        alarms = int((below > threshold).sum())
        high, low = least(hits, above.size, alpha), least(above.size - hits, above.size, alpha)
        others = below.size - 1
        other_high, other_low = least(alarms, others, alpha), least(others - alarms, others, alpha)
        for more, fewer in (
            (high, 1 - other_low),
            (other_low, 1 - high),
            (low, 1 - other_high),
            (other_high, 1 - low),
        ):
            if more > 0:
                best = max(best, math.log(more / fewer))
    return np.array([best])


def least(count: int, n: int, alpha: float) -> float:
    """Clopper and Pearson's lower bound of one rate."""
    return float(stats.beta.ppf(alpha, count, n - count + 1)) if count else 0.0


if __name__ == "__main__":
    main()
