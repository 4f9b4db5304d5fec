"""What is to be copied from the terminal stays on one line, however narrow that is."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from demo.cli import point_to_sign_in
from demo.job import Callers
from demo.story import Story
from lethe.client import Lethe

KEY = "lethe_01a1fdeb-f226-7523-842b-38c113705cce_" + "k" * 43


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80, highlight=False)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_api_key_is_not_broken(console: Console) -> None:
    point_to_sign_in(KEY, console)
    (line,) = lines(console)
    assert line.endswith(f" {KEY}")


@pytest.mark.parametrize("told", [f"/a/folder/{'deep/' * 20}report.pdf", "$ lethe verify " * 9])
def test_a_path_or_a_command_is_not_broken(console: Console, told: str) -> None:
    with Lethe("http://127.0.0.1:9", KEY) as nobody:
        callers = Callers(nobody, nobody, nobody, nobody)
        story = Story(console, "http://127.0.0.1:9", callers, Path(), Path(), b"")
        story.show_whole(told)
    assert lines(console) == [f"  {told}"]
