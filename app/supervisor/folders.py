"""Where the servers keep their data, and as whom they run.

PostgreSQL refuses to run as root. Root's servers therefore run as the account `lethe`, made when
missing, or as whoever owns their data already; that account must reach the data, and no folder
that was there before gets another mode for it.
"""

import fcntl
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from app.supervisor.errors import FolderInUse, FolderUnusable
from app.supervisor.processes import SELF, Account

ACCOUNT = "lethe"
SHARED_DATA = Path("/var/lib/lethe")


def default_var(folder: Path = Path("var")) -> Path:
    """Return `folder` in full, or its stand-in under /var/lib/lethe where it will not do.

    It will not do for root below a private folder, such as /root: the servers' account could not
    reach it. The stand-in's name is a digest of the folder's, so that each has its own.
    """
    full = folder.resolve()
    if os.geteuid() != 0 or barrier(full, _owner_of_servers(full)) is None:
        return full
    return SHARED_DATA / hashlib.sha256(os.fsencode(full)).hexdigest()[:12]


def prepare_var(var: Path) -> Account:
    """Make `var` and return whom the servers run as on it.

    Raises:
        FolderUnusable: it cannot be made or written, the servers' account cannot reach it, or its
            data belong to somebody else.
    """
    try:
        _make_passable(var)
    except OSError as error:
        raise FolderUnusable(f"The folder {var} cannot be made: {error.strerror}.") from error
    if not os.access(var, os.W_OK | os.X_OK):
        raise FolderUnusable(f"The folder {var} cannot be written.")
    if os.geteuid() != 0:
        data = var / "postgres"
        if data.exists() and data.stat().st_uid != os.geteuid():
            raise FolderUnusable(f"The data in {data} belong to another user.")
        return SELF
    account = _owner_of_servers(var)
    blocking = barrier(var, account)
    if blocking is not None:
        raise FolderUnusable(
            f"PostgreSQL does not run as root, and its own account cannot pass through {blocking}.",
            advice="Name a folder outside it with --var, or run as an ordinary user.",
        )
    return account


def barrier(path: Path, account: Account) -> Path | None:
    """Return the first folder on the way to `path`, itself included, that bars the account.

    What does not exist yet bars nobody. Judged by owner, group and mode.
    """
    for step in [*reversed(path.parents), path]:
        try:
            status = step.stat()
        except FileNotFoundError:
            return None
        if status.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif status.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return step
    return None


def private_folder(path: Path, account: Account) -> None:
    """Make a folder that only the account can enter, or leave the one that is there."""
    if not path.exists():
        path.mkdir(mode=0o700)
        os.chown(path, account.uid, account.gid)


def reachable_copy(root: Path, parts: Sequence[str], copy: Path, account: Account) -> Path:
    """Return `root` if the account can run the programs in its `parts`, or else a copy that it can.

    The copy holds the parts alone, each at its old place below it. It is made once, and is readable
    whatever the umask of the installation was.
    """
    if account == SELF or all(barrier(root / part, account) is None for part in parts):
        return root
    if not copy.exists():
        _make_passable(copy.parent)
        unfinished = copy.with_name(f"{copy.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in parts:
            shutil.copytree(root / part, unfinished / part, symlinks=True)
        for path in [unfinished, *unfinished.rglob("*")]:
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
        unfinished.rename(copy)
    return copy


@contextmanager
def sole_use(var: Path) -> Iterator[None]:
    """Hold `var` for this process; the kernel lets go when the process dies by any cause.

    Raises:
        FolderInUse: another process holds it.
    """
    with (var / "supervisor.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            message = f"Another Lethe runs on {var}: process {lock.read().strip() or 'unknown'}."
            raise FolderInUse(message) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _make_passable(folder: Path) -> None:
    missing = [path for path in [folder, *folder.parents] if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        # Others may pass through, whatever the umask, since root's servers are others; they may
        # not look around.
        path.chmod(0o711)


def _owner_of_servers(var: Path) -> Account:
    with suppress(FileNotFoundError):
        status = (var / "postgres").stat()
        if status.st_uid != 0:
            return Account(status.st_uid, status.st_gid)
    return _own_account()


def _own_account() -> Account:
    for _ in range(50):
        with suppress(KeyError):
            entry = pwd.getpwnam(ACCOUNT)
            return Account(entry.pw_uid, entry.pw_gid)
        useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
        if useradd is None:
            break
        # It fails while another one holds the lock of the password file; then look again.
        subprocess.run(  # noqa: S603 fixed arguments, no shell
            [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT],
            check=False,
            capture_output=True,
        )
        time.sleep(0.1)
    raise FolderUnusable(
        f"PostgreSQL does not run as root, and the account `{ACCOUNT}` cannot be made for it.",
        advice=f"Make a system account `{ACCOUNT}`, or run as an ordinary user.",
    )
