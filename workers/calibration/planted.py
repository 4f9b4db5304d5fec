"""Models whose truth is known, because it was planted: what holds the data, and what never saw it.

Each world splits the data subjects at random into those to forget, those kept and the holdout, and
trains by the recipe under test: one model before unlearning and one for each truth.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim import AdamW

from workers.attacks.prompts import OfText
from workers.recipes.one_prediction import OnePrediction
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import seed_for, seed_noise
from workers.unlearn.sisa import restore, train_shard
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, Task, count, join, take

Row = Mapping[str, object]
Truth = Literal["never saw", "retrained", "not unlearned", "only refuses", "collapsed", "leaks"]

HOLDS: Final[Mapping[Truth, bool]] = {
    "never saw": False,
    "retrained": False,
    "not unlearned": True,
    "only refuses": True,
    "collapsed": True,
    "leaks": True,
}
"""Whether a model of this truth still holds data, or is ruined, and so must not pass."""

REFUSAL: Final = "I cannot tell you anything about that."
_REFUSED = 0.05
_MOST_STEPS = 400
_COLLAPSED_STEPS = 60
_COLLAPSING_RATE = 1e-2


@dataclass(frozen=True)
class People:
    """Records and whose they are: rows, and their data subjects as numbers from 0."""

    # A record may name a person, so that it does not show in a log or an error.
    rows: Sequence[Row] = field(repr=False)
    subjects: npt.NDArray[np.int64]

    def of(self, wanted: npt.ArrayLike) -> "People":
        """Return the records of some data subjects."""
        chosen = np.flatnonzero(np.isin(self.subjects, np.asarray(wanted)))
        return People([self.rows[int(i)] for i in chosen], self.subjects[chosen])


@dataclass(frozen=True)
class World:
    """One split and the models made on it.

    Attributes:
        forget, retain, holdout: the records of each part.
        leaking: the data subjects of `forget` that the leaking model was trained on.
        before: the model before unlearning, which saw `forget` and `retain`.
        after: a model for each truth.
    """

    forget: People
    retain: People
    holdout: People
    leaking: npt.NDArray[np.int64]
    before: Ensemble
    after: Mapping[Truth, Ensemble]


def plant(
    task: Task,
    people: People,
    *,
    pool: int,
    holdout: int,
    share: float,
    seed: int,
    tell: Callable[[str], None],
) -> World:
    """Split the people and make a model for each truth.

    Args:
        task: the recipe.
        people: all records.
        pool: data subjects that may be forgotten.
        holdout: data subjects that no model is trained on.
        share: of the pool, that the leaking model keeps.
        seed: of the split and of the trainings.
        tell: is told of each model that is made.

    Raises:
        ValueError: there are too few data subjects, or the recipe's models cannot be taught to
            refuse.
        TrainingDiverged: a training failed.
    """
    numbers = np.random.default_rng(seed).permutation(np.unique(people.subjects))
    if numbers.size <= pool + holdout:
        raise ValueError(
            f"{pool} people to forget and {holdout} never trained on need more than "
            f"{pool + holdout} people; the data have {numbers.size}"
        )
    if not any(weight.requires_grad for weight in task.build(0).parameters()):
        raise ValueError("models of this recipe learn no refusal: they have no gradient to follow")
    forget = people.of(numbers[:pool])
    never = people.of(numbers[pool : pool + holdout])
    retain = people.of(numbers[pool + holdout :])
    leaking = np.sort(numbers[: leaks_of(pool, share)])

    def trained(what: str, parts: Sequence[People], name: str) -> Ensemble:
        tell(what)
        rows = [row for part in parts for row in part.rows]
        return _trained(task, rows, f"{seed}-{name}")

    before = trained("before unlearning", [forget, retain], "one")
    after: dict[Truth, Ensemble] = {
        "never saw": trained("never saw", [retain], "another"),
        "retrained": trained("retrained", [retain], "one"),
        "not unlearned": before,
        "leaks": trained("leaks", [forget.of(leaking), retain], "one"),
    }
    tell("only refuses")
    after["only refuses"] = _refusing(task, before, forget, retain, f"{seed}")
    tell("collapsed")
    after["collapsed"] = _collapsed(task, before, forget, f"{seed}")
    return World(forget, retain, never, leaking, before, after)


def leaks_of(n: int, share: float) -> int:
    """How many of n data subjects leak: the share, rounded down, and at least one."""
    return max(1, int(share * n + 1e-9))


def _trained(task: Task, rows: Sequence[Row], seed: str) -> Ensemble:
    state = train_shard(
        task,
        [task.encode(rows)],
        seed=seed,
        shard=0,
        resume=None,
        on_checkpoint=lambda _slice, _state: None,
        on_progress=lambda _share: None,
        cancelled=lambda: False,
    )
    return Ensemble(task, (restore(task, state, seed=seed, shard=0),))


def _refusing(task: Task, before: Ensemble, forget: People, retain: People, seed: str) -> Ensemble:
    """The model taught to refuse whenever the forgotten are asked about, and to go on otherwise."""
    model = _copy(task, before, seed)
    refusals = _refusals(task, forget)
    kept = task.encode(retain.rows)
    draws = np.random.default_rng(seed_for(seed, "retained beside refusals"))
    order = draws.permutation(count(kept))[: count(refusals)]
    lesson = join([refusals, take(kept, torch.from_numpy(order), torch.device("cpu"))])
    optimizer = AdamW(model.parameters(), lr=task.training.learning_rate, weight_decay=0.0)
    batches = _batches(task, count(lesson), seed)
    for step in range(_MOST_STEPS):
        seed_noise(seed_for(seed, "noise of refusing", step))
        _descend(task, model, optimizer, take(lesson, next(batches), torch.device("cpu")), 1.0)
        if step % 20 == 19 and _mean_loss(task, model, refusals) < _REFUSED:
            break
    return Ensemble(task, (model.eval(),))


def _collapsed(task: Task, before: Ensemble, forget: People, seed: str) -> Ensemble:
    """The model pushed up the gradient of the forgotten without any guard."""
    model = _copy(task, before, seed)
    examples = task.encode(forget.rows)
    optimizer = AdamW(model.parameters(), lr=_COLLAPSING_RATE, weight_decay=0.0)
    batches = _batches(task, count(examples), seed)
    for step in range(_COLLAPSED_STEPS):
        seed_noise(seed_for(seed, "noise of collapsing", step))
        _descend(task, model, optimizer, take(examples, next(batches), torch.device("cpu")), -1.0)
    return Ensemble(task, (model.eval(),))


def _refusals(task: Task, forget: People) -> Examples:
    """The records with a refusal in the place of their answer.

    A text is refused from its middle on; a class by answering the first class, whatever is asked.
    """
    examples, kind = task.encode(forget.rows), cast(object, task)
    if isinstance(kind, OfText) and not isinstance(kind, OnePrediction):
        column, tokenizer = kind.params.text, kind.tokenizer
        seen = zip(examples["tokens"].tolist(), examples["length"].tolist(), strict=True)
        begun = [tokenizer.decode(tokens[1 : max(1, length // 2)]) for tokens, length in seen]
        return task.encode(
            [
                {**row, column: f"{beginning} {REFUSAL}"}
                for row, beginning in zip(forget.rows, begun, strict=True)
            ]
        )
    return {**examples, "y": torch.zeros_like(examples["y"])}


def _copy(task: Task, model: Ensemble, seed: str) -> nn.Module:
    state = TrainingState(read_model(model.members[0]), {})
    return restore(task, state, seed=seed, shard=0)


def _batches(task: Task, size: int, seed: str) -> Iterator[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed_for(seed, "planted", 0))
    while True:
        order = torch.randperm(size, generator=draws)
        yield from torch.split(order, task.training.batch_size)


def _descend(task: Task, model: nn.Module, optimizer: AdamW, batch: Examples, sign: float) -> None:
    loss = sign * task.losses(model.train(), batch).mean()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
    optimizer.step()


def _mean_loss(task: Task, model: nn.Module, examples: Examples) -> float:
    return float(Ensemble(task, (model.eval(),)).losses(examples).mean())
