"""Distillation, pruning and task vectors, step by step, against plain versions."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lethe.methods.editing import (
    DistillParams,
    ImpairRepairParams,
    NoiseAndPruneParams,
    TaskVectorParams,
)
from tests.unlearn.editing_cases import weights_of
from tests.unlearn.plain_cases import CPU, kl, mean_of, nll, record
from workers.unlearn.descent import _batches
from workers.unlearn.distill import distill
from workers.unlearn.impair_repair import impair_repair
from workers.unlearn.method import Context
from workers.unlearn.noise_and_prune import largest, noise_and_prune, prunable
from workers.unlearn.reference import reference
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import Examples, count, take
from workers.unlearn.task_vector import task_vector


def close(model: nn.Module, plain: nn.Module) -> None:
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)


def mean_loss(model: nn.Module, examples: Examples) -> Tensor:
    losses = [mean_of(record(model, examples, i)) for i in range(count(examples))]
    return torch.stack(losses).mean()


def plain_step(model: nn.Module, optimizer: AdamW, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(norm)


def test_a_round_of_distillation_equals_a_plain_loop(context: Context) -> None:
    params = DistillParams(
        noise=0.3, temperature=2, recovery_steps=3, batch_size=2, learning_rate=1e-3
    )
    teacher, plain = copy.deepcopy(context.model).eval(), copy.deepcopy(context.model).eval()
    kept = reference(context.task, context.model, context.retain, context.seed).examples
    order = _batches(count(kept), 2, seed_for(context.seed, "retain order"))

    generator = torch.Generator().manual_seed(seed_for(context.seed, "fresh weights", 1))
    with torch.no_grad():
        for weight in plain.parameters():
            if weight.dim() > 1:
                fan_out, fan_in = weight.shape
                normal = torch.randn(weight.shape, generator=generator)
                weight.copy_(0.7 * weight + 0.3 * normal * (2 / (fan_in + fan_out)) ** 0.5)
    optimizer = AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    norms = []
    for _ in range(3):
        batch = take(kept, next(order), CPU)
        losses = [
            kl(
                (record(teacher, batch, i)[0].detach(), record(teacher, batch, i)[1]),
                record(plain, batch, i),
                2.0,
            )
            for i in range(count(batch))
        ]
        norms.append(plain_step(plain, optimizer, torch.stack(losses).mean()))

    assert distill(context, params).step(1) == pytest.approx(max(norms), rel=1e-4)
    close(context.model, plain)


def test_a_round_of_pruning_equals_a_plain_loop(context: Context) -> None:
    params = NoiseAndPruneParams(
        sparsity=0.8,
        noise=0.2,
        max_steps=2,
        recovery_steps=3,
        batch_size=2,
        learning_rate=1e-3,
    )
    plain = copy.deepcopy(context.model).eval()
    order = _batches(count(context.retain), 2, seed_for(context.seed, "retain order"))
    generator = torch.Generator().manual_seed(seed_for(context.seed, "weight noise", 1))
    embeddings = ("wte", "wpe")
    masks: list[tuple[nn.Parameter, Tensor]] = []
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if weight.dim() > 1 and not any(part in name for part in embeddings):
                sizes = sorted(weight.abs().flatten().tolist())
                border = sizes[len(sizes) - round(0.6 * len(sizes))]
                mask = (weight.abs() >= border).float()
                deviation = 0.2 * (weight**2).mean() ** 0.5
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_((weight + deviation * noise) * mask)
                masks.append((weight, mask))
    optimizer = AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        plain_step(plain, optimizer, mean_loss(plain, take(context.retain, next(order), CPU)))
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)

    move = noise_and_prune(context, params)
    move.step(1)
    close(context.model, plain)
    move.step(2)
    for weight in prunable(context.model):
        assert (weight == 0).sum() == weight.numel() - round(0.2 * weight.numel())


def test_a_round_of_impairing_and_repairing_equals_a_plain_loop(context: Context) -> None:
    params = ImpairRepairParams(
        impair_steps=2, impair_rate=1e-2, recovery_steps=3, batch_size=2, learning_rate=1e-3
    )
    plain = copy.deepcopy(context.model).eval()
    generator = torch.Generator().manual_seed(seed_for(context.seed, "impaired", 1))
    optimizer = AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        order = torch.randperm(count(context.forget), generator=generator)[:2]
        plain_step(plain, optimizer, -mean_loss(plain, take(context.forget, order, CPU)))
    batches = _batches(count(context.retain), 2, seed_for(context.seed, "retain order"))
    optimizer = AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        plain_step(plain, optimizer, mean_loss(plain, take(context.retain, next(batches), CPU)))

    move = impair_repair(context, params)
    move.step(1)
    close(context.model, plain)
    # A round that was cut in half impairs half as fast the next time.
    move.pace(0.5)
    slower = impair_repair(context, params.model_copy(update={"impair_rate": 5e-3}))
    state = copy.deepcopy(context.model.state_dict())
    ends = []
    for one in (move, slower):
        context.model.load_state_dict(state)
        one.disturb(2, one.strength)  # type: ignore[attr-defined]
        ends.append(weights_of(context.model))
    assert all(torch.equal(*both) for both in zip(*ends, strict=True))


def test_largest_breaks_ties_and_keeps_the_share() -> None:
    weight = torch.tensor([[0.0, -3.0], [2.0, 0.0], [0.0, 0.0]])
    assert torch.equal(largest(weight, 2 / 6), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    assert largest(weight, 4 / 6).sum() == 4
    assert largest(weight, 1.0).sum() == 6


def test_noise_is_halved_where_a_round_was_cut(context: Context) -> None:
    start, changes = copy.deepcopy(context.model.state_dict()), []
    for share in (1.0, 0.5):
        context.model.load_state_dict(start)
        params = DistillParams(noise=0.4, recovery_steps=1, learning_rate=1e-30)
        move = distill(context, params)
        move.pace(share)
        move.step(1)
        changes.append([w - start[n] for n, w in context.model.named_parameters()])
    for whole, half in zip(*changes, strict=True):
        torch.testing.assert_close(half, whole / 2, atol=1e-6, rtol=1e-4)


def test_the_task_vector_equals_a_plain_loop(context: Context) -> None:
    params = TaskVectorParams(max_steps=4, alpha=3, batch_size=2, learning_rate=1e-3)
    start, tuned = weights_of(context.model), copy.deepcopy(context.model).eval()
    order = _batches(count(context.forget), 2, seed_for(context.seed, "forget order"))
    optimizer = AdamW(tuned.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(4):
        plain_step(tuned, optimizer, mean_loss(tuned, take(context.forget, next(order), CPU)))

    move = task_vector(context, params)
    for before, now in zip(start, context.model.parameters(), strict=True):
        assert torch.equal(before, now)
        assert now.grad is None
    assert move.step(1)
    for before, learned, now in zip(
        start, tuned.parameters(), context.model.parameters(), strict=True
    ):
        torch.testing.assert_close(now, before - 3 * (learned - before), atol=2e-5, rtol=1e-4)
    move.pace(0.5)
    assert move.step(2)
    move.pace(1)
    assert move.step(3) is None


def test_a_longer_task_vector_raises_the_forget_loss(context: Context) -> None:
    losses = [nll(record(context.model.eval(), context.forget, 0)).item()]
    for alpha in (2.0, 2.0):
        task_vector(context, TaskVectorParams(max_steps=4, alpha=alpha, learning_rate=1e-3)).step(1)
        losses.append(nll(record(context.model.eval(), context.forget, 0)).item())
    assert losses == sorted(losses)
    assert losses[2] > losses[0] + 1e-3
