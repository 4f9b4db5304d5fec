"""Planted models judged again and again, and how often the verdict was wrong."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt
from scipy import stats

from app.verification.checks import Check, Margins, Verdict
from app.verification.rules import judge
from workers.attacks.blind import blind_blocks
from workers.attacks.parts import Parts, columns_given
from workers.attacks.suite import Plan, attack
from workers.calibration.planted import People, Truth, World, leaks_of
from workers.evidence.battery import Attacked, Limits, battery
from workers.evidence.membership import Before, Scored
from workers.evidence.shift import NotApplicable, shift_evidence
from workers.evidence.statistics import auc
from workers.evidence.types import Evidence
from workers.evidence.utility import balanced_utility, utility
from workers.recipes.one_prediction import OnePrediction
from workers.unlearn.aggregate import Ensemble

Indices = npt.NDArray[np.int64]
_USUAL_MARGIN = 0.05
_CHECK_FIELDS = tuple(one.name for one in fields(Check))


@dataclass(frozen=True)
class Measured:
    """All that is measured of one world, to draw from.

    Attributes:
        world: the split and the models.
        before: what each attack gave the records of pool and holdout, before unlearning.
        after: the same for each truth.
        use: (losses, accuracies) of the retain set and the holdout, by truth and set name;
            before unlearning under None.
        classes: of the same records, by set name; empty where a record has no class.
    """

    world: World
    before: Sequence[Attacked]
    after: Mapping[Truth, Sequence[Attacked]]
    use: Mapping[tuple[Truth | None, str], tuple[npt.ArrayLike, npt.ArrayLike]]
    classes: Mapping[str, npt.ArrayLike]


@dataclass
class Cell:
    """The verdicts on models of one truth, with n data subjects to forget, by world."""

    verdicts: dict[int, Counter[Verdict]] = field(default_factory=dict)
    usual: Counter[Verdict] = field(default_factory=Counter)

    def add(self, world: int, verdict: Verdict, usual: Verdict) -> None:
        """Count a verdict, and what the usual rule says of the same model."""
        self.verdicts.setdefault(world, Counter())[verdict] += 1
        self.usual[usual] += 1

    def of(self, verdict: Verdict) -> int:
        """How many verdicts were this one."""
        return sum(counted[verdict] for counted in self.verdicts.values())

    @property
    def draws(self) -> int:
        """How many verdicts there are."""
        return sum(counted.total() for counted in self.verdicts.values())

    def worst(self, verdict: Verdict) -> float:
        """The rate of a verdict in the world where it is highest."""
        return max(one[verdict] / one.total() for one in self.verdicts.values())

    def interval(self, verdict: Verdict) -> tuple[float, float]:
        """Clopper and Pearson's 95 % interval of the rate of a verdict."""
        found, draws = self.of(verdict), self.draws
        low, high = stats.binomtest(found, draws).proportion_ci(0.95, "exact")
        return float(low), float(high)


Table = dict[tuple[Truth, int], Cell]


def measure(world: World, plan: Plan) -> Measured:
    """Attack every model of a world."""
    task = world.before.task
    parts = Parts.of(
        task,
        {name: (part.rows, part.subjects.tolist()) for name, part in _parts(world)},
    )
    models: list[tuple[Truth | None, Ensemble]] = [(None, world.before), *world.after.items()]
    # The model that was never unlearned is the one before, and need not be measured twice.
    each = {id(model): model for _, model in models}
    attacked = {key: attack(model, parts, plan).attacked for key, model in each.items()}
    scores = {
        (key, name): model.scores(part.examples)
        for key, model in each.items()
        for name, part in (("retain", parts.retain), ("holdout", parts.holdout))
    }
    return Measured(
        world,
        attacked[id(world.before)],
        {truth: attacked[id(model)] for truth, model in world.after.items()},
        {
            (truth, name): (found.losses.numpy(), found.accuracies.numpy())
            for truth, model in models
            for name in ("retain", "holdout")
            for found in [scores[id(model), name]]
        },
        {name: getattr(parts, name).examples["y"].numpy() for name in ("retain", "holdout")}
        if isinstance(task, OnePrediction)
        else {},
    )


