"""Measuring a new version: its manifest, its use, and what it still shows of the forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from app.manifest.rules import EvaluateJob, ModelJob, SliceRef, model_prefix
from lethe.methods import METHODS
from lethe.recipes import recipe_digest
from workers.evidence.loss import forget_loss
from workers.evidence.membership import loss_membership, tail_test
from workers.evidence.process import bound_evidence, process_evidence
from workers.evidence.types import Evidence
from workers.evidence.utility import utility
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
# Membership and tail test share one percent (Holm), as the verdict's rules count it.
TAIL_ALPHA = 0.005


@dataclass(frozen=True)
class _Sets:
    """The records that are scored; the forgotten are in none of the other two."""

    forget: list[Record]
    retain: list[Record]
    holdout: list[Record]

    def subjects(self, records: Sequence[Record]) -> list[int]:
        """Number the owners of records: the same person has the same number in every set."""
        owners = {one.owner for part in (self.forget, self.retain, self.holdout) for one in part}
        numbers = {owner: number for number, owner in enumerate(sorted(owners))}
        return [numbers[one.owner] for one in records]


def evaluate(job: EvaluateJob, desk: Desk) -> Result:
    """Score the version after and the one before, and store the manifest.

    Raises:
        ArtifactMissing, ArtifactCorrupt: stored weights are gone or damaged.
        ValueError: no shard holds a record any more.
    """
    task = make_task(job.model.recipe, job.model.parameters)
    sets = _sets(job)
    after = _model(task, job.model, job.after, desk)
    desk.on_progress(0.3)
    scores_after = {name: _score(task, after, getattr(sets, name)) for name in _SETS}
    checks: list[Evidence] = []
    if job.before:
        before = _model(task, job.model, job.before, desk)
        scores_before = {name: _score(task, before, getattr(sets, name)) for name in _SETS}
        checks = _checks(job, sets, scores_before, scores_after, desk)
    elif _is_shown_by_process(
        job, sets
    ):  # from a version trained elsewhere, which cannot be scored
        checks = [_process(job, sets, desk)]
    desk.on_progress(0.9)
    return {
        "manifest_digest": _store_manifest(job, desk),
        "environment": environment(),
        "metrics": {
            "epochs": task.training.epochs,
            "records": {name: len(getattr(sets, name)) for name in _SETS},
            "loss": {name: _mean(scores.losses) for name, scores in scores_after.items()},
            "accuracy": {name: _mean(scores.accuracies) for name, scores in scores_after.items()},
            "weights": _weights(after),
            "predictions": _predictions(task, sets.retain),
        },
        "checks": [one.as_dict() for one in checks],
    }


_SETS = ("forget", "retain", "holdout")


def _sets(job: EvaluateJob) -> _Sets:
    forget = records_by_number(job.model, job.forget)
    owners = {one.owner for one in forget}
    return _Sets(
        forget=forget,
        retain=[one for one in trained_records(job.model, MOST_RECORDS) if one.owner not in owners],
        holdout=[
            one for one in holdout_records(job.model, MOST_RECORDS) if one.owner not in owners
        ],
    )


def _model(task: Task, model: ModelJob, slices: Sequence[SliceRef], desk: Desk) -> Ensemble:
    prefix, members = model_prefix(model.model_id), []
    for shard in sorted({one.shard for one in slices}):
        own = [one for one in slices if one.shard == shard]
        # Where later slices are switched off, the last that is on is what serves.
        stored = [one for one in own if one.object_digest is not None]
        records = sum(one.records for one in own)
        if records and stored:
            weights = max(stored, key=lambda one: one.slice).object_digest or ""
            state = TrainingState.from_tensors(load_tensors(desk.store.get(prefix, weights)))
            members.append(
                (
                    records,
                    restore(
                        task, state, seed=model.seed, shard=shard, device=torch.device(desk.device)
                    ),
                )
            )
    return ensemble(task, members, task.training.aggregation)


def _score(task: Task, model: Ensemble, records: Sequence[Record]) -> Scores:
    return model.scores(task.encode([one.row for one in records]))


def _checks(
    job: EvaluateJob, sets: _Sets, before: dict[str, Scores], after: dict[str, Scores], desk: Desk
) -> list[Evidence]:
    checks = []
    if _is_shown_by_process(job, sets):
        checks.append(_process(job, sets, desk))
    if METHODS[job.method].guarantee == "certified" and job.removals:
        checks.append(bound_evidence([(one.spent, one.budget) for one in job.removals]))
    if sets.forget and sets.holdout:
        forget_subjects, holdout_subjects = (
            sets.subjects(sets.forget),
            sets.subjects(sets.holdout),
        )
        measured = (
            after["forget"].losses.numpy(),
            forget_subjects,
            after["holdout"].losses.numpy(),
            holdout_subjects,
        )
        control = (before["forget"].losses.numpy(), before["holdout"].losses.numpy())
        checks.append(forget_loss(*measured))
        checks.append(loss_membership(*measured, before=control))
        checks.append(tail_test(*measured, before=control, alpha=TAIL_ALPHA))
    checks += [
        utility(
            before[name].losses.numpy(),
            after[name].losses.numpy(),
            before[name].accuracies.numpy(),
            after[name].accuracies.numpy(),
            name,
        )
        for name in ("retain", "holdout")
        if getattr(sets, name)
    ]
    return checks


def _is_shown_by_process(job: EvaluateJob, sets: _Sets) -> bool:
    # Where a certified method found nothing to remove, the version was trained without the records.
    spec = METHODS.get(job.method)
    trained_without = spec is not None and (
        spec.guarantee == "exact" or (spec.guarantee == "certified" and not job.removals)
    )
    return trained_without and bool(sets.forget or job.erased_digests)


def _process(job: EvaluateJob, sets: _Sets, desk: Desk) -> Evidence:
    """Read the manifests that training stored; the forgotten are asked for by their digests."""
    prefix = model_prefix(job.model.model_id)
    manifest: set[bytes] = set()
    for one in job.after:
        if one.manifest_digest is not None:
            stored = desk.store.get_json(prefix, one.manifest_digest)
            manifest |= {bytes.fromhex(str(digest)) for digest in stored}  # type: ignore[union-attr]
    untouched = _untouched(job) if job.method != "retrain" else set()
    return process_evidence(
        {one.digest for one in sets.forget} | {bytes.fromhex(one) for one in job.erased_digests},
        manifest,
        {_place(one): one.object_digest or "" for one in job.before if one.shard in untouched},
        {_place(one): one.object_digest or "" for one in job.after if one.shard in untouched},
    )


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


def _store_manifest(job: EvaluateJob, desk: Desk) -> str:
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


def _mean(values: object) -> float | None:
    numbers = np.asarray(values)
    return float(numbers.mean()) if numbers.size else None
