"""Models that know their training records by heart, and the editing methods to run on them."""

import pkgutil
from collections.abc import Mapping
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn

from lethe.methods.editing import SPECS
from lethe.methods.spec import GuardParams, MethodSpec
from tests.unlearn.unlearn_cases import Training, digits_task, lm_params
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.guarded import Unlearned, unlearn
from workers.unlearn.method import Context, Method, Move
from workers.unlearn.sisa import restore
from workers.unlearn.state import TrainingState
from workers.unlearn.task import Examples, Task, join

EDITING: dict[str, MethodSpec] = {spec.name: spec for spec in SPECS}
DRIFT = 0.15


def method_of(name: str) -> Method[GuardParams]:
    method: Method[GuardParams] = pkgutil.resolve_name(EDITING[name].implementation or "")
    return method


class ByHeart:
    """A model that was trained until it knew its records by heart; some are to be forgotten."""

    def __init__(
        self,
        task: Task,
        forget: Examples,
        retain: Examples,
        holdout: Examples,
        needed: Mapping[str, Mapping[str, object]],
    ) -> None:
        self.task, self.forget, self.retain, self.holdout = task, forget, retain, holdout
        self.needed = needed
        self.state: TrainingState = Training()(task, [join([forget, retain])])

    def fresh(self) -> nn.Module:
        return restore(self.task, self.state, seed="model-1", shard=2)

    def loss(self, model: nn.Module, examples: Examples) -> float:
        return Ensemble(self.task, (model,)).losses(examples).mean().item()

    def params(self, name: str, parameters: Mapping[str, object]) -> GuardParams:
        params = EDITING[name].params.model_validate(
            {"retain_loss_increase": DRIFT, **self.needed.get(name, {}), **parameters}
        )
        assert isinstance(params, GuardParams)
        return params

    def prepare(self, name: str, model: nn.Module) -> Move:
        context = Context(self.task, model, self.forget, self.retain, "run-1")
        return method_of(name)(context, self.params(name, {}))

    def unlearn(
        self,
        name: str,
        model: nn.Module,
        parameters: Mapping[str, object],
        task: Task | None = None,
    ) -> Unlearned:
        return unlearn(
            method_of(name),
            task or self.task,
            model,
            forget=self.forget,
            retain=self.retain,
            holdout=self.holdout,
            params=self.params(name, parameters),
            seed="run-1",
            on_progress=lambda share: None,
            cancelled=lambda: False,
        )


@cache
def digits() -> ByHeart:
    task = digits_task(
        hidden=[32], training={"epochs": 25, "batch_size": 16, "learning_rate": 0.02}
    )
    raw = load_digits()
    rows: list[dict[str, object]] = [
        {**{f"pixel_{i}": float(p) for i, p in enumerate(pixels)}, "digit": int(label)}
        for pixels, label in zip(raw.data[:140], raw.target[:140], strict=True)
    ]
    return ByHeart(task, task.encode(rows[:6]), task.encode(rows[6:60]), task.encode(rows[60:]), {})


@cache
def notes() -> ByHeart:
    training = {"epochs": 40, "batch_size": 4, "learning_rate": 0.01}
    task = make_task("causal_lm", lm_params() | {"training": training})
    rows: list[dict[str, object]] = [
        {"note": f"{'p' * (i % 3)} {i} takes {i * 37 % 91} mg"} for i in range(12)
    ]
    return ByHeart(
        task,
        task.encode(rows[:2]),
        task.encode(rows[2:8]),
        task.encode(rows[8:]),
        {"model_edit": {"layer": "transformer.h.0.mlp.c_proj"}},
    )


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]
