from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from workers.attacks.blind import blind_blocks
from workers.evidence.membership import Scored
from workers.evidence.shift import Block, NotApplicable, shift_evidence

WORDS = ["sea", "hill", "bread", "glass", "river", "stone", "paper", "cloud", "table", "lamp"]


def people(
    draws: np.random.Generator, n: int, shift: float = 0.0, records: int = 2
) -> list[dict[str, object]]:
    """Rows of n data subjects, whose records resemble each other."""
    middle = draws.normal(size=(n, 1, 5))
    values = middle * 0.7 + draws.normal(size=(n, records, 5)) * 0.7 + shift
    return [
        {f"column_{i}": float(x) for i, x in enumerate(row)}
        | {"note": " ".join(draws.choice(WORDS, 8))}
        for row in values.reshape(-1, 5)
    ]


def owners(n: int, start: int = 0, records: int = 2) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(start, start + n), records)


def p_value(seed: int, n: int, m: int, shift: float) -> float:
    draws = np.random.default_rng(seed)
    blocks = blind_blocks(
        people(draws, n, shift), owners(n), people(draws, m), owners(m, n), seed=seed
    )
    found = shift_evidence(blocks).p_value
    assert found is not None
    return found


def test_sets_of_the_same_people_are_not_told_apart() -> None:
    found = [p_value(seed, n=12, m=24, shift=0.0) for seed in range(40)]
    # Uniform p-values: more than 8 of 40 lie below 0.05 once in 2,000 times.
    assert sum(p < 0.05 for p in found) <= 8
    assert 0.3 < np.mean(found) < 0.7


def test_half_a_standard_deviation_is_seen_in_47() -> None:
    assert sum(p_value(seed, n=47, m=60, shift=0.5) < 0.01 for seed in range(10)) >= 9


def texts_of(
    draws: np.random.Generator, n: int, ending: Sequence[str]
) -> list[Mapping[str, object]]:
    return [{"note": " ".join([*draws.choice(WORDS, 6), *ending])} for _ in range(n)]


def p_of_rows(ours: list[Mapping[str, object]], others: list[Mapping[str, object]]) -> float:
    n, m = len(ours), len(others)
    found = shift_evidence(
        blind_blocks(ours, owners(n, 0, 1), others, owners(m, n, 1), seed=1)
    ).p_value
    assert found is not None
    return found


def test_a_word_that_only_the_forgotten_use_is_seen() -> None:
    draws = np.random.default_rng(4)
    assert p_of_rows(texts_of(draws, 20, ["harbour"]), texts_of(draws, 40, [])) < 1e-4
    assert p_of_rows(texts_of(draws, 20, []), texts_of(draws, 40, [])) > 0.01


def test_the_order_of_two_words_is_seen() -> None:
    draws = np.random.default_rng(5)
    ours = texts_of(draws, 30, ["north", "wind"])
    assert p_of_rows(ours, texts_of(draws, 60, ["wind", "north"])) < 1e-4


@pytest.mark.parametrize(
    ("ours", "others"),
    [
        ({"kind": 1}, {"kind": 2}),
        ({"size": 1.5}, {"size": None}),
        ({"pixels": [0, 9]}, {"pixels": [0, 1]}),
    ],
)
def test_classes_gaps_and_lists_are_seen(
    ours: Mapping[str, object], others: Mapping[str, object]
) -> None:
    assert p_of_rows([ours] * 20, [others] * 40) < 1e-4


def test_records_that_are_all_alike_tell_nothing() -> None:
    row: Mapping[str, object] = {"kind": 1, "size": 2.5, "note": "the same"}
    found = shift_evidence(
        blind_blocks([row] * 8, owners(8, 0, 1), [row] * 9, owners(9, 8, 1), seed=1)
    )
    assert (found.estimate, found.p_value) == (0.5, 1.0)


