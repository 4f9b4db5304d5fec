import numpy as np
import pytest

from workers.evidence.change import auc_change, comparable, epsilon_bound
from workers.evidence.comparison import epsilon_lower_bound, paired_delong
from workers.evidence.membership import Before, Scored
from workers.evidence.statistics import subject_means

N, M, EACH = 40, 120, 3


@pytest.fixture
def sides() -> tuple[Scored, Scored, Before]:
    draws = np.random.default_rng(3)
    ours, others = np.repeat(np.arange(N), EACH), np.repeat(np.arange(N, N + M), EACH)
    forget, holdout = draws.normal(size=N * EACH), draws.normal(size=M * EACH)
    return Scored(forget, ours), Scored(holdout, others), Before(forget + 3, holdout)


def test_the_change_is_delongs_per_data_subject(sides: tuple[Scored, Scored, Before]) -> None:
    forget, holdout, before = sides
    change = auc_change(forget, holdout, before)
    others = subject_means(*holdout)
    plain = paired_delong(
        (subject_means(*forget), others),
        (subject_means(before.forget, forget.subjects), others),
        level=0.95,
    )
    assert (change.n, change.m, change.family) == (N, M, "comparison")
    assert (change.estimate, change.p_value) == (plain.difference, plain.p_value)
    assert change.estimate is not None
    assert change.estimate < -0.4
    assert change.details["before"] > 0.99


def test_epsilon_is_zero_where_nothing_shows_and_large_where_all_does(
    sides: tuple[Scored, Scored, Before],
) -> None:
    forget, holdout, before = sides
    bound = epsilon_bound(forget, holdout, before)
    assert bound.estimate == 0
    known = epsilon_lower_bound(
        subject_means(before.forget, forget.subjects), subject_means(*holdout)
    )
    assert bound.details["before"] == known.epsilon > 1


def test_one_data_subject_is_not_compared() -> None:
    assert not comparable(Scored([1.0, 2.0], [1, 1]), Scored([1.0, 2.0], [2, 3]))
    assert comparable(Scored([1.0, 2.0], [1, 4]), Scored([1.0, 2.0], [2, 3]))
