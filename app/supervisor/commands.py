"""How each process of the service is started: once here, for `lethe up` and for a container."""

import sys
from pathlib import Path
from typing import Literal

WorkerRole = Literal["control", "compute"]

CELERY = (sys.executable, "-m", "celery", "-A", "workers.celery_app")
POOLS: dict[WorkerRole, tuple[str, ...]] = {
    # Control tasks wait for the database and the network, never for a processor.
    "control": ("--pool", "threads", "--concurrency", "2"),
    # One task at a time, in this process: the torch work runs in a child of its own.
    "compute": ("--pool", "solo", "--concurrency", "1"),
}


def api_command(host: str, port: int) -> list[str]:
    """Return the command of the HTTP service. It keeps no access log: a path may name a person."""
    uvicorn = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"]
    return [*uvicorn, "--host", host, "--port", str(port), "--no-access-log"]


def worker_command(role: WorkerRole, name: str) -> list[str]:
    """Return the command of one worker; `name` tells it from others on the same machine."""
    options = ("--queues", role, "--hostname", f"{name}@%h", *POOLS[role])
    # State is in the database, so workers need not know of each other.
    return [*CELERY, "worker", *options, "--without-gossip", "--without-mingle"]


def beat_command(schedule: Path) -> list[str]:
    """Return the command of the one process that rings the periodic tasks."""
    # No pid file: one left by a killed beat would keep the next from starting.
    return [*CELERY, "beat", "--schedule", str(schedule), "--pidfile="]
