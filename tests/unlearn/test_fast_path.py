"""What makes a step cheap, against what it stands for: whole passes, one record at a time."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from lethe.methods.approximate import (
    FineTuneParams,
    GradDiffParams,
    NpoParams,
    RmuParams,
    ScrubParams,
    SsdParams,
)
from lethe.methods.spec import GuardParams
from tests.unlearn.plain_cases import CPU, NOTES, a_batch, context_of, kl, mean_of, record, shaken
from tests.unlearn.unlearn_cases import Rows, digits_task
from workers.recipes import make_task
from workers.unlearn.descent import Descent, parts
from workers.unlearn.fine_tune import fine_tune
from workers.unlearn.grad_diff import grad_diff
from workers.unlearn.guarded import UnlearnCheckpoint, Unlearned, unlearn
from workers.unlearn.method import Context, Method, Move
from workers.unlearn.npo import npo
from workers.unlearn.reference import reference
from workers.unlearn.rmu import activations, frozen_prefix, rmu
from workers.unlearn.scrub import scrub
from workers.unlearn.seeds import seed_for
from workers.unlearn.ssd import ssd
from workers.unlearn.task import Examples, Task, count, each_nll, join, per_prediction, take

KINDS: dict[str, dict[str, object]] = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {},
    "llama": {},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8},
    "phi": {},
    "phi3": {},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "opt": {"dropout": 0.0, "ffn_dim": 32, "word_embed_proj_dim": 16},
}
MANY = 50_000
Params = TypeVar("Params", bound=GuardParams)
LONG: Rows = [{"note": "x" * (40 + i % 3)} for i in range(10)]


def kind_of(kind: str, **changes: object) -> Task:
    shape = {
        "model_type": kind,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    if kind not in {"gpt2", "opt"}:
        shape["intermediate_size"] = 32
    return make_task(
        "causal_lm",
        {
            "text": "note",
            "config": {**shape, **KINDS[kind], **changes},
            "max_tokens": 48,
            "training": {"batch_size": 4},
        },
    )


def same_up_to_rounding(mine: Tensor, plain: Tensor, weights: list[nn.Parameter]) -> None:
    torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)
    # Records weigh differently, so that none can stand for another.
    weighted = [(one * torch.arange(1, len(one) + 1)).sum() for one in (mine, plain)]
    mine_gradients, plain_gradients = (
        torch.autograd.grad(one, weights, materialize_grads=True) for one in weighted
    )
    for a, b in zip(mine_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, b.abs().max().item()), rtol=1e-5)


def one_by_one(model: nn.Module, examples: Examples) -> Tensor:
    return torch.stack([mean_of(record(model, examples, i)) for i in range(count(examples))])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_losses_equal_those_of_records_alone(kind: str) -> None:
    task = kind_of(kind)
    model, examples = task.build(3).train(), task.encode(NOTES)
    shapes: list[torch.Size] = []
    words = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    hook = words.register_forward_pre_hook(lambda _, came: shapes.append(came[0].shape))
    mine = task.losses(model, examples)
    hook.remove()
    rows = 10 if kind == "opt" else 6
    assert shapes[0] == (rows, 20), "packed into fewer rows where the kind is known to allow it"
    same_up_to_rounding(mine, one_by_one(model, examples), list(model.parameters()))


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most numbers that an operation puts out."""

    numbers = 0

    @override
    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        output = func(*args, **(kwargs or {}))
        for one in output if isinstance(output, tuple | list) else [output]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return output


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("phi", {"tie_word_embeddings": False}),
    ],
)
def test_logits_are_made_again_and_never_held_at_once(
    kind: str, changes: dict[str, object]
) -> None:
    task = kind_of(kind, vocab_size=MANY, **changes)
    model, examples = task.build(3).train(), task.encode(LONG)
    weights = list(model.parameters())
    plain = one_by_one(model, examples)
    same_up_to_rounding(task.losses(model, examples), plain, weights)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        torch.autograd.grad(task.losses(model, examples).sum(), weights)
    places = int((examples["length"] - 1).sum())
    assert largest.numbers < places * MANY / 4
    with Largest() as whole:  # type: ignore[no-untyped-call]
        task.log_distribution(model, examples)
    assert whole.numbers >= places * MANY


