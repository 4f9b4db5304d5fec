"""`lethe demo`: the whole of Lethe on this machine, and the main job played on it."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from app.core.clock import utc_now
from app.supervisor.errors import FolderUnusable
from app.supervisor.folders import default_var, prepare_var, sole_use
from app.supervisor.local import LocalLethe, ending_on_signals, local_lethe
from app.supervisor.servers import stop_leftovers
from demo import job
from demo.story import Story
from lethe.client import Lethe, LetheError

MARK = "lethe-demo"
"""The file that says that a folder is the demo's own, and may be emptied."""

KEPT = frozenset({MARK, "supervisor.lock", "socket-folder", "programs"})
COMPUTE_WORKERS = 2
HEARTBEAT_SECONDS = "0.5"
FAILED = 1


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")
    ] = False,
    var: Annotated[
        Path | None,
        typer.Option(help="Folder for all of it, emptied first. [default: var/demo]"),
    ] = None,
) -> None:
    """Erase one person end to end, on real data, and tell how."""
    began = time.monotonic()
    console = Console(highlight=False)
    folder = default_var(Path("var") / "demo") if var is None else var.resolve()
    _prepare_environment()
    with ending_on_signals():
        empty(folder)
        title = Text("Lethe: a person is erased, all the way into the models", "bold")
        console.print(Rule(title, style="dim"))
        with _running(folder, console) as local, _failing_plainly(folder, console):
            dpo_key = _play(local, folder, console)
            console.print(f"\nAll of it took [bold]{time.monotonic() - began:.0f} seconds[/].")
            _point_to_files(folder, console)
            if keep:
                _keep(local, dpo_key, console)
            else:
                again = "[bold]make demo DEMO_ARGS=--keep[/]"
                console.print(f"It stops now. {again} leaves it on, with these pages:")
                _point_to_pages(local, console)


def empty(folder: Path) -> None:
    """Make the demo's folder, or empty it of what an earlier demo left.

    Raises:
        FolderInUse: A demo runs on it.
        FolderUnusable: It is there and holds something that is not the demo's, or cannot be used.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise FolderUnusable(f"The folder {folder} holds something that is not a demo's.")
    prepare_var(folder)
    (folder / MARK).touch()
    with sole_use(folder):
        stop_leftovers(folder)
        for entry in folder.iterdir():
            if entry.name in KEPT:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _prepare_environment() -> None:
    # The service is on this machine, whatever proxy leads out of it.
    hosts = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1"]
    os.environ["no_proxy"] = ",".join(host for host in hosts if host)
    # A bar moves when a worker beats.
    os.environ.setdefault("LETHE_HEARTBEAT_SECONDS", HEARTBEAT_SECONDS)


@contextmanager
def _running(folder: Path, console: Console) -> Iterator[LocalLethe]:
    with ExitStack() as stack:
        with console.status("Starting") as status:
            local = stack.enter_context(
                local_lethe(folder, port=8000, compute_workers=COMPUTE_WORKERS, tell=status.update)
            )
        processes = ", ".join(local.stack.pids)
        console.print(
            f"  PostgreSQL and Valkey run; so do {processes}.\n  The service is {local.url}"
        )
        yield local


@contextmanager
def _failing_plainly(folder: Path, console: Console) -> Iterator[None]:
    try:
        yield
    except (job.JobFailed, LetheError, httpx.HTTPError, TimeoutError) as error:
        console.print(Text(f"\nThe demo stopped: {error}", style="bold red"))
        console.print(f"The logs are in {folder / 'log'}.", soft_wrap=True)
        raise typer.Exit(FAILED) from error


def _play(local: LocalLethe, folder: Path, console: Console) -> str:
    """Play the job; return the officer's API key."""
    data, papers = folder / "data", folder / "certificate"
    data.mkdir()
    papers.mkdir()
    with Lethe(local.url, local.admin_key.read_text().strip()) as admin:
        api_keys = job.create_api_keys(admin)
    with job.callers(local.url, api_keys) as callers:
        public_keys = local.public_keys.read_bytes()
        Story(console, local.url, callers, data, papers, public_keys).tell(utc_now())
    return api_keys["dpo"]


def _keep(local: LocalLethe, dpo_key: str, console: Console) -> None:
    console.print("It all stays on until Ctrl-C:")
    _point_to_pages(local, console)
    point_to_sign_in(dpo_key, console)
    local.stack.watch()


def point_to_sign_in(dpo_key: str, console: Console) -> None:
    """Show the officer's API key on one line, however narrow the terminal: it is to be copied."""
    told = f"  sign in    with the officer's API key, shown this once: [bold]{dpo_key}[/]"
    console.print(told, soft_wrap=True)


def _point_to_pages(local: LocalLethe, console: Console) -> None:
    console.print(f"  API docs   {local.url}/docs\n  dashboard  {local.url}/dashboard")


def _point_to_files(folder: Path, console: Console) -> None:
    papers = folder / "certificate"
    shown = papers.relative_to(Path.cwd()) if papers.is_relative_to(Path.cwd()) else papers
    console.print(
        f"The certificate, all that checks it and the reports are in {shown}/", soft_wrap=True
    )
