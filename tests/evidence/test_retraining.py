import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, stats

from workers.evidence.comparison import residual_power
from workers.evidence.retraining import (
    challenge_epsilons,
    challenge_score,
    residual,
    residual_evidence,
)

Row = npt.NDArray[np.float64]


def models(
    rng: np.random.Generator,
    n: int,
    left: float = 0.0,
    *,
    gap: float = 2.2,
    noise: float = 0.06,
    retrained: int = 4,
) -> tuple[Row, Row, Row]:
    """Losses by the original, by one that has a share of the effect left, and by retrained ones."""
    base = rng.gamma(4.0, 0.8, n)

    def trained(effect: float) -> Row:
        known = effect * gap * (0.7 + 0.6 * rng.random(n))
        losses: Row = base - known + noise * rng.normal() + rng.normal(0, 0.1, n)
        return losses

    return trained(1.0), trained(left), np.array([trained(0.0) for _ in range(retrained)])


def test_residual_is_the_quotient_of_the_sums() -> None:
    original, unlearned, retrained = models(np.random.default_rng(0), 12, 0.4)
    others = retrained.mean(axis=0)
    slow = sum(others - unlearned) / sum(others - original)
    found = residual(original, unlearned, retrained)
    assert found.fraction == pytest.approx(slow, abs=1e-9)
    assert found.noise == pytest.approx(np.std([row.mean() for row in retrained], ddof=1))


@pytest.mark.parametrize("n", [1, 2, 30])
def test_the_interval_ends_where_its_test_does(n: int) -> None:
    original, unlearned, retrained = models(np.random.default_rng(1), n, 0.4)
    count = len(retrained)
    others = retrained.mean(axis=0)
    noise = float(np.var(retrained.mean(axis=1), ddof=1))

    def squared(r: float) -> tuple[float, float]:
        each = (1 - r) * others - unlearned + r * original
        subjects = float(np.var(each, ddof=1)) / n if n > 1 else 0.0
        return subjects, noise * (1 + r**2 + (1 - r) ** 2 / count)

    def freedom(r: float) -> float:
        subjects, between = squared(r)
        terms = between**2 / (count - 1) + (subjects**2 / (n - 1) if n > 1 else 0.0)
        return (subjects + between) ** 2 / terms

    def statistic(r: float) -> float:
        mean = float((others - unlearned).mean() - r * (others - original).mean())
        return mean / math.sqrt(sum(squared(r)))

    found = residual(original, unlearned, retrained, margin=0.1, level=0.9)
    assert found.fraction is not None
    assert found.interval is not None
    t = stats.t.ppf(0.95, freedom(found.fraction))
    low = optimize.brentq(lambda r: statistic(r) - t, found.fraction - 3, found.fraction)
    high = optimize.brentq(lambda r: statistic(r) + t, found.fraction, found.fraction + 3)
    assert found.interval == pytest.approx((low, high), abs=1e-9)
    assert found.p_margin == pytest.approx(stats.t.cdf(statistic(0.1), freedom(0.1)), abs=1e-9)
    assert found.p_control == residual(original, original, retrained).p_left
    assert found.p_left == pytest.approx(2 * stats.t.sf(abs(statistic(0)), freedom(0)), abs=1e-9)


@pytest.mark.parametrize("n", [1, 5, 20, 200])
def test_retrained_models_are_not_found_to_leak(n: int) -> None:
    """The spread between models keeps the error rate where a test over subjects alone does not."""
    rng, alarms, naive = np.random.default_rng(2), 0, 0
    for _ in range(300):
        original, unlearned, retrained = models(rng, n)
        alarms += residual(original, unlearned, retrained).p_left < 0.05
        if n == 200:
            naive += stats.ttest_rel(retrained.mean(axis=0), unlearned).pvalue < 0.05
    assert alarms / 300 <= 0.08
    if n == 200:
        assert naive / 300 > 0.5


@pytest.mark.parametrize(("left", "most"), [(0.1, 0.09), (0.3, 0.01), (1.0, 0.01)])
def test_what_is_left_is_not_shown_to_be_gone(left: float, most: float) -> None:
    rng = np.random.default_rng(3)
    shown = [residual(*models(rng, 20, left)).p_margin < 0.05 for _ in range(300)]
    assert np.mean(shown) <= most


