"""Measuring a new version: its manifest, its use, and what it still shows of the forgotten."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from app.inventory.schemas import VerificationIn
from app.manifest.rules import EvaluateJob, ModelJob, SliceRef, model_prefix, shard_of
from lethe.methods import METHODS
from lethe.recipes import recipe_digest
from workers.attacks.examination import Examination, Models, examine
from workers.attacks.parts import Indices, Parts
from workers.attacks.references import references_of
from workers.attacks.suite import Plan
from workers.connectors import open_source
from workers.evidence.battery import Limits
from workers.evidence.process import (
    ProcessProof,
    absence_proofs,
    bound_evidence,
    process_evidence,
)
from workers.evidence.types import Evidence
from workers.manifest import Record, holdout_records, records_by_number, trained_records
from workers.recipes import make_task
from workers.steps import Desk, Result
from workers.unlearn.aggregate import Ensemble, Scores, ensemble
from workers.unlearn.seeds import environment, environment_digest
from workers.unlearn.sisa import restore
from workers.unlearn.state import TrainingState
from workers.unlearn.task import IGNORED, Task
from workers.weights import load_tensors

MOST_RECORDS = 2_000


@dataclass(frozen=True)
class _Sets:
    """The records that are scored; whom the forgotten belong to are in none of the other two.

    Attributes:
        retain: of those that the version is trained on.
        retain_is_whole: it is all of them.
    """

    shards: int
    forget: list[Record]
    retain: list[Record]
    holdout: list[Record]
    retain_is_whole: bool

    def by_request(
        self, requests: Sequence[tuple[str, Sequence[tuple[int, int]]]]
    ) -> dict[str, list[int]]:
        """Return the numbers of each request's own data subjects."""
        numbers = dict(
            zip(
                [(one.dataset_version_id, one.record_no) for one in self.forget],
                self.subjects(self.forget),
                strict=True,
            )
        )
        return {
            request: sorted({numbers[one] for one in records if one in numbers})
            for request, records in requests
        }

    def subjects(self, records: Sequence[Record]) -> list[int]:
        """Number the owners of records: the same person has the same number in every set."""
        owners = {one.owner for part in (self.forget, self.retain, self.holdout) for one in part}
        numbers = {owner: number for number, owner in enumerate(sorted(owners))}
        return [numbers[one.owner] for one in records]


def evaluate(job: EvaluateJob, desk: Desk) -> Result:
    """Score the version after and the one before, and store the manifest.

    Raises:
        ArtifactMissing, ArtifactCorrupt: stored weights are gone or damaged.
        ValueError: no shard holds a record any more, or the version's loss is not finite.
    """
    task = make_task(job.model.recipe, job.model.parameters)
    sets = _sets(job)
    parts = Parts.of(
        task,
        {
            name: ([one.row for one in getattr(sets, name)], sets.subjects(getattr(sets, name)))
            for name in _SETS
        },
    )
    after = _model(task, job.model, job.after, desk)
    desk.on_progress(0.2)
    scores_after = _scores(after.model, parts)
    examined = Examination([], [], {})
    checks: list[Evidence] = []
    trained, forgotten = _trained_digests(job, desk), _forgotten(job, sets)
    unlisted = _unlisted(job)
    proof = None if unlisted else absence_proofs(trained, forgotten)
    if _is_shown_by_process(job, sets):
        checks.append(_process(job, forgotten, trained, unlisted))
    # A version that was trained elsewhere cannot be scored, and then there is none before.
    if job.before:
        before = _model(task, job.model, job.before, desk)
        models = Models(before.model, after.model, _scores(before.model, parts), scores_after)
        desk.on_progress(0.4)
        examined = _examine(job, sets, parts, models, _owners(sets, before, after))
        if METHODS[job.method].guarantee == "certified" and job.removals:
            checks.append(bound_evidence([(one.spent, one.budget) for one in job.removals]))
    checks += examined.checks
    desk.on_progress(0.9)
    return {
        "manifest_digest": _store_manifest(job, desk, proof),
        "manifest_root": None if proof is None else proof.root,
        "manifest_records": None if proof is None else proof.size,
        "environment": environment(),
        "metrics": {
            "epochs": task.training.epochs,
            "records": {name: len(getattr(sets, name)) for name in _SETS},
            "loss": {name: _mean(name, one.losses) for name, one in scores_after.items()},
            "accuracy": {name: _mean(name, one.accuracies) for name, one in scores_after.items()},
            "weights": _weights(after.model),
            "predictions": _predictions(task, sets.retain),
        },
        "checks": [one.as_dict() for one in checks],
        "not_run": [asdict(one) for one in examined.not_run],
        "own": dict(examined.own),
    }


