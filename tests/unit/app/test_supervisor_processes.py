"""Child processes: stopped with all their kin, and dead when their parent is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from app.supervisor.errors import ProcessFailed
from app.supervisor.processes import Child, last_lines, stop, wait_until

REPOSITORY = Path(__file__).parents[3]

# Ignores SIGTERM, and has a child that does the same.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
with open(sys.argv[1], "a") as file:
    print(os.getpid(), file=file, flush=True)
time.sleep(600)
"""
PARENT = """
import signal, sys, time
from pathlib import Path
from app.supervisor.processes import Child
sleep, log = ["/bin/sleep", "600"], Path(sys.argv[1])
killed = Child.start("killed", sleep, log=log, death_signal=signal.SIGKILL)
told = Child.start("told", sleep, log=log, death_signal=signal.SIGTERM)
time.sleep(0.5)
print(told.pid, flush=True)
time.sleep(600)
"""


def start(tmp_path: Path, *command: str) -> Child:
    return Child.start("child", command, log=tmp_path / "child.log", death_signal=signal.SIGKILL)


def eventually(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_stubborn_child_and_its_own_child_are_killed_after_the_grace_period(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    child = start(tmp_path, sys.executable, "-c", STUBBORN, str(pids))
    assert eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    began = time.monotonic()
    stop([child], signal.SIGTERM, 0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert eventually(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_a_child_that_obeys_ends_before_the_grace_period(tmp_path: Path) -> None:
    child = start(tmp_path, "/bin/sleep", "600")
    began = time.monotonic()
    stop([child], signal.SIGTERM, 30)
    assert time.monotonic() - began < 5
    assert not child.is_running()


def test_children_die_with_a_parent_killed_by_sigkill(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "child.log")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    told = int(parent.stdout.readline())
    children = [int(pid) for pid in children_of(parent.pid)]
    assert told in children
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not any(alive(pid) for pid in children))


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_child_has_its_own_group_environment_and_standard_input(tmp_path: Path) -> None:
    child = Child.start(
        "child",
        ["/bin/sh", "-c", 'read line; echo "$line $WORD"; exec sleep 600'],
        log=tmp_path / "child.log",
        death_signal=signal.SIGKILL,
        environment={"WORD": "there"},
        standard_input=b"hello\n",
    )
    assert eventually(lambda: last_lines(child.log) == "hello there")
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    stop([child], signal.SIGTERM, 5)


def test_waiting_gives_up_at_once_when_a_child_ends_and_shows_its_last_lines(
    tmp_path: Path,
) -> None:
    script = "for i in $(seq 100); do echo line $i; done; exit 3"
    child = start(tmp_path, "/bin/sh", "-c", script)
    began = time.monotonic()
    with pytest.raises(ProcessFailed, match="exit status 3") as failed:
        wait_until(lambda: False, [child], 60)
    assert time.monotonic() - began < 10
    assert failed.value.detail.endswith("line 99\nline 100")
    assert "line 80\n" not in failed.value.detail


def test_waiting_ends_after_its_time_and_shows_every_log(tmp_path: Path) -> None:
    child = start(tmp_path, "/bin/sh", "-c", "echo still at it; exec sleep 600")
    assert eventually(lambda: last_lines(child.log) == "still at it")
    with pytest.raises(ProcessFailed, match="Not ready") as failed:
        wait_until(lambda: False, [child], 0.2)
    assert failed.value.detail.endswith("child:\nstill at it")
    stop([child], signal.SIGTERM, 5)


def test_a_child_is_refused_outside_the_main_thread_whose_end_would_kill_it(
    tmp_path: Path,
) -> None:
    caught: list[RuntimeError] = []

    def attempt() -> None:
        try:
            start(tmp_path, "/bin/true")
        except RuntimeError as error:
            caught.append(error)

    thread = Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(caught) == 1
