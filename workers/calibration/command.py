"""The command `lethe calibrate`: the truth is planted, and the judge is measured.

For a recipe and data, models are made that never saw the people to forget, that were retrained
exactly, that were never unlearned, that only refuse, that collapsed, and that leak one person in
ten. All are then judged as an approximate method's result would be, again and again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Screen

from app.verification.checks import Margins, Verdict
from workers.attacks.suite import Plan
from workers.calibration.judged import Cell, Table, judge_draws, measure
from workers.calibration.planted import HOLDS, People, Truth, plant
from workers.connectors import open_source
from workers.evidence.battery import Limits
from workers.recipes import make_task
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import TrainingDiverged
from workers.unlearn.task import Task

DEFAULT, SHARE = Margins(), Limits().share
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
_HEADERS = (
    "the model",
    "people",
    "draws",
    "pass",
    "fail",
    "undecided",
    "wrong",
    "95 % interval",
    "worst model",
    "usual rule",
)


class _Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    recipe: str
    parameters: Mapping[str, JsonValue]


def calibrate(
    recipe: Annotated[
        Path,
        typer.Argument(
            help='JSON: {"recipe": NAME, "parameters": {...}}', exists=True, dir_okay=False
        ),
    ],
    data: Annotated[
        Path,
        typer.Argument(help="Records, as CSV, JSON lines or Parquet", exists=True, dir_okay=False),
    ],
    subject: Annotated[str, typer.Option(help="Column of the person that a record is of")],
    sizes: Annotated[str, typer.Option(help="Numbers of people to forget")] = "1,5,20,47,200",
    draws: Annotated[int, typer.Option(min=1, help="Verdicts for each model and number")] = 300,
    worlds: Annotated[int, typer.Option(min=1, help="Splits, each with a model per truth")] = 8,
    pool: Annotated[int, typer.Option(min=1, help="People that may be forgotten")] = 240,
    holdout: Annotated[int, typer.Option(min=2, help="People never trained on")] = 1_000,
    alpha: Annotated[float, typer.Option(min=1e-9, max=0.5, help="As LETHE_ALPHA")] = DEFAULT.alpha,
    margin: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="As LETHE_MEMBERSHIP_MARGIN")
    ] = DEFAULT.membership,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="As LETHE_SPARSE_SHARE")] = SHARE,
    power: Annotated[
        float, typer.Option(min=0, max=1, help="As LETHE_SPARSE_POWER")
    ] = DEFAULT.power,
    drop: Annotated[
        float, typer.Option(min=0, max=1, help="As LETHE_UTILITY_DROP")
    ] = DEFAULT.utility_drop,
    full: Annotated[bool, typer.Option(help="Also attacks that train, generate or prompt")] = False,
    seed: Annotated[int, typer.Option(help="Of splits, trainings and draws")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where the table goes as Markdown")] = None,
) -> None:
    """Measure how often the verdict on a model is wrong, on models whose truth is planted."""
    numbers = _numbers(sizes, pool)
    if draws < worlds:
        raise typer.BadParameter(f"{draws} draws leave some of {worlds} worlds without any")
    if out is not None and not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder for {out}: make it first")
    deterministic()
    task, people = _task(recipe), _people(data, subject)
    margins = Margins(membership=margin, alpha=alpha, power=power, utility_drop=drop)
    limits = Limits(alpha=alpha, margin=margin, share=share)
    table: Table = {}
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        bar = progress.add_task("worlds", total=worlds)
        for number in range(worlds):
            with _refusals():
                world = plant(
                    task,
                    people,
                    pool=pool,
                    holdout=holdout,
                    share=share,
                    seed=seed + number,
                    tell=lambda what: progress.update(bar, description=what),
                )
                progress.update(bar, description="measuring")
                measured = measure(world, Plan(full=full, seed=seed))
            progress.update(bar, description="judging")
            judge_draws(
                measured,
                table,
                number=seed + number,
                sizes=numbers,
                draws=_share(draws, worlds, number),
                margins=margins,
                limits=limits,
            )
            progress.advance(bar)
    Console(width=132).print(_screen(table, numbers))
    if out is not None:
        out.write_text(_markdown(table, numbers))


@contextmanager
def _refusals() -> Iterator[None]:
    """Say what is wrong with the recipe or the data, and end; neither says what a record holds."""
    try:
        yield
    except ValidationError as error:
        told = error.errors(include_input=False, include_context=False, include_url=False)
        wrong = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in told)
        raise typer.BadParameter(f"the recipe does not fit: {'; '.join(wrong)}") from None
    except TrainingDiverged as error:
        raise typer.BadParameter(str(error) or TrainingDiverged.__doc__ or "") from None
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from None


def _task(recipe: Path) -> Task:
    with _refusals():
        made = _Recipe.model_validate_json(recipe.read_bytes())
        return make_task(made.recipe, made.parameters)


def _numbers(sizes: str, pool: int) -> list[int]:
    try:
        numbers = sorted({int(one) for one in sizes.split(",")})
    except ValueError:
        raise typer.BadParameter("--sizes are whole numbers with commas between them") from None
    if numbers[0] < 1:
        raise typer.BadParameter("--sizes start at 1: nobody to forget is nothing to judge")
    if numbers[-1] > pool:
        raise typer.BadParameter(f"a pool of {pool} people cannot give {numbers[-1]} to forget")
    return numbers


def _people(data: Path, subject: str) -> People:
    if data.suffix not in _FORMATS:
        raise typer.BadParameter(f"{data.name} is neither CSV, JSON lines nor Parquet")
    source = open_source(data.resolve().as_uri(), _FORMATS[data.suffix])
    rows = [row for batch in source.batches() for row in batch.rows]
    if any(row.get(subject) in (None, "") for row in rows):
        raise typer.BadParameter(f"a record has no {subject}; name the column with --subject")
    _, numbers = np.unique([str(row[subject]) for row in rows], return_inverse=True)
    return People(rows, numbers)


def _share(draws: int, worlds: int, number: int) -> int:
    """Return how many of the draws one of the worlds takes."""
    return draws // worlds + (number < draws % worlds)


def _screen(table: Table, sizes: Sequence[int]) -> Screen:
    screen = Screen(title="How often the verdict is wrong")
    for header in _HEADERS:
        screen.add_column(header, justify="left" if header == _HEADERS[0] else "right")
    for truth in HOLDS:
        for n in sizes:
            screen.add_row(*_cells(truth, n, table[truth, n]), end_section=n == sizes[-1])
    return screen


def _markdown(table: Table, sizes: Sequence[int]) -> str:
    lines = [_line(_HEADERS), _line(["---", *["---:"] * (len(_HEADERS) - 1)])]
    lines += [_line(_cells(truth, n, table[truth, n])) for truth in HOLDS for n in sizes]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(truth: Truth, n: int, cell: Cell) -> list[str]:
    """Return a row: a pass is wrong where data are held, a fail where none ever were."""
    wrong: Verdict = "pass" if HOLDS[truth] else "fail"
    low, high = cell.interval(wrong)
    verdicts: tuple[Verdict, ...] = ("pass", "fail", "inconclusive")
    return [
        truth,
        str(n),
        str(cell.draws),
        *(f"{cell.of(one) / cell.draws:.1%}" for one in verdicts),
        f"{wrong} {cell.of(wrong) / cell.draws:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{cell.worst(wrong):.1%}",
        f"{cell.usual[wrong] / cell.draws:.1%}",
    ]
