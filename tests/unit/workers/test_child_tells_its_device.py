"""A compute worker's heartbeat says what its child trains on, once the child has told."""

import os
import signal
import time
from pathlib import Path

import pytest

from workers.compute import ChildWork
from workers.unlearn.seeds import environment

PATIENCE_SECONDS = 120.0


def test_the_child_tells_what_it_trains_on(tmp_path: Path) -> None:
    work = ChildWork(f"file://{tmp_path}")
    assert work.device() is None
    work.start()
    try:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while work.device() is None:
            if time.monotonic() > give_up:
                pytest.fail("the child has told nothing")
            time.sleep(0.1)
        assert work.device() == environment()["device"]
    finally:
        work.end()
    # What it was stays known while another child starts.
    assert work.device() == environment()["device"]


def test_a_child_that_died_at_its_start_tells_nothing(tmp_path: Path) -> None:
    work = ChildWork(f"file://{tmp_path}")
    pipe = work.start()
    assert work.child_pid is not None
    os.kill(work.child_pid, signal.SIGKILL)
    assert pipe.poll(PATIENCE_SECONDS)
    assert work.device() is None
    work.end()
