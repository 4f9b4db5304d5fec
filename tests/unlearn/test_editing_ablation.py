"""Attribution against differences of the loss, ablation against weights set to zero by hand."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lethe.methods.editing import LocalisedAblationParams
from tests.unlearn.plain_cases import NOTES, context_of, lm, mean_of, record
from tests.unlearn.unlearn_cases import Rows, digits_task, lm_params
from workers.recipes import make_task
from workers.unlearn.curvature import MeanLoss
from workers.unlearn.localised_ablation import Reader, attribution, localised_ablation, readers
from workers.unlearn.method import Context
from workers.unlearn.task import Examples, count

SHAPES: dict[str, dict[str, object]] = {
    "llama": {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
    },
    "gpt_neox": {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
    },
}


def shaken_context(kind: str, digit_rows: Rows) -> Context:
    context = context_for(kind, digit_rows)
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(1)
        for weight in context.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return context


def context_for(kind: str, digit_rows: Rows) -> Context:
    if kind == "mlp":
        return context_of(digits_task(hidden=[8, 5]), digit_rows[:10])
    if kind == "cnn":
        return context_of(digits_task(network="cnn", channels=[3, 4]), digit_rows[:10])
    if kind == "gpt2":
        return context_of(lm(), NOTES)
    config = {"model_type": kind, **SHAPES[kind]}
    return context_of(make_task("causal_lm", lm_params() | {"config": config}), NOTES)


KINDS = {"mlp": 13, "cnn": 19, "gpt2": 66, "llama": 2 * 28, "gpt_neox": 2 * 28}


def columns(reader: Reader, model: nn.Module, unit: int) -> Tensor:
    """The columns of the weight that read a unit; a view."""
    names = {id(m): n for n, m in model.named_modules()}
    assert id(reader.module) in names
    weight = reader.module.weight
    assert isinstance(weight, Tensor)
    at = slice(unit * reader.width, (unit + 1) * reader.width)
    # Only Conv1D of transformers keeps (in, out).
    return weight.data[at] if type(reader.module).__name__ == "Conv1D" else weight.data[:, at]


def losses(model: nn.Module, examples: Examples) -> Tensor:
    with torch.no_grad():
        return torch.stack([mean_of(record(model, examples, i)) for i in range(count(examples))])


@pytest.mark.parametrize("kind", KINDS)
def test_attribution_is_the_derivative_by_a_unit_s_size(kind: str, digit_rows: Rows) -> None:
    context = shaken_context(kind, digit_rows)
    model = context.model.eval()
    found = readers(model)
    scores = attribution(MeanLoss(context.task, model, context.forget), found)
    assert sum(part.shape[-1] for part in scores) == KINDS[kind]
    # Narrow beside the kinks of ReLU, wide beside what transformers computes in single precision.
    width, seen = 1e-4 if kind in {"mlp", "cnn"} else 1e-2, 0
    model.double()
    forget = {k: t.double() if t.is_floating_point() else t for k, t in context.forget.items()}
    for reader, part in zip(found, scores, strict=True):
        for unit in {0, part.shape[-1] // 2, part.shape[-1] - 1}:
            view = columns(reader, model, unit)
            start, ends = view.clone(), []
            for factor in (1 - width, 1 + width):
                view.copy_(start * factor)
                ends.append(losses(model, forget))
            view.copy_(start)
            slope = (ends[0] - ends[1]) / (2 * width)
            torch.testing.assert_close(part[:, unit].double(), slope, atol=2e-5, rtol=5e-3)
            seen += int((slope.abs() > 1e-4).sum())
    assert seen > 3


@pytest.mark.parametrize("kind", KINDS)
def test_units_are_ablated_in_the_order_of_selectivity(kind: str, digit_rows: Rows) -> None:
    context = shaken_context(kind, digit_rows)
    model, by_hand = context.model, copy.deepcopy(context.model)
    found = readers(model)
    rows = [
        (reader, unit, f, r)
        for reader, forget, retain in zip(
            found,
            attribution(MeanLoss(context.task, model, context.forget), found),
            attribution(MeanLoss(context.task, model, context.retain), found),
            strict=True,
        )
        for unit, (f, r) in enumerate(
            zip(forget.mean(0).tolist(), retain.abs().mean(0).tolist(), strict=True)
        )
    ]
    mean = sum(r for *_, r in rows) / len(rows)
    rows.sort(key=lambda row: -row[2] / (row[3] + mean))
    names = {id(m): n for n, m in model.named_modules()}

    move = localised_ablation(context, LocalisedAblationParams(largest_share=0.3, units_per_step=2))
    assert move.step(1)
    most = -(-3 * len(rows) // 10)
    chosen = [row for row in rows[:most] if row[2] > 0]
    assert chosen
    for reader, unit, *_ in chosen[:2]:
        twin = Reader(by_hand.get_submodule(names[id(reader.module)]), reader.width)
        columns(twin, by_hand, unit).zero_()
    for mine, plain in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(mine, plain)
    assert move.max_steps == -(-len(chosen) // 2)


def test_an_ablated_head_is_not_heard(digit_rows: Rows) -> None:
    context = context_for("gpt2", digit_rows)
    reader = next(one for one in readers(context.model) if one.width == 8)
    caught: list[Tensor] = []
    hook = reader.module.register_forward_pre_hook(lambda m, came: caught.append(came[0]))
    context.task.losses(context.model, context.forget)
    hook.remove()
    changed = caught[0].clone()
    changed[..., 8:] += 5
    assert not torch.equal(reader.module(changed), reader.module(caught[0]))
    reader.ablate(1)
    assert torch.equal(reader.module(changed), reader.module(caught[0]))


def test_nothing_to_ablate_is_said(digit_rows: Rows) -> None:
    flat = context_of(digits_task(hidden=[]), digit_rows[:10])
    with pytest.raises(ValueError, match="no neurons or heads"):
        localised_ablation(flat, LocalisedAblationParams())
    adapted = lm_params() | {"lora": {"target_modules": ["c_proj"]}}
    with pytest.raises(ValueError, match="no neurons or heads"):
        localised_ablation(
            context_of(make_task("causal_lm", adapted), NOTES), LocalisedAblationParams()
        )