def test_a_frozen_head_and_adapters_have_the_gradients_of_a_plain_pass() -> None:
    task = make_task(
        "causal_lm",
        {
            "text": "note",
            "config": {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1}
            | {"vocab_size": MANY, **KINDS["gpt2"]},
            "max_tokens": 48,
            "lora": {"r": 2, "alpha": 4, "target_modules": ["c_attn"]},
        },
    )
    model, examples = task.build(3).train(), task.encode(LONG)
    shaken(model)
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert 0 < len(adapters) < len(list(model.parameters()))
    same_up_to_rounding(task.losses(model, examples), one_by_one(model, examples), adapters)


def test_losses_have_second_derivatives_outside_training() -> None:
    task = kind_of("gpt2", vocab_size=MANY)
    model, examples = task.build(3).eval(), task.encode(LONG)
    weight = model.get_parameter("transformer.h.1.mlp.c_fc.bias")

    def squared(loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), weight)
        return second

    mine = squared(task.losses(model, examples).sum())
    torch.testing.assert_close(mine, squared(one_by_one(model, examples).sum()))
    model.train()
    with pytest.raises(RuntimeError, match="no second derivative in training"):
        squared(task.losses(model, examples).sum())


def test_a_divergence_asked_in_pieces_is_that_of_whole_records() -> None:
    task = kind_of("gpt2")
    context = context_of(task, NOTES)
    before, old = reference(task, context.model, context.retain, "s"), copy.deepcopy(context.model)
    shaken(context.model)
    at = torch.tensor([4, 0, 5])
    batch = take(before.examples, at, CPU)
    ask = before.divergences(at, 2.0)
    now = per_prediction(task, context.model, batch, lambda rows, _: rows)
    pieces = [ask(now[i : i + 4], slice(i, min(i + 4, len(now)))) for i in range(0, len(now), 4)]
    each = torch.split(torch.cat(pieces), (batch["length"] - 1).tolist())
    for i, divergence in enumerate(each):
        plain = kl(record(old, batch, i), record(context.model, batch, i), 2.0)
        torch.testing.assert_close(divergence.mean(), plain, atol=1e-6, rtol=1e-5)


def test_parts_of_a_step_weigh_every_record_as_the_step_does() -> None:
    generator = torch.Generator().manual_seed(0)
    for forget, retain, most in [(8, 8, 1), (8, 8, 3), (3, 8, 4), (7, 5, 4), (1, 6, 6), (5, 5, 9)]:
        left, right = torch.randn(forget, generator=generator), torch.randn(retain)
        total, pairs = torch.zeros(()), 0
        for a, b, weight in parts(torch.arange(forget), torch.arange(retain), most):
            total += weight * (left[a].mean() + 3 * right[b].mean())
            pairs += 1
            assert len(a) <= math.ceil(forget / most)
            assert len(b) <= math.ceil(retain / most)
        torch.testing.assert_close(total, left.mean() + 3 * right.mean())
        assert pairs < 2 * most
        assert forget != retain or pairs == min(most, forget)


def stepped(context: Context, move: Callable[[Context], Move]) -> tuple[float, dict[str, Tensor]]:
    """The norm and the first moments after one step of a copy."""
    own = replace(context, model=copy.deepcopy(context.model))
    descent = cast("Descent", move(own))
    norm = descent.step(1)
    return norm, {k: v for k, v in descent.state().tensors.items() if k.startswith("exp_avg.")}


ALIKE: dict[str, Callable[[Context, dict[str, object]], Move]] = {
    "npo": lambda c, p: npo(c, NpoParams.model_validate(p)),
    "grad_diff_kl": lambda c, p: grad_diff(
        c, GradDiffParams.model_validate({**p, "retain_term": "kl", "gamma": 0.3})
    ),
    "fine_tune": lambda c, p: fine_tune(c, FineTuneParams.model_validate(p)),
}


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("accumulate", [2, 5])
def test_a_step_in_parts_equals_the_whole_step(
    name: str, accumulate: int, context: Context
) -> None:
    # Of 4 records to forget and 6 to retain: the parts of the two do not match.
    whole = stepped(context, lambda c: ALIKE[name](c, {}))
    cut = stepped(context, lambda c: ALIKE[name](c, {"accumulate": accumulate}))
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)
    for key, moment in whole[1].items():
        torch.testing.assert_close(cut[1][key], moment, atol=1e-7, rtol=1e-4)


