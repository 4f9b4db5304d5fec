import traceback

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lethe.recipes import UnknownRecipe, recipe_digest
from tests.unlearn.unlearn_cases import Rows, digits_task
from workers.recipes import make_task
from workers.unlearn.task import Task

FLOWERS: dict[str, object] = {
    "features": ["length", "width"],
    "label": "kind",
    "classes": 3,
    "offset": [1.0, 2.0],
    "scale": [2.0, 4.0],
}
ROWS: Rows = [
    {"length": 3, "width": 10.0, "kind": 2, "owner": "x"},
    {"length": "1", "width": 2, "kind": 0},
]


def test_inputs_are_scaled_by_the_constants_named() -> None:
    examples = make_task("classifier", FLOWERS).encode(ROWS)
    assert examples["x"].tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert examples["y"].tolist() == [2, 0]
    assert examples["x"].dtype == torch.float32


def test_a_row_is_encoded_by_itself(task: Task, digit_rows: Rows) -> None:
    together, alone = task.encode(digit_rows[:7]), task.encode(digit_rows[3:4])
    assert all(torch.equal(together[name][3:4], alone[name]) for name in alone)


def test_no_rows_give_no_examples(task: Task) -> None:
    examples = task.encode([])
    assert examples["x"].shape == (0, 64)
    assert examples["y"].shape == (0,)


def test_pixels_may_be_one_list(task: Task, digit_rows: Rows) -> None:
    listed = digits_task(image={"column": "image", "height": 8, "width": 8})
    rows: Rows = [
        {"image": [row[f"pixel_{i}"] for i in range(64)], "digit": row["digit"]}
        for row in digit_rows[:3]
    ]
    assert torch.equal(listed.encode(rows)["x"], task.encode(digit_rows[:3])["x"])
    with pytest.raises(ValueError, match="column 'image' must hold a list of 64 numbers"):
        listed.encode([{"image": [1.0], "digit": 1}])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("length", "ana@example.org"),
        ("length", None),
        ("width", float("nan")),
        ("width", 10**400),
        ("width", 1e300),
        ("kind", 3),
        ("kind", 0.5),
        ("kind", "ana@example.org"),
    ],
)
def test_a_bad_value_names_its_column_and_never_itself(column: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"column '{column}'") as caught:
        make_task("classifier", FLOWERS).encode([ROWS[0] | {column: value}])
    assert "ana@" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="column 'width'"):
        make_task("classifier", FLOWERS).encode([{"length": 1, "kind": 0}])


@pytest.mark.parametrize(
    "changes",
    [
        {"features": None},
        {"image": {"prefix": "p", "height": 2, "width": 1}},
        {"network": "cnn"},
        {"scale": [1.0]},
        {"scale": 0.0},
        {"offset": float("nan")},
        {"classes": 1},
        {"colour": "red"},
        {"training": {"epochs": 0}},
        {"features": None, "image": {"height": 2, "width": 1}},
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make_task("classifier", FLOWERS | changes)


@pytest.mark.parametrize("kind", ["task", "cnn_task"])
def test_losses_and_accuracies_equal_pytorchs(
    kind: str, digit_rows: Rows, request: pytest.FixtureRequest
) -> None:
    task: Task = request.getfixturevalue(kind)
    examples, model = task.encode(digit_rows[:9]), task.build(1)
    logits = model(examples["x"])
    expected = nn.functional.cross_entropy(logits, examples["y"], reduction="none")
    torch.testing.assert_close(task.losses(model, examples), expected)
    right = [float(int(logits[i].argmax()) == int(examples["y"][i])) for i in range(9)]
    assert task.accuracies(model, examples).tolist() == right
    assert task.log_distribution(model, examples).shape == (9, 1, 10)


@pytest.mark.parametrize("kind", ["task", "cnn_task"])
def test_a_build_depends_on_its_seed_alone(kind: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(kind)
    first = task.build(1).state_dict()
    torch.rand(1)
    again, other = task.build(1).state_dict(), task.build(2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_an_image_enters_the_network_by_channel_row_and_column() -> None:
    task = digits_task(
        image={"prefix": "pixel_", "height": 3, "width": 5, "channels": 2},
        network="cnn",
        channels=[4],
        scale=1.0,
    )
    row: dict[str, object] = {f"pixel_{i}": i for i in range(30)}
    x = task.encode([row | {"digit": 1}])["x"]
    unflatten = next(m for m in task.build(0).modules() if isinstance(m, nn.Unflatten))
    assert unflatten(x)[0, 1, 2, 3].item() == 1 * 15 + 2 * 5 + 3
    assert task.build(0)(x).shape == (1, 10)


def test_a_digest_fills_in_defaults_and_sees_changes() -> None:
    digest = recipe_digest("classifier", FLOWERS)
    assert digest == recipe_digest("classifier", FLOWERS | {"hidden": [64], "training": {}})
    assert digest != recipe_digest("classifier", FLOWERS | {"hidden": [32]})
    assert digest != recipe_digest("classifier", FLOWERS | {"training": {"epochs": 3}})


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownRecipe, match="causal_lm, classifier"):
        make_task("forest", {})
    with pytest.raises(UnknownRecipe):
        recipe_digest("forest", {})
