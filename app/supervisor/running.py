"""The Lethe that runs on a folder already, for a command that works beside it."""

from pathlib import Path

import psycopg

from app.core.errors import AppError
from app.supervisor.environment import development_environment
from app.supervisor.servers import DATABASE, SERVING


class NothingRuns(AppError):
    """No Lethe runs on this folder."""

    slug = "nothing-runs"
    advice = (
        "Start one with `lethe up`, or name the folder of the one that runs with --var; for "
        "servers of your own set LETHE_DATABASE_URL and the other LETHE_* variables."
    )


def running_environment(var: Path) -> dict[str, str]:
    """Return the LETHE_* variables of the `lethe up` or `lethe demo` that runs on `var`.

    All but the URL of its Valkey, whose password is on no disk: whoever uses them can read and
    write what is stored, and ring no bell. Nothing is made in the folder.

    Raises:
        NothingRuns: its database does not answer, or this account cannot read its secrets.
    """
    try:
        sockets = (var / "socket-folder").read_text()
        (var / "keys" / "secrets.json").read_text()
        psycopg.connect(host=sockets, user=SERVING, dbname=DATABASE).close()
    except (OSError, psycopg.OperationalError) as error:
        raise NothingRuns(
            f"No Lethe runs on the folder {var}, or this account may not use it."
        ) from error
    return {
        **development_environment(var),
        "LETHE_DATABASE_URL": f"postgresql+psycopg://{SERVING}@/{DATABASE}?host={sockets}",
    }