def test_all_records_of_a_data_subject_are_in_one_block_and_the_first_fifth_in_none() -> None:
    draws = np.random.default_rng(2)
    blocks = blind_blocks(people(draws, 10), owners(10), people(draws, 20), owners(20, 10), seed=3)
    sets = [np.unique(np.asarray(block.forget.subjects)) for block in blocks]
    assert [len(one) for one in sets] == [2, 2, 2, 2]
    assert len(np.unique(np.concatenate(sets))) == 8
    assert all(np.size(np.asarray(block.holdout.scores)) == 8 for block in blocks)


def test_one_data_subject_is_not_applicable() -> None:
    draws = np.random.default_rng(2)
    for n, m in ((1, 9), (9, 1)):
        with pytest.raises(NotApplicable, match="one data subject"):
            blind_blocks(people(draws, n), owners(n), people(draws, m), owners(m, n), seed=3)


def test_empty_sets_and_wrong_lengths_are_refused() -> None:
    rows = people(np.random.default_rng(2), 3)
    for ours, whose in (([], owners(0)), (rows, owners(2))):
        with pytest.raises(ValueError, match="whose each of them is"):
            blind_blocks(ours, whose, rows, owners(3, 3), seed=1)


def scored(draws: np.random.Generator, start: int, n: int, shift: float = 0.0) -> Scored:
    return Scored(draws.normal(size=n) + shift, np.arange(start, start + n))


def blocks_of(draws: np.random.Generator, shift: float) -> list[Block]:
    return [
        Block(scored(draws, 100 * i, 6, shift), scored(draws, 100 * i + 50, 30)) for i in range(4)
    ]


def test_one_block_is_the_mann_whitney_test() -> None:
    block = blocks_of(np.random.default_rng(6), 1.0)[0]
    found = shift_evidence([block])
    theirs = stats.mannwhitneyu(
        block.forget.scores, block.holdout.scores, alternative="greater", method="asymptotic"
    )
    assert found.estimate == pytest.approx(theirs.statistic / 180, abs=1e-12)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=1e-12)


def test_ties_are_corrected_for_as_scipy_does() -> None:
    draws = np.random.default_rng(6)
    ours, others = draws.integers(0, 4, 9), draws.integers(0, 3, 30)
    found = shift_evidence([Block(Scored(ours, np.arange(9)), Scored(others, np.arange(9, 39)))])
    theirs = stats.mannwhitneyu(ours, others, alternative="greater", method="asymptotic")
    assert found.p_value == pytest.approx(theirs.pvalue, abs=1e-12)


def test_the_p_value_is_that_of_labels_drawn_anew_in_each_block() -> None:
    blocks = blocks_of(np.random.default_rng(8), 0.45)
    found, draws = shift_evidence(blocks), np.random.default_rng(0)
    ranks = [
        stats.rankdata(
            np.concatenate([np.asarray(one.forget.scores), np.asarray(one.holdout.scores)])
        )
        for one in blocks
    ]
    observed = sum(row[:6].sum() for row in ranks)
    # All blocks are of one size, so that their weights are equal.
    drawn = sum(np.array([draws.permutation(row)[:6].sum() for _ in range(4_000)]) for row in ranks)
    assert found.p_value == pytest.approx(float(np.mean(drawn >= observed)), abs=0.02)


def test_shift_evidence_refuses_what_it_cannot_judge() -> None:
    draws = np.random.default_rng(7)
    good, empty = scored(draws, 0, 3), Scored([], [])
    with pytest.raises(ValueError, match="without a block"):
        shift_evidence([])
    with pytest.raises(ValueError, match="two sets"):
        shift_evidence([Block(good, scored(draws, 2, 3))])
    for bad in (empty, Scored([np.nan, 1.0], [7, 8]), Scored([1.0, 2.0], [7])):
        with pytest.raises(ValueError, match=r"sample|belongs"):
            shift_evidence([Block(good, bad)])
