"""A container asks whether the worker in it still beats, not whether any worker does."""

from datetime import timedelta

import pytest

from app.core.clock import utc_now
from app.core.db import Database
from app.health.repository import SILENT_AFTER, worker_alive
from app.models import Worker

NOW = utc_now()
MOMENT = timedelta(seconds=1)


def _beat(database: Database, name: str, role: str, ago: timedelta) -> None:
    with database.transaction() as session:
        session.add(Worker(name=name, role=role, started_at=NOW - ago, heartbeat_at=NOW - ago))


@pytest.mark.parametrize(
    ("name", "role", "ago", "alive"),
    [
        pytest.param("compute@host_1-7", "compute", SILENT_AFTER - MOMENT, True, id="beating"),
        pytest.param("compute@host_1-7", "compute", SILENT_AFTER + MOMENT, False, id="silent"),
        pytest.param("control@host_1-7", "control", MOMENT, False, id="other role"),
        pytest.param("compute@host_2-7", "compute", MOMENT, False, id="other host"),
        pytest.param("compute@host01-7", "compute", MOMENT, False, id="no wildcard"),
        pytest.param("compute@host_10-7", "compute", MOMENT, False, id="longer host name"),
    ],
)
def test_only_the_worker_of_this_role_on_this_host_counts(
    database: Database, name: str, role: str, ago: timedelta, alive: bool
) -> None:
    _beat(database, name, role, ago)
    with database.transaction() as session:
        assert worker_alive(session, "compute", "host_1", NOW) is alive
