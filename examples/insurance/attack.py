"""A membership attack on the weights that are served, made by somebody who has them.

The service's own check compares one customer with other customers, and one is too few to say
anything. This attack asks about records instead: does the model find a claim that was written
likelier than claims on the same event of the same customer that never were? Both are drawn by the
same hand, so a model that saw neither gives 0.5, within chance, however well it writes claims. That
works because the customers are made up: of a real one nobody has the claims that never happened.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import numpy.typing as npt

from app.manifest.rules import model_prefix
from examples.insurance.customers import Customer, claim_notes, unwritten_notes
from lethe.client import JsonObject
from workers.artifacts import ArtifactStore
from workers.evidence.statistics import auc, mean_interval, sample
from workers.recipes import make_task
from workers.unlearn.aggregate import ensemble
from workers.unlearn.sisa import restore
from workers.unlearn.state import TrainingState
from workers.unlearn.task import Examples, Task
from workers.weights import load_tensors

UNWRITTEN = 10
"""Claims that nobody wrote, for each written one."""
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Attacked:
    """What the attack brought.

    Attributes:
        auc: Chance that a written claim has a lower loss than one on its event that nobody wrote.
        low, high: Its 95 % interval, Student's over the written claims.
        loss: Mean loss on the written claims, nats per byte.
    """

    auc: float
    low: float
    high: float
    loss: float


@dataclass(frozen=True)
class Attack:
    """The attack on one model, about one customer's claims.

    Attributes:
        store: Where the artifacts are, as a serving process reads them.
        model: The registered model, as the service describes it.
        customer: Whose claims are asked about.
    """

    store: Path
    model: JsonObject
    customer: Customer

    def on_weights(self, digest: str) -> Attacked:
        """Attack the weights stored under a digest.

        Raises:
            ArtifactMissing: They are not there, for instance because they were destroyed.
        """
        task = make_task(self.model["recipe"], self.model["parameters"])
        stored = ArtifactStore(f"file://{self.store}").get(
            model_prefix(UUID(self.model["id"])), digest
        )
        state = TrainingState.from_tensors(load_tensors(stored))
        # All weights are in the state, so that no seed is needed to make frozen ones again.
        scored = ensemble(task, [(1, restore(task, state, seed="", shard=0))])
        written = scored.losses(_encode(task, claim_notes(self.customer)))
        others = [
            scored.losses(_encode(task, notes)).double().numpy()
            for notes in unwritten_notes(self.customer, UNWRITTEN)
        ]
        return compare(written.double().numpy(), others)


def compare(written: npt.ArrayLike, unwritten: Sequence[npt.ArrayLike]) -> Attacked:
    """Compare the loss of each written claim with those of the unwritten ones on its event.

    Args:
        written: (n,) losses in nats, two or more.
        unwritten: n times (m,) losses, in the same order.

    Raises:
        ValueError: a set is empty, a loss is not finite, or there is not one set for each claim.
    """
    losses = sample(written)
    shares = [
        auc(-others, [-loss]) for loss, others in zip(losses, map(sample, unwritten), strict=True)
    ]
    found = 1 - np.asarray(shares)
    error = float(found.std(ddof=1)) / math.sqrt(found.size)
    low, high = mean_interval(float(found.mean()), error, found.size - 1, LEVEL)
    return Attacked(float(found.mean()), max(low, 0.0), min(high, 1.0), float(losses.mean()))


def weights_of(run: JsonObject) -> str:
    """Return the digest of the weights that a run of a model with one shard has made."""
    for step in reversed(run["steps"]):
        result = step["result"] or {}
        if step["kind"] == "unlearn":
            return str(result["object_digest"])
        if result.get("slices"):
            return str(result["slices"][-1]["object_digest"])
    message = "the run made no weights"
    raise ValueError(message)


def _encode(task: Task, notes: Sequence[str]) -> Examples:
    return task.encode([{"text": note} for note in notes])
