"""ROME and MEMIT: equality, minimality, and the whole edit against a plain loop."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from lethe.methods.editing import ModelEditParams
from tests.unlearn.plain_cases import NOTES, context_of, lm, mean_of, record
from tests.unlearn.unlearn_cases import lm_params
from workers.recipes import make_task
from workers.unlearn.method import Context
from workers.unlearn.model_edit import RIDGE, closest_edit, equal_edit, model_edit
from workers.unlearn.task import Examples, count

LAYERS = {
    "gpt2": "transformer.h.0.mlp.c_proj",
    "llama": "model.layers.0.mlp.down_proj",
    "gpt_neox": "gpt_neox.layers.0.mlp.dense_4h_to_h",
}


def context_for(kind: str) -> Context:
    if kind == "gpt2":
        return context_of(lm(), NOTES)
    config = {
        "model_type": kind,
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    return context_of(make_task("causal_lm", lm_params() | {"config": config}), NOTES)


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def some_moments(inputs: int) -> Tensor:
    many = drawn(40, inputs, seed=1)
    return many.T @ many / 40


def cost(delta: Tensor, moments: Tensor) -> float:
    return float((delta @ moments @ delta.T).trace())


def test_rome_of_one_key_is_the_paper_s_formula() -> None:
    moments, key, change = some_moments(9), drawn(9, seed=2), drawn(5, seed=3)
    turned = torch.linalg.inv(moments) @ key
    expected = torch.outer(change, turned) / (turned @ key)
    delta = equal_edit(key[None], change[None], moments)
    torch.testing.assert_close(delta, expected)


def test_rome_is_equal_and_the_least_by_direct_least_squares() -> None:
    moments, keys, changes = some_moments(9), drawn(3, 9, seed=2), drawn(3, 5, seed=3)
    delta = equal_edit(keys, changes, moments)
    torch.testing.assert_close(delta @ keys.T, changes.T)
    # With C = L Lᵀ and Δ L = X: the least X with X (L⁻¹ K) = R, which lstsq gives.
    root = np.linalg.cholesky(moments.numpy())
    squared = scipy.linalg.solve_triangular(root, keys.numpy().T, lower=True)
    least = np.linalg.lstsq(squared.T, changes.numpy(), rcond=None)[0].T
    expected = torch.from_numpy(least @ np.linalg.inv(root))
    torch.testing.assert_close(delta, expected, atol=1e-8, rtol=1e-6)
    other = delta + drawn(5, 9, seed=4) @ (
        torch.eye(9, dtype=torch.float64) - keys.T @ torch.linalg.pinv(keys.T)
    )
    torch.testing.assert_close(other @ keys.T, changes.T)
    assert cost(other, moments) > cost(delta, moments)


def test_rome_of_keys_that_depend_on_each_other_is_the_closest() -> None:
    key, changes = drawn(9, seed=2), drawn(2, 5, seed=3)
    delta = equal_edit(torch.stack([key, key]), changes, some_moments(9))
    torch.testing.assert_close(delta @ key, changes.mean(0))


def test_memit_is_the_least_by_direct_least_squares() -> None:
    moments, keys, changes = 0.3 * some_moments(9), drawn(12, 9, seed=2), drawn(12, 5, seed=3)
    delta = closest_edit(keys, changes, moments)
    root = np.linalg.cholesky(moments.numpy())
    left = np.concatenate([keys.numpy(), root.T])
    right = np.concatenate([changes.numpy(), np.zeros((9, 5))])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T
    torch.testing.assert_close(delta, torch.from_numpy(expected), atol=1e-8, rtol=1e-6)


def layer_of(model: nn.Module, kind: str) -> nn.Module:
    return model.get_submodule(LAYERS[kind])


def keys_and_values(
    model: nn.Module, kind: str, examples: Examples, i: int
) -> tuple[Tensor, Tensor]:
    """What the layer reads and writes for one record: (T, in) and (T, out)."""
    seen: list[Tensor] = []
    hook = layer_of(model, kind).register_forward_hook(
        lambda m, came, out: seen.extend((came[0][0].detach(), out[0].detach()))
    )
    record(model, examples, i)
    hook.remove()
    return seen[0], seen[1]


def plain_change(
    context: Context, kind: str, i: int, place: int, params: ModelEditParams
) -> Tensor:
    """The change of one record's value at one place, looked for by itself."""
    model = context.model
    value = keys_and_values(model, kind, context.forget, i)[1][place]
    change = torch.zeros_like(value, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=params.value_rate)
    for _ in range(params.value_steps):
        mask = torch.zeros(len(record(model, context.forget, i)[1]), 1)
        mask[place] = 1
        hook = layer_of(model, kind).register_forward_hook(
            lambda m, came, out, mask=mask: out + mask * change
        )
        loss = -mean_of(record(model, context.forget, i))
        hook.remove()
        change.grad = torch.autograd.grad(loss, change)[0]
        optimizer.step()
        with torch.no_grad():
            if change.norm() > params.largest_change * value.norm():
                change.mul_(params.largest_change * value.norm() / change.norm())
    return change.detach()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("edit", ["rome", "memit"])
