"""The service's own processes: HTTP service, workers, beat. Started together, stopped together."""

import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self

from app.supervisor.commands import api_command, beat_command, worker_command
from app.supervisor.processes import POLL_SECONDS, Child, stop, wait_until
from app.supervisor.servers import free_port

HOST = "127.0.0.1"
READY_SECONDS = 120
GRACE_SECONDS = 10


class Stack:
    """The service as real processes on loopback, running while the context is open.

    Attributes:
        url: Where the HTTP service answers.
    """

    def __init__(
        self, environment: Mapping[str, str], var: Path, *, port: int, compute_workers: int = 1
    ) -> None:
        """Take what is needed to start.

        Args:
            environment: The whole environment of the processes, all of LETHE_* included.
            var: Output goes to its folder `log`, one file for each process.
            port: Where to listen; a free port is taken where it is in use.
            compute_workers: How many workers train, one step each at a time.
        """
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._var = var.resolve()
        self._port = free_port(port)
        self._compute_workers = compute_workers
        self._children: list[Child] = []
        self._exit = ExitStack()
        self.url = f"http://{HOST}:{self._port}"

    def __enter__(self) -> Self:
        """Start all and wait until the HTTP service is ready.

        Raises:
            ProcessFailed: a process ended or the service did not get ready; the error shows the
                last lines of its log.
        """
        (self._var / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
        commands = {
            "api": api_command(HOST, self._port),
            "control": worker_command("control", "control"),
            "beat": beat_command(self._var / "beat-schedule"),
        }
        for number in range(1, self._compute_workers + 1):
            commands[f"compute-{number}"] = worker_command("compute", f"compute-{number}")
        with ExitStack() as stack:
            stack.callback(self._stop)
            for name, command in commands.items():
                self._children.append(self._start(name, command))
            wait_until(self._is_ready, self._children, READY_SECONDS)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit.close()

    @property
    def pids(self) -> dict[str, int]:
        """The process ids by name: `api`, `control`, `beat`, `compute-1` and so on."""
        return {child.name: child.pid for child in self._children}

    def watch(self) -> None:
        """Look after the processes for ever.

        Raises:
            ProcessFailed: one of them ended.
        """
        while True:
            for child in self._children:
                if not child.is_running():
                    raise child.failure("ended")
            time.sleep(POLL_SECONDS)

    def _start(self, name: str, command: list[str]) -> Child:
        return Child.start(
            name,
            command,
            log=self._var / "log" / f"{name}.log",
            death_signal=signal.SIGKILL,
            environment=self._environment,
        )

    def _is_ready(self) -> bool:
        connection = HTTPConnection(HOST, self._port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        stop(self._children, signal.SIGTERM, GRACE_SECONDS)
        self._children.clear()
