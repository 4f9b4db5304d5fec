"""What `lethe train` asks of a service: data and model registered, indexed, trained, followed.

What is registered already under the names given is used as it is, so the same order can be given
again after a failure, and for each next version.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lethe.client import JsonObject, Lethe, LetheError, wait_for

POLL_SECONDS = 0.5

_ENDS: Final = frozenset({"done", "failed", "cancelled"})
_WORDS: Final = {"index": "indexing", "train_shard": "training", "evaluate": "measuring"}


class OrderInvalid(ValueError):
    """What was asked for does not fit together, or not what is registered; the text says how."""


class TrainingFailed(Exception):
    """The service could not do it; the text says why and what to do next."""


@dataclass(frozen=True, slots=True)
class Data:
    """A file to register, as version `version` of the dataset `name`.

    Attributes:
        uri: where the workers find it.
        format: parquet, csv or jsonl.
        owner: the one column that names whom a record is filed under; None where the dataset is
            registered already.
        aliases: other columns that name the owner.
    """

    name: str
    version: str
    uri: str
    format: str
    owner: JsonObject | None
    aliases: tuple[JsonObject, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What to train on what.

    Attributes:
        model: the model's name.
        description: its recipe and parameters; None where it is registered already.
        data: a file to register before.
        inputs: (dataset, version) of everything to train on.
        layout: shards and slices, where they are not to stay as they are.
    """

    model: str
    description: JsonObject | None
    data: Data | None
    inputs: tuple[tuple[str, str], ...]
    layout: Mapping[str, int]


def train(service: Lethe, order: Order, console: Console) -> JsonObject:
    """Register what is not registered, index what is not indexed, train; return the run.

    Raises:
        OrderInvalid: something is registered otherwise under the same name.
        TrainingFailed: indexing or training failed.
        LetheError, httpx.HTTPError: the service refused or did not answer.
    """
    if order.description is not None:
        _ensure_model(service, order.model, order.description)
    if order.data is not None:
        _ensure_data(service, order.data)
    for name, version in order.inputs:
        _ensure_indexed(service, name, version, console)
    inputs = [{"dataset": name, "version": version} for name, version in order.inputs]
    begun = service.train(order.model, {"inputs": inputs, **order.layout})
    try:
        return _follow(service, begun, order.model, console)
    except (KeyboardInterrupt, httpx.HTTPError):
        console.print(f"The training goes on without this terminal: GET /v1/runs/{begun['id']}")
        raise


def _ensure_model(service: Lethe, name: str, description: JsonObject) -> None:
    try:
        known = service.model(name)
    except LetheError as error:
        if error.status != httpx.codes.NOT_FOUND:
            raise
        service.register_model({"name": name, **description})
        return
    if any(known[part] != description[part] for part in description):
        raise OrderInvalid(
            f"the model {name} is registered with another recipe or other parameters; "
            "give this one a name of its own with --model"
        )


def _ensure_data(service: Lethe, data: Data) -> None:
    try:
        known = service.dataset(data.name)
    except LetheError as error:
        if error.status != httpx.codes.NOT_FOUND:
            raise
        if data.owner is None:
            raise OrderInvalid("name the column of the people with --owner") from error
        known = service.register_dataset(
            {"name": data.name, "owner": data.owner, "aliases": data.aliases}
        )
    if data.owner not in (None, known["owner"]):
        raise OrderInvalid(f"the dataset {data.name} is registered with another owner column")
    body = {"version": data.version, "uri": data.uri, "format": data.format}
    try:
        version = service.dataset_version(data.name, data.version)
    except LetheError as error:
        if error.status != httpx.codes.NOT_FOUND:
            raise
        version = service.add_dataset_version(data.name, body)
    if version["uri"] != data.uri:
        raise OrderInvalid(
            f"{data.name}@{data.version} is registered with another file; "
            f"give this one a version of its own: --dataset {data.name}@VERSION"
        )


def _ensure_indexed(service: Lethe, name: str, version: str, console: Console) -> None:
    state = service.dataset_version(name, version)["state"]
    if state in {"registered", "failed"}:
        _follow(service, service.index(name, version), f"{name}@{version}", console)
    elif state == "indexing":
        wait_for(
            lambda: service.dataset_version(name, version)["state"],
            lambda seen: seen != "indexing",
            timeout_seconds=math.inf,
            poll_seconds=POLL_SECONDS,
        )


def _follow(service: Lethe, begun: JsonObject, what: str, console: Console) -> JsonObject:
    """Show how far a run is until it ends."""
    bars: dict[str, TaskID] = {}
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[parts]}"), TimeElapsedColumn(), console=console,
    ) as progress:  # fmt: skip

        def show() -> JsonObject:
            run = service.run(begun["id"])
            for kind in dict.fromkeys(step["kind"] for step in run["steps"]):
                steps = [step for step in run["steps"] if step["kind"] == kind]
                if kind not in bars:
                    bars[kind] = progress.add_task(f"{_WORDS.get(kind, kind)} {what}", parts="")
                done = sum(step["state"] == "done" for step in steps)
                progress.update(
                    bars[kind],
                    total=len(steps),
                    completed=sum(step["progress"] for step in steps),
                    parts=f"{done} of {len(steps)}" if len(steps) > 1 else "",
                )
            return run

        ended = wait_for(
            show,
            lambda run: run["state"] in _ENDS,
            timeout_seconds=math.inf,
            poll_seconds=POLL_SECONDS,
        )
    if ended["state"] != "done":
        failure = ended["failure"] or {"detail": f"The run was {ended['state']}.", "advice": ""}
        raise TrainingFailed(f"{failure['detail']} {failure['advice']}".strip())
    return ended