def test_the_edit_equals_a_plain_loop(kind: str, edit: str) -> None:
    context = context_for(kind)
    context.model.eval()
    # At their sixth token, or their last, no two notes have been alike so far.
    params = ModelEditParams.model_validate(
        {"layer": LAYERS[kind], "edit": edit, "place": 5, "value_steps": 6, "value_rate": 0.05,
         "retain_weight": 3.0}
    )  # fmt: skip
    keys, changes = [], []
    for i in range(count(context.forget)):
        read, _ = keys_and_values(context.model, kind, context.forget, i)
        place = min(5, len(read) - 1)
        keys.append(read[place].double())
        changes.append(plain_change(context, kind, i, place, params).double())
    kept = torch.cat(
        [
            keys_and_values(context.model, kind, context.retain, i)[0].double()
            for i in range(count(context.retain))
        ]
    )
    moments = kept.T @ kept / len(kept)
    moments += RIDGE * moments.trace() / len(moments) * torch.eye(len(moments)).double()
    k, r = torch.stack(keys, 1), torch.stack(changes, 1)
    if edit == "rome":
        turned = torch.linalg.inv(moments) @ k
        delta = r @ torch.linalg.inv(k.T @ turned) @ turned.T
    else:
        delta = r @ k.T @ torch.linalg.inv(3.0 * moments + k @ k.T)

    before = copy.deepcopy(context.model)
    assert model_edit(context, params).step(1)
    for (name, old), new in zip(before.named_parameters(), context.model.parameters(), strict=True):
        if name != f"{LAYERS[kind]}.weight":
            assert torch.equal(old, new)
            continue
        change = (new - old).detach().double()
        change = change.T if kind == "gpt2" else change
        assert (change - delta).norm() < 2e-3 * delta.norm()
        if edit == "rome":
            assert (change @ k - r).norm() < 1e-3 * r.norm()
    rise = [mean_of(record(m, context.forget, 0)).item() for m in (before, context.model)]
    assert rise[1] > rise[0]


def test_a_layer_or_an_edit_that_does_not_fit_is_refused() -> None:
    context = context_for("gpt2")
    for layer in ("", "transformer.h.7.mlp.c_proj", "transformer.h.0"):
        with pytest.raises(ValueError, match="no trained linear layer"):
            model_edit(context, ModelEditParams(layer=layer))
    many = {name: torch.cat([t] * 6) for name, t in context.forget.items()}
    crowded = Context(context.task, context.model, many, context.retain, "s")
    with pytest.raises(ValueError, match="take memit"):
        model_edit(crowded, ModelEditParams(layer=LAYERS["gpt2"], edit="rome", value_steps=1))
