"""Which records are like the forgotten, against a loop over pairs; and who is in which group."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests.unlearn.unlearn_cases import Rows
from workers.attacks.blind import features_of
from workers.attacks.side_effects import LEAST_OF_GROUP, groups, most_similar

WORDS = ("ward", "fever", "cough", "knee", "rest", "sleep", "tea", "salt", "rain", "snow")


def rows(seed: int, many: int, *, numbers: bool) -> Rows:
    draws = np.random.default_rng(seed)
    found: Rows = []
    for _ in range(many):
        row: dict[str, object] = {"note": " ".join(draws.choice(WORDS, 4))}
        if numbers:
            row |= {"age": float(draws.normal()), "stay": float(draws.normal())}
        found.append(row)
    return found


def plainly(retain: Rows, forget: Rows) -> list[float]:
    """The largest cosine of each retained record, pair by pair."""
    dense = features_of([*retain, *forget]).toarray().tolist()
    kept, ours = dense[: len(retain)], dense[len(retain) :]
    return [max(cosine(one, other) for other in ours) for one in kept]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True) if a and b) / lengths


@pytest.mark.parametrize("numbers", [False, True])
def test_the_most_similar_are_those_of_the_largest_cosine(numbers: bool) -> None:
    retain, forget = rows(1, 40, numbers=numbers), rows(2, 3, numbers=numbers)
    found = most_similar(retain, forget)
    likeness = plainly(retain, forget)
    assert (len(found), sorted(set(found.tolist()))) == (4, found.tolist())
    left = [one for i, one in enumerate(likeness) if i not in found]
    assert min(likeness[i] for i in found) >= max(left) - 1e-9
    assert max(likeness) > min(likeness) + 0.1


def test_a_near_copy_is_found_and_its_place_is_that_in_the_retain_set() -> None:
    retain: Rows = [{"note": f"nothing {i} of note {i}"} for i in range(10)]
    retain[6] = {"note": "an allergy to nuts and wasps"}
    assert most_similar(retain, [{"note": "an allergy to nuts"}]).tolist() == [6]


@pytest.mark.parametrize(("many", "expected"), [(1, 1), (4, 1), (14, 1), (16, 2), (30, 3)])
def test_a_tenth_and_at_least_one(many: int, expected: int) -> None:
    retain = rows(3, many, numbers=False)
    assert len(most_similar(retain, rows(4, 2, numbers=False))) == expected


def test_records_without_anything_are_alike_to_nobody() -> None:
    retain: Rows = [{"note": None}, {"note": ""}, *rows(5, 8, numbers=False)]
    assert most_similar(retain, [retain[4]]).tolist() == [4]


def test_no_record_on_a_side_is_refused() -> None:
    some = rows(1, 2, numbers=False)
    for retain, forget in ((some, []), ([], some)):
        with pytest.raises(ValueError, match="both sides"):
            most_similar(retain, forget)


def test_groups_are_those_large_enough_the_largest_first() -> None:
    sizes = {"north": LEAST_OF_GROUP, "south": LEAST_OF_GROUP + 5, "east": LEAST_OF_GROUP - 1}
    values = [name for name, many in sizes.items() for _ in range(many)]
    values = [values[i] for i in np.random.default_rng(0).permutation(len(values))]
    found = groups([{"region": one} for one in values], "region")
    expected = [[i for i, one in enumerate(values) if one == name] for name in ("south", "north")]
    assert [places.tolist() for places in found] == expected


def test_rows_without_the_column_are_in_no_group() -> None:
    region: Rows = [{"region": None}] * 30
    assert groups([*region, *({"other": 1} for _ in range(30))], "region") == []
    assert groups([], "region") == []


def test_a_number_is_a_group_as_its_text_is() -> None:
    mixed: Rows = [{"ward": one} for one in [1] * LEAST_OF_GROUP + ["1"] * 2]
    assert [len(one) for one in groups(mixed, "ward")] == [LEAST_OF_GROUP + 2]
