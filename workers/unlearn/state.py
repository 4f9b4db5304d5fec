"""The trained part of a model and of its optimiser, as flat tensors that safetensors can hold."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_MODEL = "model/"
_OPTIMIZER = "optimizer/"


@dataclass(frozen=True)
class TrainingState:
    """What a training checkpoint holds; a training that resumes from it goes on bit for bit.

    Attributes:
        model: the trained tensors by parameter name, on the CPU.
        optimizer: "exp_avg.<parameter>", "step.<parameter>"…, on the CPU; empty before a step.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under the keys "model/…" and "optimizer/…"."""
        return {f"{_MODEL}{name}": tensor for name, tensor in self.model.items()} | {
            f"{_OPTIMIZER}{name}": tensor for name, tensor in self.optimizer.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors()`.

        Raises:
            ValueError: a key begins with neither "model/" nor "optimizer/".
        """
        if not all(key.startswith((_MODEL, _OPTIMIZER)) for key in tensors):
            raise ValueError("a training state has only the keys model/… and optimizer/…")
        return cls(model=_below(_MODEL, tensors), optimizer=_below(_OPTIMIZER, tensors))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def read_model(model: nn.Module) -> dict[str, Tensor]:
    """Copy what training changes: trainable parameters and saved buffers, on the CPU.

    Frozen parameters are left out, since `Task.build` makes them again; a parameter shared by two
    layers comes once.
    """
    return {name: _copy(tensor) for name, tensor in _trained(model).items()}


def write_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors read by `read_model` into a model of the same task.

    Raises:
        ValueError: names, shapes or types are not the model's. A buffer that is empty in a fresh
            model takes any number of values.
    """
    trained = _trained(model)
    empty = {name for name, tensor in trained.items() if not tensor.numel()}
    if not empty <= tensors.keys() or _shapes(trained, empty) != _shapes(tensors, empty):
        raise ValueError(
            "the state does not fit the model: names or shapes differ; use the recipe and the "
            "parameters that it was trained with"
        )
    for name, tensor in trained.items():
        if name in empty:
            tensor.data = tensors[name].to(tensor.device, copy=True)
        else:
            tensor.data.copy_(tensors[name])


def _shapes(
    tensors: Mapping[str, Tensor], without: AbstractSet[str]
) -> dict[str, tuple[torch.dtype, torch.Size | None]]:
    return {
        name: (tensor.dtype, None if name in without else tensor.shape)
        for name, tensor in tensors.items()
    }


def read_optimizer(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Copy the optimiser's state of each parameter as "<kind>.<parameter>", on the CPU."""
    return {
        f"{kind}.{name}": _copy(value)
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def write_optimizer(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors read by `read_optimizer` into an optimiser of the same kind.

    Raises:
        ValueError: a tensor belongs to no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if name not in parameters:
            raise ValueError("the optimiser state does not fit the model: parameter names differ")
        # AdamW counts steps in a CPU scalar, whatever the parameter's device.
        device = "cpu" if kind == "step" else parameters[name].device
        optimizer.state[parameters[name]][kind] = tensor.to(device, copy=True)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    saved = model.state_dict().keys()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return parameters | {name: b for name, b in model.named_buffers() if name in saved}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
