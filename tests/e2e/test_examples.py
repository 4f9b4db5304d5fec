"""The two examples as a reader runs them: one command each, and the facts that it promises."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from app.supervisor.servers import SOCKET_PARENT
from examples.insurance.job import predicate_of
from lethe.certificate import verify_bundle
from lethe.client import JsonObject
from lethe.keys import parse_public_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("LETHE_TEST_DATA") or REPOSITORY / "../shared/data")
NUMBER = r"(-?\d+\.\d+|nan)"


def ended_run(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run an example to its end."""
    kept = {name: value for name, value in os.environ.items() if "LETHE_" not in name}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env={**kept, "COLUMNS": "120", "LETHE_TEST_DATA": str(DATA)},
        check=False,
        capture_output=True,
        text=True,
    )


def run(*command: str) -> str:
    """Run an example to its end and return what it told."""
    done = ended_run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_insurance(var: Path, screen: Path) -> str:
    """Run the insurer's example to its end and return what it told.

    Once in four hundred times (0.3 ** 5) every courier is held out, and it says to run it again.
    """
    command = ("examples.insurance", "--var", str(var), "--save", str(screen))
    for _ in range(2):
        done = ended_run(*command)
        if "All couriers came into the holdout" not in done.stdout:
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout
    return run(*command)


@pytest.fixture
def var() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lethe-test-", dir=SOCKET_PARENT))
    folder.chmod(0o711)
    yield folder / "insurance"
    shutil.rmtree(folder)


def certificate(folder: Path) -> JsonObject:
    keys = parse_public_keys((folder / "lethe.pub").read_bytes())
    return predicate_of(verify_bundle((folder / "certificate.json").read_bytes(), keys))


def of_the_model(predicate: JsonObject) -> JsonObject:
    (done,) = (one for one in predicate["done"] if one["kind"] == "model_version")
    return dict(done)


class Attacked(NamedTuple):
    """What an attack is told to have brought."""

    auc: float
    low: float
    high: float
    loss: float


def attacks(told: str) -> list[Attacked]:
    """Every AUC told, with its interval, and the loss on the claims."""
    line = r"^ +v\d .*? (\d\.\d\d)  +(\d\.\d\d) to (\d\.\d\d) .* (\d+\.\d\d) *$"
    return [Attacked(*map(float, one)) for one in re.findall(line, told, re.MULTILINE)]


def test_insurance_is_erased_approximately_then_exactly_and_certified_twice(var: Path) -> None:
    screen = var.parent / "screen.svg"
    told = run_insurance(var, screen)

    first, second = certificate(var / "certificate-1"), certificate(var / "certificate-2")
    assert (first["revision"], second["revision"]) == (1, 2)
    assert first["supersedes"] is None
    assert second["supersedes"] is not None
    assert of_the_model(first)["guarantee"] == "approximate"
    assert of_the_model(first)["verdict"] == "inconclusive"
    assert of_the_model(second)["method"] == "retrain"
    assert (of_the_model(second)["guarantee"], of_the_model(second)["verdict"]) == ("exact", "pass")
    assert first["commitments"][0]["fulfilled_at"] is None
    assert second["commitments"][0]["fulfilled_at"] is not None
    assert "The promise is kept." in told

    before, approximate, exact = attacks(told)[-3:]
    assert before.low > 0.5, "the attack finds nothing before: it could show nothing after"
    # How far its AUC falls is not promised; that it knows the claims less well is.
    assert approximate.loss > before.loss
    assert exact.auc < before.auc
    # Five standard errors of 47 claims that the model never saw.
    assert abs(exact.auc - 0.5) < 0.22
    assert screen.read_text().startswith("<svg")
    # The people are made up, and still nobody is named where a real name must not stand.
    entries = (var / "certificate-2" / "log.ndjson").read_text()
    assert "example.org" not in entries
    assert "example.org" not in json.dumps([first, second])


