"""The command `lethe replay`: an exact run's training repeated offline, digest by digest.

Whoever doubts that an exact method left the records out has a shard trained again, by the same
recipe and seed, on the records that the version's manifest says; where the method did what it
says, every stored state comes out as the same bytes. Nothing that is stored is read or changed.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli import database_session
from app.core.config import Settings, load_settings
from app.core.errors import ConflictError
from app.manifest.rules import ModelJob, SliceRef, TrainShardJob, model_prefix
from app.models import ModelVersion
from app.runs.service import get_run
from app.supervisor.folders import default_var
from app.supervisor.running import running_environment
from lethe.methods import guarantee_of
from workers.artifacts import ArtifactStore
from workers.child import do
from workers.evidence.process import manifest_root
from workers.jobs import training_of
from workers.messages import Done, Failed
from workers.steps import Desk, Result
from workers.unlearn.seeds import deterministic, environment

EQUAL, DIFFERENT, NOT_COMPARABLE = 0, 1, 2

Outcome = Literal["equal", "different", "other records", "not comparable", "not kept"]
MEANING: dict[Outcome, str] = {
    "equal": "the same records gave the same bytes",
    "different": "the same records gave other bytes than those stored",
    "other records": "the sources no longer give the records of the manifest: a later erasure took "
    "some, or a file was changed",
    "not comparable": "trained in another environment, or by another version of the recipe",
    "not kept": "no state is stored for this slice",
}


class ReplayImpossible(ConflictError):
    """The run cannot be replayed."""

    slug = "replay-impossible"
    advice = "Name a finished run by an exact method, or a training; `GET /v1/runs` lists them."


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has trained: by what, and what is stored of it slice by slice."""

    model: ModelJob
    slices: tuple[SliceRef, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one slice of one shard, and the digests of the records it was trained on."""

    shard: int
    slice: int
    records: int
    outcome: Outcome
    manifest: frozenset[bytes] = field(repr=False)


def replay(
    run: Annotated[UUID, typer.Argument(help="The run, as GET /v1/runs names it.")],
    shard: Annotated[
        int | None, typer.Option(min=0, help="One shard alone. [default: all]")
    ] = None,
    var: Annotated[
        Path | None,
        typer.Option(
            envvar="LETHE_VAR",
            help="Folder of the `lethe up` or `lethe demo --keep` that runs, `var` if not named; "
            "not looked at where LETHE_DATABASE_URL is set.",
        ),
    ] = None,
) -> None:
    """Train the shards of an exact run again, offline, and compare every digest.

    Exit status 0: all that is stored came out the same; 1: something did not; 2: not comparable.
    """
    settings = _settings(var)
    console = Console(highlight=False)
    deterministic()
    with database_session(settings) as session:
        past = trained_by(session, settings, run)
    elsewhere = _differences(past.environment, environment())
    if elsewhere:
        console.print(f"Not comparable: it was trained with another {', '.join(elsewhere)}.")
        console.print("Bits are equal in one environment only: replay it on a worker of that kind.")
        raise typer.Exit(NOT_COMPARABLE)
    shards = sorted({one.shard for one in past.slices if shard in (None, one.shard)})
    if not shards:
        raise ReplayImpossible("The version has no such shard.")
    with Progress(console=console) as progress:
        found = [
            slice_
            for one in progress.track(shards, description="training again")
            for slice_ in replay_shard(past, one)
        ]
    _tell(found, console)
    raise typer.Exit(_status({one.outcome for one in found}))


def _settings(var: Path | None) -> Settings:
    """Return the settings of the environment, or of the Lethe that runs on `var`.

    Raises:
        NothingRuns: no database is named, and none answers there.
    """
    if "LETHE_DATABASE_URL" in os.environ:
        return load_settings()
    running = running_environment(default_var() if var is None else var)
    return Settings.model_validate(
        {
            name.removeprefix("LETHE_").lower(): value
            for name, value in (running | os.environ).items()
            if name.startswith("LETHE_")
        }
    )


def trained_by(session: Session, settings: Settings, run_id: UUID) -> Trained:
    """Return what a run has trained.

    Raises:
        RunNotFoundError: there is no such run.
        ReplayImpossible: it trained nothing, has not ended, or its method is not exact.
    """
    run = get_run(session, run_id)
    if run.kind not in {"train", "unlearn"} or run.new_version_id is None:
        raise ReplayImpossible("The run has trained no model version.")
    if guarantee_of(run.method or "") != "exact":
        raise ReplayImpossible(
            "The run's method is not exact: its weights are no function of the records alone."
        )
    version = session.get_one(ModelVersion, run.new_version_id)
    if version.environment is None:
        raise ReplayImpossible("The run has not ended.")
    model, slices = training_of(session, settings, version)
    return Trained(model, slices, version.environment)


def replay_shard(past: Trained, shard: int) -> list[Replayed]:
    """Train one shard again from nothing, in a folder of its own, and compare its slices.

    Raises:
        ReplayImpossible: the training fails here.
    """
    job = TrainShardJob(model=past.model, shard=shard, checkpoints={})
    with tempfile.TemporaryDirectory(prefix="lethe-replay-") as folder:
        store = ArtifactStore(f"file://{folder}")
        told = do(job, Desk(store, lambda _: None, lambda _: None))
        if isinstance(told, Failed):
            raise ReplayImpossible(told.problem["detail"], advice=told.problem["advice"])
        if not isinstance(told, Done):
            raise TypeError("a job ends done or failed")
        again: list[Result] = told.result["slices"]
        prefix = model_prefix(past.model.model_id)
        manifests = [record_digests(store, prefix, one["manifest_digest"]) for one in again]
    stored = [one for one in past.slices if one.shard == shard]
    return compare(stored, again, manifests)


def compare(
    stored: Sequence[SliceRef], again: Sequence[Result], manifests: Sequence[frozenset[bytes]]
) -> list[Replayed]:
    """Compare a shard's slices, in order, with those of its training repeated.

    Args:
        stored: what the version is made of.
        again: the slices of `workers.steps.train`.
        manifests: the digests of the records that each of these was trained on.
    """
    changed, found = False, []
    for old, new, manifest in zip(stored, again, manifests, strict=True):
        changed |= old.manifest_digest not in {None, new["manifest_digest"]}
        outcome = _outcome(old, new, changed)
        found.append(Replayed(old.shard, old.slice, old.records, outcome, manifest))
    return found


def record_digests(store: ArtifactStore, prefix: str, manifest_digest: str) -> frozenset[bytes]:
    """Return the digests of the records of one slice, as its training stored them.

    Raises:
        ArtifactMissing, ArtifactCorrupt: the slice's manifest is gone or damaged.
    """
    listed = store.get_json(prefix, manifest_digest)
    if not isinstance(listed, list):
        raise TypeError("a slice's manifest is a list")
    return frozenset(bytes.fromhex(str(digest)) for digest in listed)


def _outcome(old: SliceRef, new: Result, changed: bool) -> Outcome:
    if old.object_digest is None:
        return "not kept"
    if changed:
        return "other records"
    if old.chain != new["chain"]:
        return "not comparable"
    return "equal" if old.object_digest == new["object_digest"] else "different"


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    return [
        f"{name} ({there.get(name, 'none')}, here {here.get(name, 'none')})"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def _tell(found: Sequence[Replayed], console: Console) -> None:
    table = Table("shard", "slice", "records", "outcome", box=None)
    for one in found:
        table.add_row(str(one.shard), str(one.slice), str(one.records), one.outcome)
    console.print(table)
    for outcome, slices in sorted(Counter(one.outcome for one in found).items()):
        console.print(f"{slices} {outcome}: {MEANING[outcome]}.", soft_wrap=True)
    records = frozenset().union(*(one.manifest for one in found))
    shards = ", ".join(str(shard) for shard in sorted({one.shard for one in found}))
    console.print(f"Merkle root of the {len(records)} records of shard {shards}:", soft_wrap=True)
    console.print(manifest_root(records), soft_wrap=True)


def _status(outcomes: AbstractSet[Outcome]) -> int:
    if outcomes & {"different", "other records"}:
        return DIFFERENT
    return EQUAL if "equal" in outcomes and "not comparable" not in outcomes else NOT_COMPARABLE
