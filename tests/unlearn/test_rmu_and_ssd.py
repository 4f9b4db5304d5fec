"""The two methods that look inside the model, against plain versions."""

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from lethe.methods.approximate import RmuParams, SsdParams
from tests.unlearn.plain_cases import a_batch, mean_of, record, shaken
from workers.unlearn.descent import Descent
from workers.unlearn.method import Context
from workers.unlearn.rmu import activations, rmu
from workers.unlearn.seeds import seed_for
from workers.unlearn.ssd import fisher, ssd
from workers.unlearn.task import Examples, count


def layer_of(context: Context) -> str:
    return "transformer.h.0" if "tokens" in context.forget else "1"


def layer_output(context: Context, model: nn.Module, examples: Examples, i: int) -> Tensor:
    """Activations (T, units) of one record without its padding, from a whole forward pass."""
    seen: list[Tensor] = []
    hook = model.get_submodule(layer_of(context)).register_forward_hook(
        lambda module, inputs, output: seen.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    record(model, examples, i)
    hook.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


def test_rmu_equals_a_plain_loop_and_runs_no_later_layer(context: Context) -> None:
    before, model = copy.deepcopy(context.model), context.model
    params = RmuParams(layer=layer_of(context), steering=3.0, alpha=20.0)
    descent = cast("Descent", rmu(context, params))
    shaken(model)
    batch, weights = a_batch(descent, 1), list(model.parameters())
    late: list[int] = []
    last = "transformer.ln_f" if "tokens" in context.forget else "2"
    hook = model.get_submodule(last).register_forward_hook(lambda *_: late.append(1))
    loss = descent.loss(batch)
    hook.remove()
    assert not late

    units = layer_output(context, model, batch.forget, 0).shape[-1]
    generator = torch.Generator().manual_seed(seed_for(context.seed, "steering"))
    u = torch.rand(units, generator=generator)
    by_hand = torch.zeros(())
    for i in range(count(batch.forget)):
        led = layer_output(context, model, batch.forget, i)
        far = torch.stack([((h - 3.0 * u / u.norm()) ** 2).mean() for h in led]).mean()
        by_hand = by_hand + far / count(batch.forget)
    for i in range(count(batch.retain)):
        pairs = zip(
            layer_output(context, model, batch.retain, i),
            layer_output(context, before, batch.retain, i).detach(),
            strict=True,
        )
        drift = torch.stack([((now - old) ** 2).mean() for now, old in pairs]).mean()
        by_hand = by_hand + 20.0 * drift / count(batch.retain)
    torch.testing.assert_close(loss, by_hand, atol=1e-6, rtol=1e-6)
    for mine, plain in zip(
        torch.autograd.grad(loss, weights, materialize_grads=True),
        torch.autograd.grad(by_hand, weights, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)


def test_rmu_leaves_no_hook_behind(context: Context) -> None:
    expected = context.task.losses(context.model.eval(), context.forget)
    activations(context.task, context.model, layer_of(context), context.forget)
    assert torch.equal(context.task.losses(context.model, context.forget), expected)


def test_a_layer_that_is_not_there_is_refused(context: Context) -> None:
    for layer in ("", "transformer.h.7"):
        with pytest.raises(ValueError, match="no layer of the name given"):
            rmu(context, RmuParams(layer=layer))


def squares(model: nn.Module, examples: Examples) -> list[Tensor]:
    weights = list(model.parameters())
    total = [torch.zeros_like(weight) for weight in weights]
    for i in range(count(examples)):
        for sum_, g in zip(
            total, torch.autograd.grad(mean_of(record(model, examples, i)), weights), strict=True
        ):
            sum_.add_(g**2 / count(examples))
    return total


def test_the_fisher_diagonal_equals_a_plain_loop(context: Context) -> None:
    mine = fisher(context.task, context.model, context.forget)
    plain = squares(context.model.eval(), context.forget)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-4)


def test_dampening_equals_the_formula(context: Context) -> None:
    before = copy.deepcopy(context.model).eval()
    forget, retain = squares(before, context.forget), squares(before, context.retain)
    move = ssd(context, SsdParams(alpha=1.5, dampening=0.8))
    norm = move.step(1)
    assert norm == pytest.approx(sum(f.sum().item() for f in forget) ** 0.5, rel=1e-4)
    changed = 0
    for old, new, f, r in zip(
        before.parameters(), context.model.parameters(), forget, retain, strict=True
    ):
        factor = torch.ones_like(old)
        for at in (f > 1.5 * r).nonzero():
            place = tuple(at.tolist())
            factor[place] = min(0.8 * r[place].item() / f[place].item(), 1.0)
        # Where both importances are about equal, rounding decides the selection.
        sure = (f / (1.5 * r) - 1).abs() > 1e-3
        changed += int((factor[sure] < 1).sum())
        torch.testing.assert_close(new[sure], (old * factor)[sure], atol=1e-6, rtol=1e-3)
    assert changed > 10
    move.pace(1)
    assert move.step(2) is None
