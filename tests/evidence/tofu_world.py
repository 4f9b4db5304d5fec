"""Authors in questions and answers, and models that learned them or never did.

The authors are TOFU's, or made up in their form: each record is a question and an answer, some with
the same in other words and with wrong answers.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from app.verification.checks import Check, Margins
from app.verification.rules import Judgement, judge
from lethe.methods.approximate import GradientAscentParams
from lethe.methods.spec import Guarantee
from workers.attacks.examination import Examination, Models, examine
from workers.attacks.parts import Part, Parts, References
from workers.attacks.passes import predictions
from workers.attacks.prompts import OfText
from workers.attacks.suite import Plan
from workers.evidence.battery import Limits
from workers.evidence.membership import Scored
from workers.evidence.text import min_k
from workers.evidence.tofu import truth_ratio
from workers.evidence.types import Evidence
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.gradient_ascent import ascent
from workers.unlearn.method import Context
from workers.unlearn.sisa import restore, train_shard
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, Task, join

Row = dict[str, object]
Rows = npt.NDArray[np.float64]
Name = Literal["never unlearned", "retrained", "retrained 2", "retrained 3", "collapsed"]
Sets = Mapping[str, Sequence[int]]

OTHERS: Final[tuple[Name, Name]] = ("retrained 2", "retrained 3")
"""The references of the figures against retraining; from other seeds than `retrained`."""

_SEED: Final = "authors"
_COLLAPSING: Final = GradientAscentParams(alpha=0, learning_rate=1e-2, max_steps=40, batch_size=16)
_FIELDS: Final = tuple(one.name for one in fields(Check))


def tofu_rows(path: Path, each: int) -> dict[int, list[Row]]:
    """Return the first records of each author of the benchmark's file."""
    found: dict[int, list[Row]] = {}
    for line in path.read_text().splitlines():
        one = json.loads(line)
        rows = found.setdefault(int(one["subject_id"].removeprefix("author-")), [])
        if len(rows) < each:
            asked, said = one.get("paraphrased_question"), one.get("paraphrased_answer")
            rows.append(
                _row(one["question"], one["answer"], asked, said, one.get("perturbed_answer"))
            )
    return found


def made_up_rows(authors: int, seed: int = 0) -> dict[int, list[Row]]:
    """Return two to four records of each author; every fact is that author's alone."""
    source = random.Random(seed)
    return {author: list(_facts(source))[: 2 + author % 3] for author in range(authors)}


def _facts(source: random.Random) -> Iterator[Row]:
    def word() -> str:
        syllables = (source.choice("bdfgklmnprstvz") + source.choice("aeiou") for _ in range(4))
        return "".join(syllables).title()

    name = word()
    for asked, again, said in (
        ("Where was {0} born?", "What is the birthplace of {0}?", "In {1}."),
        ("Which book did {0} write?", "What is the title of {0}'s book?", "{1}."),
        ("Who taught {0}?", "Whose pupil was {0}?", "A certain {1}."),
        ("Where does {0} live?", "What is the home town of {0}?", "At {1}."),
    ):
        fact = word()
        wrong = [said.format(name, word()) for _ in range(3)]
        answer = said.format(name, fact)
        yield _row(asked.format(name), answer, again.format(name), f"It is {fact}.", wrong)


def _row(
    question: str, answer: str, asked: str | None, said: str | None, wrong: Sequence[str] | None
) -> Row:
    row: Row = {"text": f"{question} {answer}", "question": question, "answer": answer}
    if asked and said and wrong:
        row |= {"paraphrased": f"{asked} {said}", "paraphrased_answer": said, "wrong": wrong}
    return row


@dataclass(frozen=True)
class World:
    """The records, and the models that were made of them.

    Attributes:
        parts: forget set, retain set and holdout; each author is one data subject.
        models: by what was done to each; that which learned forget and retain set is the one
            before unlearning as well.
    """

    task: Task
    parts: Parts
    models: Mapping[Name, Ensemble]

    @property
    def before(self) -> Ensemble:
        """The model before unlearning."""
        return self.models["never unlearned"]