def test_parts_of_a_step_are_smaller_than_it() -> None:
    context = context_of(kind_of("opt"), NOTES)
    seen: list[int] = []
    context.model.register_forward_hook(lambda _m, _i, out: seen.append(len(out.logits)))
    fine_tune(context, FineTuneParams(accumulate=3)).step(1)
    assert set(seen) == {2}


def test_recomputed_layers_change_no_bit_and_are_off_again() -> None:
    context = context_of(kind_of("llama"), NOTES)
    calls: list[int] = []
    context.model.get_submodule("model.layers.0.mlp").register_forward_pre_hook(
        lambda *_: calls.append(1)
    )
    plain = stepped(context, lambda c: ALIKE["npo"](c, {}))
    once = len(calls)
    again = stepped(context, lambda c: ALIKE["npo"](c, {"recompute": True}))
    assert len(calls) - once == once + 1
    assert plain[0] == again[0]
    assert all(torch.equal(moment, again[1][key]) for key, moment in plain[1].items())
    descent = npo(context, NpoParams(recompute=True))
    descent.step(1)
    assert not context.model.is_activation_checkpointing


def test_a_model_that_cannot_recompute_is_refused(digit_rows: Rows) -> None:
    with pytest.raises(ValueError, match="set recompute to false"):
        npo(context_of(digits_task(), digit_rows[:10]), NpoParams(recompute=True))


def test_half_precision_is_for_steps_only(context: Context) -> None:
    whole = stepped(context, lambda c: ALIKE["npo"](c, {}))
    half = stepped(context, lambda c: ALIKE["npo"](c, {"precision": "bf16"}))
    assert half[0] != whole[0]
    assert half[0] == pytest.approx(whole[0], rel=0.05)
    assert {t.dtype for t in half[1].values()} == {torch.float32}
    result = run(context, npo, NpoParams(precision="bf16", max_steps=2, learning_rate=1e-5))
    assert {t.dtype for t in result.state.values()} == {torch.float32}
    assert (
        result.forget_loss_after
        == each_nll(context.task, context.model, context.forget).mean().item()
        or result.status == "failed"
    )


def deep(kind: str, digit_rows: Rows) -> Context:
    if kind == "mlp":
        return context_of(digits_task(hidden=[8, 8, 8]), digit_rows[:10])
    if kind == "cnn":
        return context_of(digits_task(network="cnn", channels=[2, 3]), digit_rows[:10])
    return context_of(kind_of(kind, num_hidden_layers=3), NOTES)


@pytest.mark.parametrize(
    ("kind", "layer", "trained", "moving", "frozen"),
    [
        ("mlp", "5", 2, ("4.",), "2"),
        ("mlp", "5", 4, ("2.", "4."), "0"),
        ("cnn", "4", 2, ("3.",), "1"),
        ("gpt2", "transformer.h.2", 1, ("transformer.h.2.",), "transformer.h.1.mlp"),
        ("llama", "model.layers.2", 2, ("model.layers.1.", "model.layers.2."), None),
        ("llama", "model.layers.1", 1, ("model.layers.1.",), "model.layers.0.mlp"),
    ],
)
def test_rmu_trains_the_last_layers_on_what_enters_them(
    kind: str,
    layer: str,
    trained: int,
    moving: tuple[str, ...],
    frozen: str | None,
    digit_rows: Rows,
) -> None:
    context = deep(kind, digit_rows)
    task, model, before = context.task, context.model, copy.deepcopy(context.model)
    params = RmuParams(layer=layer, trained_layers=trained, steering=3.0, alpha=20.0)
    descent = cast("Descent", rmu(context, params))
    weights = [p for name, p in model.named_parameters() if name.startswith(moving)]
    assert list(map(id, descent.weights)) == list(map(id, weights))
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.05)
    batch = a_batch(descent, 1)
    ran: list[int] = []
    if frozen is not None and kind not in {"mlp", "cnn"}:
        # What is inside a frozen layer; a frozen layer that has no inside still passes on.
        model.get_submodule(frozen).register_forward_hook(lambda *_: ran.append(1))
    loss = descent.loss(batch)
    assert not ran

    def at_layer(one: nn.Module, part: Examples, i: int) -> Tensor:
        return activations(task, one, layer, take(part, torch.tensor([i]), CPU))

    u = goal(context, at_layer(model, batch.forget, 0).shape[-1])
    by_hand = torch.zeros(())
    for i in range(count(batch.forget)):
        led = at_layer(model, batch.forget, i)
        by_hand = by_hand + (led - 3.0 * u).square().mean() / count(batch.forget)
    for i in range(count(batch.retain)):
        held = at_layer(model, batch.retain, i) - at_layer(before, batch.retain, i).detach()
        by_hand = by_hand + 20.0 * held.square().mean() / count(batch.retain)
    torch.testing.assert_close(loss, by_hand, atol=1e-6, rtol=1e-5)
    for mine, plain in zip(
        torch.autograd.grad(loss, weights), torch.autograd.grad(by_hand, weights), strict=True
    ):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-4)


