"""`lethe train` as an engineer types it, against the service over HTTP."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from app.core.security import Role
from app.main import create_app
from tests.integration.town import Town
from tests.integration.worlds import CLASSIFIER, LANGUAGE, points

# So many that some are held out, a fifth of people by default, whatever the dataset's key.
PEOPLE = 64
REPOSITORY = Path(__file__).parents[2]
DESCRIBED = (
    *("--recipe", "classifier", "--set", 'features=["x0","x1","x2"]', "--set", "label=y"),
    *("--set", "classes=2", "--set", "hidden=[8]", "--set", "training.epochs=3"),
)
Finished = subprocess.CompletedProcess[str]
LetheTrain = Callable[..., Finished]


@pytest.fixture
def url(town: Town) -> Iterator[str]:
    """The town's service at an address of its own."""
    app = create_app(town.settings, database=town.database, signing_keys=town.keys)
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def train(town: Town, url: str) -> LetheTrain:
    """Run the command to its end while the town's workers work."""

    def run(*arguments: str, key: str | None = None, address: str = url) -> Finished:
        kept = {name: value for name, value in os.environ.items() if "LETHE_" not in name}
        token = town.token(Role.ENGINEER) if key is None else key
        with subprocess.Popen(
            [sys.executable, "-m", "app.cli", "train", *arguments],
            cwd=REPOSITORY,
            env={
                **kept,
                "COLUMNS": "200",
                "NO_PROXY": "127.0.0.1",
                "LETHE_URL": address,
                "LETHE_API_KEY": token,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while process.poll() is None:
                town.settle()
                time.sleep(0.05)
            out, err = process.communicate()
        assert token not in out + err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run


def model(town: Town, name: str) -> dict[str, Any]:
    shown: dict[str, Any] = town.ok(Role.ENGINEER, "GET", f"/v1/models/{name}")
    return shown


def test_a_described_model_is_registered_trained_in_shards_and_erasable(
    town: Town, train: LetheTrain
) -> None:
    uri = town.write_jsonl("claims", points(PEOPLE))
    line = (
        *("--data", uri.removeprefix("file://"), "--owner", "person:customer_id"),
        *(
            "--alias",
            "email",
            "--model",
            "claims-net",
            *DESCRIBED,
            "--shards",
            "3",
            "--slices",
            "2",
        ),
    )
    done = train(*line)
    assert done.returncode == 0, done.stderr
    made = town.version("claims-net", 1)
    assert (made["state"], made["shards"], made["slices"]) == ("live", 3, 2)
    for told in (
        "claims-net, version 1",
        "shards: 3, slices of each: 2",
        made["manifest_digest"],
        f"{made['metrics']['accuracy']['retain']:.1%} on records it was trained on",
        f"{made['metrics']['accuracy']['holdout']:.1%} on people it never saw",
        "indexing claims@1",
        "training claims-net",
        "3 of 3",
    ):
        assert told in done.stdout

    again = train(*line)
    assert again.returncode == 0, again.stderr
    assert "claims-net, version 2" in again.stdout
    assert [one["name"] for one in town.ok(Role.ENGINEER, "GET", "/v1/datasets")] == ["claims"]

    request = town.erase(town.trained_on("claims-net", PEOPLE)[0].email)
    assert {one["method"] for one in request["actions"]} == {"sisa", "erase_records"}


def test_a_registered_model_is_trained_on_registered_data_that_is_indexed_first(
    town: Town, train: LetheTrain
) -> None:
    column = {"column": "person", "type": "customer_id"}
    town.ok(Role.ENGINEER, "POST", "/v1/datasets", {"name": "d", "owner": column})
    version = {"version": "7", "uri": town.write_jsonl("d", points(8)), "format": "jsonl"}
    town.ok(Role.ENGINEER, "POST", "/v1/datasets/d/versions", version)
    body = {"name": "m", "recipe": "classifier", "parameters": CLASSIFIER, "holdout_share": 0}
    town.ok(Role.ENGINEER, "POST", "/v1/models", body)
    done = train("--model", "m", "--inputs", "d@7", "--slices", "2")
    assert done.returncode == 0, done.stderr
    assert (model(town, "m")["shards"], model(town, "m")["slices"]) == (1, 2)
    assert town.version("m", 1)["slices"] == 2


def test_adapters_give_a_language_model_a_lora_for_each_shard(
    town: Town, train: LetheTrain
) -> None:
    rows = [{**row, "text": f"note {row['x0']}"} for row in points(16, 1)]
    uri = town.write_jsonl("letters", rows)
    config = ",".join(
        f'"{name}": {value}' if isinstance(value, int) else f'"{name}": "{value}"'
        for name, value in LANGUAGE["config"].items()
    )
    done = train(
        *("--data", uri, "--owner", "person:customer_id", "--recipe", "causal_lm"),
        *("--set", "text=text", "--set", f"config={{{config}}}", "--set", "max_tokens=24"),
        *("--set", "training.epochs=1", "--set", "lora.r=2", "--adapters", "2"),
    )
    assert done.returncode == 0, done.stderr
    made = model(town, "letters")
    assert made["parameters"]["lora"] == {"r": 2, "target_modules": ["c_attn"]}
    assert (made["shards"], made["versions"][0]["shards"]) == (2, 2)


def test_what_is_registered_otherwise_is_not_overwritten(town: Town, train: LetheTrain) -> None:
    town.dataset("d", points(8))
    town.model("m", "d", "classifier", CLASSIFIER, deployed=False)
    own = town.write_jsonl("d-2", points(8))
    for line, told in {
        ("--model", "m", "--inputs", "d@1", *DESCRIBED): "other parameters",
        ("--model", "m", "--data", own, "--dataset", "d"): "registered with another file",
        ("--model", "m", "--data", own, "--dataset", "d@2", "--owner", "email"): "owner column",
        ("--model", "m", "--data", own, "--dataset", "new"): "--owner",
    }.items():
        refused = train(*line)
        assert refused.returncode == 2, line
        assert told in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert len(model(town, "m")["versions"]) == 1


def test_what_the_service_refuses_is_said_in_its_words(town: Town, train: LetheTrain) -> None:
    uri = town.write_jsonl("claims", points(16))
    line = ("--data", uri, "--owner", "person:customer_id", *DESCRIBED)
    refused = train(*line, "--set", "classes=1")
    assert refused.returncode == 1
    assert "parameters.classes" in refused.stderr
    assert town.ok(Role.ENGINEER, "GET", "/v1/datasets") == []

    failed = train(*line, "--set", "label=person")
    assert failed.returncode == 1
    assert "'person' must hold a finite number" in failed.stderr
    assert "C00" not in failed.stdout + failed.stderr

    assert "403" in train(*line, "--model", "other", key=town.token(Role.DPO)).stderr
    nobody = train(*line, address="http://127.0.0.1:9")
    assert nobody.returncode == 1
    assert "LETHE_URL" in nobody.stderr


def test_the_layout_is_set_before_the_first_version_and_then_it_stays(town: Town) -> None:
    town.dataset("d", points(8))
    body = {"name": "m", "recipe": "classifier", "parameters": CLASSIFIER, "holdout_share": 0}
    town.ok(Role.ENGINEER, "POST", "/v1/models", body)
    path, asked = "/v1/models/m/train", {"inputs": [{"dataset": "d", "version": "1"}]}

    town.ok(Role.ENGINEER, "POST", path, {**asked, "shards": 2})
    # Nothing has started, but a run waits that was promised two shards.
    problem = town.refused(Role.ENGINEER, 409, "POST", path, {**asked, "shards": 4})
    assert problem["type"].endswith("layout-fixed")
    town.settle()
    assert (town.version("m", 1)["shards"], town.version("m", 1)["slices"]) == (2, 1)

    town.refused(Role.ENGINEER, 409, "POST", path, {**asked, "slices": 3})
    town.refused(Role.ENGINEER, 422, "POST", path, {**asked, "shards": 0})
    town.ok(Role.ENGINEER, "POST", path, {**asked, "shards": 2, "slices": 1})
    town.settle()
    assert town.version("m", 2)["shards"] == 2


def test_a_layout_may_change_after_a_training_that_failed(town: Town) -> None:
    town.dataset("d", points(8))
    wrong = {**CLASSIFIER, "label": "person"}
    run = town.model("m", "d", "classifier", wrong, deployed=False)
    assert run["state"] == "failed"
    asked = {"inputs": [{"dataset": "d", "version": "1"}], "shards": 3}
    town.ok(Role.ENGINEER, "POST", "/v1/models/m/train", asked)
    assert model(town, "m")["shards"] == 3
