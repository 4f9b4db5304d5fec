import copy
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lethe.recipes.gbdt import SPEC, GbdtParams
from tests.unlearn.unlearn_cases import Rows, Training, same
from workers.recipes.gbdt import Gbdt, Trees
from workers.unlearn.aggregate import ensemble
from workers.unlearn.sisa import restore
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, Fitted
from workers.weights import dump_tensors, load_tensors

VISITS: dict[str, object] = {
    "features": ["age", "stay"],
    "categories": {"ward": ["A", "B", "C"], "floor": [1, 2, 3, 4, 5, 6, 7]},
    "label": "outcome",
    "classes": 3,
    "trees_per_slice": 3,
    "max_depth": 3,
    "min_leaf_hessian": 0.1,
}


def visits_task(**changes: object) -> Gbdt:
    return Gbdt(GbdtParams.model_validate(VISITS | changes))


def visit(i: int) -> dict[str, object]:
    """A visit whose outcome follows from all columns; some cells are missing."""
    age, stay, ward, floor = 20 + i * 37 % 61, i * 11 % 13, "ABC"[i % 3], 1 + i * 5 % 7
    outcome = ((age > 45) + (ward == "B") + (floor in (2, 6)) + (stay > 6)) % 3
    return {
        "age": age,
        "stay": None if i % 7 == 3 else stay,
        "ward": None if i % 11 == 5 else ward,
        "floor": floor,
        "outcome": outcome,
    }


def visits(numbers: Sequence[int]) -> Rows:
    return [visit(i) for i in numbers]


@pytest.fixture
def trees() -> Gbdt:
    return visits_task()


def written(state: TrainingState) -> bytes:
    return state.model["trees"].numpy().tobytes()


def forest(state: TrainingState) -> list[dict[str, Any]]:
    model: dict[str, Any] = json.loads(written(state))["learner"]["gradient_booster"]["model"]
    return list(model["trees"])


def test_numbers_and_places_of_categories_are_the_inputs(trees: Gbdt) -> None:
    rows: Rows = [
        {"age": "41", "stay": 2.5, "ward": "B", "floor": 7.0, "outcome": 2, "owner": "x"},
        {"stay": math.nan, "ward": None, "floor": 1, "outcome": "1"},
    ]
    examples = trees.encode(rows)
    assert trees.params.columns == ("age", "stay", "floor", "ward")
    assert examples["x"][0].tolist() == [41.0, 2.5, 6.0, 1.0]
    assert examples["x"][1].isnan().tolist() == [True, True, False, True]
    assert examples["x"].dtype == torch.float32
    assert examples["y"].tolist() == [2, 1]


def test_columns_do_not_follow_the_order_of_a_mapping(trees: Gbdt) -> None:
    categories = dict(reversed(list(trees.params.categories.items())))
    turned = visits_task(categories=categories)
    rows = visits(range(9))
    assert torch.equal(turned.encode(rows)["y"], trees.encode(rows)["y"])
    torch.testing.assert_close(turned.encode(rows)["x"], trees.encode(rows)["x"], equal_nan=True)