def goal(context: Context, units: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_for(context.seed, "steering"))
    direction = torch.rand(units, generator=generator)
    norm: Tensor = direction.norm()
    return direction / norm


def test_rmu_moves_the_weights_named_and_no_others() -> None:
    context = memorised(num_hidden_layers=3)
    before = copy.deepcopy(context.model.state_dict())
    params = RmuParams(
        layer="transformer.h.2",
        trained_layers=2,
        trained_modules=("mlp.c_proj",),
        learning_rate=0.01,
        retain_loss_increase=10,
    )
    result = run(context, rmu, params.model_copy(update={"max_steps": 3}))
    assert result.status != "failed"
    moved = {n for n, t in context.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {
        f"transformer.h.{i}.mlp.c_proj.{kind}" for i in (1, 2) for kind in ("weight", "bias")
    }
    for name, parameter in context.model.named_parameters():
        assert parameter.requires_grad
        assert name in moved or parameter.grad is None, "computed for nothing"


def test_a_prefix_is_kept_whole_or_not_at_all_and_leaves_the_model_as_it_was() -> None:
    context = context_of(kind_of("gpt2", num_hidden_layers=3), NOTES)
    layers = ["transformer.h.0", "transformer.h.1"]
    assert frozen_prefix(context, layers, most_bytes=1) is None
    prefix = frozen_prefix(context, layers)
    assert prefix is not None
    expected = context.task.losses(context.model.eval(), context.forget)
    rows = prefix.forget.at(torch.tensor([0]), CPU)
    with prefix.known(take(prefix.forget.examples, torch.tensor([0]), CPU), rows + 1):
        pass
    assert torch.equal(context.task.losses(context.model, context.forget), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained_layers": 4}, "not so many numbered layers"),
        ({"layer": "transformer.wte", "trained_layers": 1}, "not so many numbered layers"),
        ({"trained_modules": ("mlp.down_proj",)}, "nothing to train"),
    ],
)
def test_layers_that_are_not_there_are_refused(changes: dict[str, object], message: str) -> None:
    context = context_of(kind_of("gpt2", num_hidden_layers=3), NOTES)
    with pytest.raises(ValueError, match=message):
        rmu(context, RmuParams.model_validate({"layer": "transformer.h.2"} | changes))


def run(
    context: Context,
    method: Method[Params],
    params: Params,
    *,
    on_checkpoint: Callable[[UnlearnCheckpoint], None] | None = None,
    resume: UnlearnCheckpoint | None = None,
    checkpoint_steps: int = 1,
    cancelled: Callable[[], bool] = lambda: False,
) -> Unlearned:
    return unlearn(
        method,
        context.task,
        context.model,
        forget=context.forget,
        retain=context.retain,
        holdout=far(context),
        params=params,
        seed=context.seed,
        on_progress=lambda share: None,
        cancelled=cancelled,
        on_checkpoint=on_checkpoint,
        checkpoint_steps=checkpoint_steps,
        resume=resume,
    )


def far(context: Context) -> Examples:
    if "x" in context.retain:
        return {"x": context.retain["x"].flip(-1), "y": context.retain["y"]}
    return context.task.encode([{"note": "zyx" * i} for i in range(1, 7)])


