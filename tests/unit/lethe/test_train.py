"""From the words of a command line to what is registered and trained."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lethe.train import column, data_file, main, parameters, with_adapters
from lethe.training import OrderInvalid


def test_settings_are_json_or_text_and_dots_lead_into_objects() -> None:
    assert parameters(
        [
            "label=y",
            "classes=2",
            'features=["a","b"]',
            "training.epochs=5",
            "training.optimizer=sgd",
        ]
    ) == {
        "label": "y",
        "classes": 2,
        "features": ["a", "b"],
        "training": {"epochs": 5, "optimizer": "sgd"},
    }
    assert parameters(["note=a=b"]) == {"note": "a=b"}


@pytest.mark.parametrize("said", [["label"], ["=1"], ["a.=1"], ["a=1", "a.b=2"], ["a=[]", "a.b=1"]])
def test_settings_that_lead_nowhere_are_refused(said: list[str]) -> None:
    with pytest.raises(OrderInvalid, match="NAME=VALUE"):
        parameters(said)


def test_a_column_is_of_the_type_that_it_is_named_after() -> None:
    assert column("email") == {"column": "email", "type": "email"}
    assert column("patient:customer_id") == {"column": "patient", "type": "customer_id"}
    assert column("a:b:email") == {"column": "a:b", "type": "email"}


def test_a_file_is_named_after_itself_unless_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.2026.parquet"
    path.touch()
    found = data_file(str(path), None, "email", ["phone"])
    assert (found.name, found.version, found.format) == ("claims", "1", "parquet")
    assert found.uri == f"file://{path}"
    assert found.owner == {"column": "email", "type": "email"}
    assert found.aliases == ({"column": "phone", "type": "phone"},)
    named = data_file("s3://bucket/x.csv.gz", "claims@7", None, [])
    assert (named.name, named.version, named.format) == ("claims", "7", "csv")
    assert (named.uri, named.owner) == ("s3://bucket/x.csv.gz", None)


def test_a_file_that_is_not_there_or_of_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrderInvalid, match="no such file"):
        data_file(str(tmp_path / "claims.csv"), None, None, [])
    with pytest.raises(OrderInvalid, match="must end in"):
        data_file("s3://bucket/claims.xls", None, None, [])


def test_adapters_go_to_the_attention_of_a_known_model_type() -> None:
    given = {"text": "note", "config": {"model_type": "gpt2"}}
    assert with_adapters(given)["lora"] == {"target_modules": ["c_attn"]}
    own = with_adapters(given | {"lora": {"r": 2, "target_modules": ["c_proj"]}})
    assert own["lora"] == {"r": 2, "target_modules": ["c_proj"]}
    assert with_adapters(given | {"lora": {"r": 2}})["lora"]["r"] == 2
    with pytest.raises(OrderInvalid, match=r"lora\.target_modules"):
        with_adapters({"text": "note", "checkpoint": {"path": "/m", "sha256": "0" * 64}})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--model m", "--data"),
        ("--inputs d@1", "--recipe"),
        ("--inputs d@1 --model m --adapters 2", "--recipe"),
        ("--inputs d@1 --model m --set label=y", "--recipe"),
        (
            "--inputs d@1 --recipe r --set lora.target_modules=[] --adapters 2 --shards 2",
            "leave --shards out",
        ),
        ("--inputs d@1 --model m", "LETHE_API_KEY"),
    ],
)
def test_what_does_not_fit_together_is_said_in_one_line_before_any_call(
    line: str, told: str
) -> None:
    app = typer.Typer()
    app.command()(main)
    # Nobody answers at this address: a call would end with another status.
    result = CliRunner().invoke(app, [*line.split(), "--url", "http://127.0.0.1:9"], env={})
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
