"""Making a manifest: which records a new model version is trained on, where in it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.execution.rules import NewStep
from app.manifest import repository
from app.manifest.rules import shard_of, slice_of
from app.models import Action, DatasetVersion, Model, ModelSlice, ModelVersion, Run
from lethe.methods import METHODS


def lay_out(session: Session, run: Run, now: datetime) -> list[NewStep]:
    """Make what a run starts from, and return its first steps.

    A run that trains gets its new version, with everyone left out who is suppressed at this moment;
    suppressions wait until this transaction has ended, so nobody falls between.
    """
    match run.kind:
        case "train":
            return _lay_out_training(session, run, now)
        case "unlearn":
            return _lay_out_unlearning(session, run, now)
        case _:
            return [(run.kind, "all", {})]


def successor(session: Session, version_id: UUID) -> ModelVersion:
    """Return the live version that has taken a version's place, or the version itself."""
    return repository.successor(session, session.get_one(ModelVersion, version_id))


def incomplete(session: Session, run: Run) -> ModelVersion | None:
    """Return the version that a run has made, or what replaced it, if training must complete it."""
    if run.new_version_id is None:
        return None
    version = successor(session, run.new_version_id)
    return version if repository.incomplete_shards(session, version.id) else None


def is_given_up(session: Session, run: Run) -> bool:
    """Say whether the version that a run is to unlearn from failed: it was never anybody's."""
    if run.base_version_id is None:
        return False
    base = successor(session, run.base_version_id)
    return base.state in {"failed", "destroyed"} and base.promoted_at is None


def _lay_out_training(session: Session, run: Run, now: datetime) -> list[NewStep]:
    model = session.get_one(Model, run.model_id)
    version = _new_version(session, run, model, None, now)
    trained_on = [session.get_one(DatasetVersion, one) for one in run.parameters["inputs"]]
    repository.add_inputs(session, version, trained_on, now)
    repository.lock_manifests(session)
    repository.exclude_suppressed(session, version.id)
    return [_shard_step("train_shard", shard) for shard in range(version.shards)]


def _lay_out_unlearning(session: Session, run: Run, now: datetime) -> list[NewStep]:
    base = repository.successor(session, session.get_one(ModelVersion, run.base_version_id))
    version = _new_version(session, run, session.get_one(Model, base.model_id), base, now)
    trained_on = [one for one, _ in repository.inputs(session, base.id)]
    repository.add_inputs(session, version, trained_on, now)
    repository.add_edge(session, base.artifact_id, version.artifact_id, "replaced_by", run.id, now)
    repository.lock_manifests(session)
    way = METHODS[run.method or ""].way
    if way == "steps":
        return _lay_out_steps(session, run, base, version)
    if way == "remove":
        # What was removed before is not in the stored state, though its suppression be lifted.
        repository.copy_exclusions(session, base.id, version.id)
    repository.exclude_suppressed(session, version.id)
    first_hit = _first_hit(session, base, version)
    if way == "switch_off" and not _leaves_any(session, base, first_hit):
        run.method, way = "sisa", "train"
        version.method = "sisa"
    match way:
        case "switch_off":
            repository.copy_slices(session, base.id, version.id, first_hit)
            _switch_off(session, base, version, first_hit)
            return []
        case "remove":
            repository.copy_slices(session, base.id, version.id, first_hit)
            return [_shard_step("remove", shard) for shard in sorted(first_hit)]
        case "train":
            shards = sorted(first_hit.keys() | repository.incomplete_shards(session, base.id))
            if run.method == "retrain":
                shards = list(range(version.shards))
            repository.copy_slices(session, base.id, version.id, shards)
            return [_shard_step("train_shard", shard) for shard in shards]


def _lay_out_steps(
    session: Session, run: Run, base: ModelVersion, version: ModelVersion
) -> list[NewStep]:
    """An approximate method proves nothing, so its version still counts as holding the records."""
    repository.copy_exclusions(session, base.id, version.id)
    requests = repository.requests_of_run(session, run.id)
    forget = repository.suppressed_records(session, requests, base.id)
    last_on = {
        one.shard: one.slice
        for one in repository.slices(session, base.id)
        if one.object_digest is not None
    }
    # What serves has seen nothing of a slice that is switched off.
    hit = {
        shard_of(bucket, base.shards)
        for _, _, bucket in forget
        if bucket < base.holdout_from
        and slice_of(bucket, base.shards, base.slices)
        <= last_on.get(shard_of(bucket, base.shards), -1)
    }
    repository.copy_slices(session, base.id, version.id, hit)
    return [_shard_step("unlearn", shard) for shard in sorted(hit)]


def _first_hit(session: Session, base: ModelVersion, version: ModelVersion) -> dict[int, int]:
    """Return shard → first slice that holds a record which the version leaves out, its base not."""
    first: dict[int, int] = {}
    for _, _, bucket in repository.newly_excluded(session, base, version.id):
        shard, piece = shard_of(bucket, base.shards), slice_of(bucket, base.shards, base.slices)
        first[shard] = min(piece, first.get(shard, piece))
    return first


