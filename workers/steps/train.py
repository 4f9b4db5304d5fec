"""Training one shard from its last clean checkpoint."""

import time

import torch

from app.manifest.rules import TrainShardJob, model_prefix
from lethe.recipes import recipe_digest
from workers.manifest import Record, shard_slices
from workers.recipes import make_task
from workers.steps import Desk, Result
from workers.unlearn.seeds import environment, environment_digest
from workers.unlearn.sisa import (
    checkpoint_chain,
    epochs_per_slice,
    slice_digest,
    train_shard,
)
from workers.unlearn.state import TrainingState
from workers.weights import dump_tensors, load_tensors


def train(job: TrainShardJob, desk: Desk) -> Result:
    """Train what no stored checkpoint covers, and store a checkpoint after each slice.

    The checkpoint to go on from is found by the chained digest of the records actually read, so a
    record that is gone can never be hidden in a state that is kept.
    """
    model, prefix = job.model, model_prefix(job.model.model_id)
    task = make_task(model.recipe, model.parameters)
    slices = shard_slices(model, job.shard)
    chain = checkpoint_chain(
        recipe=recipe_digest(model.recipe, model.parameters),
        environment=environment_digest(),
        seed=model.seed,
        shard=job.shard,
        slice_digests=[slice_digest([one.digest for one in records]) for records in slices],
    )
    known = {r: job.checkpoints[link] for r, link in enumerate(chain) if link in job.checkpoints}
    # One that was deleted because it was damaged is trained again, from the one before it.
    stored = {r: digest for r, digest in known.items() if desk.store.exists(prefix, digest)}
    done = max(stored, default=-1)
    manifests = [_manifest(desk, prefix, records) for records in slices]

    def on_checkpoint(r: int, state: TrainingState) -> None:
        stored[r] = desk.store.put(prefix, dump_tensors(state.tensors()))
        desk.on_checkpoint(
            {
                "chain": chain[r],
                "object_digest": stored[r],
                "manifest_digest": manifests[r],
                "shard": job.shard,
                "slice": r,
                "records": len(slices[r]),
            }
        )

    started = time.monotonic()
    if done < model.slices - 1:
        resume = None if done < 0 else (done, _load(desk, prefix, stored[done]))
        train_shard(
            task,
            [task.encode([one.row for one in records]) for records in slices],
            seed=model.seed,
            shard=job.shard,
            resume=resume,
            on_checkpoint=on_checkpoint,
            on_progress=desk.on_progress,
            cancelled=desk.cancelled,
            device=torch.device(desk.device),
        )
    epochs = epochs_per_slice(task.training.epochs, model.slices)
    passes = epochs * sum(
        sum(len(records) for records in slices[: r + 1]) for r in range(done + 1, model.slices)
    )
    return {
        "shard": job.shard,
        "resumed_after": done,
        "record_passes": passes,
        "seconds": time.monotonic() - started,
        "device": environment()["device"],
        "epochs": task.training.epochs,
        "slices": [
            {
                "slice": r,
                "chain": chain[r],
                "object_digest": stored.get(r),
                "manifest_digest": manifests[r],
                "records": len(slices[r]),
            }
            for r in range(model.slices)
        ],
    }


def _manifest(desk: Desk, prefix: str, records: list[Record]) -> str:
    return desk.store.put_json(prefix, [one.digest.hex() for one in records])


def _load(desk: Desk, prefix: str, digest: str) -> TrainingState:
    return TrainingState.from_tensors(load_tensors(desk.store.get(prefix, digest)))
