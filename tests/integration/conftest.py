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


@pytest.fixture
def town(
    database: Database, doorbell: RecordingDoorbell, settings: Settings, tmp_path: Path
) -> Town:
    """The service with nothing in it."""
    folder = tmp_path / "data"
    folder.mkdir()
    return Town(database, doorbell, settings, folder)