_SETS = ("forget", "retain", "holdout")


def _sets(job: EvaluateJob) -> _Sets:
    forget = records_by_number(job.model, job.forget)
    owners = {one.owner for one in forget}
    trained = trained_records(job.model, MOST_RECORDS + 1)
    retain = [one for one in trained if one.owner not in owners][:MOST_RECORDS]
    held_out = holdout_records(job.model, MOST_RECORDS)
    return _Sets(
        shards=job.model.shards,
        forget=forget,
        retain=retain,
        holdout=[one for one in held_out if one.owner not in owners],
        retain_is_whole=len(retain) == len(trained),
    )


@dataclass(frozen=True)
class _Loaded:
    """A version's model, and which shard each of its members is."""

    model: Ensemble
    shards: tuple[int, ...]


def _model(task: Task, model: ModelJob, slices: Sequence[SliceRef], desk: Desk) -> _Loaded:
    prefix, members = model_prefix(model.model_id), {}
    for shard in sorted({one.shard for one in slices}):
        own = [one for one in slices if one.shard == shard]
        # Where later slices are switched off, the last that is on is what serves.
        stored = [one for one in own if one.object_digest is not None]
        records = sum(one.records for one in own)
        if records and stored:
            weights = max(stored, key=lambda one: one.slice).object_digest or ""
            state = TrainingState.from_tensors(load_tensors(desk.store.get(prefix, weights)))
            device = torch.device(desk.device)
            network = restore(task, state, seed=model.seed, shard=shard, device=device)
            members[shard] = (records, network)
    together = ensemble(task, list(members.values()), task.training.aggregation)
    return _Loaded(together, tuple(members))


def _scores(model: Ensemble, parts: Parts) -> dict[str, Scores]:
    return {name: model.scores(getattr(parts, name).examples) for name in _SETS}


def _owners(sets: _Sets, before: _Loaded, after: _Loaded) -> tuple[Indices, Indices] | None:
    """Return the member that is each record's own; the others are models that never saw it.

    Nobody of the holdout is in a shard, so that they are spread over those of the forgotten, in
    proportion to the people: shards differ, and both sides are to have the same of each.
    """
    if before.shards != after.shards or len(after.shards) < 2 or not sets.forget:
        return None
    shards = [shard_of(one.bucket, sets.shards) for one in sets.forget]
    if not set(shards) <= set(after.shards):
        return None
    ours = np.array([after.shards.index(shard) for shard in shards])
    _, people = np.unique(sets.subjects(sets.forget), return_index=True)
    shared = np.sort(ours[people])
    others = shared[np.array([one.bucket for one in sets.holdout], dtype=np.int64) % people.size]
    return ours, others


def _examine(
    job: EvaluateJob,
    sets: _Sets,
    parts: Parts,
    models: Models,
    owners: tuple[Indices, Indices] | None,
) -> Examination:
    wanted, task = VerificationIn.model_validate(job.verification), models.after.task
    full = METHODS[job.method].guarantee == "approximate" and wanted.battery == "full"
    plan = Plan(
        full=full,
        relearning_steps=wanted.relearning_steps,
        relearning_rate=wanted.relearning_rate or task.training.learning_rate,
        paraphrase_column=wanted.paraphrase_column,
        translation_column=wanted.translation_column,
        canary_column=wanted.canary_column,
        owners=owners,
        references_are_whole=sets.retain_is_whole,
        references=references_of(task, parts, wanted.references, job.model.seed),
    )
    test = None
    if full and wanted.downstream is not None:
        source = open_source(wanted.downstream.uri, wanted.downstream.format)
        test = task.encode([row for batch in source.batches() for row in batch.rows])
    return examine(
        models,
        parts,
        plan,
        Limits(job.alpha, job.margin, job.share),
        requests=sets.by_request(job.requests),
        group_column=wanted.group_column,
        downstream=test,
    )


