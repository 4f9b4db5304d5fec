"""Everything that is measured of a new version beside the one before it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.attacks.blind import blind_blocks
from workers.attacks.parts import Part, Parts, columns_given
from workers.attacks.prompts import PRETEND, OfText, prefixed
from workers.attacks.side_effects import groups, most_similar
from workers.attacks.suite import NotRun, Plan, attack
from workers.evidence.battery import Limits, battery, own
from workers.evidence.loss import forget_loss
from workers.evidence.membership import Attack, Before, Scored, attack_evidence
from workers.evidence.retraining import residual_evidence
from workers.evidence.shift import NotApplicable, shift_evidence
from workers.evidence.statistics import subject_means
from workers.evidence.types import Evidence
from workers.evidence.utility import balanced_utility, calibration, utility
from workers.recipes.one_prediction import OnePrediction
from workers.unlearn.aggregate import Ensemble, Scores
from workers.unlearn.task import Examples, count

_LEAST_RETRAINED = 2


@dataclass(frozen=True)
class Models:
    """The version before, the version after, and how each scores the records."""

    before: Ensemble
    after: Ensemble
    scores_before: Mapping[str, Scores]
    scores_after: Mapping[str, Scores]


@dataclass(frozen=True)
class Examination:
    """What came of it.

    Attributes:
        checks: all evidence.
        not_run: attacks and comparisons that were not made, and why.
        own: by request, the p-value of its own data subjects under the leading attack.
    """

    checks: Sequence[Evidence]
    not_run: Sequence[NotRun]
    own: Mapping[str, float]


def examine(
    models: Models,
    parts: Parts,
    plan: Plan,
    limits: Limits,
    *,
    requests: Mapping[str, Sequence[int]],
    group_column: str | None = None,
    downstream: Examples | None = None,
) -> Examination:
    """Attack both versions, and look at what the new one is still good for.

    Args:
        models: the versions, scored.
        parts: the records; the forget set and the holdout may be empty, and then nothing is
            attacked.
        plan: which attacks.
        limits: what the operator set.
        requests: the data subjects of each request.
        group_column: by whose values utility is compared group by group.
        downstream: records of a supplied test.

    Raises:
        ValueError: a score is not finite.
    """
    checks: list[Evidence] = []
    not_run: list[NotRun] = []
    found: Mapping[str, float] = {}
    if parts.forget.rows and parts.holdout.rows:
        after, before = (attack(one, parts, plan) for one in (models.after, models.before))
        controls = {
            one.attack.name: Before(one.forget.scores, one.holdout.scores)
            for one in before.attacked
        }
        checks.append(_forget_loss(models, parts))
        checks += battery(after.attacked, controls, limits)
        found = own(after.attacked, checks[1:], requests)
        not_run += after.not_run
        _collect("residual_fraction", _residual(models, parts, plan), checks, not_run)
        for name, made in (
            ("blind_baseline", _shift(models.after, parts, plan.seed)),
            ("prompted_baseline", _prompted(models.before, parts, limits, plan)),
        ):
            _collect(name, made, checks, not_run)
    checks += _utility(models, parts, group_column)
    if plan.full:
        similar = _similar(models, parts)
        _collect("utility_similar", similar, checks, not_run)
        _collect("downstream", _downstream(models, downstream), checks, not_run)
    return Examination(checks, not_run, found)


def _collect(
    name: str, made: Iterator[Evidence], checks: list[Evidence], not_run: list[NotRun]
) -> None:
    try:
        checks.extend(made)
    except NotApplicable as reason:
        not_run.append(NotRun(name, str(reason)))


def _residual(models: Models, parts: Parts, plan: Plan) -> Iterator[Evidence]:
    """What is left of the effect, where the reference models are full retrainings."""
    if plan.references is None or not plan.references_are_whole or len(models.after.members) > 1:
        raise NotApplicable("no models were retrained on all the retained records to compare with")
    if len(plan.references.forget) < _LEAST_RETRAINED:
        raise NotApplicable("one retrained model does not show how far such models differ")
    rows = [
        models.scores_before["forget"].losses.double().numpy(),
        models.scores_after["forget"].losses.double().numpy(),
        *plan.references.forget,
    ]
    original, unlearned, *retrained = (subject_means(row, parts.forget.subjects) for row in rows)
    yield residual_evidence(original, unlearned, np.stack(retrained))


def _forget_loss(models: Models, parts: Parts) -> Evidence:
    return forget_loss(
        models.scores_after["forget"].losses.numpy(),
        parts.forget.subjects,
        models.scores_after["holdout"].losses.numpy(),
        parts.holdout.subjects,
    )


def _shift(model: Ensemble, parts: Parts, seed: int) -> Iterator[Evidence]:
    ours, others = (columns_given(model.task, part.rows) for part in (parts.forget, parts.holdout))
    blocks = blind_blocks(ours, parts.forget.subjects, others, parts.holdout.subjects, seed=seed)
    yield shift_evidence(blocks)


def _prompted(before: Ensemble, parts: Parts, limits: Limits, plan: Plan) -> Iterator[Evidence]:
    """How well a model hides that is only told to: what unlearning has to be better than."""
    if not plan.full:
        return
    if not isinstance(before.task, OfText):
        raise NotApplicable("the model itself reads no text, so that it cannot be told to pretend")
    sides = [
        Scored(prefixed(before, part.rows, PRETEND), part.subjects)
        for part in (parts.forget, parts.holdout)
    ]
    kind = Attack("prompted_baseline", "recovery", "T2")
    measured = attack_evidence(kind, sides[0], sides[1], before=None, margin=limits.margin)
    yield replace(measured, family="comparison", p_value=None)


def _utility(models: Models, parts: Parts, group_column: str | None) -> Iterator[Evidence]:
    for name, part in (("retain", parts.retain), ("holdout", parts.holdout)):
        if not part.rows:
            continue
        before, after = models.scores_before[name], models.scores_after[name]
        yield _used(before, after, name)
        if isinstance(models.after.task, OnePrediction):
            right = (before.accuracies.numpy(), after.accuracies.numpy())
            by_class = balanced_utility(*right, part.examples["y"].numpy(), name)
            yield from [] if by_class is None else [by_class]
        if group_column is not None and name == "retain":
            yield from _groups(before, after, part, group_column)
    if parts.holdout.rows:
        yield calibration(
            models.scores_after["holdout"].confidences.numpy(),
            models.scores_after["holdout"].accuracies.numpy(),
            models.scores_before["holdout"].confidences.numpy(),
            models.scores_before["holdout"].accuracies.numpy(),
        )


def _used(
    before: Scores, after: Scores, name: str, places: np.ndarray | slice = slice(None)
) -> Evidence:
    rows = (before.losses, after.losses, before.accuracies, after.accuracies)
    losses_before, losses_after, right_before, right_after = (one.numpy()[places] for one in rows)
    return utility(losses_before, losses_after, right_before, right_after, name)


def _groups(before: Scores, after: Scores, part: Part, column: str) -> Iterator[Evidence]:
    """The group that lost the most; its name stays untold, since it may be one of few people's."""
    found = [_used(before, after, "worst_group", one) for one in groups(part.rows, column)]
    if found:
        worst = min(found, key=lambda one: one.estimate or 0.0)
        yield replace(worst, details={**worst.details, "groups": len(found)})


def _similar(models: Models, parts: Parts) -> Iterator[Evidence]:
    if not parts.retain.rows or not parts.forget.rows:
        raise NotApplicable("there are no retained records to look for similar ones among")
    kept, ours = (
        columns_given(models.after.task, part.rows) for part in (parts.retain, parts.forget)
    )
    # Shown: a method may well change most for those who resemble the forgotten.
    used = _used(
        models.scores_before["retain"],
        models.scores_after["retain"],
        "similar",
        most_similar(kept, ours),
    )
    yield replace(used, family="comparison")


def _downstream(models: Models, test: Examples | None) -> Iterator[Evidence]:
    if test is None or not count(test):
        raise NotApplicable("the model's policy names no downstream test")
    yield _used(models.before.scores(test), models.after.scores(test), "downstream")
