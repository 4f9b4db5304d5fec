"""`lethe demo` as a newcomer runs it: to its end, again, and away with Ctrl-C."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from app.supervisor.servers import SOCKET_PARENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]
PORT = 8000


@pytest.fixture(scope="module")
def var() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lethe-test-", dir=SOCKET_PARENT))
    folder.chmod(0o711)
    yield folder / "demo"
    shutil.rmtree(folder)


def start(var: Path) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if "LETHE_" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "demo", "--var", str(var)],
        cwd=REPOSITORY,
        env={**kept, "PYTHONUNBUFFERED": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(var: Path) -> set[int]:
    """Every process whose environment, folder or arguments name `var`."""
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


def all_gone(var: Path) -> bool:
    """Whether no process is left; a server's own children go a moment after it."""
    deadline = time.monotonic() + 20
    while processes_of(var):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def verify(folder: Path, certificate: str) -> int:
    files = {"--key": "lethe.pub", "--tree-head": "tree-head.txt", "--log": "log.ndjson"}
    options = [part for option in files.items() for part in option]
    command = [sys.executable, "-m", "lethe.verify", certificate, *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True
    ).returncode


def test_it_tells_the_whole_job_with_its_port_taken_and_again_until_ctrl_c(var: Path) -> None:
    with ExitStack() as stack:
        with suppress(OSError):  # somebody has taken it already
            stack.enter_context(socket.create_server(("127.0.0.1", PORT)))
        demo = start(var)
        told, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, told
    assert all_gone(var)
    assert f"127.0.0.1:{PORT}" not in told
    for word in ("sisa", "retrain", "impair_repair", "inconclusive", "committed", "/dashboard"):
        assert word in told
    papers = var / "certificate"
    assert json.loads((papers / "certificate.json").read_text())["mediaType"]
    assert verify(papers, "certificate.json") == 0
    assert verify(papers, "forged.json") == 1
    for model in ("digits-sisa", "patients-net", "notes-lm"):
        assert f"  {papers / f'report-{model}.pdf'}" in told.splitlines()
        assert (papers / f"report-{model}.pdf").read_bytes().startswith(b"%PDF-")
    assert "/dashboard/runs/" in told
    verifying = "--key lethe.pub --tree-head tree-head.txt --log log.ndjson"
    assert f"  $ lethe verify certificate.json {verifying}" in told.splitlines()
    assert "attacks were tried." in told
    assert "names no downstream test" in " ".join(told.split())
    assert "On this person alone: inconclusive" in " ".join(told.split())

    again = start(var)
    assert again.stdout is not None
    told = ""
    while "2. Three models" not in told:
        line = again.stdout.readline()
        assert line, told
        told += line
    assert not papers.joinpath("certificate.json").exists()
    again.send_signal(signal.SIGINT)
    rest, _ = again.communicate(timeout=60)
    assert again.returncode == 128 + signal.SIGINT, rest
    assert "Traceback" not in rest
    assert all_gone(var)
