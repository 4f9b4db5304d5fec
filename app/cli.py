"""The command `lethe`: runs the service's processes, and makes its keys.

Commands that need torch are not here; they come from the entry points `lethe.commands`, whose
functions are loaded only when they are called.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.access.service import create_api_key
from app.core.clock import utc_now
from app.core.config import Settings, load_settings
from app.core.db import Database
from app.core.errors import AppError
from app.core.migrations import MigrationRefused
from app.core.migrations import migrate as migrate_database
from app.core.plain_text import Label
from app.core.queue import CeleryDoorbell, celery_app
from app.core.security import Role
from app.core.signing import PUBLIC_KEYS, create_signing_keys
from app.health.repository import worker_alive
from app.supervisor.commands import WorkerRole, api_command, beat_command, worker_command
from app.supervisor.folders import default_var
from app.supervisor.local import ending_on_signals, local_lethe
from lethe.train import main as train
from lethe.verify import main as verify

MISUSED = 2

app = typer.Typer(
    help="Carries a person's request to be erased all the way into the trained models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Keys that sign, and keys that let callers in.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.command("verify")(verify)
app.command("train")(train)


@app.command()
def up(
    var: Annotated[
        Path | None,
        typer.Option(envvar="LETHE_VAR", help="Folder for all data, keys and logs. [default: var]"),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Another if it is taken.")] = 8000,
    compute_workers: Annotated[int, typer.Option(min=1, help="How many workers train.")] = 1,
) -> None:
    """Run everything on this machine, servers included, until Ctrl-C."""
    folder = default_var() if var is None else var
    with (
        ending_on_signals(),
        local_lethe(folder, port=port, compute_workers=compute_workers, tell=typer.echo) as local,
    ):
        typer.echo(
            f"Lethe runs. Ctrl-C ends it; its data stay.\n"
            f"  API docs     {local.url}/docs\n"
            f"  dashboard    {local.url}/dashboard\n"
            f"  admin key    {local.admin_key}\n"
            f"  public keys  {local.public_keys}"
        )
        local.stack.watch()


@app.command()
def serve() -> None:
    """Run the HTTP service alone, on LETHE_HOST and LETHE_PORT."""
    settings = load_settings()
    _become(api_command(settings.host, settings.port))


@app.command()
def worker(role: WorkerRole) -> None:
    """Run one worker: `control` moves requests on, `compute` trains."""
    load_settings()
    if role == "compute" and find_spec("torch") is None:
        _end("A compute worker needs torch: pip install 'lethe[worker]'.")
    _become(worker_command(role, f"{role}-{os.getpid()}"))


@app.command()
def healthcheck(role: WorkerRole) -> None:
    """Fail unless a worker on this host wrote its heartbeat within the last minute."""
    with database_session(load_settings()) as session:
        alive = worker_alive(session, role, socket.gethostname(), utc_now())
    if not alive:
        typer.echo(f"No {role} worker on this host was heard from within a minute.", err=True)
        raise typer.Exit(1)


@app.command()
def beat() -> None:
    """Run the one process that rings the periodic tasks."""
    var = load_settings().var
    var.mkdir(parents=True, exist_ok=True)
    _become(beat_command(var / "beat-schedule"))


@app.command()
def migrate() -> None:
    """Bring the database up to date, as the role of LETHE_OWNER_DATABASE_URL."""
    settings = load_settings()
    if settings.owner_database_url is None:
        raise MigrationRefused("LETHE_OWNER_DATABASE_URL is not set.")
    migrate_database(
        settings.owner_database_url.get_secret_value(), settings.database_url.get_secret_value()
    )
    typer.echo("The database is up to date.")


@keys.command("init")
def keys_init() -> None:
    """Make the signing keys that are missing; never replace one."""
    settings = load_settings()
    create_signing_keys(settings.signing_keys, settings.log_origin)
    public_keys = settings.signing_keys / PUBLIC_KEYS
    typer.echo(f"Signing keys are in {settings.signing_keys}. Give auditors {public_keys}.")


def _label(name: str) -> str:
    try:
        return TypeAdapter[str](Label).validate_python(name)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"]) from error


@keys.command("create")
def keys_create(
    role: Annotated[Role, typer.Option(help="What the key lets its holder do.")],
    name: Annotated[str, typer.Option(help="Who holds it.", callback=_label)],
) -> None:
    """Make an API key and print it, this once."""
    with database_session(load_settings()) as session:
        _, token = create_api_key(session, name, role, utc_now())
    typer.echo(token)


def main() -> None:
    """Run the command line; say in one sentence what is wrong with the configuration."""
    own = set(typer.main.get_group(app).commands)
    for point in entry_points(group="lethe.commands"):
        # No package takes the place of a command of Lethe's own.
        if point.name not in own:
            _add_lazily(point)
    try:
        app()
    except ValidationError as error:
        _end("; ".join(_sentences(error)))
    except AppError as error:
        _end(f"{error.detail} {error.next_step}")


def _become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606 our own command, no shell


def _end(message: str) -> NoReturn:
    typer.echo(f"lethe: {message}", err=True)
    raise SystemExit(MISUSED)


def _sentences(error: ValidationError) -> Iterator[str]:
    # The values stay out of it: they may be secrets.
    for one in error.errors(include_input=False, include_context=False, include_url=False):
        names = "".join(f"LETHE_{str(part).upper()}: " for part in one["loc"])
        yield names + one["msg"].removeprefix("Value error, ")


@contextmanager
def database_session(settings: Settings) -> Iterator[Session]:
    """Open one transaction as the service has it; end the command where the database refuses."""
    doorbell = CeleryDoorbell(celery_app(settings.redis_url.get_secret_value()))
    database = Database(settings.database_url.get_secret_value(), doorbell, pool_size=1)
    try:
        with database.transaction() as session:
            yield session
    except SQLAlchemyError as error:
        _end(f"The database refused ({type(error).__name__}). Set LETHE_DATABASE_URL; migrate it.")
    finally:
        database.dispose()


def _add_lazily(point: EntryPoint) -> None:
    def forward(context: typer.Context) -> None:
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command()(_load(point))
        alone(context.args, prog_name=f"lethe {point.name}")

    app.command(
        point.name,
        help=f"`lethe {point.name} --help` tells.",
        # Everything after the name is the other command's, --help too.
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
    )(forward)


def _load(point: EntryPoint) -> Callable[..., object]:
    try:
        command: Callable[..., object] = point.load()
    except ModuleNotFoundError as error:
        _end(f"`lethe {point.name}` needs {error.name}: pip install 'lethe[worker,local]'.")
    return command


if __name__ == "__main__":
    main()
