"""All of Lethe on one machine: servers, schema, keys, an administrator's API key, processes."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from app.access.service import authenticate, create_api_key
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import UnauthenticatedError
from app.core.migrations import migrate
from app.core.queue import CeleryDoorbell, celery_app
from app.core.security import Role
from app.core.signing import PUBLIC_KEYS, create_signing_keys
from app.supervisor.environment import development_environment, key_folder, write_secret
from app.supervisor.servers import EmbeddedServers
from app.supervisor.stack import Stack

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class LocalLethe:
    """A Lethe that runs on this machine.

    Attributes:
        url: Where the HTTP service answers.
        admin_key: File with the administrator's API key, mode 0600.
        public_keys: The file `lethe.pub` that a verifier needs.
        stack: The processes.
    """

    url: str
    admin_key: Path
    public_keys: Path
    stack: Stack


@contextmanager
def local_lethe(
    var: Path, *, port: int, compute_workers: int, tell: Callable[[str], None]
) -> Iterator[LocalLethe]:
    """Run everything on the data in `var` while the context is open; leave no process behind.

    Args:
        var: Folder for all data, keys and logs; the same folder again goes on where it ended.
        port: Where the HTTP service listens on loopback; another one where it is in use.
        compute_workers: How many workers train.
        tell: Called with one short line before each step.

    Raises:
        AppError: something cannot start; it says what and what to do.
    """
    tell(f"Starting PostgreSQL and Valkey on {var}")
    with EmbeddedServers(var) as servers:
        tell("Bringing the database up to date")
        migrate(servers.owner_url, servers.app_url)
        environment = {
            **development_environment(var),
            "LETHE_DATABASE_URL": servers.app_url,
            "LETHE_REDIS_URL": servers.redis_url,
        }
        settings = _settings(environment)
        create_signing_keys(settings.signing_keys, settings.log_origin)
        public_keys = settings.signing_keys / PUBLIC_KEYS
        admin_key = _administrator(settings, key_folder(var) / "admin.key")
        tell("Starting the service and its workers")
        with Stack(
            {**os.environ, **environment}, var, port=port, compute_workers=compute_workers
        ) as stack:
            yield LocalLethe(stack.url, admin_key, public_keys, stack)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into SystemExit, and ignore the ones after it.

    So every context closes, and an impatient second Ctrl-C cuts no clean-up short. A signal that
    was ignored before, as nohup does, stays so.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        for other in ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(environment: dict[str, str]) -> Settings:
    given = {name.removeprefix("LETHE_").lower(): value for name, value in environment.items()}
    return Settings.model_validate(given)


def _administrator(settings: Settings, key_file: Path) -> Path:
    doorbell = CeleryDoorbell(celery_app(settings.redis_url.get_secret_value()))
    database = Database(settings.database_url.get_secret_value(), doorbell, pool_size=1)
    try:
        with database.transaction() as session:
            try:
                authenticate(session, key_file.read_text().strip())
            except (FileNotFoundError, UnauthenticatedError):
                _, token = create_api_key(session, "local administrator", Role.ADMIN, utc_now())
                write_secret(key_file, f"{token}\n")
    finally:
        database.dispose()
    return key_file
