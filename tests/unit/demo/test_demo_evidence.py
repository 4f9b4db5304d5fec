"""What the demo tells of a run's evidence, of all that the service answered."""

import io
from typing import Any

import pytest
from rich.console import Console

from app.dashboard.words import check_words
from demo.evidence import attempts, evidence_table, measured, own_verdict, telling, verdict_line
from lethe.client import JsonObject
from tests.factories import make_check

TAIL = make_check(name="tail_test", family="tail", estimate=0.0, low=None, high=None, p_value=0.2)
RIGHT = {"accuracy_before": 0.9, "accuracy_after": 0.945}
USE = make_check(name="utility_retain", family="utility", p_value=None, details=RIGHT)
PROCESS = make_check(name="process", family="process", estimate=0.0, p_value=None)
CHECKS = [
    PROCESS,
    make_check(name="forget_loss", family="loss", p_value=None),
    make_check(name="zlib", p_value=0.3),
    make_check(name="min_k", p_value=0.2, details={"leading": 1.0}),
    make_check(name="rmia", p_value=0.1),
    make_check(name="probe", family="recovery", p_value=1.0, estimate=0.6),
    make_check(name="relearning", family="recovery", p_value=1.0, estimate=0.1, low=0.0),
    TAIL,
    USE,
]


def answer(by: str = "statistics", *checks: JsonObject) -> JsonObject:
    shown = list(checks) or CHECKS
    judged = [{"name": one["name"], "verdict": "reported"} for one in shown]
    judged[0]["verdict"] = "pass"
    own = {"request": "7", "verdict": "inconclusive", "reason": "Not singled out."}
    summary = "Too little evidence: undecided: min k, tail_test (margin 0.15)."
    verdict = {"verdict": "inconclusive", "by": by, "summary": summary}
    return {"verdict": verdict | {"checks": judged, "subjects": [own]}, "checks": shown}


def written(shown: Any) -> str:
    output = io.StringIO()
    Console(file=output, width=90).print(shown)
    return output.getvalue()


def test_what_decides_is_told_and_one_attack_of_each_family() -> None:
    by_statistics = [one["name"] for one in telling(answer())]
    # The lowest p-value of its family, then the AUC farthest from a half.
    assert by_statistics == ["min_k", "tail_test", "utility_retain", "rmia", "relearning"]
    by_process = [one["name"] for one in telling(answer("process"))]
    assert by_process == ["process", "rmia", "relearning"]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (PROCESS, "0 left"),
        (TAIL | {"p_value": 0.3333, "positive_control": 0.034}, "p 0.034 → 0.33"),
        (TAIL | {"positive_control": None}, "p 0.2"),
        (make_check(estimate=0.651, high=0.7, details={"auc_before": 1.0}), "AUC 1.00 → 0.65"),
        (make_check(), "AUC 0.50"),
        (USE, "90.0% → 94.5% right"),
    ],
)
def test_a_measurement_is_written_from_before_to_after(check: JsonObject, said: str) -> None:
    assert measured(check) == said


def test_the_table_names_checks_in_words_and_brackets_what_decides_nothing() -> None:
    told = written(evidence_table(answer("process")))
    assert check_words("process").title in told
    assert "rmia" not in told
    lines = [line.split() for line in told.splitlines()]
    assert [line[-1] for line in lines if line and line[-1] in {"pass", "(shown)"}] == [
        "pass",
        "(shown)",
        "(shown)",
    ]
    approximate = written(evidence_table(answer()))
    assert "40:120" in approximate
    same = written(evidence_table(answer("statistics", USE | {"n": 30, "m": 30})))
    assert " 30 " in same
    assert "30:30" not in same
    assert approximate.count("proves nothing") == 5
    assert "(shown)" not in approximate


def test_the_verdict_names_checks_in_words() -> None:
    told = verdict_line("notes-lm", answer()).plain
    assert told.startswith("notes-lm: inconclusive. Too little evidence")
    for name in ("min_k", "tail_test"):
        assert f"“{check_words(name).title}”" in told
    assert "min k" not in told


def test_it_is_said_what_was_tried_and_what_could_not_be() -> None:
    steps = [
        {"result": None},
        {"result": {"not_run": [{"name": "a", "reason": "no x"}, {"name": "b", "reason": "no y"}]}},
        {"result": {"not_run": [{"name": "c", "reason": "no x"}]}},
    ]
    assert attempts(answer(), {"steps": steps}) == (
        "5 attacks were tried. 3 more checks could not be: no x; no y."
    )
    assert attempts(answer(), {"steps": steps[:1]}) == "5 attacks were tried."
    one = answer("statistics", make_check())
    one_missed = [{"result": {"not_run": [{"name": "c", "reason": "no x"}]}}]
    told = attempts(one, {"steps": one_missed})
    assert told == "1 attack was tried. 1 more check could not be: no x."


def test_the_one_person_has_a_verdict_of_their_own() -> None:
    told = own_verdict(answer(), "7")
    assert told is not None
    assert told.plain == "On this person alone: inconclusive. Not singled out."
    assert own_verdict(answer(), "8") is None
