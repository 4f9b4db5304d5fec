"""One person's notes taken out of a text classifier: from a head's sums, or by training again.

    python -m benchmarks.bench_frozen_backbone [--people 15]

A small language model is trained on the notes of people who are public, and kept as a checkpoint.
Other people's notes are put into four wards by a closed-form head on it, frozen, and by the same
checkpoint with LoRA and a head trained by gradients. Times are medians over people, but for what
the backbone is included in or LoRA trained, which is done once; the removal's include the
backbone's pass over the person's notes. All on one thread. Accuracy is on people whom nobody
trained on; the best that can be had is 96 %, since some labels follow from nothing.
"""

import argparse
import copy
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.made_people import SYLLABLES, Row
from lethe.recipes.closed_form import ClosedFormParams
from lethe.recipes.local_folder import folder_digest
from workers.recipes import make_task
from workers.recipes.closed_form import ClosedForm, ClosedFormHead, make_closed_form
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import restore, train_shard
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, Task, count, take
from workers.weights import dump_tensors

PUBLIC, TRAINED, TESTED, EACH = 400, 300, 100, 4
WIDTH, TOKENS, SEED = 128, 112, "bench"
CONFIG: dict[str, object] = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 4,
    "n_embd": WIDTH,
    "n_positions": TOKENS,
    "resid_pdrop": 0,
    "embd_pdrop": 0,
    "attn_pdrop": 0,
}
COMPLAINTS = {
    0: ["chest pain", "short breath", "racing heart", "swollen legs", "faint spells"],
    1: ["broken wrist", "sore knee", "stiff back", "torn ligament", "twisted ankle"],
    2: ["itchy rash", "dry skin", "new mole", "hives at night", "peeling hands"],
    3: ["blurred sight", "red eyes", "double vision", "ear ache", "lost hearing"],
}
UNCLEAR = 0.05
"""Share of notes whose ward follows from nothing."""

CPU = torch.device("cpu")
T = TypeVar("T")

Note = Callable[[np.random.Generator, int], str]
"""Says something from which a ward follows."""


@dataclass
class Measured:
    """Seconds of each way for each person, and for how many the bytes were equal."""

    removal: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    backbone: list[float] = field(default_factory=list)
    equal: int = 0