def test_no_rows_give_no_examples(trees: Gbdt) -> None:
    examples = trees.encode([])
    assert examples["x"].shape == (0, 4)
    assert examples["y"].shape == (0,)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("age", "ana@example.org"),
        ("age", math.inf),
        ("age", 1e300),
        ("ward", "ana@example.org"),
        ("ward", ["ana@example.org"]),
        ("floor", "1"),
        ("outcome", 3),
        ("outcome", 0.5),
        ("outcome", None),
        ("outcome", "ana@example.org"),
    ],
)
def test_a_bad_value_names_its_column_and_never_itself(
    column: str, value: object, trees: Gbdt
) -> None:
    with pytest.raises(ValueError, match=f"column '{column}'") as caught:
        trees.encode([visit(1) | {column: value}])
    assert "ana@" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "changes",
    [
        {"features": [], "categories": {}},
        {"features": ["age", "age"]},
        {"features": ["age", "ward"]},
        {"features": ["age", "outcome"]},
        {"categories": {"ward": []}},
        {"categories": {"ward": ["A", "A"]}},
        {"classes": 1},
        {"trees_per_slice": 0},
        {"max_depth": 0},
        {"learning_rate": 0},
        {"learning_rate": math.nan},
        {"l2": -1},
        {"subsample": 0.5},
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        visits_task(**changes)


def test_methods_that_follow_gradients_are_not_offered(trees: Gbdt) -> None:
    assert SPEC.offers(trees.params) == {"checkpoints"}
    assert isinstance(trees, Fitted)


@pytest.mark.parametrize("classes", [2, 3])
def test_without_a_record_every_class_is_equally_likely(classes: int, train: Training) -> None:
    task = visits_task(classes=classes)
    empty = task.encode([])
    state = train(task, [empty, empty])
    model = restore(task, state, seed="model-1", shard=2)
    examples = task.encode([visit(1) | {"outcome": 1}])
    expected = torch.full((1, 1, classes), -math.log(classes))
    torch.testing.assert_close(task.log_distribution(model, examples), expected)
    assert written(state) == b""
    assert set(state.model) == {"trees"}


def test_the_first_leaf_is_the_newton_step(train: Training) -> None:
    # Chen and Guestrin 2016 (arXiv 1603.02754), eq. 5: w = -G / (H + lambda), times the rate; with
    # two classes and no score yet each record has gradient p - y = -1/2 and curvature 1/4.
    task = visits_task(classes=2, trees_per_slice=1, l2=2.0, learning_rate=0.25)
    rows: Rows = [{"age": 30, "floor": 1, "outcome": 1}] * 8
    model = restore(task, train(task, [task.encode(rows)]), seed="model-1", shard=2)
    leaf = 0.25 * (8 / 2) / (8 / 4 + 2.0)
    found = task.log_distribution(model, task.encode(rows[:1]))
    expected = torch.tensor([0.0, leaf]).log_softmax(0)
    torch.testing.assert_close(found[0, 0], expected)
    torch.testing.assert_close(task.losses(model, task.encode(rows[:1])), -expected[1:])


def walk(tree: Mapping[str, Any], x: Sequence[float]) -> float:
    """The value of the leaf that a record falls into, by the published form of the JSON."""
    node = 0
    while tree["left_children"][node] != -1:
        value = x[tree["split_indices"][node]]
        if math.isnan(value):
            left = bool(tree["default_left"][node])
        elif tree["split_type"][node]:
            place = tree["categories_nodes"].index(node)
            first, size = tree["categories_segments"][place], tree["categories_sizes"][place]
            left = int(value) not in tree["categories"][first : first + size]
        else:
            left = value < tree["split_conditions"][node]
        node = tree["left_children" if left else "right_children"][node]
    return float(tree["base_weights"][node])


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_walking_the_trees(classes: int, train: Training) -> None:
    task = visits_task(classes=classes)
    rows: Rows = [
        row | {"outcome": int(str(row["outcome"])) % classes} for row in visits(range(80))
    ]
    examples = task.encode(rows)
    state = train(task, [task.encode(rows[:40]), task.encode(rows[40:])])
    grown = forest(state)
    assert any(any(tree["split_type"]) for tree in grown)
    per_round = 1 if classes == 2 else classes
    assert len(grown) == 2 * 3 * per_round
    model = restore(task, state, seed="model-1", shard=2)
    found = task.log_distribution(model, examples)
    for i, x in enumerate(examples["x"].tolist()):
        scores = [sum(walk(tree, x) for tree in grown[k::per_round]) for k in range(per_round)]
        logits = torch.tensor([0.0, *scores] if classes == 2 else scores)
        torch.testing.assert_close(found[i, 0], logits.log_softmax(0))
    right = found[:, 0].argmax(-1) == examples["y"]
    assert task.accuracies(model, examples).tolist() == right.float().tolist()
    assert right.float().mean() > 0.7


def test_a_record_is_scored_by_itself(trees: Gbdt, train: Training) -> None:
    examples = trees.encode(visits(range(30)))
    model = restore(trees, train(trees, [examples]), seed="model-1", shard=2)
    together = trees.log_distribution(model, examples)
    for i in range(30):
        alone = trees.log_distribution(model, {k: v[i : i + 1] for k, v in examples.items()})
        assert torch.equal(alone[0], together[i])


def test_slices_keep_the_trees_before_them(trees: Gbdt, train: Training) -> None:
    parts: list[Sequence[int]] = [range(10), range(10, 25), [], range(25, 40)]
    train(trees, [trees.encode(visits(part)) for part in parts])
    grown = [forest(train.checkpoints[r]) for r in range(4)]
    assert [len(trees) for trees in grown] == [9, 18, 27, 36]
    for before, after in itertools.pairwise(grown):
        assert after[: len(before)] == before
    assert train.progress[-1] == 1.0


def test_resuming_from_each_checkpoint_gives_the_same_bits(trees: Gbdt, train: Training) -> None:
    parts: list[Sequence[int]] = [range(5), [], range(5, 12), range(12, 40)]
    slices = [trees.encode(visits(part)) for part in parts]
    whole = train(trees, slices)
    assert list(train.checkpoints) == [0, 1, 2, 3]
    for r, state in dict(train.checkpoints).items():
        stored = TrainingState.from_tensors(load_tensors(dump_tensors(state.tensors())))
        assert same(train(trees, slices, resume=(r, stored)), whole)


@pytest.mark.parametrize(
    ("people", "rows_each", "slices"),
    [
        pytest.param(10, 3, 1, id="one slice"),
        pytest.param(11, 3, 3, id="remainder in the last slice"),
        pytest.param(3, 2, 4, id="empty slices"),
        pytest.param(1, 4, 2, id="the only person"),
    ],
)
def test_erasing_any_person_equals_training_without_them(
    people: int, rows_each: int, slices: int, trees: Gbdt
) -> None:
    owners = [i % people for i in range(people * rows_each)]
    size = max(1, people // slices)
    parts = [[i for i, one in enumerate(owners) if min(one // size, slices - 1) == r]
             for r in range(slices)]  # fmt: skip
    before = Training()
    whole = before(trees, [trees.encode(visits(part)) for part in parts])
    for person in range(people):
        hit = next(r for r, part in enumerate(parts) if any(owners[i] == person for i in part))
        kept = [trees.encode(visits([i for i in part if owners[i] != person])) for part in parts]
        resume = (hit - 1, before.checkpoints[hit - 1]) if hit else None
        continued, fresh = Training(), Training()
        last = continued(trees, kept, resume)
        assert same(last, fresh(trees, kept))
        assert not same(last, whole)
        for r in range(slices):
            assert same(fresh.checkpoints[r], before.checkpoints[r]) == (r < hit)


def test_a_slice_knows_nothing_of_later_ones(trees: Gbdt, train: Training) -> None:
    first = trees.encode(visits(range(20)))
    train(trees, [first, trees.encode(visits(range(20, 40)))])
    before = train.checkpoints[0]
    far = trees.encode([visit(i) | {"age": 1000 + i, "ward": "C"} for i in range(40)])
    train(trees, [first, far])
    assert same(train.checkpoints[0], before)


def test_splits_follow_the_records_up_to_a_slice(train: Training) -> None:
    # Bounds of the first slice alone could not tell the ages of the second apart.
    task = visits_task(classes=2, max_bins=16, trees_per_slice=20)
    young: Rows = [{"age": i, "floor": 1, "outcome": i % 2} for i in range(8)]
    old: Rows = [{"age": 900 + i, "floor": 1, "outcome": int(i > 15)} for i in range(32)]
    slices = [task.encode(young), task.encode(old)]
    model = restore(task, train(task, slices), seed="model-1", shard=2)
    assert task.accuracies(model, slices[1]).mean() > 0.9


def splits(state: TrainingState) -> set[float]:
    return {
        bound
        for tree in forest(state)
        for bound, left in zip(tree["split_conditions"], tree["left_children"], strict=True)
        if left != -1
    }


def depth(tree: Mapping[str, Any], node: int = 0) -> int:
    below = tree["left_children"][node], tree["right_children"][node]
    return 0 if -1 in below else 1 + max(depth(tree, child) for child in below)


def test_trees_are_no_larger_than_allowed(train: Training) -> None:
    rows: Rows = [
        {"age": i, "floor": 1, "stay": 0, "ward": "A", "outcome": i * i % 7 % 2} for i in range(100)
    ]
    slices = [visits_task().encode(rows)]
    default = train(visits_task(classes=2), slices)
    assert 4 < len(splits(default)) < 256
    assert max(map(depth, forest(default))) == 3
    assert len(splits(train(visits_task(classes=2, max_bins=4), slices))) <= 4
    assert max(map(depth, forest(train(visits_task(classes=2, max_depth=2), slices)))) == 2
    assert not splits(train(visits_task(classes=2, min_leaf_hessian=13), slices))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_shard_of_one_class_predicts_it(classes: int, train: Training) -> None:
    task = visits_task(classes=classes)
    slices = [
        task.encode([visit(i) | {"outcome": 1} for i in part]) for part in (range(9), range(9, 14))
    ]
    model = restore(task, train(task, slices), seed="model-1", shard=2)
    unseen = task.encode([visit(50) | {"outcome": 1}])
    assert task.accuracies(model, unseen).tolist() == [1.0]
    assert 0 < task.losses(model, unseen).item() < math.log(classes)


def test_the_seed_is_not_used(trees: Gbdt) -> None:
    slices = [trees.encode(visits(range(30)))]
    one, two = trees.build(1), trees.build(2)
    torch.manual_seed(1)
    trees.learn(one, slices, 0, "a")
    trees.learn(two, slices, 0, "b")
    assert same(TrainingState(read_model(one), {}), TrainingState(read_model(two), {}))


SCRIPT = """
import hashlib, sys
from tests.unlearn.test_gbdt import visits, visits_task
task = visits_task()
model = task.build(0)
slices = [task.encode(visits(range(60))), task.encode(visits(range(60, 90)))]
for r in range(2):
    task.learn(model, slices, r, "")
sys.stdout.write(hashlib.sha256(model.trees.numpy().tobytes()).hexdigest())
"""


def test_another_process_with_more_threads_grows_the_same_bytes(
    trees: Gbdt, pytestconfig: pytest.Config
) -> None:
    slices = [trees.encode(visits(range(60))), trees.encode(visits(range(60, 90)))]
    model = trees.build(0)
    for r in range(2):
        trees.learn(model, slices, r, "")
    other = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"},
        cwd=pytestconfig.rootpath,
        capture_output=True,
        check=True,
    )
    trained: Tensor = model.get_buffer("trees")
    assert other.stdout.decode() == hashlib.sha256(trained.numpy().tobytes()).hexdigest()


def test_a_state_put_in_place_is_what_predicts(trees: Gbdt, train: Training) -> None:
    rows: Sequence[Examples] = [trees.encode(visits(range(20))), trees.encode(visits(range(40)))]
    first, second = (train(trees, [part]) for part in rows)
    model = restore(trees, first, seed="model-1", shard=2)
    before = trees.losses(model, rows[0])
    model.get_buffer("trees").data = second.model["trees"]
    fresh = restore(trees, second, seed="model-1", shard=2)
    assert torch.equal(trees.losses(model, rows[0]), trees.losses(fresh, rows[0]))
    assert not torch.equal(trees.losses(model, rows[0]), before)
    assert torch.equal(trees.losses(copy.deepcopy(fresh), rows[0]), trees.losses(fresh, rows[0]))


def test_shards_predict_together(trees: Gbdt, train: Training) -> None:
    parts = [trees.encode(visits(part)) for part in (range(30), range(30, 45))]
    states = [train(trees, [part]) for part in parts]
    models = [restore(trees, state, seed="model-1", shard=2) for state in states]
    together = ensemble(trees, [(30, models[0]), (15, models[1]), (0, trees.build(0))])
    found = together.scores(parts[1])
    chances = [trees.log_distribution(model, parts[1]).exp() for model in models]
    mixed = (2 * chances[0] + chances[1]) / 3
    chosen = mixed[:, 0].gather(-1, parts[1]["y"].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found.losses, -chosen.log())


@pytest.mark.parametrize("cut", [1, 100, -1])
def test_damaged_trees_are_refused_without_their_content(
    cut: int, trees: Gbdt, train: Training
) -> None:
    slices = [trees.encode(visits(range(20)))] * 2
    train(trees, slices)
    damaged = TrainingState({"trees": train.checkpoints[0].model["trees"][:cut]}, {})
    model = restore(trees, damaged, seed="model-1", shard=2)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        trees.losses(model, slices[0])
    assert "split_conditions" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match="cannot be read"):
        train(trees, slices, resume=(0, damaged))


def test_a_model_of_another_recipe_is_refused(trees: Gbdt) -> None:
    with pytest.raises(ValueError, match="not one that this recipe has built"):
        trees.learn(nn.Linear(1, 1), [trees.encode(visits(range(3)))], 0, "s")
    assert isinstance(trees.build(0), Trees)


def test_digits_are_told_apart(digit_rows: Rows, train: Training) -> None:
    pixels = [f"pixel_{i}" for i in range(64)]
    task = Gbdt(GbdtParams(features=tuple(pixels), label="digit", classes=10, learning_rate=0.3))
    slices = [task.encode(digit_rows[200 * r : 200 * (r + 1)]) for r in range(3)]
    model = restore(task, train(task, slices), seed="model-1", shard=2)
    assert task.accuracies(model, task.encode(digit_rows[600:1000])).mean() > 0.82
