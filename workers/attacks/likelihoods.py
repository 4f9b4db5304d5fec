"""Attacks that need nothing but how likely each record is: to the model, and to other models."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from workers.attacks.parts import Indices, Part, Parts, References, Scores
from workers.attacks.prompts import OfText
from workers.evidence.battery import Attacked
from workers.evidence.membership import Attack
from workers.evidence.reference_models import (
    Likelihoods,
    calibrated_scores,
    lira_offline,
    rmia_scores,
)
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
from workers.unlearn.task import Examples

_LEAST_FOR_LIRA: Final = 4


def by_likelihood(
    model: Ensemble, parts: Parts, sides: Sequence[Predictions]
) -> Iterator[Attacked]:
    """Scores that follow from one pass over each side, given as `sides`."""
    yield parts.scored(Attack("loss_membership"), *(-loss(side) for side in sides))
    if not isinstance(model.task, OfText) or isinstance(model.task, OnePrediction):
        return
    texts = [_seen(model.task, part) for part in parts.sides]
    yield parts.scored(
        Attack("zlib"),
        *(zlib_score(side, text) for side, text in zip(sides, texts, strict=True)),
    )
    scores: dict[str, Callable[[Predictions], Scores]] = {
        "min_k": min_k,
        "min_k_plus_plus": min_k_plus_plus,
        "target_rank": target_rank,
    }
    for name, score in scores.items():
        yield parts.scored(Attack(name), *(score(side) for side in sides))
    for name, score in (
        ("exact_memorisation", exact_memorisation),
        ("extraction_strength", extraction_strength),
    ):
        yield parts.scored(Attack(name, "extraction", "T2"), *(score(side) for side in sides))


def by_reference(
    model: Ensemble,
    parts: Parts,
    sides: Sequence[Predictions],
    references: References | None,
    owners: tuple[Indices, Indices] | None,
) -> Iterator[Attacked]:
    """Scores set against models that saw neither side; none where there are no such models.

    Args:
        model: what is attacked.
        parts: the records.
        sides: what the model says of each side.
        references: losses by models made for this.
        owners: where there are none, of each record of both sides the member whose shard it is or
            would be in; the other members are the references.
    """
    if references is not None:
        sets = [
            Likelihoods(-loss(side), -others, np.zeros(others.shape, dtype=bool))
            for side, others in zip(sides, references, strict=True)
        ]
        yield from _calibrated("T1", "small models that saw neither side", parts, *sets)
    elif owners is not None and len(model.members) > 1:
        sets = [
            _siblings(model, part.examples, own)
            for part, own in zip(parts.sides, owners, strict=True)
        ]
        yield from _calibrated("T3", "the other shards' models, which saw neither", parts, *sets)


def _calibrated(
    threat: str, reference: str, parts: Parts, ours: Likelihoods, others: Likelihoods
) -> Iterator[Attacked]:
    kind = Attack("reference_loss", reference=f"holdout, set against {reference}")
    kind = replace(kind, threat_model="T3" if threat == "T3" else "T1")
    yield parts.scored(kind, calibrated_scores(ours), calibrated_scores(others))
    rmia = replace(kind, name="rmia")
    # Against the holdout alone, whoever is forgotten would tie with the stranger next above.
    population = _together(ours, others)
    yield parts.scored(rmia, *(rmia_scores(one, population) for one in (ours, others)))
    if len(np.asarray(ours.references)) >= _LEAST_FOR_LIRA:
        lira = replace(kind, name="lira", calibrated=True)
        yield parts.scored(lira, lira_offline(ours), lira_offline(others))


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


def _seen(task: OfText, part: Part) -> list[str]:
    """Return the records' texts as far as the model is asked about them."""
    rows = zip(part.examples["tokens"].tolist(), part.examples["length"].tolist(), strict=True)
    return [task.tokenizer.decode(tokens[1:length]) for tokens, length in rows]
