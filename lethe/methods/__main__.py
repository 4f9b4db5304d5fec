"""`python -m lethe.methods`: prints the table of methods, or writes it into a file."""

from pathlib import Path
from typing import Annotated

import typer

from lethe.methods import METHODS
from lethe.methods.table import table, with_table


def main(
    write: Annotated[
        Path | None, typer.Option(help="The file to write it into, between its markers.")
    ] = None,
) -> None:
    """Print the table of methods."""
    if write is None:
        typer.echo(table(METHODS.values()))
        return
    write.write_text(with_table(write.read_text(), METHODS))


if __name__ == "__main__":
    typer.run(main)