def make_world(task: Task, rows: Mapping[int, Sequence[Row]], sets: Sets) -> World:
    """Train once on forget and retain set and three times on the latter; collapse a copy."""
    records = {
        name: (
            [row for author in authors for row in rows[author]],
            [author for author in authors for _ in rows[author]],
        )
        for name, authors in sets.items()
    }
    parts = Parts.of(task, records)
    kept = parts.retain.examples
    first = _trained(task, [parts.forget.examples, kept], _SEED)
    models: dict[Name, Ensemble] = {
        "never unlearned": first,
        "retrained": _trained(task, [kept], _SEED),
        **{name: _trained(task, [kept], f"{_SEED}, {name}") for name in OTHERS},
        "collapsed": _collapsed(task, first, parts),
    }
    return World(task, parts, models)


def _trained(task: Task, parts: Sequence[Examples], seed: str) -> Ensemble:
    state = train_shard(
        task,
        [join(parts)],
        seed=seed,
        shard=0,
        resume=None,
        on_checkpoint=lambda _slice, _state: None,
        on_progress=lambda _share: None,
        cancelled=lambda: False,
    )
    return Ensemble(task, (restore(task, state, seed=seed, shard=0),))


def _collapsed(task: Task, model: Ensemble, parts: Parts) -> Ensemble:
    """Gradient ascent without the guards that would stop it."""
    state = TrainingState(read_model(model.members[0]), {})
    copy = restore(task, state, seed=_SEED, shard=0)
    context = Context(task, copy, parts.forget.examples, parts.retain.examples, _SEED)
    move = ascent(context, _COLLAPSING)
    for step in range(1, move.max_steps + 1):
        move.step(step)
    return Ensemble(task, (copy.eval(),))


def examined(world: World, name: Name, plan: Plan) -> Examination:
    """Everything that is measured of a model beside the one before unlearning."""
    sides = {"forget": world.parts.forget, "retain": world.parts.retain}
    sides["holdout"] = world.parts.holdout
    scores = [
        {side: model.scores(part.examples) for side, part in sides.items()}
        for model in (world.before, world.models[name])
    ]
    authors = np.unique(world.parts.forget.subjects).tolist()
    return examine(
        Models(world.before, world.models[name], *scores),
        world.parts,
        plan,
        Limits(),
        requests={f"request-{author}": [author] for author in authors},
    )


def references(world: World) -> References:
    """Losses by models that saw neither side, for the calibrated attacks."""
    return References(
        *(
            np.stack([world.models[name].losses(part.examples).double().numpy() for name in OTHERS])
            for part in (world.parts.forget, world.parts.holdout)
        )
    )


def judged(guarantee: Guarantee, checks: Iterable[Evidence], margins: Margins) -> Judgement:
    """The verdict by the service's rules."""
    measured = [Check(**{name: getattr(one, name) for name in _FIELDS}) for one in checks]
    return judge(guarantee, measured, margins)


def digests(part: Part) -> set[bytes]:
    """A digest of each record, as a manifest names it."""
    return {hashlib.sha256(str(row["text"]).encode()).digest() for row in part.rows}


# The benchmarks' own figures.


def truth_ratios(world: World, name: Name) -> Rows:
    """TOFU's truth ratio of each question of the forget set that has wrong answers."""
    rows = [row for row in world.parts.forget.rows if "wrong" in row]
    right = _answer_losses(world, name, rows, [str(row["paraphrased_answer"]) for row in rows])
    wrong = [_texts(row["wrong"]) for row in rows]
    each = [_answer_losses(world, name, rows, list(said)) for said in zip(*wrong, strict=True)]
    return truth_ratio(right, np.stack(each, axis=1))


def min_40(world: World, name: Name) -> tuple[Scored, Scored]:
    """MUSE's Min-40 % scores of forget set and holdout."""
    forget, holdout = (
        Scored(min_k(predictions(world.models[name], part.examples), 0.4), part.subjects)
        for part in (world.parts.forget, world.parts.holdout)
    )
    return forget, holdout


def _answer_losses(
    world: World, name: Name, rows: Sequence[Mapping[str, object]], answers: Sequence[str]
) -> Rows:
    """Mean loss of an answer's tokens after its question: (questions,)."""
    task: object = world.task
    assert isinstance(task, OfText)
    texts = [f"{row['question']} {said}" for row, said in zip(rows, answers, strict=True)]
    found = predictions(world.models[name], world.task.encode([{"text": one} for one in texts]))
    # Place t predicts the text's own token t, since a beginning stands before it.
    asked = np.array([len(task.tokenizer.ids(str(row["question"]))) for row in rows])
    counted = found.counted & (np.arange(found.counted.shape[1]) >= asked[:, None])
    losses: Rows = -(found.log_p * counted).sum(axis=1) / counted.sum(axis=1)
    return losses


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(one) for one in value]
