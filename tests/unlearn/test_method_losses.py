"""The first step of each method against a plain version: one record at a time, a second model."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from lethe.methods.approximate import (
    FineTuneParams,
    GradDiffParams,
    GradientAscentParams,
    NpoParams,
    ScrubParams,
    SimNpoParams,
)
from tests.unlearn.plain_cases import (
    NOTES,
    Record,
    a_batch,
    context_of,
    kl,
    lm,
    mean_of,
    nll,
    record,
    shaken,
)
from workers.unlearn.descent import Descent
from workers.unlearn.fine_tune import fine_tune
from workers.unlearn.grad_diff import grad_diff
from workers.unlearn.gradient_ascent import ascent
from workers.unlearn.method import Context, Move
from workers.unlearn.npo import npo
from workers.unlearn.reference import reference
from workers.unlearn.scrub import scrub
from workers.unlearn.simnpo import simnpo
from workers.unlearn.task import count

OneLoss = Callable[[Record, Record], Tensor]
Plain = tuple[OneLoss, OneLoss]


def nothing(before: Record, now: Record) -> Tensor:
    return torch.zeros(())


def nll_times(weight: float) -> OneLoss:
    return lambda before, now: weight * mean_of(now)


def plain_npo(before: Record, now: Record) -> Tensor:
    ratio = nll(before) - nll(now)  # log of (probability now / probability before)
    return 0.5 * -(2 / 0.3) * torch.log(1 / (1 + torch.exp(0.3 * ratio)))


def plain_simnpo(before: Record, now: Record) -> Tensor:
    return 0.5 * -(2 / 2.5) * torch.log(1 / (1 + torch.exp(-(2.5 * mean_of(now) - 0.4))))


def plain_scrub(before: Record, now: Record) -> Tensor:
    return 0.7 * kl(before, now, 2.0) + 0.9 * mean_of(now)


CASES: dict[str, tuple[Callable[[Context], Move], Plain, int, int]] = {
    # name: (method, (forget's part, retain's part) of one record, step, forwards per step)
    "gradient_ascent": (
        lambda c: ascent(c, GradientAscentParams(alpha=0.5)),
        (nll_times(-1), nll_times(0.5)),
        1,
        1,
    ),
    "grad_diff": (
        lambda c: grad_diff(c, GradDiffParams(gamma=2, alpha=0.5)),
        (nll_times(-2), nll_times(0.5)),
        1,
        1,
    ),
    "grad_diff_kl": (
        lambda c: grad_diff(c, GradDiffParams(gamma=2, alpha=0.5, retain_term="kl")),
        (nll_times(-2), lambda before, now: 0.5 * kl(before, now)),
        1,
        2,
    ),
    "npo": (
        lambda c: npo(c, NpoParams(beta=0.3, gamma=0.5, alpha=0.8)),
        (plain_npo, nll_times(0.8)),
        1,
        1,
    ),
    "simnpo": (
        lambda c: simnpo(c, SimNpoParams(beta=2.5, delta=0.4, gamma=0.5, alpha=0.8)),
        (plain_simnpo, nll_times(0.8)),
        1,
        1,
    ),
    "fine_tune": (
        lambda c: fine_tune(c, FineTuneParams()),
        (nothing, nll_times(1)),
        1,
        1,
    ),
    "scrub_keeps": (
        lambda c: scrub(c, ScrubParams(alpha=0.7, gamma=0.9, temperature=2)),
        (nothing, plain_scrub),
        1,
        1,
    ),
    "scrub_leaves": (
        lambda c: scrub(c, ScrubParams(alpha=0.7, gamma=0.9, temperature=2)),
        (lambda before, now: -kl(before, now, 2.0), nothing),
        2,
        1,
    ),
}


def prepared(context: Context, name: str) -> Descent:
    return cast("Descent", CASES[name][0](context))


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_those_of_a_plain_loop(name: str, context: Context) -> None:
    _, parts, step, forwards = CASES[name]
    before = copy.deepcopy(context.model)
    descent = prepared(context, name)
    shaken(context.model)
    batch, weights = a_batch(descent, step), list(context.model.parameters())

    calls: list[int] = []
    hook = context.model.register_forward_hook(lambda *_: calls.append(1))
    loss = descent.loss(batch)
    hook.remove()
    assert len(calls) == forwards
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)

    by_hand = torch.zeros(())
    for part, examples in zip(parts, (batch.forget, batch.retain), strict=True):
        for i in range(count(examples)):
            old = record(before, examples, i)
            one = part((old[0].detach(), old[1]), record(context.model, examples, i))
            by_hand = by_hand + one / count(examples)
    assert by_hand.item() != 0
    expected = torch.autograd.grad(by_hand, weights, materialize_grads=True)
    torch.testing.assert_close(loss, by_hand, atol=1e-6, rtol=1e-6)
    for mine, plain in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_preparing_leaves_the_model_as_it_is(name: str, context: Context) -> None:
    before = copy.deepcopy(context.model.state_dict())
    prepared(context, name)
    assert all(torch.equal(before[key], t) for key, t in context.model.state_dict().items())
    assert all(p.grad is None for p in context.model.parameters())


@pytest.mark.parametrize("name", ["npo", "grad_diff_kl", "scrub_keeps", "scrub_leaves"])
def test_what_padding_holds_changes_no_loss(name: str) -> None:
    context, losses = context_of(lm(), NOTES), []
    for filler in (258, 65):
        model = copy.deepcopy(context.model)
        filled = [
            {**part, "tokens": part["tokens"].where(part["tokens"] != 258, filler)}
            for part in (context.forget, context.retain)
        ]
        descent = prepared(replace(context, model=model, forget=filled[0], retain=filled[1]), name)
        shaken(model)
        losses.append(descent.loss(a_batch(descent, CASES[name][2])))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-7, rtol=1e-6)


def test_a_reference_keeps_a_sample_that_fits(context: Context) -> None:
    whole = reference(context.task, context.model, context.retain, "s")
    assert count(whole.examples) == len(whole.values) == 6
    room = whole.values[0].nbytes + 1
    part = reference(context.task, context.model, context.retain, "s", room)
    assert count(part.examples) == len(part.values) == 2
    for name, tensor in part.examples.items():
        assert torch.equal(tensor, whole.examples[name][:2])
    for i, kept in enumerate(whole.values):
        logits, _ = record(context.model, whole.examples, i)
        torch.testing.assert_close(kept, logits.log_softmax(-1), atol=1e-6, rtol=1e-5)
        assert not kept.requires_grad
