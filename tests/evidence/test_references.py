"""Models that calibrate attacks: trained on retained records alone, and the same each time."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.unlearn.unlearn_cases import Rows, digits_task
from workers.attacks.parts import Parts, References
from workers.attacks.references import references_of
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import restore, train_shard
from workers.unlearn.task import Task

TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05}


@pytest.fixture(scope="module", autouse=True)
def _deterministic() -> None:
    deterministic()


@pytest.fixture(scope="module")
def task() -> Task:
    return digits_task(training=TRAINING)


def rows(seed: int, many: int) -> Rows:
    draws = np.random.default_rng(seed)
    return [
        {
            **{f"pixel_{i}": float(draws.integers(17)) for i in range(64)},
            "digit": int(draws.integers(10)),
        }
        for _ in range(many)
    ]


def parts_of(task: Task, forget: Rows, retain: Rows, holdout: Rows) -> Parts:
    def owned(own: Rows, first: int) -> tuple[Rows, Sequence[int]]:
        return own, range(first, first + len(own))

    return Parts.of(
        task,
        {"forget": owned(forget, 0), "retain": owned(retain, 100), "holdout": owned(holdout, 200)},
    )


def found(task: Task, parts: Parts, number: int, seed: str = "model") -> References:
    references = references_of(task, parts, number, seed)
    assert references is not None
    return references


def test_each_is_a_plain_training_on_the_retain_set(task: Task) -> None:
    parts = parts_of(task, rows(1, 4), rows(2, 12), rows(3, 5))
    references = found(task, parts, 2)
    assert (references.forget.shape, references.holdout.shape) == ((2, 4), (2, 5))
    for i in range(2):
        state = train_shard(
            task,
            [task.encode(rows(2, 12))],
            seed=f"model-{i}",
            shard=0,
            resume=None,
            on_checkpoint=lambda _slice, _state: None,
            on_progress=lambda _share: None,
            cancelled=lambda: False,
        )
        plain = Ensemble(task, (restore(task, state, seed=f"model-{i}", shard=0),))
        for told, own in ((references.forget, rows(1, 4)), (references.holdout, rows(3, 5))):
            assert np.array_equal(told[i], plain.losses(task.encode(own)).double().numpy())


def test_neither_side_changes_what_they_say_of_the_other(task: Task) -> None:
    usual = found(task, parts_of(task, rows(1, 4), rows(2, 12), rows(3, 5)), 1)
    others = found(task, parts_of(task, rows(7, 4), rows(2, 12), rows(3, 5)), 1)
    assert np.array_equal(usual.holdout, others.holdout)
    strangers = found(task, parts_of(task, rows(1, 4), rows(2, 12), rows(9, 2)), 1)
    assert np.array_equal(usual.forget, strangers.forget)
    retained = found(task, parts_of(task, rows(1, 4), rows(8, 12), rows(3, 5)), 1)
    assert not np.array_equal(usual.forget, retained.forget)


def test_the_same_each_time_and_another_for_each_seed(task: Task) -> None:
    parts = parts_of(task, rows(1, 4), rows(2, 12), rows(3, 5))
    one, again, other = (found(task, parts, 2, seed) for seed in ("a", "a", "b"))
    torch.rand(3)
    assert np.array_equal(one.forget, again.forget)
    assert not np.array_equal(one.forget, other.forget)
    assert not np.array_equal(one.forget[0], one.forget[1])


@pytest.mark.parametrize(
    ("sizes", "number"), [((4, 12, 5), 0), ((0, 12, 5), 2), ((4, 0, 5), 2), ((4, 12, 0), 2)]
)
def test_none_where_none_is_wanted_or_nothing_is_there(
    task: Task, sizes: tuple[int, int, int], number: int
) -> None:
    parts = parts_of(task, *(rows(i, many) for i, many in enumerate(sizes)))
    assert references_of(task, parts, number, "model") is None


def test_trees_are_references_as_well() -> None:
    task = make_task(
        "gbdt",
        {
            "features": ["pixel_0", "pixel_1"],
            "label": "digit",
            "classes": 10,
            "trees_per_slice": 1,
            "max_depth": 2,
            "min_leaf_hessian": 0.1,
        },
    )
    references = found(task, parts_of(task, rows(1, 4), rows(2, 12), rows(3, 5)), 2)
    # Nothing is drawn by chance, so that the seed makes no difference.
    assert np.array_equal(references.forget[0], references.forget[1])