def memorised(**changes: object) -> Context:
    """A language model that knows its records, so that there is something to forget."""
    context = context_of(kind_of("gpt2", **changes), NOTES)
    everything = join([context.forget, context.retain])
    optimizer = torch.optim.AdamW(context.model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        context.task.losses(context.model.eval(), everything).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    return context


def stored(checkpoint: UnlearnCheckpoint) -> UnlearnCheckpoint:
    """The checkpoint as files give it back."""
    facts = json.loads(json.dumps(checkpoint.facts, allow_nan=False))
    return UnlearnCheckpoint(checkpoint.step, load(save(checkpoint.tensors)), facts)


RESUMED: dict[str, tuple[Method[GuardParams], GuardParams]] = {
    name: (cast("Method[GuardParams]", method), params)
    for name, method, params in [
        ("npo", npo, NpoParams(learning_rate=1e-3, max_steps=5, batch_size=3)),
        ("cut_short", npo, NpoParams(learning_rate=0.02, max_steps=8, batch_size=3)),
        (
            "grad_diff_kl",
            grad_diff,
            GradDiffParams(learning_rate=1e-3, max_steps=5, batch_size=4, retain_term="kl"),
        ),
        ("scrub", scrub, ScrubParams(learning_rate=1e-3, max_steps=5, batch_size=4)),
        (
            "in_parts",
            npo,
            NpoParams(learning_rate=1e-3, max_steps=5, batch_size=4, accumulate=2, recompute=True),
        ),
        (
            "rmu",
            rmu,
            RmuParams(
                layer="transformer.h.1",
                trained_layers=1,
                learning_rate=1e-3,
                max_steps=5,
                batch_size=4,
                retain_loss_increase=10,
            ),
        ),
    ]
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_killed_after_any_step_ends_in_the_same_bits(name: str) -> None:
    method, params = RESUMED[name]
    # With dropout, so that a stream of random numbers out of place would show.
    context = memorised(resid_pdrop=0.1, attn_pdrop=0.1)
    fresh = copy.deepcopy(context.model)
    kept: list[UnlearnCheckpoint] = []
    whole = run(context, method, params, on_checkpoint=lambda one: kept.append(stored(one)))
    assert len(kept) >= 3
    assert name != "cut_short" or any(0 < one.share < 1 for one in whole.trace[: len(kept)])
    for checkpoint in kept:
        again = replace(context, model=copy.deepcopy(fresh))
        resumed = run(again, method, params, resume=checkpoint)
        assert replace(resumed, state={}) == replace(whole, state={})
        assert all(torch.equal(resumed.state[key], t) for key, t in whole.state.items())
        end = again.model.state_dict()
        assert all(torch.equal(end[key], t) for key, t in context.model.state_dict().items())


def test_a_resumed_run_makes_only_the_steps_that_are_left() -> None:
    context = memorised()
    fresh = copy.deepcopy(context.model)
    params = NpoParams(learning_rate=1e-4, max_steps=6, unmeasured_steps=0)
    kept = list[UnlearnCheckpoint]()
    run(context, npo, params, on_checkpoint=kept.append, checkpoint_steps=4)
    assert len(kept) == 1
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return False

    again = replace(context, model=fresh)
    result = run(again, npo, params, resume=kept[0], cancelled=cancelled)
    assert (len(asked), result.steps) == (2, 6)


def test_a_checkpoint_of_another_run_is_refused() -> None:
    context = memorised()
    other = replace(context, model=copy.deepcopy(context.model))
    shaken(other.model)
    kept: list[UnlearnCheckpoint] = []
    run(context, npo, NpoParams(max_steps=2), on_checkpoint=kept.append)
    with pytest.raises(ValueError, match="of another run"):
        run(other, npo, NpoParams(max_steps=2), resume=kept[0])


def test_a_method_that_cannot_resume_begins_again() -> None:
    context = memorised()
    fresh, kept = copy.deepcopy(context.model), list[UnlearnCheckpoint]()
    whole = run(context, ssd, SsdParams(alpha=1.0), on_checkpoint=kept.append)
    assert not kept
    other = replace(context, model=copy.deepcopy(fresh))
    run(other, npo, NpoParams(max_steps=2), on_checkpoint=kept.append)
    again = run(replace(context, model=fresh), ssd, SsdParams(alpha=1.0), resume=kept[0])
    assert replace(again, state={}) == replace(whole, state={})