@pytest.mark.parametrize(("n", "least"), [(1, 0.3), (5, 0.5), (20, 0.65)])
def test_what_is_gone_is_shown_to_be_gone(n: int, least: float) -> None:
    rng = np.random.default_rng(4)
    shown = [residual(*models(rng, n)).p_margin < 0.05 for _ in range(200)]
    assert np.mean(shown) >= least


@pytest.mark.parametrize(("n", "noise"), [(1, 0.0), (20, 0.06), (5, 0.03)])
def test_the_power_is_as_foretold(n: int, noise: float) -> None:
    rng = np.random.default_rng(12)
    shown = [residual(*models(rng, n, noise=noise)).p_margin < 0.05 for _ in range(500)]
    # Each loss has noise of 0.1 of its own, which every model's mean shares in.
    between, spread = math.hypot(noise, 0.1 / math.sqrt(n)), 0.1 * math.sqrt(1.25)
    foretold = residual_power(2.2, spread, between, n, 4, margin=0.1, alpha=0.05)
    assert np.mean(shown) == pytest.approx(foretold, abs=0.1)


def test_over_forgetting_is_seen() -> None:
    found = residual_evidence(*models(np.random.default_rng(5), 20, -0.5))
    assert found.estimate is not None
    assert found.estimate < -0.3
    assert found.high is not None
    assert found.high < -0.1
    assert found.p_value is not None
    assert found.p_value < 0.01


def test_evidence_of_no_unlearning() -> None:
    found = residual_evidence(*models(np.random.default_rng(6), 20, 1.0, noise=0.01))
    assert (found.family, found.n, found.m, found.level) == ("comparison", 20, 4, 0.9)
    assert found.estimate == pytest.approx(1.0, abs=0.1)
    assert found.positive_control is not None
    assert found.positive_control < 0.01
    assert found.details["p_margin"] > 0.9
    assert "data subjects" in found.would_settle


def test_a_model_that_never_knew_shows_nothing() -> None:
    rng = np.random.default_rng(7)
    losses = models(rng, 10, gap=0.0, noise=0.0)
    original, unlearned, retrained = losses
    found = residual_evidence(original + 0.5, unlearned, retrained)
    assert (found.estimate, found.low, found.high, found.level) == (None, None, None, None)
    assert found.details["p_margin"] == 1.0
    assert "knows better" in found.would_settle
    weak = [residual(*models(rng, 10, gap=0.02)).interval for _ in range(20)]
    assert any(one is None for one in weak)


def test_noisy_retraining_asks_for_more_models() -> None:
    found = residual_evidence(*models(np.random.default_rng(8), 50, noise=1.0))
    assert "more than 4 retrained models" in found.would_settle


@pytest.mark.parametrize(
    ("original", "unlearned", "retrained"),
    [
        ([], [], [[], []]),
        ([1.0], [1.0, 2.0], [[1.0], [2.0]]),
        ([1.0], [1.0], [[1.0, 2.0], [2.0, 3.0]]),
        ([1.0], [1.0], [[2.0]]),
        ([1.0], [1.0], [[2.0], [2.0]]),
        ([1.0], [1.0], [[2.0], [math.nan]]),
        ([math.inf], [1.0], [[2.0], [3.0]]),
        ([1.0], [1.0], [2.0, 3.0]),
    ],
)
def test_residual_refuses(
    original: list[float], unlearned: list[float], retrained: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match=r"sample|same data subjects|two, from|NaN"):
        residual(original, unlearned, retrained)


