"""All attacks on one model: who gets which score, and which attacks could not be mounted and why.

Each attack treats the forgotten and the holdout alike; what its scores prove is for
`workers.evidence` to say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel

from workers.attacks.canaries import exposures
from workers.attacks.generation import Continuations, continuations, copied
from workers.attacks.passes import predictions
from workers.attacks.probe import probe
from workers.attacks.prompts import JAILBREAKS, OfText, in_context, prefixed, rephrased
from workers.attacks.quantisation import quantised
from workers.attacks.relearning import relearnt, split_for_relearning
from workers.evidence.battery import Attacked
from workers.evidence.membership import Attack, Scored
from workers.evidence.reference_models import (
    Likelihoods,
    calibrated_scores,
    lira_offline,
    rmia_scores,
)
from workers.evidence.shift import NotApplicable
from workers.evidence.text import (
    Predictions,
    exact_memorisation,
    extraction_strength,
    loss,
    min_k,
    min_k_plus_plus,
    target_rank,
    zlib_score,
)
from workers.recipes.one_prediction import OnePrediction
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import Examples, Task, take

Row = Mapping[str, object]
Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

_CPU: Final = torch.device("cpu")
_LEAST_FOR_LIRA: Final = 4
_SAMPLES: Final = 2
MOST_GENERATED: Final = 200
"""Records of each side that continuations are generated for, whole data subjects at a time."""
MOST_CANARIES: Final = 40
"""Records of each side whose secrets are compared with a thousand others each."""


@dataclass(frozen=True)
class Part:
    """Some records: as rows, as the task's examples, and whose they are, as opaque numbers."""

    # A record may name a person, so that neither form shows in a log or an error.
    rows: Sequence[Row] = field(repr=False)
    examples: Examples = field(repr=False)
    subjects: Indices

    def at(self, places: Indices) -> "Part":
        """Return the records at some places."""
        rows = [self.rows[i] for i in places]
        chosen = torch.from_numpy(np.asarray(places, dtype=np.int64))
        return Part(rows, take(self.examples, chosen, _CPU), self.subjects[places])


@dataclass(frozen=True)
class Parts:
    """The records of an evaluation; nobody is in two of them."""

    forget: Part
    retain: Part
    holdout: Part

    @classmethod
    def of(cls, task: Task, records: Mapping[str, tuple[Sequence[Row], Sequence[int]]]) -> "Parts":
        """Encode rows and their data subjects, by the name of the part.

        Raises:
            ValueError: a row does not fit the task.
        """
        return cls(
            **{
                name: Part(rows, task.encode(rows), np.asarray(subjects, dtype=np.int64))
                for name, (rows, subjects) in records.items()
            }
        )


class References(NamedTuple):
    """What models that saw neither side make of the records: (models, records) losses in nats."""

    forget: Scores
    holdout: Scores


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
    sides = [predictions(model, part.examples) for part in _sides(parts)]
    found = [*_by_likelihood(model, parts, sides), *_by_reference(model, parts, plan, sides)]
    not_run = []
    for name, mount in _OTHERS.items() if plan.full else ():
        try:
            found.extend(mount(model, parts, plan))
        except NotApplicable as reason:
            not_run.append(NotRun(name, str(reason)))
    return Suite(found, not_run)


def columns_given(task: Task, rows: Sequence[Row]) -> Sequence[Row]:
    """Return the columns of rows that the task reads, by what its parameters name.

    A column that no parameter names, such as a customer's number, may tell when a person came.
    """
    params = getattr(task, "params", None)
    if not isinstance(params, BaseModel):
        return rows
    # Pixels are named by a prefix and a number.
    named = set(_strings(params.model_dump()))
    return [
        {
            column: value
            for column, value in row.items()
            if column in named or column.rstrip("0123456789") in named
        }
        for row in rows
    ]


