"""The README's table of methods is the registry's."""

from dataclasses import replace
from pathlib import Path

import pytest

from lethe.methods import METHODS
from lethe.methods.table import BEGIN, END, MarkersMissing, table, with_table

README = Path(__file__).parents[3] / "README.md"


def test_the_readme_is_up_to_date() -> None:
    text = README.read_text()
    assert with_table(text, METHODS) == text, "run `make table`"
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert all(f"`{name}`" in shown for name in METHODS)


def test_each_method_has_a_row_with_all_that_is_told_of_it() -> None:
    rows = table(METHODS.values()).splitlines()[2:]
    assert len(rows) == len(METHODS)
    for row, spec in zip(rows, METHODS.values(), strict=True):
        cells = row.strip("| ").split(" | ")
        assert cells[0] == f"`{spec.name}`<br>{spec.summary}"
        assert cells[1].startswith(spec.guarantee)
        assert set(cells[2].split(", ")) == spec.requires
        assert cells[3:] == [spec.cost, spec.refused]


def test_a_method_that_is_new_or_changed_makes_another_table() -> None:
    text, spec = README.read_text(), METHODS["sisa"]
    assert with_table(text, {**METHODS, "new": replace(spec, name="new")}) != text
    assert with_table(text, {**METHODS, "sisa": replace(spec, cost="Much.")}) != text


def test_a_bar_does_not_end_a_cell() -> None:
    [row] = table([replace(METHODS["sisa"], cost="a|b")]).splitlines()[2:]
    assert r"a\|b" in row


@pytest.mark.parametrize(
    "text", ["", BEGIN, END + BEGIN, f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"]
)
def test_a_text_without_markers_is_left_alone(text: str) -> None:
    with pytest.raises(MarkersMissing):
        with_table(text, METHODS)
