"""All attacks on one model: who gets which score, and which attacks could not be mounted and why.

Each attack treats the forgotten and the holdout alike; what its scores prove is for
`workers.evidence` to say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from workers.attacks.canaries import exposures
from workers.attacks.generation import Continuations, continuations, copied
from workers.attacks.likelihoods import by_likelihood, by_reference
from workers.attacks.parts import Indices, Part, Parts, References, Scores
from workers.attacks.passes import predictions
from workers.attacks.probe import probe
from workers.attacks.prompts import JAILBREAKS, OfText, in_context, prefixed, rephrased
from workers.attacks.quantisation import quantised
from workers.attacks.relearning import relearnt, split_for_relearning
from workers.evidence.battery import Attacked
from workers.evidence.membership import Attack, Scored
from workers.evidence.shift import NotApplicable
from workers.evidence.text import loss
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import Examples

_SAMPLES: Final = 2
MOST_GENERATED: Final = 200
"""Records of each side that continuations are generated for, whole data subjects at a time."""
MOST_CANARIES: Final = 40
"""Records of each side whose secrets are compared with a thousand others each."""


@dataclass(frozen=True)
class Plan:
    """Which attacks are mounted, and with what.

    Attributes:
        full: also those that train, generate or prompt.
        relearning_steps, relearning_rate: of the relearning attack.
        paraphrase_column, translation_column: where rows bring other words for their text.
        canary_column: where rows have a secret by itself that also stands in their text.
        references: losses by models that saw neither side.
        references_are_whole: they were trained on all retained records, as a retrained model is.
        owners: of each record of forget set and holdout, the member whose shard it is or would be
            in; the other members then are references.
        seed: of all draws.
    """

    full: bool
    relearning_steps: int = 20
    relearning_rate: float = 1e-3
    paraphrase_column: str | None = None
    translation_column: str | None = None
    canary_column: str | None = None
    references: References | None = None
    references_are_whole: bool = False
    owners: tuple[Indices, Indices] | None = None
    seed: int = 0


@dataclass(frozen=True)
class NotRun:
    """An attack that was not mounted, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Suite:
    """What came of attacking one model."""

    attacked: Sequence[Attacked]
    not_run: Sequence[NotRun]


def attack(model: Ensemble, parts: Parts, plan: Plan) -> Suite:
    """Mount all attacks of a plan on a model.

    Every score of the first group comes from one forward pass over each record.

    Raises:
        ValueError: a set is empty or a score is not finite.
    """
    sides = [predictions(model, part.examples) for part in parts.sides]
    found = [*by_likelihood(model, parts, sides)]
    found += by_reference(model, parts, sides, plan.references, plan.owners)
    not_run = []
    for name, mount in _OTHERS.items() if plan.full else ():
        try:
            found.extend(mount(model, parts, plan))
        except NotApplicable as reason:
            not_run.append(NotRun(name, str(reason)))
    return Suite(found, not_run)


