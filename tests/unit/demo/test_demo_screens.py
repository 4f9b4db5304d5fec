"""The demo's tables and bars say what the service answered."""

import io

import pytest
from rich.console import Console

from demo.screens import RunBars, day, measured
from lethe.client import JsonObject


def run(state: str, *steps: tuple[str, float]) -> JsonObject:
    return {
        "state": state,
        "verdict": None,
        "accepted": None,
        "steps": [{"kind": "train_shard", "state": s, "progress": p} for s, p in steps],
    }


def check(family: str, **values: float | None) -> JsonObject:
    return {"family": family, "estimate": None, "low": None, "high": None} | values


@pytest.mark.parametrize(
    ("measurement", "written"),
    [
        (check("process", estimate=0.0), "0"),
        (check("tail", p_value=0.3333), "0.33"),
        (check("membership", estimate=0.65, low=0.2377, high=0.912), "0.65 [0.24, 0.91]"),
        (check("utility", estimate=-0.0001, low=-0.002, high=0.002), "+0.000 [-0.002, +0.002]"),
        (check("loss", estimate=-0.0684), "-0.068"),
    ],
)
def test_a_measurement_is_written_with_its_interval(measurement: JsonObject, written: str) -> None:
    assert measured(measurement) == written


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
