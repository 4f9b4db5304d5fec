"""Taking records of one shard out of what it has stored of them, without training it again."""

import torch

from app.manifest.rules import RemoveJob, model_prefix
from lethe.methods import METHODS
from lethe.recipes import recipe_digest
from workers.manifest import records_by_number, shard_slices
from workers.recipes import make_task
from workers.steps import Desk, Result
from workers.unlearn.seeds import environment_digest
from workers.unlearn.sisa import checkpoint_chain, restore, slice_digest
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Removable
from workers.weights import dump_tensors, load_tensors


def remove(job: RemoveJob, desk: Desk) -> Result:
    """Take the records out and store what is left; where the guarantee fails, nothing is changed.

    Slices before the first one with such a record keep their checkpoint; what was stored after a
    later one, but the last, is not carried over. The state of an exact removal bears the name that
    training without the records would give it.

    Raises:
        ValueError: the recipe cannot take records out, or a record can no longer be read.
    """
    model, prefix = job.model, model_prefix(job.model.model_id)
    task = make_task(model.recipe, model.parameters)
    if not isinstance(task, Removable):
        raise ValueError("a model of this recipe cannot take records out: retrain it instead")
    forget = records_by_number(model, job.forget)
    if len(forget) != len(job.forget):
        raise ValueError("a record to forget can no longer be read: retrain instead")
    before = TrainingState.from_tensors(load_tensors(desk.store.get(prefix, job.weights)))
    network = restore(
        task, before, seed=model.seed, shard=job.shard, device=torch.device(desk.device)
    )
    slices = shard_slices(model, job.shard)
    # Encoding may run a backbone over each record, so only what the method asks for is.
    needed = slices if "retain" in METHODS[job.method].requires else []
    retain = task.encode([one.row for records in needed for one in records])
    outcome = task.remove(network, task.encode([one.row for one in forget]), retain)
    desk.on_progress(0.9)
    state = dump_tensors(TrainingState(read_model(network), {}).tensors())
    digest = desk.store.put(prefix, state)
    exact = METHODS[job.method].guarantee == "exact"
    chain = checkpoint_chain(
        recipe=recipe_digest(model.recipe, model.parameters),
        environment=environment_digest(),
        seed=model.seed,
        shard=job.shard,
        slice_digests=[slice_digest([one.digest for one in records]) for records in slices],
    )
    last = model.slices - 1
    return {
        "shard": job.shard,
        "first_slice": job.first_slice,
        "status": "reached" if outcome.within else "failed",
        "reason": outcome.reason,
        "within": outcome.within,
        "spent": outcome.spent,
        "budget": outcome.budget,
        "slices": [
            {
                "slice": r,
                "chain": chain[r] if exact or r < last else f"{job.method}:{digest}",
                "object_digest": digest if r == last else None,
                "manifest_digest": desk.store.put_json(
                    prefix, [one.digest.hex() for one in records]
                )
                if exact
                else None,
                "records": len(records),
            }
            for r, records in enumerate(slices)
        ],
    }
