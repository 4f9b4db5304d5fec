"""No method collapses a model, whatever its learning rate and steps: every method, random settings.

    python -m benchmarks.bench_no_collapse [--settings 20] [--quick]

A classifier of digits and a small language model, each of which knows its training records by
heart. Each approximate method runs under the guards with learning rates drawn log-uniformly from
1e-6 to 1e-2 and 1 to 60 steps. In the same run, beside it: plain ascent on the forget set with the
same learning rates and steps and no guard.

Counted: models that end with a number that is not finite, and models whose retain loss ends over
its bound (0.1 nats above its start). A model like that must never be promoted.
"""

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn
from torch.optim import AdamW

from lethe.methods import METHODS
from lethe.methods.spec import GuardParams
from workers.recipes import make_task
from workers.unlearn import run_method
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import restore, train_shard
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, Task, count, each_nll, join, take

BOUND = GuardParams().retain_loss_increase
SLACK = 1e-4
MOST_STEPS = 60
STEPS_OF = {"distill": 3, "impair_repair": 3, "noise_and_prune": 3}
"""The most steps of methods whose step is a round of many."""


@dataclass(frozen=True)
class Case:
    """A model that knows its records by heart, and what methods must be told of it."""

    name: str
    task: Task
    forget: Examples
    retain: Examples
    holdout: Examples
    state: TrainingState
    named: Mapping[str, Mapping[str, Any]]

    def model(self) -> nn.Module:
        """Return a model of its own."""
        return restore(self.task, self.state, seed=self.name, shard=0)

    def retain_loss(self, model: nn.Module) -> float:
        """Mean loss on the retain set, in nats."""
        return float(each_nll(self.task, model, self.retain).mean())


def main() -> None:
    """Print one line for each method and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="three settings of each")
    options = parser.parse_args()
    deterministic()
    table = Table(title=f"Retain loss bound: {BOUND} nats over its start")
    for column in ("model", "method", "runs", "not finite", "over its bound", "how they ended"):
        table.add_column(column, justify="right" if column[0] in "rno" else "left")
    for case in (digits(), notes()):
        settings = list(draws(case.name, 3 if options.quick else options.settings))
        table.add_row(case.name, "plain ascent", str(len(settings)), *plain(case, settings), "")
        for method, spec in METHODS.items():
            if spec.way == "steps" and (method != "model_edit" or case.name == "notes"):
                table.add_row(
                    case.name, method, str(len(settings)), *guarded(case, method, settings)
                )
    Console(width=120).print(table)


def draws(name: str, number: int) -> Iterator[tuple[float, int]]:
    """Draw learning rates and numbers of steps, the same for every method."""
    source = random.Random(name)
    for _ in range(number):
        yield 10 ** source.uniform(-6, -2), source.randint(1, MOST_STEPS)


def guarded(case: Case, method: str, settings: list[tuple[float, int]]) -> tuple[str, str, str]:
    """Run a method under the guards; count what ended badly, and how all ended."""
    fields = METHODS[method].params.model_fields
    broken, over, ended = 0, 0, Counter[str]()
    for place, (rate, steps) in enumerate(settings):
        model = case.model()
        start = case.retain_loss(model)
        drawn = {"learning_rate": rate, "max_steps": min(steps, STEPS_OF.get(method, steps))}
        outcome = run_method(
            method,
            case.task,
            model,
            forget=case.forget,
            retain=case.retain,
            holdout=case.holdout,
            parameters={name: value for name, value in drawn.items() if name in fields}
            | dict(case.named.get(method, {})),
            seed=f"run {place}",
            on_progress=lambda _: None,
            cancelled=lambda: False,
        )
        ended[outcome.status] += 1
        broken += not finite(model)
        over += not case.retain_loss(model) <= start + BOUND + SLACK
    told = ", ".join(f"{number} {status}" for status, number in sorted(ended.items()))
    return str(broken), str(over), told


def plain(case: Case, settings: list[tuple[float, int]]) -> tuple[str, str]:
    """Ascend on the forget set with AdamW and nothing else; count what ended badly."""
    broken, over = 0, 0
    for rate, steps in settings:
        model = case.model()
        start = case.retain_loss(model)
        optimizer = AdamW(model.parameters(), lr=rate)
        model.train()
        for _ in range(steps):
            loss = -case.task.losses(model, case.forget).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        broken += not finite(model)
        over += not case.retain_loss(model) <= start + BOUND + SLACK
    return str(broken), str(over)


def finite(model: nn.Module) -> bool:
    """Whether all that training changes is finite."""
    return all(bool(tensor.isfinite().all()) for tensor in read_model(model).values())


def digits() -> Case:
    """A multilayer perceptron that has learnt 90 digits, 10 of them to forget."""
    raw = load_digits()
    rows: list[dict[str, object]] = [
        {**{f"pixel_{i}": float(p) for i, p in enumerate(pixels)}, "digit": int(label)}
        for pixels, label in zip(raw.data[:190], raw.target[:190], strict=True)
    ]
    parameters = {
        "features": [f"pixel_{i}" for i in range(64)],
        "label": "digit",
        "classes": 10,
        "hidden": [32],
        "scale": 16.0,
        "training": {"epochs": 40, "learning_rate": 0.01},
    }
    named = {"rmu": {"layer": "1", "alpha": 10.0}}
    return _case("digits", "classifier", parameters, rows, (10, 90), named)


def notes() -> Case:
    """A language model that has learnt 24 notes, 6 of them to forget."""
    source = random.Random(0)
    rows: list[dict[str, object]] = [
        {"text": f"note {i}: " + "".join(source.choice("abcdefghij") for _ in range(16))}
        for i in range(40)
    ]
    config = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 40}
    parameters = {
        "text": "text",
        "config": config,
        "max_tokens": 36,
        "training": {"epochs": 60, "batch_size": 8, "learning_rate": 5e-3},
    }
    named: dict[str, dict[str, Any]] = {
        "rmu": {"layer": "transformer.h.0", "alpha": 10.0},
        "model_edit": {"layer": "transformer.h.1.mlp.c_proj", "value_steps": 5},
    }
    return _case("notes", "causal_lm", parameters, rows, (6, 24), named)


def _case(
    name: str,
    recipe: str,
    parameters: Mapping[str, Any],
    rows: list[dict[str, object]],
    cuts: tuple[int, int],
    named: Mapping[str, Mapping[str, Any]],
) -> Case:
    task = make_task(recipe, parameters)
    everything = task.encode(rows)
    places = torch.arange(count(everything))
    forget, retain, holdout = (
        take(everything, part, torch.device("cpu"))
        for part in (places[: cuts[0]], places[cuts[0] : cuts[1]], places[cuts[1] :])
    )
    state = train_shard(
        task,
        [join([forget, retain])],
        seed=name,
        shard=0,
        resume=None,
        on_checkpoint=lambda _r, _state: None,
        on_progress=lambda _: None,
        cancelled=lambda: False,
    )
    return Case(name, task, forget, retain, holdout, state, named)


if __name__ == "__main__":
    main()
