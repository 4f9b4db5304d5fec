import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workers.weights import WeightsUnreadable, dump_tensors, load_tensors


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "layer.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
        "layer.bias": torch.tensor([-0.0, float("inf"), 1e-45]),
        "step": torch.tensor(17, dtype=torch.int64),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 5),
    }


def assert_same_bits(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    assert torch.equal(*as_bytes)


def test_every_bit_comes_back() -> None:
    tensors = some_tensors()
    loaded = load_tensors(dump_tensors(tensors))
    assert list(loaded) == sorted(tensors)
    for name, tensor in tensors.items():
        assert_same_bits(loaded[name], tensor)


def test_bytes_depend_on_names_and_values_only() -> None:
    tensors = some_tensors()
    expected = dump_tensors(tensors)
    turned = dict(reversed(list(tensors.items())))
    turned["layer.weight"] = tensors["layer.weight"].t().contiguous().t().requires_grad_()
    assert dump_tensors(turned) == expected
    tensors["step"] += 1
    assert dump_tensors(tensors) != expected


def test_tied_weights_are_written_under_both_names() -> None:
    shared = torch.ones(4, 2)
    loaded = load_tensors(dump_tensors({"embedding": shared, "head": shared, "row": shared[1]}))
    assert torch.equal(loaded["embedding"], shared)
    assert torch.equal(loaded["head"], shared)
    assert torch.equal(loaded["row"], shared[1])
    loaded["head"].zero_()
    assert torch.equal(loaded["embedding"], shared)


def test_the_bytes_carry_no_metadata() -> None:
    data = dump_tensors(some_tensors())
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    assert b"__metadata__" not in header
    assert json.loads(header).keys() == some_tensors().keys()


def test_no_tensors_are_no_tensors() -> None:
    assert load_tensors(dump_tensors({})) == {}


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_damaged_bytes_are_refused(cut: int) -> None:
    with pytest.raises(WeightsUnreadable) as caught:
        load_tensors(dump_tensors(some_tensors())[:cut])
    assert caught.value.next_step


def test_neither_store_nor_connectors_import_torch() -> None:
    check = (
        "import sys, workers.artifacts, workers.weights, workers.connectors.index, "
        "workers.connectors.records, workers.connectors.rewrite; "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", check], cwd=root, check=True)