def _is_shown_by_process(job: EvaluateJob, sets: _Sets) -> bool:
    # Where a certified method found nothing to remove, the version was trained without the records.
    spec = METHODS.get(job.method)
    trained_without = spec is not None and (
        spec.guarantee == "exact" or (spec.guarantee == "certified" and not job.removals)
    )
    return trained_without and bool(sets.forget or job.erased_digests)


def _process(
    job: EvaluateJob, forgotten: set[bytes], trained: set[bytes], unlisted: int
) -> Evidence:
    untouched = _untouched(job) if job.method != "retrain" else set()
    return process_evidence(
        forgotten,
        trained,
        {_place(one): one.object_digest or "" for one in job.before if one.shard in untouched},
        {_place(one): one.object_digest or "" for one in job.after if one.shard in untouched},
        unlisted,
    )


def _unlisted(job: EvaluateJob) -> int:
    """Count the stored states whose records no manifest lists: an approximate method made them."""
    return sum(
        bool(one.records and one.object_digest and one.manifest_digest is None) for one in job.after
    )


def _trained_digests(job: EvaluateJob, desk: Desk) -> set[bytes]:
    """Read the manifests that training stored."""
    prefix = model_prefix(job.model.model_id)
    manifest: set[bytes] = set()
    for one in job.after:
        if one.manifest_digest is not None:
            stored = desk.store.get_json(prefix, one.manifest_digest)
            manifest |= {bytes.fromhex(str(digest)) for digest in stored}  # type: ignore[union-attr]
    return manifest


def _forgotten(job: EvaluateJob, sets: _Sets) -> set[bytes]:
    """Return the keyed digests of the records to forget, by which a manifest is asked for them."""
    return {one.digest for one in sets.forget} | {bytes.fromhex(one) for one in job.erased_digests}


def _untouched(job: EvaluateJob) -> set[int]:
    """Return the shards whose records are the same before and after: their bits must be as well.

    A slice without a manifest is the same only where its name is.
    """

    def records(slices: Sequence[SliceRef], shard: int) -> list[str]:
        return [one.manifest_digest or one.chain for one in slices if one.shard == shard]

    return {
        one.shard
        for one in job.after
        if records(job.before, one.shard) == records(job.after, one.shard)
    }


def _place(one: SliceRef) -> str:
    return f"shard-{one.shard}/slice-{one.slice}"


def _store_manifest(job: EvaluateJob, desk: Desk, proof: ProcessProof | None) -> str:
    model = job.model
    return desk.store.put_json(
        model_prefix(model.model_id),
        {
            "recipe": recipe_digest(model.recipe, model.parameters),
            "environment": environment_digest(),
            "seed": model.seed,
            "layout": {
                "shards": model.shards,
                "slices": model.slices,
                "holdout_from": model.holdout_from,
            },
            "method": job.method,
            "merkle": None if proof is None else proof.as_dict(),
            "slices": [
                {
                    "shard": one.shard,
                    "slice": one.slice,
                    "records": one.records,
                    "chain": one.chain,
                    "manifest": one.manifest_digest,
                    "state": one.object_digest,
                }
                for one in job.after
            ],
        },
    )


def _weights(model: Ensemble) -> int:
    """Number of weights of one member."""
    return sum(weight.numel() for weight in model.members[0].parameters())


def _predictions(task: Task, records: Sequence[Record]) -> float | None:
    """Predictions per record, on average."""
    if not records:
        return None
    targets = task.targets(task.encode([one.row for one in records]))
    return float((targets != IGNORED).sum(-1).double().mean())


def _mean(name: str, values: object) -> float | None:
    numbers = np.asarray(values)
    if not np.isfinite(numbers).all():
        raise ValueError(f"the model's loss is not finite on {name} records: it cannot be served")
    return float(numbers.mean()) if numbers.size else None
