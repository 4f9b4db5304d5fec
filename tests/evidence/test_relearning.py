from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from tests.unlearn.unlearn_cases import Training
from workers.attacks.relearning import relearnt, split_for_relearning
from workers.evidence.membership import Attack, Scored, attack_evidence
from workers.evidence.shift import NotApplicable
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble, ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import restore
from workers.unlearn.task import Examples, Task, count, join, take

CPU = torch.device("cpu")
WIDTH, RECORDS = 24, 4
N = 40


@pytest.fixture(scope="module", autouse=True)
def _deterministic() -> None:
    deterministic()


@dataclass(frozen=True)
class World:
    """Data subjects, each with a class of its own that nothing but training can tell."""

    task: Task
    retain: Examples
    forget: Examples
    never_seen: Examples

    def subjects(self, examples: Examples, start: int = 0) -> npt.NDArray[np.int64]:
        return start + np.repeat(np.arange(count(examples) // RECORDS), RECORDS)

    def trained_on(self, examples: Examples) -> Ensemble:
        state = Training()(self.task, [examples])
        return ensemble(
            self.task, [(1, restore(self.task, state, seed="model-1", shard=2, device=CPU))]
        )


@pytest.fixture(scope="module")
def world() -> World:
    task = make_task(
        "classifier",
        {
            "features": [f"x{i}" for i in range(WIDTH)],
            "label": "y",
            "classes": 4,
            "hidden": [48],
            "training": {"epochs": 25, "batch_size": 32, "learning_rate": 0.01},
        },
    )
    return World(task, *(some(task, seed, n) for seed, n in ((1, 80), (2, N), (3, 3 * N))))


def some(task: Task, seed: int, subjects: int) -> Examples:
    draws = np.random.default_rng(seed)
    middle = np.repeat(draws.normal(size=(subjects, WIDTH)), RECORDS, axis=0)
    rows = middle + 0.2 * draws.normal(size=middle.shape)
    labels = np.repeat(draws.integers(4, size=subjects), RECORDS)
    return task.encode(
        [
            {f"x{i}": float(x) for i, x in enumerate(row)} | {"y": int(label)}
            for row, label in zip(rows, labels, strict=True)
        ]
    )


def at(examples: Examples, places: npt.NDArray[np.int64]) -> Examples:
    return take(examples, torch.from_numpy(places), CPU)


def p_after_relearning(
    world: World, model: Ensemble, forget: Examples, holdout: Examples, seed: int
) -> float:
    ours, others = world.subjects(forget), world.subjects(holdout, start=1_000)
    split = split_for_relearning(ours, others, seed)
    again = relearnt(
        model,
        join([at(forget, split.teach_forget), at(holdout, split.teach_holdout)]),
        steps=15,
        learning_rate=0.005,
        seed=seed,
    )
    return p_of(
        Scored(-again.losses(at(forget, split.test_forget)), ours[split.test_forget]),
        Scored(-again.losses(at(holdout, split.test_holdout)), others[split.test_holdout]),
    )


def p_of(forget: Scored, holdout: Scored) -> float:
    found = attack_evidence(Attack("relearning", "recovery", "T3"), forget, holdout, before=None)
    assert found.p_value is not None
    return found.p_value


def suppressed(world: World, model: Ensemble) -> Ensemble:
    """Only the last layer is pushed until the forgotten are no better known than strangers."""
    copy = relearnt(model, world.retain, steps=0, learning_rate=1.0, seed=0)
    member = copy.members[0]
    assert isinstance(member, nn.Sequential)
    optimizer = torch.optim.SGD(member[-1].parameters(), lr=0.02)
    stranger = model.losses(world.never_seen).mean()
    for _ in range(2_000):
        losses = world.task.losses(member, world.forget)
        if losses.mean() > stranger:
            break
        loss = world.task.losses(member, world.retain).mean() - losses.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return copy


def test_what_was_only_suppressed_is_found(world: World) -> None:
    model = suppressed(world, world.trained_on(join([world.retain, world.forget])))
    hidden = model.losses(world.forget).mean()
    assert hidden > model.losses(world.retain).mean() + 1
    found = [
        p_after_relearning(world, model, world.forget, world.never_seen, seed) for seed in range(3)
    ]
    assert max(found) < 1e-3


def test_a_model_that_never_saw_them_is_not_accused(world: World) -> None:
    model = world.trained_on(world.retain)
    everybody = join([world.forget, world.never_seen])
    found = []
    for seed in range(24):
        order = np.random.default_rng(seed).permutation(count(everybody) // RECORDS)
        places = order[:, None] * RECORDS + np.arange(RECORDS)
        forget, holdout = (at(everybody, part.ravel()) for part in (places[:N], places[N:]))
        found.append(p_after_relearning(world, model, forget, holdout, seed))
    # More than 6 of 24 uniform p-values lie below 0.1 once in 50 times, more than 8 once in 1,000.
    assert sum(p < 0.1 for p in found) <= 8
    assert min(found) > 1e-3
    assert 0.3 < np.mean(found) < 0.7


def test_both_sides_are_halved_alike() -> None:
    ours, others = np.repeat([7, 8, 9, 10], [4, 5, 2, 1]), np.repeat(np.arange(100, 190), 3)
    split = split_for_relearning(ours, others, seed=1)
    assert np.bincount(ours[split.teach_forget])[7:].tolist() == [2, 2, 1]
    assert np.bincount(ours[split.test_forget])[7:].tolist() == [2, 3, 1]
    for teach, test, owners in (
        (split.teach_forget, split.test_forget, ours),
        (split.teach_holdout, split.test_holdout, others),
    ):
        assert not np.intersect1d(teach, test).size
        assert np.array_equal(np.unique(owners[teach]), np.unique(owners[test]))
    assert np.unique(others[split.test_holdout]).size == 20
    again = split_for_relearning(ours, others, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(split, again, strict=True))
    other = split_for_relearning(ours, others, seed=2)
    assert not np.array_equal(split.teach_holdout, other.teach_holdout)


def test_as_many_of_the_holdout_are_taught_as_of_the_forgotten() -> None:
    split = split_for_relearning(np.repeat(np.arange(30), 2), np.repeat(np.arange(50, 99), 2), 1)
    assert split.teach_forget.size == split.teach_holdout.size == 30


@pytest.mark.parametrize(
    "ours", [np.arange(9), np.array([1, 1]), np.array([1, 1, 2, 3]), np.array([1, 1, 2, 3, 4])]
)
def test_with_too_few_pairs_the_retain_set_is_taught_and_all_are_tested(
    ours: npt.NDArray[np.int64],
) -> None:
    split = split_for_relearning(ours, np.repeat(np.arange(10, 60), 2), seed=1)
    assert split.teach_forget.size == split.teach_holdout.size == 0
    assert split.test_forget.tolist() == list(range(ours.size))
    assert split.test_holdout.tolist() == list(range(100))


def test_relearning_is_repeatable_and_leaves_the_model_alone(world: World) -> None:
    model = world.trained_on(world.retain)
    before = model.losses(world.never_seen)
    teach = at(world.never_seen, np.arange(40))
    first, second, other = (
        relearnt(model, teach, steps=7, learning_rate=0.01, seed=seed).losses(teach)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.mean() < model.losses(teach).mean() - 0.05
    assert torch.equal(model.losses(world.never_seen), before)


def test_every_member_relearns(world: World) -> None:
    members = [(3, world.task.build(seed)) for seed in (1, 2)]
    again = relearnt(
        ensemble(world.task, members), world.retain, steps=1, learning_rate=0.1, seed=1
    )
    assert again.records == (3, 3)
    for (_, old), new in zip(members, again.members, strict=True):
        assert all(
            not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True)
        )


def test_nothing_to_teach_or_to_compare_is_refused(world: World) -> None:
    model, none = ensemble(world.task, [(1, world.task.build(1))]), at(world.retain, np.arange(0))
    with pytest.raises(ValueError, match="a record to teach"):
        relearnt(model, none, steps=1, learning_rate=0.1, seed=1)
    with pytest.raises(ValueError, match="neither may be empty"):
        split_for_relearning([], [1, 1], seed=1)


def test_trees_do_not_relearn() -> None:
    task = make_task("gbdt", {"features": ["x"], "label": "y", "classes": 2})
    examples = task.encode([{"x": 1.0, "y": 1}])
    with pytest.raises(NotApplicable, match="gradient"):
        relearnt(ensemble(task, [(1, task.build(1))]), examples, steps=1, learning_rate=0.1, seed=1)


def test_a_training_that_diverges_says_so(world: World) -> None:
    model = ensemble(world.task, [(1, world.task.build(1))])
    with pytest.raises(NotApplicable, match="diverged"):
        relearnt(model, world.retain, steps=3, learning_rate=1e30, seed=1)
