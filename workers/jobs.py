"""From a claimed step to its job: everything that the work needs, read from Postgres now.

Keys and file names travel from here to the worker's own child through a pipe; the broker never
carries more than the step's id.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from app.core.config import Settings
from app.core.security import unwrap_key
from app.execution import repository as execution
from app.execution.rules import Claim
from app.manifest import repository
from app.manifest.rules import (
    DestroyJob,
    EraseJob,
    EvaluateJob,
    IndexJob,
    Job,
    ModelJob,
    Removal,
    RemoveJob,
    SliceRef,
    SourceJob,
    TrainShardJob,
    UnlearnJob,
    erased_uri,
    model_prefix,
    shard_of,
    slice_of,
)
from app.models import Dataset, DatasetVersion, Model, ModelVersion, Run, Step
from app.promotion import repository as promotion
from lethe.methods import EXACT, guarantee_of


def job_of(session: Session, settings: Settings, claimed: Claim) -> Job:
    """Return the job of a step."""
    step = execution.step(session, claimed.step_id)
    run = session.get_one(Run, step.run_id)
    return {
        "index": _index,
        "train_shard": _train,
        "unlearn": _unlearn,
        "remove": _remove,
        "evaluate": _evaluate,
        "erase_records": _erase,
        "destroy": _destroy,
    }[step.kind](session, settings, run, step)


def training_of(
    session: Session, settings: Settings, version: ModelVersion
) -> tuple[ModelJob, tuple[SliceRef, ...]]:
    """Return by what and on what a version is trained, and what is stored of it."""
    return _model(session, settings, version), _slices(session, version.id)


def _index(session: Session, settings: Settings, run: Run, _step: Step) -> Job:
    version = session.get_one(DatasetVersion, run.dataset_version_id)
    dataset = session.get_one(Dataset, version.dataset_id)
    return IndexJob(
        dataset_version_id=version.id,
        uri=version.uri,
        format=version.format,
        owner=dataset.owner,
        aliases=tuple(dataset.aliases),
        mentions=tuple(dataset.mentions),
        dataset_key=_key(settings, dataset),
        subject_secret=settings.subject_secret.get_secret_value().encode(),
        default_phone_region=settings.default_phone_region,
    )


def _train(session: Session, settings: Settings, run: Run, step: Step) -> Job:
    version = session.get_one(ModelVersion, run.new_version_id)
    shard = step.parameters["shard"]
    # Retraining from scratch still goes on from what it stored itself before a crash: a checkpoint
    # is found by what it was trained on, so a clean one is the one a fresh training would make.
    return TrainShardJob(
        model=_model(session, settings, version),
        shard=shard,
        checkpoints=repository.checkpoints(session, version.model_id, shard),
    )


def _unlearn(session: Session, settings: Settings, run: Run, step: Step) -> Job:
    base = session.get_one(ModelVersion, run.base_version_id)
    shard = step.parameters["shard"]
    forget = [
        (dataset, record, bucket)
        for dataset, record, bucket in repository.suppressed_records(
            session, repository.requests_of_run(session, run.id), base.id
        )
        if bucket < base.holdout_from and shard_of(bucket, base.shards) == shard
    ]
    # Where later slices are switched off, the last that is on is what serves.
    stored = [
        one.object_digest
        for one in repository.slices(session, base.id)
        if one.shard == shard and one.object_digest is not None
    ]
    model = session.get_one(Model, base.model_id)
    return UnlearnJob(
        model=_model(session, settings, base, suppressed=True),
        shard=shard,
        method=run.method or "",
        parameters=model.policy.get("method_parameters", {}).get(run.method, {}),
        weights=stored[-1],
        first_slice=min(slice_of(bucket, base.shards, base.slices) for _, _, bucket in forget),
        forget=tuple((dataset, record) for dataset, record, _ in forget),
        checkpoints=repository.checkpoints(session, base.model_id, shard),
        checkpoint_seconds=settings.checkpoint_seconds,
    )


def _remove(session: Session, settings: Settings, run: Run, step: Step) -> Job:
    base = session.get_one(ModelVersion, run.base_version_id)
    version = session.get_one(ModelVersion, run.new_version_id)
    shard = step.parameters["shard"]
    forget = [
        (dataset, record, slice_of(bucket, base.shards, base.slices))
        for dataset, record, bucket in repository.newly_excluded(session, base, version.id)
        if shard_of(bucket, base.shards) == shard
    ]
    slices = [one for one in repository.slices(session, base.id) if one.shard == shard]
    return RemoveJob(
        model=_model(session, settings, version),
        shard=shard,
        method=run.method or "",
        weights=slices[-1].object_digest or "",
        first_slice=min(piece for _, _, piece in forget),
        forget=tuple((dataset, record) for dataset, record, _ in forget),
    )


def _evaluate(session: Session, settings: Settings, run: Run, _step: Step) -> Job:
    version = session.get_one(ModelVersion, run.new_version_id)
    before: tuple[SliceRef, ...] = ()
    requests: list[UUID] = []
    held_out_from = version.holdout_from
    if run.base_version_id is not None:
        # What was trained elsewhere held nobody out.
        held_out_from = session.get_one(ModelVersion, run.base_version_id).holdout_from
        before = _slices(session, run.base_version_id)
        requests = repository.requests_of_run(session, run.id)
        if run.method in EXACT:
            requests += repository.promised_requests(session, version.model_id)
    forget = repository.suppressed_records(session, requests, version.id)
    erased = repository.erased_digests(session, requests)
    if run.base_version_id is not None and not requests:
        # Nobody asked just now: whoever asked before must still be left out.
        forget = repository.excluded(session, version)
        erased = repository.erased_from_inputs(session, version.id)
    gone = {
        (source.dataset_version_id, record)
        for source in _sources(session, settings, version)
        for record in source.erased
    }
    readable = tuple(
        (dataset, record)
        for dataset, record, bucket in forget
        if bucket < held_out_from and (dataset, record) not in gone
    )
    policy = session.get_one(Model, version.model_id).policy
    return EvaluateJob(
        model=_model(session, settings, version, suppressed=True),
        before=before,
        after=_slices(session, version.id),
        forget=readable,
        requests=_by_request(session, requests, frozenset(readable)),
        verification=policy.get("verification", {}),
        alpha=settings.alpha,
        margin=settings.membership_margin,
        share=settings.sparse_share,
        erased_digests=erased,
        method=run.method or "",
        removals=_removals(session, version),
    )


def _by_request(
    session: Session, requests: Sequence[UUID], readable: frozenset[tuple[int, int]]
) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    found = repository.records_by_request(session, requests)
    own = {str(request): tuple(filter(readable.__contains__, found[request])) for request in found}
    return tuple((request, records) for request, records in own.items() if records)


def _removals(session: Session, version: ModelVersion) -> tuple[Removal, ...]:
    """Return what the removals from each shard came to since an exact method made the model.

    Another run, before this one, may have left out all that this one was asked for.
    """
    by_shard: dict[int, Removal] = {}
    made: ModelVersion | None = version
    while made is not None and made.run_id is not None:
        run = session.get_one(Run, made.run_id)
        for one in execution.results(session, run.id, "remove"):
            removal = Removal(one["within"], one["spent"], one["budget"])
            by_shard.setdefault(one["shard"], removal)
        if guarantee_of(run.method or "") == "exact" or made.base_version_id is None:
            break
        made = session.get_one(ModelVersion, made.base_version_id)
    return tuple(removal for _, removal in sorted(by_shard.items()))


def _erase(session: Session, settings: Settings, run: Run, step: Step) -> Job:
    version = session.get_one(
        DatasetVersion, run.dataset_version_id, with_for_update={"read": True}
    )
    records = repository.suppressed_records(session, repository.requests_of_run(session, run.id))
    return EraseJob(
        uri=version.uri,
        format=version.format,
        key=_key(settings, session.get_one(Dataset, version.dataset_id)),
        erased=repository.erased_records(session, version.id),
        records=tuple(record for dataset, record, _ in records if dataset == version.id),
        target_uri=erased_uri(version.uri, step.id, step.epoch),
    )


def _destroy(session: Session, _settings: Settings, run: Run, step: Step) -> Job:
    # No other run changes the model meanwhile, so what is in use now stays in use.
    used = set() if run.model_id is None else promotion.objects_in_use(session, run.model_id)
    return DestroyJob(
        prefix=None if run.model_id is None else model_prefix(run.model_id),
        objects=tuple(step.parameters.get("objects", [])),
        in_use=frozenset(used),
        uris=tuple(step.parameters.get("uris", [])),
    )


def _model(
    session: Session, settings: Settings, version: ModelVersion, *, suppressed: bool = False
) -> ModelJob:
    model = session.get_one(Model, version.model_id)
    return ModelJob(
        model_id=model.id,
        recipe=model.recipe or "",
        parameters=model.parameters,
        seed=model.seed,
        shards=version.shards,
        slices=version.slices,
        holdout_from=version.holdout_from,
        default_phone_region=settings.default_phone_region,
        sources=_sources(session, settings, version, suppressed=suppressed),
    )


def _sources(
    session: Session, settings: Settings, version: ModelVersion, *, suppressed: bool = False
) -> tuple[SourceJob, ...]:
    """Return what to read, without the version's exclusions and, if asked, anyone suppressed."""
    sources = []
    for one, dataset in repository.inputs(session, version.id):
        excluded = set(repository.excluded_records(session, version.id, one.id))
        if suppressed:
            excluded |= repository.suppressed_in(session, one.id)
        sources.append(
            SourceJob(
                dataset_version_id=one.id,
                uri=one.uri,
                format=one.format,
                key=_key(settings, dataset),
                owner_column=dataset.owner["column"],
                owner_type=dataset.owner["type"],
                erased=repository.erased_records(session, one.id),
                excluded=tuple(sorted(excluded)),
            )
        )
    return tuple(sources)


def _slices(session: Session, version_id: UUID) -> tuple[SliceRef, ...]:
    return tuple(
        SliceRef(
            one.shard, one.slice, one.chain, one.object_digest, one.manifest_digest, one.records
        )
        for one in repository.slices(session, version_id)
    )


def _key(settings: Settings, dataset: Dataset) -> bytes:
    return unwrap_key(
        settings.vault_secret.get_secret_value(), dataset.wrapped_key, f"dataset:{dataset.name}"
    )
