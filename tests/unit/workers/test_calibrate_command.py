"""`lethe calibrate`: a table that adds up, and one sentence for what is set wrong."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from app.core.errors import AppError
from workers.calibration.command import calibrate
from workers.calibration.planted import HOLDS

PEOPLE, WIDTH = 40, 3
SMALL = ("--sizes", "1,3", "--draws", "4", "--worlds", "2", "--pool", "6", "--holdout", "12")
RECIPE: dict[str, object] = {
    "recipe": "classifier",
    "parameters": {
        "features": [f"x{i}" for i in range(WIDTH)],
        "label": "y",
        "classes": 2,
        "hidden": [8],
        "training": {"epochs": 2, "batch_size": 64, "learning_rate": 0.01},
    },
}
Calibrate = Callable[..., Result]


def rows() -> list[dict[str, object]]:
    draws = np.random.default_rng(0)
    return [
        {
            "customer": f"Ada Lovelace {i // 2}",
            **{f"x{j}": float(draws.normal()) for j in range(WIDTH)},
            "y": int(draws.integers(2)),
        }
        for i in range(2 * PEOPLE)
    ]


def written(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in records))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(RECIPE))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "people.jsonl", rows())


@pytest.fixture
def run(recipe: Path, data: Path) -> Calibrate:
    app = typer.Typer()
    app.command()(calibrate)

    def calibrated(*more: str, recipe: Path = recipe, data: Path = data) -> Result:
        settings = [str(recipe), str(data), *SMALL, *more]
        if "--subject" not in more:
            settings += ["--subject", "customer"]
        return CliRunner(env={"COLUMNS": "500"}).invoke(app, settings)

    return calibrated


def refused(result: Result, *words: str) -> None:
    """One sentence, exit status 2, no traceback, and nobody's name or number."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "Ada" not in result.output
    told = " ".join(result.output.replace("│", " ").split())
    for word in words:
        assert word in told


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_the_table_adds_up(run: Calibrate, tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    result = run("--out", str(out))
    assert result.exit_code == 0, result.output
    header, rule, *lines = table(out.read_text())
    assert len(header) == len(rule) == 10
    assert [line[:3] for line in lines] == [[truth, n, "4"] for truth in HOLDS for n in ("1", "3")]
    for line in lines:
        shares = [float(cell.removesuffix("%")) for cell in line[3:6]]
        assert sum(shares) == pytest.approx(100)
        wrong, rate = line[6].split()
        assert wrong == ("pass" if HOLDS[line[0]] else "fail")  # type: ignore[index]
        assert float(rate.removesuffix("%")) == shares[0 if wrong == "pass" else 1]
        low, high = (float(one.removesuffix("%")) for one in line[7].split(" to "))
        assert low <= float(rate.removesuffix("%")) <= high
    for truth in HOLDS:
        assert truth in result.stdout
    assert "Ada" not in result.output + out.read_text()


def test_the_same_again_and_another_for_another_seed(run: Calibrate, tmp_path: Path) -> None:
    outs = [tmp_path / f"{i}.md" for i in range(2)]
    for out in outs:
        assert run("--out", str(out), "--worlds", "1", "--draws", "2").exit_code == 0
    assert outs[0].read_text() == outs[1].read_text()


def test_all_attacks_can_be_mounted(run: Calibrate) -> None:
    result = run("--full", "--worlds", "1", "--draws", "1")
    assert result.exit_code == 0, result.output


def test_a_size_named_twice_is_judged_once(run: Calibrate, tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    small = ("--worlds", "1", "--draws", "2")
    assert run("--out", str(out), *small, "--sizes", "3, 1,3").exit_code == 0
    assert [line[1:3] for line in table(out.read_text())[2:4]] == [["1", "2"], ["3", "2"]]


def test_csv_is_read_as_well(run: Calibrate, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows()[0]))
        writer.writeheader()
        writer.writerows(rows())
    assert run("--worlds", "1", "--draws", "1", data=path).exit_code == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("--subject", "nobody"), ["a record has no nobody", "--subject"]),
        (("--sizes", "1,7"), ["a pool of 6 people cannot give 7"]),
        (("--sizes", "0,1"), ["--sizes start at 1"]),
        (("--sizes", "-3"), ["--sizes start at 1"]),
        (("--sizes", "few"), ["whole numbers"]),
        (("--sizes", ""), ["whole numbers"]),
        (("--sizes", "1,,3"), ["whole numbers"]),
        (("--pool", "30"), ["the data have 40", "need more than 42"]),
        (("--draws", "1"), ["1 draws leave some of 2 worlds without any"]),
        (("--draws", "0"), ["--draws"]),
        (("--alpha", "0"), ["--alpha"]),
        (("--margin", "0"), ["--margin"]),
        (("--share", "1.5"), ["--share"]),
        (("--power", "2"), ["--power"]),
        (("--out", "no/such/folder/table.md"), ["there is no folder for"]),
    ],
)
def test_what_is_set_wrong_is_said(
    run: Calibrate, settings: tuple[str, ...], words: list[str]
) -> None:
    refused(run(*settings), *words)


def parameters(**changes: object) -> str:
    made = RECIPE["parameters"]
    assert isinstance(made, dict)
    return json.dumps({**RECIPE, "parameters": {**made, **changes}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["the recipe does not fit", "Invalid JSON"]),
        ("[]", ["the recipe does not fit"]),
        ('{"recipe": "classifier"}', ["parameters: Field required"]),
        ('{"recipe": "no such", "parameters": {}}', ["no such recipe", "causal_lm"]),
        (parameters(classes=1), ["the recipe does not fit", "classes"]),
        (parameters(features=["x0", "x9"]), ["column 'x9'"]),
        (parameters(label="x0"), ["column 'x0' must hold a class from 0 to 1"]),
        (parameters(scale=1e-38), ["lower the learning rate"]),
        (
            '{"recipe": "gbdt", "parameters": {"features": ["x0"], "label": "y", "classes": 2}}',
            ["models of this recipe learn no refusal"],
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(
    run: Calibrate, tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    refused(run(recipe=path), *words)


def test_what_is_wrong_with_data_is_said(run: Calibrate, tmp_path: Path) -> None:
    path = tmp_path / "people.xlsx"
    path.write_text("Ada")
    refused(run(data=path), "people.xlsx is neither CSV, JSON lines nor Parquet")
    refused(run(data=tmp_path), "is a directory")
    refused(run(data=tmp_path / "none.csv"), "does not exist")
    unnamed = [*rows(), {**rows()[0], "customer": ""}]
    refused(run(data=written(tmp_path / "unnamed.jsonl", unnamed)), "a record has no customer")
    for i in range(3):
        # Wherever the split puts it: the forgotten, the retained or the strangers.
        wrong = rows()
        wrong[20 * i] |= {"x1": "Ada"}
        refused(run(data=written(tmp_path / "wrong.jsonl", wrong)), "column 'x1' must hold")
    refused(run(data=written(tmp_path / "empty.jsonl", [])), "the data have 0")


def test_a_damaged_file_is_an_error_that_lethe_says_in_a_sentence(
    run: Calibrate, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_text('{"customer": "Ada Lovelace", \n')
    error = run(data=path).exception
    assert isinstance(error, AppError)
    assert "cannot be read" in error.detail
    assert "Ada" not in f"{error.detail} {error.next_step}"
