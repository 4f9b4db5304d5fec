"""Removing one record from a closed-form head: at once, byte for byte, and by fitting again.

    python benchmarks/bench_closed_form.py [--removals 15]

A head of 1,024 features on 1,500 digits, one thread, medians. Every way is checked against the fit
without the record: the weights at once by their largest difference, the state by its SHA-256.
Accuracy is the mean over 5 random holdouts of 297 digits.
"""

import argparse
import copy
import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from lethe.recipes.closed_form import ClosedFormParams
from workers.recipes.closed_form import ClosedForm, ClosedFormHead
from workers.unlearn.closed_form_head import UNIT, factorise, provisional_weights
from workers.unlearn.seeds import deterministic
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, take
from workers.weights import dump_tensors

RECORDS, SPLITS = 1500, 5
CPU = torch.device("cpu")
T = TypeVar("T")


class Seconds(NamedTuple):
    """What a piece of work took; the second figure is the firm one on a busy machine."""

    wall: float
    processor: float


@dataclass
class Measured:
    """Seconds of each way, by the wall and of the processor, and how near they come to the fit."""

    provisional: list[Seconds] = field(default_factory=list)
    removal: list[Seconds] = field(default_factory=list)
    refit: list[Seconds] = field(default_factory=list)
    difference: float = 0.0
    equal: int = 0


def main() -> None:
    """Print the medians, the differences and the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--removals", type=int, default=15)
    options = parser.parse_args()
    deterministic()
    task, examples = digits()
    measured = measure(task, examples, options.removals)
    accuracy = statistics.mean(accuracy_of(task, examples, split) for split in range(SPLITS))

    table = Table(title=f"one record of {RECORDS:,} × {task.params.width:,}, one thread")
    table.add_column("what")
    for column in ("median", "processor", "against the fit"):
        table.add_column(column, justify="right")
    ways = [
        ("weights at once", measured.provisional, f"within {measured.difference:.0e}"),
        (
            "removal from the sums",
            measured.removal,
            f"{measured.equal} of {options.removals} equal",
        ),
        ("fit without the record", measured.refit, ""),
    ]
    for what, seconds, beside in ways:
        medians = [statistics.median(figures) * 1e3 for figures in zip(*seconds, strict=True)]
        table.add_row(what, *[f"{median:.2f} ms" for median in medians], beside)
    table.add_row("accuracy on the holdout", f"{accuracy:.4f}", "", "")
    Console().print(table)


def digits() -> tuple[ClosedForm, Examples]:
    """Return the task and all 1,797 digits."""
    params: dict[str, object] = {
        "image": {"prefix": "pixel_", "height": 8, "width": 8},
        "label": "digit",
        "classes": 10,
        "scale": 16.0,
        "fourier": {"width": 1023},
    }
    task = ClosedForm(ClosedFormParams.model_validate(params))
    data = load_digits()
    rows = [
        {f"pixel_{i}": pixel for i, pixel in enumerate(pixels)} | {"digit": label}
        for pixels, label in zip(data.data.tolist(), data.target.tolist(), strict=True)
    ]
    return task, task.encode(rows)


def measure(task: ClosedForm, examples: Examples, removals: int) -> Measured:
    """Take single records out of the same head, each in the three ways."""
    measured, everything = Measured(), torch.arange(RECORDS)
    trained = fitted(task, take(examples, everything, CPU))
    factor = factorise(trained.gram, task.params.ridge)
    forget = [take(examples, everything[i : i + 1], CPU) for i in range(removals)]
    at_once(task, trained, factor, forget[0])
    weights = []
    # Apart from the rest, which would leave nothing of the factor in the processor's cache.
    for one in forget:
        provisional, seconds = timed(partial(at_once, task, trained, factor, one))
        weights.append(provisional)
        measured.provisional.append(seconds)
    for i, one in enumerate(forget):
        retain = take(examples, torch.cat([everything[:i], everything[i + 1 :]]), CPU)
        model = copy.deepcopy(trained)
        _, seconds = timed(partial(task.remove, model, one, retain))
        measured.removal.append(seconds)
        refit, seconds = timed(partial(fitted, task, retain))
        measured.refit.append(seconds)
        measured.equal += sha(model) == sha(refit)
        difference = float((weights[i] - refit.weights.detach()).abs().max())
        measured.difference = max(measured.difference, difference)
    return measured


def at_once(
    task: ClosedForm, model: ClosedFormHead, factor: torch.Tensor, forget: Examples
) -> torch.Tensor:
    """Return the weights without some records, from the factor that was kept."""
    features = model.features(forget["x"]).div(UNIT)
    targets = torch.nn.functional.one_hot(forget["y"], task.params.classes).to(torch.float64)
    return provisional_weights(factor, model.weights.detach(), features, targets)


def fitted(task: ClosedForm, examples: Examples) -> ClosedFormHead:
    """Fit a head."""
    model = ClosedFormHead(task.params)
    task.learn(model, [examples], 0, "bench")
    return model


def accuracy_of(task: ClosedForm, examples: Examples, split: int) -> float:
    """Fit 1,500 digits drawn by the number of the split; return the accuracy on the others."""
    generator = torch.Generator().manual_seed(split)
    order = torch.randperm(len(examples["y"]), generator=generator)
    model = fitted(task, take(examples, order[:RECORDS], CPU))
    return float(task.accuracies(model, take(examples, order[RECORDS:], CPU)).mean())


def sha(model: ClosedFormHead) -> str:
    """Digest all that the model stores."""
    state = TrainingState(read_model(model), {})
    return hashlib.sha256(dump_tensors(state.tensors())).hexdigest()


def timed(work: Callable[[], T]) -> tuple[T, Seconds]:
    """Return what some work gave, and its seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - processor)


if __name__ == "__main__":
    main()
