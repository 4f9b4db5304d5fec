"""The doorbell: Celery messages that say "look again", never what to do.

Wake-ups are collected on the session and sent after its commit, ids only (DESIGN decisions 1, 2).
A lost message loses nothing, since the sweep rings again for whatever the rows say is due.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session

log = structlog.get_logger()

Task = Literal[
    "advance", "advance_run", "run_step", "control_step", "keep_promises", "sequence_log"
]
CONTROL, COMPUTE = "control", "compute"
QUEUES: Mapping[str, str] = {
    "advance": CONTROL,
    "advance_run": CONTROL,
    "control_step": CONTROL,
    "keep_promises": CONTROL,
    "sweep": CONTROL,
    "watch_clocks": CONTROL,
    "sequence_log": CONTROL,
    "run_step": COMPUTE,
}
DAY_SECONDS = 24 * 3600


class Bell(NamedTuple):
    """One wake-up: a task's name and the id of the row to look at."""

    task: Task
    row: UUID | None


class Doorbell(Protocol):
    """Whatever can send wake-ups: Celery in the service, a list in tests."""

    def send(self, bell: Bell) -> None:
        """Send one wake-up; never raises."""


def ring(session: Session, task: Task, row: UUID | None = None) -> None:
    """Ask for a wake-up once this session's transaction has committed."""
    session.info.setdefault("bells", {})[Bell(task, row)] = None


def take_bells(session: Session) -> list[Bell]:
    """Return the wake-ups collected so far, each once, and forget them."""
    return list(session.info.pop("bells", {}))


def celery_app(broker_url: str) -> Celery:
    """Build the Celery application with the settings that DESIGN decision 1 fixes."""
    app = Celery("lethe", broker=broker_url)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        broker_transport_options={
            "visibility_timeout": DAY_SECONDS,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
        },
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        task_default_queue=CONTROL,
        task_routes={f"lethe.{task}": {"queue": queue} for task, queue in QUEUES.items()},
        timezone="UTC",
    )
    return app


class CeleryDoorbell:
    """Rings through Celery; a broker that does not answer is logged and left to the sweep."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def send(self, bell: Bell) -> None:
        """Send one wake-up; a broker failure is logged, not raised."""
        args = [] if bell.row is None else [str(bell.row)]
        try:
            self._celery.send_task(f"lethe.{bell.task}", args=args, retry=False)
        except OperationalError:
            log.warning("doorbell_unreachable", task=bell.task)
