"""Representation misdirection: the forget set's activations at one layer are led astray.

Li et al., "The WMDP Benchmark", 2024 (arXiv 2403.03218), section 4. The loss lives at the layer, so
no later layer is run or trained; what the model before had there is kept, not computed again.
"""

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from lethe.methods.approximate import RmuParams
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context, Move
from workers.unlearn.reference import mean_per_record, remember
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import IGNORED, Examples, Task


def rmu(context: Context, params: RmuParams) -> Move:
    """Minimise mean (h(forget) - steering · u)² + alpha · mean (h(retain) - h_before(retain))².

    h is the layer's output where a prediction counts, u a random unit vector with no negative
    part; the means are over its units, a record's predictions, and the batch.

    Raises:
        ValueError: the model has no such layer.
    """
    task, model, layer = context.task, context.model, params.layer
    if layer not in dict(model.named_modules()) or not layer:
        raise ValueError("the model has no layer of the name given; name one of its modules")
    before = remember(
        task,
        model,
        lambda part: activations(task, model, layer, part),
        context.retain,
        context.seed,
    )
    generator = torch.Generator().manual_seed(seed_for(context.seed, "steering"))
    direction = torch.rand(before.values[0].shape[-1], generator=generator)
    goal = params.steering * direction / direction.norm()

    def loss(batch: Batch) -> Tensor:
        led = activations(task, model, layer, batch.forget)
        held = activations(task, model, layer, batch.retain)
        astray = (led - goal.to(led.device)).square().mean(-1)
        drift = (held - before.at(batch.retain_at, held.device)).square().mean(-1)
        forget = mean_per_record(astray, task.targets(batch.forget) != IGNORED).mean()
        retain = mean_per_record(drift, task.targets(batch.retain) != IGNORED).mean()
        return forget + params.alpha * retain

    return Descent(replace(context, retain=before.examples), params, loss)


class _LayerReached(Exception):
    """The forward pass came to its layer, and needs to go no further."""


def activations(task: Task, model: nn.Module, layer: str, examples: Examples) -> Tensor:
    """What a layer puts out for each prediction that counts; no layer after it is run.

    Returns:
        (places, units), record after record; differentiable.
    """
    counted = task.targets(examples) != IGNORED
    caught: list[Tensor] = []

    def stop(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)
        raise _LayerReached

    handle = model.get_submodule(layer).register_forward_hook(stop)
    try:
        with suppress(_LayerReached):
            task.log_distribution(model, examples)
    finally:
        handle.remove()
    return caught[0].reshape(*counted.shape, -1)[counted]
