"""What the demo shows: the service's JSON as tables and bars. No calls, no decisions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Literal, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from demo.data import DemoDataset
from demo.job import Runs, undecided
from demo.models import DemoModel
from lethe.client import JsonObject

COLOURS = {
    "pass": "green",
    "exact": "green",
    "done": "green",
    "inconclusive": "yellow",
    "approximate": "yellow",
    "committed": "yellow",
    "fail": "red",
}


class RunBars:
    """A progress bar for each run, growing while the context is open; call it with the runs."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("  {task.description}", style="bold"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[stands]}", style="dim"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, runs: Runs) -> None:
        """Show where the runs stand."""
        for name, run in runs.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(f"{name:<14}", total=1.0, stands="")
            task = self._progress.tasks[self._tasks[name]]
            # A later stage adds steps; a bar that goes back would tell of work undone.
            done = max(task.completed, _done(run))
            self._progress.update(task.id, completed=done, stands=_stands(run))


def datasets_table(datasets: Sequence[DemoDataset]) -> Table:
    """Show what the datasets are."""
    table = plain_table("Dataset", "What it holds", ">Records", "File")
    for one in datasets:
        table.add_row(one.name, one.content, f"{one.records:,}", one.format)
    return table


def models_table(models: Sequence[DemoModel], registered: Sequence[JsonObject]) -> Table:
    """Show what was trained: how many records, and accuracy on people never trained on."""
    table = plain_table("Model", "What it is", ">Trained on", ">Accuracy")
    for model, answer in zip(models, registered, strict=True):
        metrics = answer["versions"][-1]["metrics"]
        table.add_row(
            f"{model.name} v{answer['versions'][-1]['version']}",
            model.content,
            f"{metrics['records']['retain']:,}",
            f"{metrics['accuracy']['holdout']:.1%}",
        )
    return table


def trace_table(trace: JsonObject) -> Table:
    """Show where a trace found the person."""
    table = plain_table("Found in", ">Records", "Where")
    for found in trace["datasets"]:
        table.add_row(f"dataset {found['dataset']}", str(found["records"]), "the file itself")
    for found in trace["models"]:
        table.add_row(
            f"model {found['model']} v{found['version']}",
            str(found["records"]),
            "; ".join(_place(hit) for hit in found["shards"]),
        )
    return table


def plan_table(plan: JsonObject) -> Table:
    """Show for each artifact the methods considered, the chosen one first, with the reasons."""
    table = plain_table("Method", "Guarantee", "Why, or why not")
    for action in plan["actions"]:
        table.add_row(Text(action["artifact"], "bold"))
        candidates = sorted(action["candidates"], key=lambda one: not one["chosen"])
        for one in candidates:
            chosen = one["chosen"]
            table.add_row(
                Text(f"{'●' if chosen else '○'} {one['method']}", "" if chosen else "dim"),
                coloured(one["guarantee"]) if chosen else Text(one["guarantee"], "dim"),
                Text(one["reason"], "" if chosen else "dim"),
                end_section=one is candidates[-1],
            )
    return table


def outcome_table(request: JsonObject, deployments: Sequence[JsonObject]) -> Table:
    """Show how each action ended, and what is served now."""
    versions = {one["model"]: one for one in deployments}
    table = plain_table("Artifact", "Method", "Ended", "Now")
    for action in request["actions"]:
        name = action["artifact"].partition("@")[0]
        now = "no such record left"
        if action["kind"] == "model_version":
            now = f"{versions[name]['name']} serves v{versions[name]['version']}"
        table.add_row(action["artifact"], action["method"], coloured(action["state"]), now)
    return table


def certificate_table(statement: Mapping[str, JsonObject]) -> Table:
    """Show the heads of a certificate's statement."""
    predicate = statement["predicate"]
    request, done = predicate["request"], predicate["done"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    methods = ", ".join(
        f"{one['artifact']}: {one['method']} ({one['guarantee']})"
        for one in done
        if one["kind"] == "model_version"
    )
    promises = "; ".join(
        f"{one['promise'].replace('_', ' ')} of {one['artifact']} by {day(one['due_at'])}"
        for one in predicate["commitments"]
    )
    found = sum(one["records"] for one in predicate["found"] if one["kind"] == "dataset_version")
    within = "within" if request["within_clock"] else "after"
    table.add_row("asked", f"{request['regime'].upper()}, {request['ground'].replace('_', ' ')}")
    table.add_row("outcome", f"{request['outcome']}, {within} the clock")
    table.add_row("found", f"{found} records, {len(predicate['found'])} artifacts")
    table.add_row("done", methods)
    table.add_row("destroyed", f"{sum(len(one['destroyed']) for one in done)} objects and files")
    table.add_row("promised", promises)
    table.add_row("digests", f"{len(statement['subject'])} objects after, all by SHA-256")
    return table


def day(moment: str) -> str:
    """Write the date of an RFC 3339 time, such as 21 Dec 2026."""
    return f"{datetime.fromisoformat(moment):%-d %b %Y}"


def plain_table(*columns: str) -> Table:
    """Return a table without lines; a column whose name begins with > is aligned right."""
    table = Table(box=SIMPLE_HEAD, header_style="dim", show_edge=False, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column[0] == ">" else "left"
        table.add_column(column.lstrip(">"), justify=justify)
    return table


def coloured(word: str, *, bold: bool = False) -> Text:
    """Return a word of a state, a guarantee or a verdict in its colour."""
    colour = COLOURS.get(word, "dim")
    return Text(word, f"bold {colour}" if bold else colour)


def _place(hit: JsonObject) -> str:
    return f"shard {hit['shard']}, slice {', '.join(map(str, hit['slices']))}"


def _done(run: JsonObject) -> float:
    if run["state"] == "done":
        return 1.0
    shares = [1.0 if one["state"] == "done" else one["progress"] for one in run["steps"]]
    return float(sum(shares) / len(shares)) if shares else 0.0


def _stands(run: JsonObject) -> str:
    if undecided(run):
        return "waits for the DPO"
    working = [one for one in run["steps"] if one["state"] == "running"]
    if run["state"] == "done" or not working:
        return str(run["state"])
    return str(working[0]["kind"]).replace("_", " ")
