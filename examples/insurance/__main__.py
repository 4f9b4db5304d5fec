"""`python -m examples.insurance`: the whole of Lethe on this machine, and the insurer's story."""

import os
import time
from io import StringIO
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from app.core.clock import utc_now
from app.core.errors import AppError
from app.supervisor.folders import default_var
from app.supervisor.local import ending_on_signals, local_lethe
from demo.cli import empty
from demo.job import JobFailed, callers, create_api_keys
from examples.insurance.story import Story
from lethe.client import Lethe, LetheError
from workers.unlearn.seeds import deterministic

HEARTBEAT_SECONDS = "0.5"
FAILED = 1
SCREEN_COLUMNS = 100


def insurance(
    var: Annotated[
        Path | None,
        typer.Option(help="Folder for all of it, emptied first. [default: var/insurance]"),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Save the last screen there, as SVG.")] = None,
) -> None:
    """Erase a customer from a claims model: approximately now, exactly later, certified twice."""
    began = time.monotonic()
    deterministic()
    console = Console(highlight=False)
    shown = Console(highlight=False, record=True, file=StringIO(), width=SCREEN_COLUMNS)
    folder = default_var(Path("var") / "insurance") if var is None else var.resolve()
    _prepare_environment()
    console.print(Rule(Text("Lethe: an insurer forgets a customer", "bold"), style="dim"))
    try:
        with ending_on_signals():
            empty(folder)
            _play(folder, console, shown)
    except (JobFailed, AppError, LetheError, httpx.HTTPError, TimeoutError) as error:
        console.print(Text(f"\nThe example stopped: {error}", style="bold red"))
        console.print(f"The logs are in {folder / 'log'}.", soft_wrap=True)
        raise typer.Exit(FAILED) from error
    if save is not None:
        shown.save_svg(str(save), title="python -m examples.insurance")
    console.print(f"\nAll of it took [bold]{time.monotonic() - began:.0f} seconds[/].")
    console.print(f"Both certificates are in {folder}/certificate-*/", soft_wrap=True)


def _prepare_environment() -> None:
    # The service is on this machine, whatever proxy leads out of it.
    hosts = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1"]
    os.environ["no_proxy"] = ",".join(host for host in hosts if host)
    # A bar moves when a worker beats.
    os.environ.setdefault("LETHE_HEARTBEAT_SECONDS", HEARTBEAT_SECONDS)


def _play(folder: Path, console: Console, shown: Console) -> None:
    (folder / "data").mkdir()
    with (
        console.status("Starting") as status,
        local_lethe(folder, port=8000, compute_workers=1, tell=status.update) as local,
        Lethe(local.url, local.admin_key.read_text().strip()) as admin,
    ):
        status.stop()
        api_keys = create_api_keys(admin)
        with callers(local.url, api_keys) as roles:
            Story(console, shown, local, roles, folder).tell(utc_now())


if __name__ == "__main__":
    typer.run(insurance)
