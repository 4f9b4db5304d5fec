"""What the demo may empty, and what it must leave alone."""

from pathlib import Path

import pytest

from app.supervisor.errors import FolderInUse, FolderUnusable
from app.supervisor.folders import sole_use
from demo.cli import MARK, empty


@pytest.fixture
def folder(reachable_folder: Path, request: pytest.FixtureRequest) -> Path:
    name: str = request.node.name
    return reachable_folder / name


def test_a_missing_folder_is_made_and_marked(folder: Path) -> None:
    empty(folder)
    assert (folder / MARK).exists()


def test_what_an_earlier_demo_left_goes_but_for_the_programs(folder: Path) -> None:
    empty(folder)
    for name in ("data", "programs"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    (folder / "elsewhere").symlink_to(folder / "programs")
    (folder / "tree-head.txt").touch()
    empty(folder)
    left = {one.name for one in folder.iterdir()}
    assert left == {MARK, "supervisor.lock", "programs"}
    assert (folder / "programs" / "file").exists()


def test_a_folder_that_is_not_a_demos_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").touch()
    with pytest.raises(FolderUnusable, match="not a demo's"):
        empty(folder)
    assert [one.name for one in folder.iterdir()] == ["thesis.txt"]


def test_nothing_is_removed_under_a_running_demo(folder: Path) -> None:
    empty(folder)
    (folder / "data").mkdir()
    with sole_use(folder), pytest.raises(FolderInUse):
        empty(folder)
    assert (folder / "data").exists()