def _strings(value: object) -> Iterator[str]:
    """Yield every text in a tree of mappings and sequences."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _strings(one)


def _by_likelihood(
    model: Ensemble, parts: Parts, sides: Sequence[Predictions]
) -> Iterator[Attacked]:
    yield _both(Attack("loss_membership"), parts, *(-loss(side) for side in sides))
    if not isinstance(model.task, OfText) or isinstance(model.task, OnePrediction):
        return
    texts = [_seen(model.task, part) for part in _sides(parts)]
    yield _both(
        Attack("zlib"),
        parts,
        *(zlib_score(side, text) for side, text in zip(sides, texts, strict=True)),
    )
    scores: dict[str, Callable[[Predictions], Scores]] = {
        "min_k": min_k,
        "min_k_plus_plus": min_k_plus_plus,
        "target_rank": target_rank,
    }
    for name, score in scores.items():
        yield _both(Attack(name), parts, *(score(side) for side in sides))
    for name, score in (
        ("exact_memorisation", exact_memorisation),
        ("extraction_strength", extraction_strength),
    ):
        yield _both(Attack(name, "extraction", "T2"), parts, *(score(side) for side in sides))


def _by_reference(
    model: Ensemble, parts: Parts, plan: Plan, sides: Sequence[Predictions]
) -> Iterator[Attacked]:
    """Scores set against models that saw neither side: sibling shards, or models made for this."""
    if plan.references is not None:
        sets = [
            Likelihoods(-loss(side), -others, np.zeros(others.shape, dtype=bool))
            for side, others in zip(sides, plan.references, strict=True)
        ]
        yield from _calibrated("T1", "small models that saw neither side", parts, *sets)
    elif plan.owners is not None and len(model.members) > 1:
        sets = [
            _siblings(model, part.examples, owners)
            for part, owners in zip(_sides(parts), plan.owners, strict=True)
        ]
        yield from _calibrated("T3", "the other shards' models, which saw neither", parts, *sets)


def _calibrated(
    threat: str, reference: str, parts: Parts, ours: Likelihoods, others: Likelihoods
) -> Iterator[Attacked]:
    kind = Attack("reference_loss", calibrated=True, reference=f"holdout, set against {reference}")
    kind = replace(kind, threat_model="T3" if threat == "T3" else "T1")
    yield _both(kind, parts, calibrated_scores(ours), calibrated_scores(others))
    rmia = replace(kind, name="rmia")
    # Against the holdout alone, whoever is forgotten would tie with the stranger next above.
    population = _together(ours, others)
    yield _both(rmia, parts, *(rmia_scores(one, population) for one in (ours, others)))
    if len(np.asarray(ours.references)) >= _LEAST_FOR_LIRA:
        lira = replace(kind, name="lira")
        yield _both(lira, parts, lira_offline(ours), lira_offline(others))


def _together(*parts: Likelihoods) -> Likelihoods:
    rows = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    return Likelihoods(*rows)


def _siblings(model: Ensemble, examples: Examples, owners: Indices) -> Likelihoods:
    members = range(len(model.members))
    each = np.stack(
        [
            -Ensemble(model.task, (model.members[i],)).losses(examples).double().numpy()
            for i in members
        ]
    )
    records = np.arange(each.shape[1])
    others = np.stack([[i for i in members if i != owner] for owner in owners], axis=1)
    references = each[others, records]
    return Likelihoods(each[owners, records], references, np.zeros(references.shape, dtype=bool))


def _extraction(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    few = [_few(part, MOST_GENERATED) for part in _sides(parts)]
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
        scores = (_known(rounded, part.examples) for part in _sides(parts))
        yield _both(Attack(f"quantised_int{bits}", "recovery", "T3"), parts, *scores)


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
    scores = (in_context(model, part.rows, part.subjects) for part in _sides(parts))
    yield _both(Attack("in_context", "recovery", "T2"), parts, *scores)


def _jailbreaks(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    del plan
    scores = (
        np.max([prefixed(model, part.rows, prompt) for prompt in JAILBREAKS.values()], axis=0)
        for part in _sides(parts)
    )
    yield _both(Attack("jailbreak_prompts", "recovery", "T2"), parts, *scores)


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
    told = [_bringing(part, column) for part in _sides(parts)]
    if not all(part.rows for part in told):
        raise NotApplicable(f"the records of one side bring no {what}")
    yield Attacked(
        Attack(name, "recovery", "T2"),
        *(Scored(rephrased(model, part.rows, column), part.subjects) for part in told),
    )


def _exposed(model: Ensemble, parts: Parts, plan: Plan) -> Iterator[Attacked]:
    if plan.canary_column is None:
        raise NotApplicable("the model's policy names no column of secrets that texts hold")
    held = [_holding(model.task, part, plan.canary_column) for part in _sides(parts)]
    sides = [_few(part, MOST_CANARIES) for part in held]
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


def _sides(parts: Parts) -> tuple[Part, Part]:
    return parts.forget, parts.holdout


def _both(kind: Attack, parts: Parts, ours: Scores, others: Scores) -> Attacked:
    return Attacked(
        kind, Scored(ours, parts.forget.subjects), Scored(others, parts.holdout.subjects)
    )


def _known(model: Ensemble, examples: Examples) -> Scores:
    # Not `model.losses`, which holds all log probabilities of a batch and asks for more.
    scores: Scores = -loss(predictions(model, examples))
    return scores


def _bringing(part: Part, column: str) -> Part:
    """Return the records that have a text in a column."""
    said = [row.get(column) for row in part.rows]
    places = [i for i, one in enumerate(said) if isinstance(one, str) and one.strip()]
    return part.at(np.array(places, dtype=np.int64))


def _holding(task: object, part: Part, column: str) -> Part:
    """Return the records whose text holds the secret that they have in a column."""
    if not isinstance(task, OfText):
        raise NotApplicable("the model reads no text that could hold a secret")
    part = _bringing(part, column)
    texts = zip(part.rows, _texts(task, part), strict=True)
    places = [i for i, (row, text) in enumerate(texts) if str(row[column]) in text]
    return part.at(np.array(places, dtype=np.int64))


def _few(part: Part, most: int) -> Part:
    """Return the records of as many whole data subjects as fit, at least one."""
    _, index, records = np.unique(part.subjects, return_inverse=True, return_counts=True)
    fits = max(1, int(np.searchsorted(records.cumsum(), most, side="right")))
    return part.at(np.flatnonzero(index < fits))


def _seen(task: OfText, part: Part) -> list[str]:
    """Return the records' texts as far as the model is asked about them."""
    rows = zip(part.examples["tokens"].tolist(), part.examples["length"].tolist(), strict=True)
    return [task.tokenizer.decode(tokens[1:length]) for tokens, length in rows]


def _texts(task: OfText, part: Part) -> list[str]:
    return [str(row[task.params.text]) for row in part.rows]