@pytest.fixture(scope="module")
def frankenstein(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not (DATA / "frankenstein.txt").is_file():
        pytest.skip("no frankenstein.txt in LETHE_TEST_DATA; a text of our own is told about below")
    screen = tmp_path_factory.mktemp("frankenstein") / "screen.svg"
    told = run("examples.frankenstein", "--save", str(screen))
    assert screen.read_text().startswith("<svg")
    return told


def made_text() -> str:
    """A long text in a language of its own: words of syllables, in sentences, never the same."""
    source = random.Random(1818)
    syllables = [one + two for one in "bdfgklmnprst" for two in ("a", "e", "io", "on", "ur")]
    words = ["".join(source.choices(syllables, k=source.randint(1, 3))) for _ in range(200)]
    # As in a natural language, few words are most of the text.
    often = [1 / rank for rank in range(1, 201)]
    sentences = (
        " ".join(source.choices(words, often, k=source.randint(6, 14))).capitalize() + "."
        for _ in range(6_000)
    )
    return " ".join(sentences)


def ended(told: str) -> dict[str, list[float]]:
    """The last table: three losses, then word for word, next token right, and of never seen."""
    rows = re.findall(
        rf"^ +([a-z][a-z0-9, ]+?) +{NUMBER} +{NUMBER} +{NUMBER} +(\d+)% +(\d+)% +(\d+)%",
        told,
        re.MULTILINE,
    )
    return {name: [float(value) for value in values] for name, *values in rows}


def test_frankenstein_is_known_by_heart_then_forgotten_without_collapse(frankenstein: str) -> None:
    rows = ended(frankenstein)
    assert set(rows) == {
        "before",
        "notebook, fp32",
        "guarded, fp32",
        "notebook, fp16",
        "guarded, fp16",
        "guarded fp32, then fp16",
    }
    forget, _, start, verbatim, *_ = rows["before"]
    assert forget < 0.1
    assert verbatim == 100

    forget, never_seen, retain, verbatim, *_ = rows["guarded, fp32"]
    assert forget > 0.9 * never_seen
    assert retain < start + 0.2
    assert verbatim < 50

    forget, never_seen, retain, *_ = rows["notebook, fp32"]
    assert forget > 2 * never_seen
    assert retain > start + 1

    # The half-precision notebook is gone at once; under guard the model still says something.
    assert rows["notebook, fp16"][0] != rows["notebook, fp16"][0]
    assert rows["guarded, fp16"][2] < start + 1
    assert rows["guarded, fp16"][3] < 50
    rounded, full = rows["guarded fp32, then fp16"], rows["guarded, fp32"]
    assert rounded == pytest.approx(full, abs=2)
    assert rounded[2] == pytest.approx(full[2], abs=0.05)


def test_any_text_is_learnt_by_heart_and_its_passage_forgotten(tmp_path: Path) -> None:
    text = tmp_path / "made.txt"
    text.write_text(made_text())
    rows = ended(run("examples.frankenstein", "--text", str(text)))
    forget, _, start, verbatim, *_ = rows["before"]
    assert forget < 0.1
    assert verbatim == 100

    forget, never_seen, retain, verbatim, *_ = rows["guarded, fp32"]
    assert forget > 0.9 * never_seen
    assert retain < start + 0.2
    assert verbatim < 50
    # A made-up language has less to lose than a novel, and the notebook loses it all the same.
    assert rows["notebook, fp32"][0] > 2 * forget
    assert rows["notebook, fp32"][2] > retain + 0.2
    assert rows["notebook, fp16"][0] != rows["notebook, fp16"][0]


def test_frankenstein_tells_what_to_do_without_a_text(tmp_path: Path) -> None:
    environment = {**os.environ, "LETHE_TEST_DATA": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "examples.frankenstein"],
        cwd=REPOSITORY,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "--text FILE" in done.stdout
    assert "Traceback" not in done.stderr
