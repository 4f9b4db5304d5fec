"""Unlearning records of one shard from its present weights, by an approximate method."""

from app.manifest.rules import UnlearnJob, model_prefix, shard_of
from workers.manifest import holdout_records, records_by_number, shard_slices
from workers.recipes import make_task
from workers.steps import Desk, Result
from workers.unlearn import run_method
from workers.unlearn.sisa import restore
from workers.unlearn.state import TrainingState
from workers.weights import dump_tensors, load_tensors

MOST_HOLDOUT = 2_000


def unlearn(job: UnlearnJob, desk: Desk) -> Result:
    """Run the method and store the weights it ended in; a failed one ends in those it began with.

    Raises:
        ValueError: a set of records is empty.
    """
    model, prefix = job.model, model_prefix(job.model.model_id)
    task = make_task(model.recipe, model.parameters)
    before = TrainingState.from_tensors(load_tensors(desk.store.get(prefix, job.weights)))
    network = restore(task, before, seed=model.seed, shard=job.shard)
    forget = [
        one
        for one in records_by_number(model, job.forget)
        if one.bucket < model.holdout_from and shard_of(one.bucket, model.shards) == job.shard
    ]
    leave = {(one.dataset_version_id, one.record_no) for one in forget}
    retain = [
        one
        for records in shard_slices(model, job.shard)
        for one in records
        if (one.dataset_version_id, one.record_no) not in leave
    ]
    holdout = holdout_records(model, MOST_HOLDOUT)
    outcome = run_method(
        job.method,
        task,
        network,
        forget=task.encode([one.row for one in forget]),
        retain=task.encode([one.row for one in retain]),
        holdout=task.encode([one.row for one in holdout]),
        parameters=job.parameters,
        seed=model.seed,
        on_progress=desk.on_progress,
        cancelled=desk.cancelled,
    )
    weights = dump_tensors(TrainingState(outcome.state, {}).tensors())
    return {
        "shard": job.shard,
        "first_slice": job.first_slice,
        "object_digest": desk.store.put(prefix, weights),
        "status": outcome.status,
        "reason": outcome.reason,
        "steps": outcome.steps,
        "forget_loss": [outcome.forget_loss_before, outcome.forget_loss_after],
        "retain_loss": [outcome.retain_loss_before, outcome.retain_loss_after],
        "holdout_loss": outcome.holdout_loss,
    }
