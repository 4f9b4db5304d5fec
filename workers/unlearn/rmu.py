"""Representation misdirection: the forget set's activations at one layer are led astray.

Li et al., "The WMDP Benchmark", 2024 (arXiv 2403.03218), section 4. The loss lives at the layer, so
no later layer is run or trained; what the model before had there is kept, not computed again. So is
what enters the first layer that is trained, where layers before it are not.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lethe.methods.approximate import RmuParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.reference import REFERENCE_BYTES, Reference, remember
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import IGNORED, Examples, Task, count, mean_per_record, take


def rmu(context: Context, params: RmuParams) -> Move:
    """Minimise mean (h(forget) - steering · u)² + alpha · mean (h(retain) - h_before(retain))².

    h is the layer's output where a prediction counts, u a random unit vector with no negative
    part; the means are over its units, a record's predictions, and the batch. Layers that are not
    trained are run without dropout.

    Raises:
        ValueError: the model has no such layer, not so many numbered layers up to it, or nothing
            in them to train.
    """
    task, model, layer = context.task, context.model, params.layer
    if layer not in dict(model.named_modules()) or not layer:
        raise ValueError("the model has no layer of the name given; name one of its modules")
    frozen, trained = _numbered(layer, params.trained_layers)
    weights = _weights(model, trained, params.trained_modules)
    prefix = frozen_prefix(context, frozen) if frozen else None

    def ask(part: Examples) -> Tensor:
        entering = [activations(task, model, frozen[-1], part)] if prefix else []
        return torch.cat([*entering, activations(task, model, layer, part)], -1)

    before = remember(task, model, ask, context.retain, context.seed)
    width = prefix.forget.values[0].shape[-1] if prefix else 0
    generator = torch.Generator().manual_seed(seed_for(context.seed, "steering"))
    direction = torch.rand(before.values[0].shape[-1] - width, generator=generator)
    goal = params.steering * direction / direction.norm()

    def reached(part: Examples, entering: Tensor) -> Tensor:
        with prefix.known(part, entering) if prefix else nullcontext():
            return activations(task, model, layer, part).float()

    def loss(batch: Batch) -> Tensor:
        if frozen and not prefix:
            model.eval()
            for name in trained:
                model.get_submodule(name).train()
        device = weights[0].device
        wanted = before.at(batch.retain_at, device)
        entering = prefix.forget.at(batch.forget_at, device) if prefix else wanted
        led = reached(batch.forget, entering)
        held = reached(batch.retain, wanted[:, :width])
        astray = (led - goal.to(device)).square().mean(-1)
        drift = (held - wanted[:, width:]).square().mean(-1)
        forget = mean_per_record(astray, task.targets(batch.forget) != IGNORED).mean()
        retain = mean_per_record(drift, task.targets(batch.retain) != IGNORED).mean()
        return forget + params.alpha * retain

    sets = replace(context, retain=before.examples)
    if prefix:
        sets = replace(sets, forget=prefix.forget.examples)
    return Descent(sets, params, loss, weights=weights)


def _numbered(layer: str, trained: int | None) -> tuple[list[str], list[str]]:
    """The numbered layers up to `layer` that are not trained, and those that are; [""] for all."""
    if trained is None:
        return [], [""]
    parent, _, number = layer.rpartition(".")
    if not number.isdigit() or int(number) + 1 < trained:
        raise ValueError("there are not so many numbered layers up to the one named: train fewer")
    names = [f"{parent}.{i}" if parent else f"{i}" for i in range(int(number) + 1)]
    return names[:-trained], names[-trained:]


def _weights(model: nn.Module, layers: list[str], modules: tuple[str, ...]) -> list[nn.Parameter]:
    weights = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and any(name.startswith(f"{layer}.") or not layer for layer in layers)
        and (not modules or any(f".{module}." in f".{name}" for module in modules))
    ]
    if not weights:
        raise ValueError("there is nothing to train in the layers and modules named")
    return weights


@dataclass(frozen=True)
class FrozenPrefix:
    """Layers that are not trained, and what the last of them puts out for the forget set.

    Attributes:
        layers: their names, in order.
        forget: what it puts out where a prediction counts, for each record to forget.
        shape: of what it puts out for one record; None where that is a row per prediction.
        in_tuple: it puts out a tuple with this as the first part.
    """

    task: Task
    model: nn.Module
    layers: list[str]
    forget: Reference
    shape: torch.Size | None
    in_tuple: bool

    @contextmanager
    def known(self, examples: Examples, rows: Tensor) -> Iterator[None]:
        """Put out `rows`, one for each prediction that counts, instead of running the layers."""
        counted = self.task.targets(examples) != IGNORED
        places = rows.new_zeros(*counted.shape, rows.shape[-1])
        places[counted] = rows
        known = places if self.shape is None else places.reshape(len(places), *self.shape)
        output = (known,) if self.in_tuple else known

        def forward(*_arguments: object, **_keywords: object) -> object:
            return output

        modules = [self.model.get_submodule(name) for name in self.layers]
        for module in modules:
            vars(module)["forward"] = forward
        try:
            yield
        finally:
            for module in modules:
                del vars(module)["forward"]


def frozen_prefix(
    context: Context, layers: list[str], most_bytes: int = REFERENCE_BYTES
) -> FrozenPrefix | None:
    """Run the layers once for every record to forget; None where that would take `most_bytes`."""
    task, model, last = context.task, context.model, layers[-1]
    forget = remember(
        task,
        model,
        lambda part: activations(task, model, last, part),
        context.forget,
        context.seed,
        most_bytes,
    )
    if count(forget.examples) < count(context.forget):
        return None
    device = next(model.parameters()).device
    one = take(context.forget, torch.tensor([0]), device)
    output = _output(task, model, last, one)
    first = output[0] if isinstance(output, tuple) else output
    by_place = first.dim() == 3 and first.shape[:2] == task.targets(one).shape
    shape = None if by_place else first.shape[1:]
    return FrozenPrefix(task, model, layers, forget, shape, isinstance(output, tuple))


class _LayerReached(Exception):
    """The forward pass came to its layer, and needs to go no further."""


def activations(task: Task, model: nn.Module, layer: str, examples: Examples) -> Tensor:
    """What a layer puts out for each prediction that counts; no layer after it is run.

    Returns:
        (places, units), record after record; differentiable.
    """
    counted = task.targets(examples) != IGNORED
    output = _output(task, model, layer, examples)
    first = output[0] if isinstance(output, tuple) else output
    return first.reshape(*counted.shape, -1)[counted]


def _output(
    task: Task, model: nn.Module, layer: str, examples: Examples
) -> Tensor | tuple[Tensor, ...]:
    caught: list[Tensor | tuple[Tensor, ...]] = []

    def stop(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        caught.append(output)
        raise _LayerReached

    handle = model.get_submodule(layer).register_forward_hook(stop)
    try:
        with suppress(_LayerReached):
            task.log_distribution(model, examples)
    finally:
        handle.remove()
    return caught[0]
