"""The demo's tables and bars say what the service answered."""

import io

import pytest
from rich.console import Console

from demo.screens import RunBars, day
from lethe.client import JsonObject


def run(state: str, *steps: tuple[str, float]) -> JsonObject:
    return {
        "state": state,
        "verdict": None,
        "accepted": None,
        "steps": [{"kind": "train_shard", "state": s, "progress": p} for s, p in steps],
    }


def test_a_day_is_written_for_people() -> None:
    assert day("2026-12-01T22:59:59Z") == "1 Dec 2026"


STANDS = [
    run("queued"),
    run("running", ("done", 1.0), ("running", 0.5)),
    run("done", ("done", 1.0), ("done", 1.0)),
    run("promoting", ("done", 1.0), ("done", 1.0), ("pending", 0.0)),
]


@pytest.mark.parametrize(
    ("looks", "shown"),
    [(1, "0% 0:00:00 queued"), (2, "75% 0:00:00 train shard"), (3, "100%"), (4, "100%")],
)
def test_a_bar_grows_with_its_run_and_never_goes_back(looks: int, shown: str) -> None:
    output = io.StringIO()
    with RunBars(Console(file=output, width=100)) as bars:
        for one in STANDS[:looks]:
            bars({"digits": one})
    assert "digits" in output.getvalue()
    assert f" {shown}" in output.getvalue()