def main() -> None:
    """Print seconds, ratios, accuracies and whether bytes are equal, for both kinds of notes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=15)
    options = parser.parse_args()
    deterministic()
    for kind, note in NOTES.items():
        with tempfile.TemporaryDirectory() as folder:
            compare(kind, note, options.people, Path(folder))


def compare(kind: str, note: Note, people: int, folder: Path) -> None:
    """Print what one kind of notes gives; the folder is for the public checkpoint."""
    draws = np.random.default_rng(7)
    public, trained, tested = (notes(draws, note, many) for many in (PUBLIC, TRAINED, TESTED))
    checkpoint = public_backbone(public, folder)
    task, adapted = frozen({"checkpoint": checkpoint}), with_lora(checkpoint)
    measured = measure(task, trained, people)
    model, retraining = timed(lambda: fine_tuned(adapted, trained[EACH:]))
    random = frozen({"config": CONFIG})
    right, lucky = (accuracy(one, trained, one.encode(tested)) for one in (task, random))
    rows = [
        ("removal from the sums", measured.removal, right),
        ("head anew, features at hand", measured.head, None),
        ("head anew, backbone included", measured.backbone, None),
        ("LoRA and head anew", [retraining], mean(adapted, model, adapted.encode(tested))),
        ("a head on random weights", [], lucky),
    ]
    show(kind, rows, f"{measured.equal} of {people} equal the fit")


def word(draws: np.random.Generator, syllables: int) -> str:
    """Make up a word."""
    return "".join(SYLLABLES[i] for i in draws.integers(len(SYLLABLES), size=syllables))


def complaint(draws: np.random.Generator, ward: int) -> str:
    """Draw a complaint of a ward."""
    return COMPLAINTS[ward][draws.integers(len(COMPLAINTS[ward]))]


def plain(draws: np.random.Generator, ward: int) -> str:
    """Say what somebody has: its words alone tell the ward."""
    return f"has {complaint(draws, ward)}"


def negated(draws: np.random.Generator, ward: int) -> str:
    """Say what somebody has and has not, in either order: only the reading tells the ward."""
    other = int(draws.choice([one for one in COMPLAINTS if one != ward]))
    both = [f"has {complaint(draws, ward)}", f"no {complaint(draws, other)}"]
    return " and ".join(both[i] for i in draws.permutation(2))


NOTES: dict[str, Note] = {"what somebody has": plain, "what somebody has and has not": negated}


def notes(draws: np.random.Generator, note: Note, people: int) -> list[Row]:
    """Four notes of each person, one after another, with names that nobody else has."""
    rows: list[Row] = []
    for _ in range(people):
        name, number = word(draws, 3).capitalize(), draws.integers(1000, 9999)
        for _ in range(EACH):
            ward = int(draws.integers(len(COMPLAINTS)))
            said = f"of {word(draws, 2)} {note(draws, ward)} for {draws.integers(2, 40)} days"
            unclear = draws.random() < UNCLEAR
            label = int(draws.integers(len(COMPLAINTS))) if unclear else ward
            rows.append({"note": f"{name} ({number}) {said}.", "ward": label})
    return rows


def public_backbone(rows: Sequence[Row], folder: Path) -> dict[str, str]:
    """Train a language model on public notes and save it; return what a recipe names it by."""
    training = {"epochs": 6, "batch_size": 16, "learning_rate": 2e-3}
    task = make_task(
        "causal_lm",
        {"text": "note", "config": CONFIG, "max_tokens": TOKENS, "training": training},
    )
    fine_tuned(task, rows).save_pretrained(folder)  # type: ignore[operator]
    return {"path": str(folder), "sha256": folder_digest(folder)}


def frozen(source: dict[str, object]) -> ClosedForm:
    """Return the recipe of a head on a frozen backbone."""
    text = {"column": "note", "width": WIDTH, "max_tokens": TOKENS, **source}
    params: dict[str, object] = {"text": text, "label": "ward", "classes": len(COMPLAINTS)}
    return make_closed_form(ClosedFormParams.model_validate(params))


def with_lora(checkpoint: dict[str, str]) -> Task:
    """Return the recipe of the same backbone with adapters and a head."""
    return make_task(
        "sequence_classifier",
        {
            "text": "note",
            "label": "ward",
            "classes": len(COMPLAINTS),
            "checkpoint": checkpoint,
            "max_tokens": TOKENS,
            "lora": {"r": 8, "alpha": 16, "target_modules": ["c_attn"]},
            "training": {"epochs": 8, "batch_size": 16, "learning_rate": 3e-3},
        },
    )


def measure(task: ClosedForm, rows: Sequence[Row], people: int) -> Measured:
    """Take single people out of the same head, and fit it without each of them."""
    measured, everything = Measured(), task.encode(rows)
    trained = fitted(task, everything)
    for person in range(people):
        own = slice(person * EACH, (person + 1) * EACH)
        model = copy.deepcopy(trained)
        _, seconds = timed(lambda: removed(task, model, rows[own]))  # noqa: B023 - called at once
        measured.removal.append(seconds)
        kept = [place for place in range(len(rows)) if not own.start <= place < own.stop]
        retain = take(everything, torch.tensor(kept), CPU)
        refit, seconds = timed(lambda: fitted(task, retain))  # noqa: B023
        measured.head.append(seconds)
        measured.equal += sha(model) == sha(refit)
    # Once: it costs the same for everyone.
    anew, seconds = timed(lambda: fitted(task, task.encode(rows[EACH:])))
    measured.backbone.append(seconds)
    if anew.records != len(rows) - EACH:
        raise RuntimeError("the head was fitted to other records")
    return measured


def removed(task: ClosedForm, model: nn.Module, rows: Sequence[Row]) -> None:
    """Take records out as from their rows."""
    task.remove(model, task.encode(rows), task.encode([]))


def fitted(task: ClosedForm, examples: Examples) -> ClosedFormHead:
    """Fit a head."""
    model = ClosedFormHead(task.params)
    task.learn(model, [examples], 0, SEED)
    return model


def fine_tuned(task: Task, rows: Sequence[Row]) -> nn.Module:
    """Train a model from its beginning."""
    state = train_shard(
        task,
        [task.encode(rows)],
        seed=SEED,
        shard=0,
        resume=None,
        on_checkpoint=lambda _r, _state: None,
        on_progress=lambda _: None,
        cancelled=lambda: False,
    )
    return restore(task, state, seed=SEED, shard=0)


def accuracy(task: ClosedForm, rows: Sequence[Row], holdout: Examples) -> float:
    """Return the accuracy on the holdout, without the first person."""
    return mean(task, fitted(task, task.encode(rows[EACH:])), holdout)


def mean(task: Task, model: nn.Module, examples: Examples) -> float:
    """Return the mean accuracy of a model."""
    batches = torch.split(torch.arange(count(examples)), 64)
    with torch.no_grad():
        right = [task.accuracies(model.eval(), take(examples, one, CPU)) for one in batches]
    return float(torch.cat(right).mean())


def sha(model: nn.Module) -> str:
    """Digest all that the model stores."""
    state = TrainingState(read_model(model), {})
    return hashlib.sha256(dump_tensors(state.tensors())).hexdigest()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what some work gave, and its seconds by the wall."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def show(kind: str, rows: Sequence[tuple[str, Sequence[float], float | None]], equal: str) -> None:
    """Print a line for each way, in units of the first, which `equal` speaks of."""
    table = Table(title=f"notes of {kind}: one person of {TRAINED}, {EACH} notes each")
    table.add_column("what")
    for column in ("median", "times the removal", "accuracy", "bytes"):
        table.add_column(column, justify="right")
    unit = statistics.median(rows[0][1])
    for place, (what, seconds, right) in enumerate(rows):
        median = statistics.median(seconds) if seconds else None
        table.add_row(
            what,
            "" if median is None else f"{median * 1e3:,.1f} ms",
            "" if median is None else f"{median / unit:,.1f}",
            "" if right is None else f"{right:.1%}",
            "" if place else equal,
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
