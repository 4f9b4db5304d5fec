import random
import secrets
from pathlib import Path

import pytest

from app.core.config import Settings
from app.core.db import Database
from app.core.testing import RecordingDoorbell
from tests.integration.town import Town
from workers.unlearn.seeds import deterministic


@pytest.fixture(scope="session", autouse=True)
def _workers_environment() -> None:
    """Jobs done in this process compute as a worker's child does, to the same bits."""
    deterministic()


@pytest.fixture(autouse=True)
def _same_keys_in_every_run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draw keys and seeds from the test's name.

    A dataset's key says who is held out and a model's seed where training begins. With secret ones
    a verdict at level alpha would be wrong in one run of 1 / alpha.
    """
    draws = random.Random(request.node.nodeid)
    monkeypatch.setattr(secrets, "token_bytes", lambda count=32: draws.randbytes(count))
    monkeypatch.setattr(secrets, "token_hex", lambda count=32: draws.randbytes(count).hex())


@pytest.fixture
def town(
    database: Database, doorbell: RecordingDoorbell, settings: Settings, tmp_path: Path
) -> Town:
    """The service with nothing in it."""
    folder = tmp_path / "data"
    folder.mkdir()
    return Town(database, doorbell, settings, folder)
