import copy

import pytest
import torch
from torch import Tensor, nn

from tests.unlearn.unlearn_cases import digits_task, lm_params
from workers.attacks.quantisation import quantised
from workers.evidence.shift import NotApplicable
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble, ensemble
from workers.unlearn.task import Task


def one(task: Task) -> Ensemble:
    return ensemble(task, [(5, task.build(1))])


def plain(channel: Tensor, bits: int) -> Tensor:
    """One channel, number by number."""
    most = 2 ** (bits - 1) - 1
    scale = max(abs(float(x)) for x in channel.detach().flatten()) / most
    rounded = [round(float(x) / scale) * scale for x in channel.detach().flatten()]
    return torch.tensor(rounded).reshape(channel.shape)


@pytest.mark.parametrize("bits", [8, 4])
def test_linear_and_convolution_are_rounded_row_by_row(bits: int) -> None:
    for task in (digits_task(), digits_task(network="cnn", channels=[2, 3])):
        model = one(task)
        found = quantised(model, 8 if bits == 8 else 4)
        for name, weight in model.members[0].named_parameters():
            after = found.members[0].get_parameter(name)
            if name.endswith("bias"):
                assert torch.equal(after, weight)
                continue
            expected = torch.stack([plain(row, bits) for row in weight])
            torch.testing.assert_close(after.data, expected, rtol=0, atol=1e-7)
            assert not torch.equal(after, weight)
            assert all(len(row.unique()) < 2**bits for row in after)


def test_the_transposed_matrices_of_gpt2_are_rounded_column_by_column() -> None:
    model = one(make_task("causal_lm", lm_params()))
    found = quantised(model, 4).members[0]
    name = "transformer.h.0.mlp.c_fc.weight"
    weight = model.members[0].get_parameter(name)
    expected = torch.stack([plain(column, 4) for column in weight.T]).T
    torch.testing.assert_close(found.get_parameter(name).data, expected, rtol=0, atol=1e-7)
    head, table = (
        found.get_parameter("lm_head.weight"),
        found.get_parameter("transformer.wte.weight"),
    )
    assert head is table


def test_the_model_itself_stays_and_members_weigh_as_before() -> None:
    task = digits_task()
    model = ensemble(task, [(5, task.build(1)), (2, task.build(2))])
    before = copy.deepcopy(model.members)
    found = quantised(model, 4)
    assert found.records == (5, 2)
    for old, kept in zip(before, model.members, strict=True):
        for a, b in zip(old.parameters(), kept.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_channel_of_zeros_stays_zero() -> None:
    model = one(digits_task())
    layer = next(module for module in model.members[0].modules() if isinstance(module, nn.Linear))
    layer.weight.data[0] = 0
    rounded = next(quantised(model, 8).members[0].parameters())
    assert torch.equal(rounded[0], torch.zeros_like(rounded[0]))


def test_trees_have_nothing_to_quantise() -> None:
    with pytest.raises(NotApplicable, match="weight matrix"):
        quantised(one(make_task("gbdt", {"features": ["x"], "label": "y", "classes": 2})), 8)