def _extraction(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    few = [part.few(MOST_GENERATED, plan.seed) for part in parts.sides]
    said: list[Continuations] = [
        continuations(model, part.examples, sampled=_SAMPLES, seed=plan.seed) for part in few
    ]
    for name, tries in (("greedy_extraction", 1), ("sampled_extraction", 1 + _SAMPLES)):
        scores = [copied(one, tries) for one in said]
        yield Attacked(
            Attack(name, "extraction", "T2"),
            *(Scored(each, part.subjects) for each, part in zip(scores, few, strict=True)),
        )


def _quantised(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    del plan
    for bits in (8, 4):
        rounded = quantised(model, 8 if bits == 8 else 4)
        scores = (_known(rounded, part.examples) for part in parts.sides)
        yield parts.scored(Attack(f"quantised_int{bits}", "recovery", "T3"), *scores)


def _relearning(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    split = split_for_relearning(parts.forget.subjects, parts.holdout.subjects, plan.seed)
    taught = [
        *parts.forget.at(split.teach_forget).rows,
        *parts.holdout.at(split.teach_holdout).rows,
    ] or list(parts.retain.rows)
    if not taught:
        raise NotApplicable("there is no record to teach")
    again = relearnt(
        model,
        model.task.encode(taught),
        steps=plan.relearning_steps,
        learning_rate=plan.relearning_rate,
        seed=plan.seed,
    )
    tested = (parts.forget.at(split.test_forget), parts.holdout.at(split.test_holdout))
    yield Attacked(
        Attack("relearning", "recovery", "T3"),
        *(Scored(_known(again, part.examples), part.subjects) for part in tested),
    )


def _in_context(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    del plan
    scores = (in_context(model, part.rows, part.subjects) for part in parts.sides)
    yield parts.scored(Attack("in_context", "recovery", "T2"), *scores)


def _jailbreaks(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    del plan
    scores = (
        np.max([prefixed(model, part.rows, prompt) for prompt in JAILBREAKS.values()], axis=0)
        for part in parts.sides
    )
    yield parts.scored(Attack("jailbreak_prompts", "recovery", "T2"), *scores)


def _paraphrased(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    yield from _rephrased("paraphrased", "paraphrases", plan.paraphrase_column, model, parts)


def _translated(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    yield from _rephrased("translated", "translations", plan.translation_column, model, parts)


def _rephrased(
    name: str, what: str, column: str | None, model: Ensemble, parts: Parts
) -> Iterator[Attacked]:
    if column is None:
        raise NotApplicable(f"the model's policy names no column of {what}")
    # Where only some records bring other words, both sides are asked about those alone.
    told = [part.bringing(column) for part in parts.sides]
    if not all(part.rows for part in told):
        raise NotApplicable(f"the records of one side bring no {what}")
    yield Attacked(
        Attack(name, "recovery", "T2"),
        *(Scored(rephrased(model, part.rows, column), part.subjects) for part in told),
    )


def _exposed(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    if plan.canary_column is None:
        raise NotApplicable("the model's policy names no column of secrets that texts hold")
    held = [_holding(model.task, part, plan.canary_column) for part in parts.sides]
    sides = [part.few(MOST_CANARIES, plan.seed) for part in held]
    if not all(part.rows for part in sides):
        raise NotApplicable("the records of one side hold no secret")
    yield Attacked(
        Attack("exposure", "extraction", "T1"),
        *(
            Scored(exposures(model, part.rows, plan.canary_column, seed=plan.seed), part.subjects)
            for part in sides
        ),
    )


def _probe(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    if not parts.retain.rows:
        raise NotApplicable("no record is retained that a probe could learn from")
    seen = probe(
        model,
        parts.forget.examples,
        parts.retain.examples,
        parts.holdout.examples,
        parts.holdout.subjects,
        seed=plan.seed,
    )
    yield Attacked(
        Attack("probe", "recovery", "T3"),
        Scored(seen.forget, parts.forget.subjects),
        Scored(seen.holdout, parts.holdout.subjects[seen.tested]),
    )


_OTHERS: Final[Mapping[str, Callable[[Ensemble, Parts, Plan], Iterator[Attacked]]]] = {
    "greedy_extraction": _extraction,
    "exposure": _exposed,
    "quantised": _quantised,
    "relearning": _relearning,
    "in_context": _in_context,
    "jailbreak_prompts": _jailbreaks,
    "paraphrased": _paraphrased,
    "translated": _translated,
    "probe": _probe,
}


def _known(model: Ensemble, examples: Examples) -> Scores:
    # Not `model.losses`, which holds all log probabilities of a batch and asks for more.
    scores: Scores = -loss(predictions(model, examples))
    return scores


def _holding(task: object, part: Part, column: str) -> Part:
    """Return the records whose text holds the secret that they have in a column."""
    if not isinstance(task, OfText):
        raise NotApplicable("the model itself reads no text that could hold a secret")
    part = part.bringing(column)
    texts = zip(part.rows, _texts(task, part), strict=True)
    places = [i for i, (row, text) in enumerate(texts) if str(row[column]) in text]
    return part.at(np.array(places, dtype=np.int64))


def _texts(task: OfText, part: Part) -> list[str]:
    return [str(row[task.params.text]) for row in part.rows]
