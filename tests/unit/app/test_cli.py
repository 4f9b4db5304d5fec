"""The command line: one sentence and exit status 2 for what is set wrong, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.access.service import authenticate
from app.core.config import Settings
from app.core.db import Database
from app.supervisor.commands import worker_command

REPOSITORY = Path(__file__).parents[3]
SECRET = "a-secret-of-the-test-a-secret-of-the-test"
Lethe = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def lethe(tmp_path: Path) -> Lethe:
    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if "LETHE_" not in name}
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def refused(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("lethe: ")
    assert all(word in result.stderr for word in words)


@pytest.mark.parametrize("command", ["serve", "beat", "migrate", "worker control", "keys init"])
def test_a_missing_secret_is_named(lethe: Lethe, command: str) -> None:
    refused(lethe(*command.split()), "LETHE_SUBJECT_SECRET must be set")


def test_a_wrong_value_is_named_and_not_repeated(lethe: Lethe) -> None:
    result = lethe("serve", LETHE_PORT="98765", LETHE_ENVIRONMENT="development")
    refused(result, "LETHE_PORT", "65535")
    assert "98765" not in result.stderr


def test_migrate_wants_the_owner(lethe: Lethe) -> None:
    refused(lethe("migrate", LETHE_ENVIRONMENT="development"), "LETHE_OWNER_DATABASE_URL")


def test_a_database_that_does_not_answer_is_said_without_its_url(lethe: Lethe) -> None:
    result = lethe(
        *("keys", "create", "--role", "admin", "--name", "me"),
        LETHE_ENVIRONMENT="development",
        LETHE_DATABASE_URL="postgresql+psycopg://lethe_app:hidden@127.0.0.1:9/lethe",
    )
    refused(result, "LETHE_DATABASE_URL")
    assert "hidden" not in result.stderr


def test_a_folder_that_cannot_be_used_is_said(lethe: Lethe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(lethe("up", "--var", str(tmp_path / "file" / "var")), "cannot be made")


def test_keys_create_prints_the_token_alone_and_the_service_knows_it(
    lethe: Lethe, settings: Settings, database: Database
) -> None:
    result = lethe(
        *("keys", "create", "--role", "auditor", "--name", "the auditor"),
        LETHE_SUBJECT_SECRET=SECRET,
        LETHE_VAULT_SECRET=SECRET,
        LETHE_DATABASE_URL=settings.database_url.get_secret_value(),
        LETHE_REDIS_URL=settings.redis_url.get_secret_value(),
    )
    assert result.returncode == 0, result.stderr
    with database.transaction() as session:
        assert authenticate(session, result.stdout.strip()).role == "auditor"


@pytest.mark.parametrize("name", ["", "   ", "audit\u202eor", "a\nb"])
def test_keys_create_refuses_a_name_that_cannot_be_seen(lethe: Lethe, name: str) -> None:
    result = lethe("keys", "create", "--role", "dpo", "--name", name)
    assert result.returncode == 2
    assert "--name" in result.stderr
    assert result.stdout == ""


def test_keys_init_makes_private_files_and_replaces_none(lethe: Lethe, tmp_path: Path) -> None:
    secrets = {"LETHE_SUBJECT_SECRET": SECRET, "LETHE_VAULT_SECRET": SECRET}
    assert lethe("keys", "init", **secrets).returncode == 0
    folder = tmp_path / "var" / "keys"
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    private = [name for name in made if name.endswith(".pem")]
    assert len(private) == 2
    assert all((folder / name).stat().st_mode & 0o777 == 0o600 for name in private)
    assert lethe("keys", "init", **secrets).returncode == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def give_command(tmp_path: Path, body: str, name: str = "extra") -> None:
    (tmp_path / "extra.py").write_text(body)
    (tmp_path / "extra-1.dist-info").mkdir()
    (tmp_path / "extra-1.dist-info" / "METADATA").write_text("Name: extra\nVersion: 1\n")
    points = f"[lethe.commands]\n{name} = extra:extra\n"
    (tmp_path / "extra-1.dist-info" / "entry_points.txt").write_text(points)


def test_a_command_from_an_entry_point_gets_its_own_options_and_help(
    lethe: Lethe, tmp_path: Path
) -> None:
    give_command(
        tmp_path,
        "def extra(word: str, times: int = 1) -> None:\n    print(word * times)\n",
    )
    assert lethe("extra", "ho", "--times", "3").stdout == "hohoho\n"
    assert "--times" in lethe("extra", "--help").stdout


def test_a_command_whose_package_is_missing_says_what_to_install_and_only_when_called(
    lethe: Lethe, tmp_path: Path
) -> None:
    give_command(tmp_path, "import a_package_that_is_absent\n")
    assert "extra" in lethe("--help").stdout
    refused(lethe("extra"), "a_package_that_is_absent", "pip install")


def test_a_package_cannot_take_the_place_of_a_command_of_lethes_own(
    lethe: Lethe, tmp_path: Path
) -> None:
    give_command(tmp_path, "def extra() -> None:\n    print('it holds')\n", name="verify")
    result = lethe("verify")
    assert result.returncode == 2
    assert "it holds" not in result.stdout


def test_training_needs_neither_torch_nor_the_workers(lethe: Lethe, tmp_path: Path) -> None:
    # First on the path, so that importing either one ends the command.
    (tmp_path / "torch.py").write_text("raise SystemExit(9)\n")
    (tmp_path / "workers.py").write_text("raise SystemExit(9)\n")
    result = lethe("train", "--model", "m", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    refused(result, "--data")


def test_workers_take_one_queue_and_compute_one_task_at_a_time() -> None:
    compute = " ".join(worker_command("compute", "compute-1"))
    assert "--queues compute" in compute
    assert "--pool solo --concurrency 1" in compute
    assert "--queues control" in " ".join(worker_command("control", "control"))
