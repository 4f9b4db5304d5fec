"""Unlearning records of one shard from its present weights, by an approximate method."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import rfc8785
import torch

from app.manifest.rules import UnlearnJob, model_prefix, shard_of
from lethe.methods import METHODS
from lethe.recipes import recipe_digest
from workers.manifest import Record, holdout_records, records_by_number, shard_slices
from workers.recipes import make_task
from workers.steps import Desk, Result
from workers.unlearn import run_method
from workers.unlearn.guarded import UnlearnCheckpoint
from workers.unlearn.seeds import environment_digest
from workers.unlearn.sisa import restore, slice_digest
from workers.unlearn.state import TrainingState
from workers.weights import dump_tensors, load_tensors

MOST_HOLDOUT = 2_000
FACTS = "facts"
"""Where a stored checkpoint keeps what is not a tensor, as JSON in UTF-8."""


def unlearn(job: UnlearnJob, desk: Desk) -> Result:
    """Run the method and store the weights it ended in; a failed one ends in those it began with.

    Raises:
        ValueError: a set of records is empty.
    """
    model, prefix = job.model, model_prefix(job.model.model_id)
    task = make_task(model.recipe, model.parameters)
    before = TrainingState.from_tensors(load_tensors(desk.store.get(prefix, job.weights)))
    network = restore(
        task, before, seed=model.seed, shard=job.shard, device=torch.device(desk.device)
    )
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
    chain = _chain(job, {"forget": forget, "retain": retain, "holdout": holdout})
    resume = _latest(job, desk, chain)
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
        on_checkpoint=_Keeper(job, desk, chain),
        resume=resume,
    )
    weights = dump_tensors(TrainingState(outcome.state, {}).tensors())
    return {
        "shard": job.shard,
        "first_slice": job.first_slice,
        "object_digest": desk.store.put(prefix, weights),
        "status": outcome.status,
        "reason": outcome.reason,
        "steps": outcome.steps,
        "resumed_after": 0 if resume is None else resume.step,
        "forget_loss": [outcome.forget_loss_before, outcome.forget_loss_after],
        "retain_loss": [outcome.retain_loss_before, outcome.retain_loss_after],
        "holdout_loss": outcome.holdout_loss,
    }


@dataclass
class _Keeper:
    """Stores checkpoints of the run, not more often than it may."""

    job: UnlearnJob
    desk: Desk
    chain: str
    stored_at: float = field(default_factory=time.monotonic)

    def __call__(self, checkpoint: UnlearnCheckpoint) -> None:
        if time.monotonic() - self.stored_at < self.job.checkpoint_seconds:
            return
        self.stored_at = time.monotonic()
        facts = torch.frombuffer(bytearray(rfc8785.dumps(checkpoint.facts)), dtype=torch.uint8)
        stored = dump_tensors(checkpoint.tensors | {FACTS: facts})
        digest = self.desk.store.put(model_prefix(self.job.model.model_id), stored)
        self.desk.on_checkpoint(
            {
                "chain": f"{self.chain}:{checkpoint.step:06d}",
                "object_digest": digest,
                "manifest_digest": digest,
                "shard": self.job.shard,
                "slice": self.job.first_slice,
                "records": len(self.job.forget),
            }
        )


def _latest(job: UnlearnJob, desk: Desk, chain: str) -> UnlearnCheckpoint | None:
    """Return the last checkpoint of this very run, if an attempt before this one stored any."""
    prefix = model_prefix(job.model.model_id)
    own = sorted(
        name
        for name, digest in job.checkpoints.items()
        if name.startswith(f"{chain}:") and desk.store.exists(prefix, digest)
    )
    if not own:
        return None
    stored = desk.store.get(prefix, job.checkpoints[own[-1]])
    tensors = load_tensors(stored)
    facts = json.loads(bytes(tensors.pop(FACTS).tolist()))
    return UnlearnCheckpoint(int(own[-1].rpartition(":")[2]), tensors, facts)


def _chain(job: UnlearnJob, sets: Mapping[str, Sequence[Record]]) -> str:
    """Name a run by all that its bits depend on."""
    spec = METHODS[job.method]
    depends: dict[str, Any] = {
        "recipe": recipe_digest(job.model.recipe, job.model.parameters),
        "environment": environment_digest(),
        "seed": job.model.seed,
        "weights": job.weights,
        "method": [spec.name, spec.version],
        "parameters": spec.params.model_validate(job.parameters).model_dump(mode="json"),
        "records": {
            name: slice_digest([one.digest for one in part]) for name, part in sets.items()
        },
    }
    return hashlib.sha256(rfc8785.dumps(depends)).hexdigest()
