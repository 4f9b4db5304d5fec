"""The guide's package, as it stands there, installed beside Lethe: its method and recipe work."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\w+\n# (?P<path>\S+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the guide's files and the entry points of its pyproject.toml."""
    folder = tmp_path_factory.mktemp("extras")
    files = {
        m["path"]: m["code"] for m in BLOCK.finditer((REPOSITORY / "docs/extending.md").read_text())
    }
    for path, code in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(code)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    (metadata / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in project["entry-points"].items()
        )
    )
    return folder


def run(folder: Path, role: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.unit.extended", role],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{folder}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_the_service_checks_and_plans_with_the_specs_and_without_torch(installed: Path) -> None:
    told = run(installed, "service")
    assert told["recipe"] is told["method"] is None
    assert "classes" in told["bad recipe"]
    assert "method_parameters.flatten.gamma" in told["bad method"]
    assert told["named"]["flatten"] is True
    assert "flatten" not in told["unnamed"]
    assert told["torch"] is False


def test_a_worker_trains_by_the_recipe_and_unlearns_by_the_method(installed: Path) -> None:
    told = run(installed, "worker")
    assert told["accuracy"] > 0.9
    assert told["resumed to the same bits"]
    assert told["status"] in {"reached", "stopped_at_guard"}
    assert told["steps"] > 0
    before, after = told["forget"]
    assert after > before
    before, after = told["retain"]
    assert after <= before + 0.1
