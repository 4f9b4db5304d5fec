"""How often the judge errs, over few draws; `lethe calibrate` measures it over many."""

import pytest

from app.verification.checks import Margins
from tests.evidence.simulation import Truth, rates

MARGINS = Margins()


@pytest.mark.parametrize(
    ("truth", "shift", "n", "draws"),
    [
        ("never_unlearned", 1, 5, 20),
        ("never_unlearned", 2, 47, 10),
        ("never_unlearned", 4, 1, 20),
        ("leak", 4.5, 20, 30),
        ("leak", 3.5, 47, 30),
        ("leak", 4, 47, 30),
        ("leak", 1, 47, 20),
    ],
)
def test_a_model_that_holds_the_data_does_not_pass(
    truth: Truth, shift: float, n: int, draws: int
) -> None:
    assert rates(truth, shift, n, draws, MARGINS)["pass"] <= 1 / draws


@pytest.mark.parametrize("n", [1, 5, 20, 47])
def test_a_model_that_never_saw_the_data_does_not_fail(n: int) -> None:
    assert rates("forgotten", 4, n, 20, MARGINS)["fail"] <= 0.05


def test_a_model_that_forgot_enough_people_passes() -> None:
    assert rates("forgotten", 5, 47, 30, MARGINS)["pass"] >= 0.8


@pytest.mark.parametrize("n", [1, 5, 20])
def test_too_few_people_pass_nothing(n: int) -> None:
    assert rates("forgotten", 5, n, 20, MARGINS)["pass"] == 0


def test_a_leak_and_too_much_forgetting_are_failed() -> None:
    assert rates("leak", 5, 47, 20, MARGINS)["fail"] >= 0.9
    assert rates("never_unlearned", 3, 20, 10, MARGINS)["fail"] == 1
    assert rates("over_forgotten", 4, 47, 10, MARGINS)["fail"] == 1
