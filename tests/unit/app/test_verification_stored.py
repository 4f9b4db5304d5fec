"""A look into stored files is clean only where it could have found something."""

from collections.abc import Mapping

import pytest

from app.verification.checks import Check
from app.verification.stored import files_verdict, judge_stored

CLEAN = {"unreadable": 0.0, "controls": 8.0, "controls_found": 8.0}


def looked(found: float, details: Mapping[str, float]) -> Check:
    return Check(
        name="stored_bytes",
        family="storage",
        unit="record",
        n=3,
        m=2,
        estimate=found,
        low=None,
        high=None,
        p_value=None,
        positive_control=None,
        details=details,
        would_settle="",
    )


@pytest.mark.parametrize(
    ("found", "details", "verdict", "said"),
    [
        (0, CLEAN, "pass", "all 8 kept records looked for were"),
        (1, CLEAN, "fail", "Of 3 erased records, 1 were found"),
        (1, CLEAN | {"unreadable": 1.0}, "fail", "1 were found"),
        (0, CLEAN | {"unreadable": 1.0}, "inconclusive", "1 of 2 files could not be looked into"),
        (0, CLEAN | {"controls_found": 7.0}, "inconclusive", "1 of 8 kept records"),
        (0, CLEAN | {"controls_found": 0.0}, "inconclusive", "write them in another form"),
        (
            0,
            CLEAN | {"controls": 0.0, "controls_found": 0.0},
            "inconclusive",
            "no kept record was there",
        ),
        (0, {}, "inconclusive", "no kept record was there"),
    ],
)
def test_only_a_search_that_would_have_found_something_passes(
    found: float, details: Mapping[str, float], verdict: str, said: str
) -> None:
    judged = judge_stored(looked(found, details))
    assert (judged.name, judged.verdict) == ("stored_bytes", verdict)
    assert said in judged.reason


def test_a_run_keeps_what_its_look_into_files_says_and_no_verdict_of_its_own() -> None:
    check = looked(0, {})
    measured = {name: getattr(check, name) for name in check.__slots__} | {"threat_model": "T0"}
    said = files_verdict([measured])
    assert said is not None
    assert said["verdict"] is None
    assert [(one["name"], one["verdict"]) for one in said["checks"]] == [
        ("stored_bytes", "inconclusive")
    ]
    assert files_verdict([]) is None