def judge_draws(
    measured: Measured,
    table: Table,
    *,
    number: int,
    sizes: Sequence[int],
    draws: int,
    margins: Margins,
    limits: Limits,
) -> None:
    """Judge each truth's model on `draws` random sets of data subjects of each size.

    The verdicts are added to the table as those of world `number`.
    """
    for n in sizes:
        for draw in range(draws):
            source = np.random.default_rng([number, n, draw])
            for truth, verdict, usual in _judged(measured, n, source, margins, limits):
                table.setdefault((truth, n), Cell()).add(number, verdict, usual)


def _judged(
    measured: Measured, n: int, source: np.random.Generator, margins: Margins, limits: Limits
) -> Iterator[tuple[Truth, Verdict, Verdict]]:
    world = measured.world
    pool = np.unique(world.forget.subjects)
    drawn = source.choice(pool, n, replace=False)
    shift = _shift(world, drawn, int(source.integers(2**31)))
    for truth, attacked in measured.after.items():
        chosen = _leaking(world, n, source, limits.share) if truth == "leaks" else drawn
        before = {
            one.attack.name: Before(one.forget.scores, one.holdout.scores)
            for one in _against(measured.before, chosen)
        }
        after = _against(attacked, chosen)
        checks = battery(after, before, limits)
        checks += _utility(measured, truth)
        judgement = judge("approximate", [_check(one) for one in [*checks, *shift]], margins)
        yield truth, judgement.verdict, usual_verdict(after[0])


def _utility(measured: Measured, truth: Truth) -> Iterator[Evidence]:
    for name in ("retain", "holdout"):
        then, now = measured.use[None, name], measured.use[truth, name]
        yield utility(then[0], now[0], then[1], now[1], name)
        if name in measured.classes:
            by_class = balanced_utility(then[1], now[1], measured.classes[name], name)
            yield from [] if by_class is None else [by_class]


def usual_verdict(losses: Attacked) -> Verdict:
    """The rule of most papers' code: clean is whose records' AUC is within 0.05 of a half."""
    told = auc(losses.forget.scores, losses.holdout.scores)
    return "pass" if abs(told - 0.5) < _USUAL_MARGIN else "fail"


def _leaking(world: World, n: int, source: np.random.Generator, share: float) -> Indices:
    """Of n data subjects, the planted share leaks, and at least one."""
    k = leaks_of(n, share)
    others = np.setdiff1d(np.unique(world.forget.subjects), world.leaking)
    return np.concatenate(
        [
            source.choice(world.leaking, k, replace=False),
            source.choice(others, n - k, replace=False),
        ]
    )


def _shift(world: World, drawn: Indices, seed: int) -> list[Evidence]:
    forget, holdout = world.forget.of(drawn), world.holdout
    ours, others = (columns_given(world.before.task, part.rows) for part in (forget, holdout))
    try:
        blocks = blind_blocks(ours, forget.subjects, others, holdout.subjects, seed=seed)
        return [shift_evidence(blocks)]
    except NotApplicable:
        return []


def _against(attacked: Sequence[Attacked], subjects: Indices) -> list[Attacked]:
    """The attacks as they are on some of the data subjects; some attacks look at a few only."""
    return [
        Attacked(one.attack, ours, one.holdout)
        for one in attacked
        for ours in [_only(one.forget, subjects)]
        if np.size(np.asarray(ours.scores))
    ]


def _only(scored: Scored, subjects: Indices) -> Scored:
    chosen = np.isin(np.asarray(scored.subjects), subjects)
    return Scored(np.asarray(scored.scores)[chosen], np.asarray(scored.subjects)[chosen])


def _check(evidence: Evidence) -> Check:
    measured = evidence.as_dict()
    return Check(**{name: measured[name] for name in _CHECK_FIELDS})  # type: ignore[arg-type]


def _parts(world: World) -> list[tuple[str, People]]:
    return [("forget", world.forget), ("retain", world.retain), ("holdout", world.holdout)]