def grid_epsilon(unlearned: Row, retrained: Row) -> float:
    """The challenge's attacks on a fine grid of thresholds, one by one."""
    delta, best = 1e-5, 0.0

    def try_attack(positive_in: Row, negative_in: Row) -> float:
        fnr, fpr = 1 - positive_in.mean(), negative_in.mean()
        if fnr == 0 and fpr == 0:
            return 50.0
        if fnr == 0 or fpr == 0:
            return 0.0
        pairs = [(1 - delta - fpr, fnr), (1 - delta - fnr, fpr)]
        return max([0.0] + [math.log(top / under) for top, under in pairs if top > 0])

    high, low = (
        (retrained, unlearned)
        if np.median(retrained) > np.median(unlearned)
        else (unlearned, retrained)
    )
    both = np.concatenate([high, low])
    for threshold in np.arange(both.min(), both.max() + 0.005, 0.005):
        best = max(best, try_attack(high >= threshold, low >= threshold))
    peaky, wide = (low, high) if np.ptp(high) >= np.ptp(low) else (high, low)
    width = np.ptp(peaky)
    for right in np.arange(peaky.max() - 2, peaky.max() + 2, 0.02):
        for left in np.arange(right - width - 2, right - width + 2, 0.02):
            inside = [(left <= row) & (row <= right) for row in (peaky, wide)]
            best = max(best, try_attack(*inside))
    return min(best, 50.0)


@pytest.mark.parametrize(
    ("shift", "scale", "base"),
    [
        (0.0, 1.0, 1.0),
        (1.5, 1.0, 1.0),
        (0.0, 4.0, 1.0),
        (-2.0, 0.4, 1.0),
        (9.0, 10.0, 10.0),
        (-9.0, 10.0, 10.0),
        (0.0, 5.0, 10.0),
        (0.0, 10.0, 8.0),
    ],
)
def test_epsilon_is_that_of_the_challenge(shift: float, scale: float, base: float) -> None:
    rng = np.random.default_rng(9)
    # On a coarse lattice the grid meets every cut.
    unlearned = rng.normal(shift, scale, (12, 2)).round(1)
    retrained = rng.normal(0, base, (12, 2)).round(1)
    found = challenge_epsilons(unlearned, retrained)
    for i in range(2):
        slow = grid_epsilon(unlearned[:, i], retrained[:, i])
        assert slow <= found[i] + 1e-9
        assert found[i] == pytest.approx(slow, abs=1e-9)


def test_perfect_unlearning_scores_its_floor_and_not_one() -> None:
    rng = np.random.default_rng(10)
    rows = rng.normal(0, 1, (3, 64, 60))
    found = challenge_score(*rows, retain_ratio=0.9, test_ratio=0.5)
    assert found.forgetting < 0.6
    assert found.forgetting == pytest.approx(found.floor, abs=0.1)
    assert found.score == pytest.approx(found.forgetting * 0.45)
    assert found.epsilon == pytest.approx(found.floor_epsilon, abs=0.3)


def test_no_unlearning_scores_nothing() -> None:
    rng = np.random.default_rng(11)
    far = rng.normal(12, 1, (16, 20))
    near, other = rng.normal(0, 1, (2, 16, 20))
    found = challenge_score(far, near, other, retain_ratio=1.0, test_ratio=1.0)
    assert (found.forgetting, found.epsilon) == (0.0, 50.0)
    assert found.floor > 0.1


def test_score_by_hand() -> None:
    # Without a difference epsilon is 0 and the record scores 1; a constant side is caught.
    same = np.zeros((9, 1))
    assert challenge_epsilons(same, same).tolist() == [0.0]
    spread = np.linspace(-1, 1, 9)[:, None]
    assert challenge_epsilons(same, spread).tolist() == [50.0]
    found = challenge_score(same, same, spread, retain_ratio=1.0, test_ratio=1.0)
    assert (found.forgetting, found.floor) == (1.0, 0.0)


@pytest.mark.parametrize(
    "rows",
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))),
        (np.zeros((4, 3)), np.zeros((5, 3)), np.zeros((4, 3))),
        (np.zeros((4, 3)), np.zeros((4, 2)), np.zeros((4, 3))),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), np.zeros((4, 3))),
        (np.zeros((4, 0)), np.zeros((4, 0)), np.zeros((4, 0))),
        (np.zeros(4), np.zeros(4), np.zeros(4)),
    ],
)
def test_challenge_refuses(rows: tuple[Row, Row, Row]) -> None:
    with pytest.raises(ValueError, match=r"three models|as many models|same data subjects|NaN"):
        challenge_score(*rows, retain_ratio=1.0, test_ratio=1.0)