def _leaves_any(session: Session, base: ModelVersion, first_hit: Mapping[int, int]) -> bool:
    """Say whether anything is left to serve once the hit slices are switched off."""
    return any(
        one.object_digest is not None
        and one.records
        and one.slice < first_hit.get(one.shard, base.slices)
        for one in repository.slices(session, base.id)
    )


def _switch_off(
    session: Session, base: ModelVersion, version: ModelVersion, first_hit: Mapping[int, int]
) -> None:
    """Leave of each hit shard the slices before the first hit one: what they made is clean."""
    repository.put_slices(
        session,
        [
            ModelSlice(
                model_version_id=version.id,
                shard=one.shard,
                slice=one.slice,
                chain=one.chain if one.slice < first_hit[one.shard] else "switched_off",
                object_digest=one.object_digest if one.slice < first_hit[one.shard] else None,
                manifest_digest=one.manifest_digest if one.slice < first_hit[one.shard] else None,
                records=one.records if one.slice < first_hit[one.shard] else 0,
            )
            for one in repository.slices(session, base.id)
            if one.shard in first_hit
        ],
    )


def _shard_step(kind: str, shard: int) -> NewStep:
    return kind, f"shard-{shard:04d}", {"shard": shard}


def _new_version(
    session: Session, run: Run, model: Model, base: ModelVersion | None, now: datetime
) -> ModelVersion:
    number = repository.next_version(session, model)
    artifact = repository.add_artifact(session, model.name, str(number), now)
    # A version that was trained elsewhere has no shards to keep to.
    layout = model if base is None or base.method == "external" else base
    version = ModelVersion(
        model_id=model.id,
        version=number,
        artifact_id=artifact.id,
        state="training",
        method=run.method or run.kind,
        base_version_id=None if base is None else base.id,
        run_id=run.id,
        shards=layout.shards,
        slices=layout.slices,
        holdout_from=layout.holdout_from,
        created_at=now,
    )
    session.add(version)
    session.flush()
    run.base_version_id, run.new_version_id = version.base_version_id, version.id
    return version


def save_shard(session: Session, run: Run, result: dict[str, Any]) -> None:
    """Write down what a shard of a run's new version is made of."""
    repository.put_slices(
        session,
        [
            ModelSlice(
                model_version_id=run.new_version_id,
                shard=result["shard"],
                slice=one["slice"],
                chain=one["chain"],
                object_digest=one["object_digest"],
                manifest_digest=one["manifest_digest"],
                records=one["records"],
            )
            for one in result["slices"]
        ],
    )


def save_unlearned(session: Session, run: Run, result: dict[str, Any]) -> None:
    """Write down what an approximate method made of a shard.

    Slices before the first one with a record to forget keep their clean checkpoint; the state after
    a later slice has seen those records and is not carried over.
    """
    if run.base_version_id is None:
        message = "an unlearning run has a version before"
        raise ValueError(message)
    old = [
        one
        for one in repository.slices(session, run.base_version_id)
        if one.shard == result["shard"]
    ]
    last = max(one.slice for one in old)
    kept = [
        {
            "slice": one.slice,
            "chain": one.chain,
            "records": one.records,
            "object_digest": one.object_digest if one.slice < result["first_slice"] else None,
            "manifest_digest": one.manifest_digest if one.slice < result["first_slice"] else None,
        }
        for one in old
        if one.slice < last
    ]
    weights = {
        "slice": last,
        "chain": f"{run.method}:{result['object_digest']}",
        "records": old[-1].records,
        "object_digest": result["object_digest"],
        "manifest_digest": None,
    }
    save_shard(session, run, {"shard": result["shard"], "slices": [*kept, weights]})


def save_removed(session: Session, run: Run, result: dict[str, Any]) -> None:
    """Write down what a removal made of a shard; slices before the first hit one stay."""
    if run.base_version_id is None:
        message = "a removal has a version before"
        raise ValueError(message)
    clean = {
        one.slice: {
            "slice": one.slice,
            "chain": one.chain,
            "records": one.records,
            "object_digest": one.object_digest,
            "manifest_digest": one.manifest_digest,
        }
        for one in repository.slices(session, run.base_version_id)
        if one.shard == result["shard"] and one.slice < result["first_slice"]
    }
    slices = [clean.get(one["slice"], one) for one in result["slices"]]
    save_shard(session, run, {"shard": result["shard"], "slices": slices})


def leaves_out(session: Session, run: Run, action: Action) -> bool:
    """Say whether an exact run's version replaces the action's and leaves its records out."""
    if run.new_version_id is None or action.model_version_id is None:
        return False
    version = session.get_one(ModelVersion, run.new_version_id)
    return successor(session, action.model_version_id).id == version.id and not (
        repository.still_in_manifest(session, action.request_id, version)
    )
