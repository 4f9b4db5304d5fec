"""`lethe train`: a model trained by the service, from one line at a terminal.

It speaks HTTP and nothing else, so it needs neither torch nor the service's settings.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, NoReturn

import httpx
import typer
from rich.console import Console
from rich.table import Table

from lethe.client import JsonObject, Lethe, LetheError
from lethe.training import Data, Order, OrderInvalid, TrainingFailed, train

FAILED, MISUSED = 1, 2
FORMATS: Final = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
ADAPTED: Final = {
    "gpt2": ["c_attn"],
    "gpt_neox": ["query_key_value"],
    "llama": ["q_proj", "v_proj"],
}
"""Model type → the attention projections that get an adapter (Hu et al. 2021, section 4.2)."""


def column(said: str) -> JsonObject:
    """Return a column that names people: NAME:TYPE, or NAME where it is the identifier's type."""
    name, _, kind = said.rpartition(":")
    return {"column": name or kind, "type": kind}


def data_file(said: str, name: str | None, owner: str | None, aliases: Sequence[str]) -> Data:
    """Describe a file; `name` is DATASET@VERSION, by default the file's own name and 1.

    Raises:
        OrderInvalid: there is no such file here, or its format cannot be told.
    """
    uri = said
    if "://" not in said:
        path = Path(said).resolve()
        if not path.exists():
            raise OrderInvalid("there is no such file here; give the URI where the workers find it")
        uri = f"file://{path}"
    file = PurePosixPath(uri)
    kind = next((FORMATS[one] for one in file.suffixes if one in FORMATS), None)
    if kind is None:
        raise OrderInvalid(f"the data's name must end in {', '.join(FORMATS)}")
    dataset, _, version = (name or file.name.partition(".")[0]).partition("@")
    return Data(
        name=dataset,
        version=version or "1",
        uri=uri,
        format=kind,
        owner=None if owner is None else column(owner),
        aliases=tuple(map(column, aliases)),
    )


def parameters(settings: Sequence[str]) -> JsonObject:
    """Return a recipe's parameters from NAME=VALUE; a dot leads into an object, values are JSON.

    A value that is no JSON is text, so `label=y` needs no quotes.

    Raises:
        OrderInvalid: a setting has no `=`, or leads into what is no object.
    """
    made: JsonObject = {}
    for setting in settings:
        path, equals, said = setting.partition("=")
        *parents, name = path.split(".")
        place: object = made
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not equals or not all([*parents, name]) or not isinstance(place, dict):
            raise OrderInvalid("settings are NAME=VALUE, each name an object's or a value's")
        place[name] = _value(said)
    return made


def with_adapters(given: JsonObject) -> JsonObject:
    """Return a language model's parameters with one adapter for each shard switched on.

    Raises:
        OrderInvalid: nobody says which modules get an adapter, and the model type does not tell.
    """
    config = given.get("config")
    kind = config.get("model_type") if isinstance(config, dict) else None
    lora = given.get("lora") or {}
    if "target_modules" not in lora:
        if kind not in ADAPTED:
            raise OrderInvalid('say which modules get an adapter: --set lora.target_modules=["…"]')
        lora = {**lora, "target_modules": ADAPTED[str(kind)]}
    return {**given, "lora": lora}


def main(
    data: Annotated[
        str | None,
        typer.Option(help="Parquet, CSV or JSON lines: a path or URI that the workers can read."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="NAME@VERSION to register it as. [default: its name, 1]")
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(help="COLUMN that names whom a record is filed under, or COLUMN:TYPE."),
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="Another column that names the owner. Repeat.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option(help="DATASET@VERSION that is registered. Repeat.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model's name. [default: the dataset's]")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Describes a new model; GET /v1/recipes lists them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of the recipe, as training.epochs=5. Repeat."),
    ] = None,
    shards: Annotated[int | None, typer.Option(min=1, max=1024, help="SISA: how many.")] = None,
    slices: Annotated[int | None, typer.Option(min=1, max=64, help="SISA: of each shard.")] = None,
    adapters: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Of a language model: as many shards, a LoRA for each."),
    ] = None,
    url: Annotated[
        str, typer.Option(envvar="LETHE_URL", help="Where the service answers.")
    ] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str, typer.Option(envvar="LETHE_API_KEY", help="An engineer's; better not as an option.")
    ] = "",
) -> None:
    """Train a registered model, or register and train one, on data registered or given here."""
    console = Console(highlight=False)
    try:
        order = _order(
            file=None if data is None else data_file(data, dataset, owner, alias or ()),
            inputs=inputs or (),
            model=model,
            description=_description(recipe, settings or (), adapters),
            layout=_layout(shards, slices, adapters),
        )
        if not api_key:
            raise OrderInvalid("set LETHE_API_KEY to an engineer's API key")
        with Lethe(url, api_key) as service:
            run = train(service, order, console)
            _tell(run, service.model(order.model), console)
    except OrderInvalid as error:
        _end(str(error), MISUSED)
    except (TrainingFailed, LetheError) as error:
        _end(str(error), FAILED)
    except httpx.HTTPError as error:
        _end(f"no answer ({type(error).__name__}); set LETHE_URL to the service's address", FAILED)


def _order(
    *,
    file: Data | None,
    inputs: Sequence[str],
    model: str | None,
    description: JsonObject | None,
    layout: dict[str, int],
) -> Order:
    named = [_pair(one) for one in inputs]
    if file is not None:
        named.append((file.name, file.version))
    if not named:
        raise OrderInvalid("give a file with --data, or what is registered with --inputs")
    if model is None and description is None:
        raise OrderInvalid("name a registered model with --model, or describe one with --recipe")
    return Order(model or named[-1][0], description, file, tuple(named), layout)


def _description(
    recipe: str | None, settings: Sequence[str], adapters: int | None
) -> JsonObject | None:
    if recipe is None:
        if settings or adapters:
            raise OrderInvalid("--set and --adapters describe a model: name its --recipe too")
        return None
    given = parameters(settings)
    return {"recipe": recipe, "parameters": with_adapters(given) if adapters else given}


def _layout(shards: int | None, slices: int | None, adapters: int | None) -> dict[str, int]:
    if shards and adapters:
        raise OrderInvalid("--adapters says how many shards there are: leave --shards out")
    given = {"shards": shards or adapters, "slices": slices}
    return {name: number for name, number in given.items() if number}


def _tell(run: JsonObject, model: JsonObject, console: Console) -> None:
    made = next(one for one in model["versions"] if one["version"] == run["new_version"])
    accuracy = made["metrics"]["accuracy"]
    told = Table.grid(padding=(0, 2))
    told.add_row("model", f"{model['name']}, version {made['version']}")
    told.add_row("layout", f"shards: {made['shards']}, slices of each: {made['slices']}")
    told.add_row("manifest", made["manifest_digest"])
    told.add_row("accuracy", f"{_share(accuracy['retain'])} on records it was trained on")
    told.add_row("", f"{_share(accuracy['holdout'])} on people it never saw")
    told.add_row("run", run["id"])
    console.print(told)


def _share(accuracy: float | None) -> str:
    return "not measured" if accuracy is None else f"{accuracy:.1%}"


def _end(message: str, status: int) -> NoReturn:
    typer.echo(f"lethe: {message}", err=True)
    raise typer.Exit(status)


def _value(said: str) -> object:
    try:
        value: object = json.loads(said)
    except ValueError:
        return said
    return value


def _pair(said: str) -> tuple[str, str]:
    name, _, version = said.partition("@")
    return name, version or "1"
