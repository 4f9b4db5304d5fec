"""SISA: training in shards and slices, so that erasure repeats only what a record touched.

Bourtoule et al., "Machine Unlearning", 2021 (arXiv 1912.03817), section IV. What a shard's
training computes after slice r depends on the records of the slices 0..r alone, so continuing
from the checkpoint before a removed record gives, bit for bit, the model that never saw it.
Ordinary training is the case of one shard with one slice.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import rfc8785
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from lethe.recipes.training import TrainingParams
from workers.unlearn.seeds import seed_for, seed_noise
from workers.unlearn.state import (
    TrainingState,
    read_model,
    read_optimizer,
    write_model,
    write_optimizer,
)
from workers.unlearn.task import Examples, Fitted, Task, count, join, take

CPU = torch.device("cpu")


class Cancelled(Exception):
    """The work was stopped because its caller asked for it."""


class TrainingDiverged(Exception):
    """The loss or its gradient is no longer finite: lower the learning rate and train again."""


def slice_digest(record_digests: Sequence[bytes]) -> str:
    """Digest the records of one slice, in whatever order they come; duplicates count.

    Returns:
        SHA-256, in hex, over the sorted digests, each after its length in 4 bytes.
    """
    digest = hashlib.sha256()
    for record in sorted(record_digests):
        digest.update(len(record).to_bytes(4, "big") + record)
    return digest.hexdigest()


def checkpoint_chain(
    *, recipe: str, environment: str, seed: str, shard: int, slice_digests: Sequence[str]
) -> tuple[str, ...]:
    """Name the training checkpoint after each slice by all that it depends on.

    The chain starts from the SHA-256 of the canonical JSON (RFC 8785) of the other arguments and
    the number of slices, which sets the epochs per slice; chain[r] = SHA-256(chain[r-1] ||
    slice_digests[r]). So the names before a changed slice stay, and all from it on change.

    Args:
        recipe: digest of the recipe and its parameters.
        environment: digest of the environment (`seeds.environment_digest`).
        seed: the seed of the model version.
        shard: number of the shard.
        slice_digests: `slice_digest` of each slice, in hex.

    Returns:
        One name in hex per slice.
    """
    start: dict[str, str | int] = {
        "recipe": recipe,
        "environment": environment,
        "seed": seed,
        "shard": shard,
        "slices": len(slice_digests),
    }
    link = hashlib.sha256(rfc8785.dumps(start)).digest()
    chain = []
    for digest in slice_digests:
        link = hashlib.sha256(link + bytes.fromhex(digest)).digest()
        chain.append(link.hex())
    return tuple(chain)


def epochs_per_slice(epochs: int, slices: int) -> int:
    """Epochs over the union of slices 0..r after slice r is added: 2e/(R+1), at least one.

    Bourtoule et al. 2021, section IV-B: the work is then about that of `epochs` epochs over the
    whole shard. Rounded half up. It does not depend on how many records a slice holds.
    """
    return max(1, (4 * epochs + slices + 1) // (2 * (slices + 1)))


def train_shard(
    task: Task,
    slices: Sequence[Examples],
    *,
    seed: str,
    shard: int,
    resume: tuple[int, TrainingState] | None,
    on_checkpoint: Callable[[int, TrainingState], None],
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
    device: torch.device = CPU,
) -> TrainingState:
    """Train one shard, slice after slice.

    Bit for bit, in one environment: resuming from any checkpoint gives the state of a training
    without a break, and so does resuming from the checkpoint before a slice whose records have
    changed since. Every record is trained on, whatever the sizes; an empty slice repeats the union
    before it, and an empty union trains nothing.

    Args:
        task: the recipe.
        slices: all slices of the shard, also those before `resume`, their records in an order that
            depends on nothing but the records (by digest, say).
        seed: the seed of the model version.
        shard: number of the shard.
        resume: (r, state after slice r), to go on with slice r + 1; None to start afresh.
        on_checkpoint: receives (r, state) after each slice trained.
        on_progress: receives the share of this call's work that is done, after each step.
        cancelled: asked before each step.
        device: where to train; a task that fits by means of its own does so on the CPU.

    Returns:
        The state after the last slice.

    Raises:
        Cancelled: `cancelled` said yes.
        TrainingDiverged: the loss or its gradient is no longer finite.
        ValueError: there is no slice, or `resume` does not fit the slices or the task.
    """
    done = -1 if resume is None else resume[0]
    if not -1 <= done < len(slices) or not slices:
        raise ValueError(f"cannot go on after slice {done} of a shard of {len(slices)} slices")
    device = _device_for(task, device)
    model = task.build(seed_for(seed, "build", shard)).to(device)
    optimizer = _optimizer(task.training, model)
    if resume is not None:
        write_model(model, resume[1].model)
        write_optimizer(optimizer, model, resume[1].optimizer)
    sizes = [count(part) for part in slices]
    epochs = epochs_per_slice(task.training.epochs, len(slices))
    work = sum(sum(sizes[: r + 1]) * epochs for r in range(done + 1, len(slices)))
    loop = _Loop(task, model, optimizer, work, on_progress, cancelled)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for r in range(done + 1, len(slices)):
            if isinstance(task, Fitted):
                loop.learn(task, slices, r, f"{seed}/{shard}")
            else:
                _descend(loop, slices, r, epochs, seed, shard)
            on_checkpoint(r, _read(model, optimizer))
    on_progress(1.0)
    return _read(model, optimizer)


def restore(
    task: Task, state: TrainingState, *, seed: str, shard: int, device: torch.device = CPU
) -> nn.Module:
    """Make the model of a shard from its training state.

    `seed` and `shard` are those it was trained with: what training left frozen comes from them.

    Raises:
        ValueError: the state does not fit the task.
    """
    model = task.build(seed_for(seed, "build", shard))
    write_model(model, state.model)
    return model.to(_device_for(task, device)).eval()


def _device_for(task: Task, device: torch.device) -> torch.device:
    # What a task fits by means of its own it fits on the CPU.
    return CPU if isinstance(task, Fitted) else device


@dataclass
class _Loop:
    """The plain training loop, and how far it is."""

    task: Task
    model: nn.Module
    optimizer: Optimizer
    work: int
    on_progress: Callable[[float], None]
    cancelled: Callable[[], bool]
    seen: int = 0

    def epoch(self, examples: Examples, order_seed: int) -> None:
        """Pass once over all records in an order drawn from `order_seed`; no batch is dropped."""
        generator = torch.Generator().manual_seed(order_seed)
        order = torch.randperm(count(examples), generator=generator)
        if not len(order):
            return
        self.model.train()
        for batch in torch.split(order, self.task.training.batch_size):
            self._step(examples, batch)
            self.seen += len(batch)
            self.on_progress(self.seen / self.work)

    def learn(self, task: Fitted, slices: Sequence[Examples], r: int, seed: str) -> None:
        """Learn one slice by the task's own means."""
        if self.cancelled():
            raise Cancelled
        task.learn(self.model, slices, r, seed)
        self.on_progress((r + 1) / len(slices))

    def _step(self, examples: Examples, batch: Tensor) -> None:
        if self.cancelled():
            raise Cancelled
        device = next(self.model.parameters()).device
        loss = self.task.losses(self.model, take(examples, batch, device)).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.task.training.max_grad_norm)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise TrainingDiverged
        self.optimizer.step()


def _descend(
    loop: _Loop, slices: Sequence[Examples], r: int, epochs: int, seed: str, shard: int
) -> None:
    union = join(slices[: r + 1])
    for epoch in range(epochs):
        seed_noise(seed_for(seed, "noise", shard, r, epoch))
        loop.epoch(union, seed_for(seed, "order", shard, r, epoch))


def _optimizer(training: TrainingParams, model: nn.Module) -> Optimizer:
    kinds: dict[str, type[AdamW | SGD]] = {"adamw": AdamW, "sgd": SGD}
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return kinds[training.optimizer](
        # A fitted model may keep all it has learnt in buffers; an optimiser needs something.
        weights or [nn.Parameter(torch.empty(0))],
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
    )


def _read(model: nn.Module, optimizer: Optimizer) -> TrainingState:
    return TrainingState(model=read_model(model), optimizer=read_optimizer(optimizer, model))
