"""The compute role: steps done by one warm child process, killed when the lease is lost."""

import importlib
import multiprocessing
import time
from multiprocessing.connection import Connection

from app.core.errors import AppError
from app.execution.service import LeaseLostError
from app.manifest.rules import Job
from workers.messages import Done, Failed, Message, Progress, Ready, Stored
from workers.runner import Lease

END_SECONDS = 5.0


class ChildLost(AppError):
    """The worker's child process ended without an answer."""

    slug = "child-lost"
    advice = "It was killed, or memory ran out: see the worker's log and the machine's memory."


class ChildWork:
    """Hands jobs to a spawned child, warm between steps and replaced when it dies."""

    def __init__(self, artifacts_url: str) -> None:
        self._artifacts_url = artifacts_url
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._device: str | None = None

    def start(self) -> Connection:
        """Return the pipe to a living child, started if there is none."""
        if self._pipe is None or self._process is None or not self._process.is_alive():
            self.end()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(theirs, self._artifacts_url), daemon=True
            )
            self._process.start()
            theirs.close()
        return self._pipe

    def end(self) -> None:
        """Kill the child, if there is one."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join(END_SECONDS)
        self._pipe = self._process = None

    @property
    def child_pid(self) -> int | None:
        """The child's process id, if one was started."""
        return None if self._process is None else self._process.pid

    def device(self) -> str | None:
        """Return what the child trains on, None until it has told; asked between jobs only."""
        if self._pipe is not None and self._device is None:
            try:
                if self._pipe.poll():
                    self._hear(self._pipe.recv())
            except (EOFError, ConnectionResetError):
                # It died at its start: the next job finds that out and starts another.
                return None
        return self._device

    def __call__(self, job: Job, lease: Lease) -> Done | Failed:
        """Have a job done, beating for the child meanwhile.

        Raises:
            LeaseLostError: the step is carried out elsewhere; the child was killed.
        """
        try:
            pipe = self.start()
            pipe.send(job)
            return self._await(pipe, lease)
        except LeaseLostError:
            self.end()
            raise
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.end()
            return Failed(ChildLost().problem, permanent=False)

    def _await(self, pipe: Connection, lease: Lease) -> Done | Failed:
        share, beat_at = 0.0, time.monotonic() + lease.beat_seconds
        while True:
            if pipe.poll(max(0.0, beat_at - time.monotonic())):
                message: Message = pipe.recv()
                match message:
                    case Ready():
                        self._hear(message)
                    case Progress(share=told):
                        share = told
                    case Stored(values=values):
                        lease.save_checkpoint(values)
                    case Done() | Failed():
                        return message
            if time.monotonic() >= beat_at:
                lease.renew(share)
                beat_at = time.monotonic() + lease.beat_seconds

    def _hear(self, message: Message) -> None:
        if isinstance(message, Ready):
            self._device = message.device


def _serve(pipe: Connection, artifacts_url: str) -> None:
    # By name: only the child loads torch, the parent stays small and starts fast.
    importlib.import_module("workers.child").serve(pipe, artifacts_url)
