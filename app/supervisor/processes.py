"""Child processes that never outlive this one, and the remains of those that did."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from app.supervisor.errors import ProcessFailed

TETHER = Path(__file__).with_name("tether.py")
POLL_SECONDS = 0.05
TAIL_BYTES = 64 * 1024


class Account(NamedTuple):
    """Whom a process runs as; -1 leaves user and group as they are."""

    uid: int
    gid: int


SELF = Account(-1, -1)


def tethered(
    command: Sequence[str], death_signal: signal.Signals, account: Account = SELF
) -> list[str]:
    """Return `command` wrapped so that it gets `death_signal` when this process dies.

    Raises:
        RuntimeError: called outside the main thread. The kernel takes the end of the thread that
            started a process for the end of its parent.
    """
    if threading.current_thread() is not threading.main_thread():
        message = "start child processes from the main thread: they end with their thread"
        raise RuntimeError(message)
    wrapper = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), str(int(death_signal))]
    return [*wrapper, f"{account.uid}:{account.gid}", *command]


class Child:
    """One running process in a process group of its own, its output in a log file."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        death_signal: signal.Signals,
        account: Account = SELF,
        environment: Mapping[str, str] | None = None,
        standard_input: bytes = b"",
    ) -> Self:
        """Start `command`; `standard_input` is what it reads there, at most 4 KiB.

        Its group is not the terminal's, so Ctrl-C reaches the supervisor alone, which then stops
        its children in order.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 the caller's own command, no shell
                tethered(command, death_signal, account),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
            )
        if process.stdin is not None:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(standard_input)
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group as well."""
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    def failure(self, what: str) -> ProcessFailed:
        """Return the error that says what happened and shows the last log lines."""
        status = self._process.poll()
        ending = "" if status is None else f" (exit status {status})"
        return ProcessFailed(f"{self.name} {what}{ending}. Its log ends:\n{last_lines(self.log)}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its whole group; nothing happens if that has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most `seconds`; tell whether it has."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(seconds, 0))
        return not self.is_running()

    def wait_for_group(self, seconds: float) -> bool:
        """Wait until it and what it started have ended, at most `seconds`; tell whether they have.

        A process that was killed takes a moment to go.
        """
        deadline = time.monotonic() + seconds
        while not self.wait(0) or _has_members(self.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def wait_until(ready: Callable[[], bool], children: Iterable[Child], seconds: float) -> None:
    """Wait until `ready()`, looking after the children meanwhile.

    Raises:
        ProcessFailed: a child ended, or `seconds` have passed.
    """
    watched = list(children)
    deadline = time.monotonic() + seconds
    while not ready():
        for child in watched:
            if not child.is_running():
                raise child.failure("ended before it was ready")
        if time.monotonic() > deadline:
            # Nobody ended, so any of them may be the one that the others wait for.
            logs = "\n".join(f"{child.name}:\n{last_lines(child.log, 5)}" for child in watched)
            raise ProcessFailed(f"Not ready within {seconds:.0f} seconds. The logs end:\n{logs}")
        time.sleep(POLL_SECONDS)


def stop(children: Iterable[Child], how: signal.Signals, grace_seconds: float) -> None:
    """Send `how` to each child, and SIGKILL to what is left of its group after the grace period."""
    stopping = list(children)
    for child in stopping:
        if child.is_running():
            child.send(how)
    deadline = time.monotonic() + grace_seconds
    for child in stopping:
        child.wait(deadline - time.monotonic())
        child.send(signal.SIGKILL)
        child.wait_for_group(grace_seconds)


def stop_leftover(pid_file: Path, folder: Path, how: signal.Signals, grace_seconds: float) -> None:
    """End a server that an earlier supervisor left behind in `folder`, then forget its pid file.

    The pid in the file may belong to another process by now; the server itself is known by its
    working directory.
    """
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    deadline = time.monotonic() + grace_seconds
    number = how
    while _works_in(pid, folder):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        time.sleep(POLL_SECONDS)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
    pid_file.unlink(missing_ok=True)


def _has_members(group: int) -> bool:
    """Tell whether a process of a group runs; one that has ended and was not reaped does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name) state parent group ...; a name may hold anything, so from its end on.
            state, _, own = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(own) == group and state != "Z":
                return True
    return False


def last_lines(log: Path, count: int = 20) -> str:
    """Return the last lines of a log file."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(log.stat().st_size - TAIL_BYTES, 0))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    return ""


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False
