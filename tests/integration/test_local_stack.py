"""`lethe up` as an operator runs it: real processes that answer, and none left at the end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.supervisor.servers import SOCKET_PARENT

REPOSITORY = Path(__file__).parents[2]


class Up:
    """A running `lethe up` and what it said."""

    def __init__(self, var: Path, port: int) -> None:
        kept = {name: value for name, value in os.environ.items() if "LETHE_" not in name}
        self.var = var
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up", "--var", str(var), "--port", str(port)],
            cwd=REPOSITORY,
            env={**kept, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []

    def wait_until_running(self) -> httpx.Client:
        """Read until the admin key is named; return a client that has it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.strip())
            if "public keys" in line:
                break
        else:
            self.end(signal.SIGTERM)
            pytest.fail("\n".join(self.said))
        token = Path(self.told("admin key")).read_text().strip()
        url = self.told("API docs").removesuffix("/docs")
        return httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )

    def told(self, name: str) -> str:
        return next(line for line in self.said if line.startswith(name)).split()[-1]

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture
def var() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lethe-test-", dir=SOCKET_PARENT))
    folder.chmod(0o711)
    yield folder / "var"
    note = folder / "var" / "socket-folder"
    if note.exists():
        # A supervisor that was killed leaves it to the next one.
        shutil.rmtree(note.read_text(), ignore_errors=True)
    shutil.rmtree(folder)


def processes_of(var: Path) -> set[int]:
    """Every process that was started for `var`: its environment, folder or arguments name it."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            facts = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            facts += os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue
        if os.fsencode(var) in facts:
            found.add(int(entry.name))
    return found


def left_after(var: Path, seconds: float) -> set[int]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(var)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_up_answers_on_another_port_when_its_own_is_taken_and_ctrl_c_ends_all(var: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = Up(var, port)
        with up.wait_until_running() as client:
            assert client.base_url.port != port
            assert client.get("/health/ready").status_code == 200
            assert client.get("/v1/api-keys").status_code == 200
        assert {"api", "control", "compute-1", "beat"} <= {
            log.stem for log in (var / "log").iterdir()
        }
        assert up.end(signal.SIGINT) == 128 + signal.SIGINT
    assert processes_of(var) == set()


def test_nothing_outlives_a_supervisor_killed_by_sigkill_and_the_same_key_opens_again(
    var: Path,
) -> None:
    up = Up(var, 18231)
    with up.wait_until_running() as client:
        assert client.get("/v1/api-keys").status_code == 200
    key = (var / "keys" / "admin.key").read_text()
    up.end(signal.SIGKILL)
    assert left_after(var, 20) == set()
    again = Up(var, 18231)
    with again.wait_until_running() as client:
        assert client.get("/v1/api-keys").status_code == 200
    assert (var / "keys" / "admin.key").read_text() == key
    again.end(signal.SIGTERM)
    assert left_after(var, 5) == set()


def test_a_process_that_dies_ends_the_rest_and_shows_its_log(var: Path) -> None:
    up = Up(var, 18232)
    with up.wait_until_running():
        pass
    api = next(
        pid
        for pid in processes_of(var)
        if b"app.main:create_app" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(api, signal.SIGKILL)
    assert up.process.stdout is not None
    said = up.process.stdout.read()
    assert up.process.wait(60) == 2
    up.process.stdout.close()
    assert "api ended (exit status -9)" in said
    assert left_after(var, 5) == set()
