"""Which method carries out an erasure on one artifact, and why not each of the others.

Exact first (DESIGN decision 5): the strongest guarantee that policy allows and that is finished by
the deadline; among equals the cheapest. Predictions are deliberately on the long side, since a plan
that is late is worse than a plan that is dear. Nothing is started here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from types import MappingProxyType
from typing import Final, Literal

from app.runs.rules import StartPolicy, Waiting, starts_at
from lethe.methods import METHODS
from lethe.methods.spec import Estimate, Guarantee, Need, Setting, ShardHit

_STRENGTH: Final[Mapping[Guarantee, int]] = MappingProxyType(
    {"exact": 2, "certified": 1, "approximate": 0}
)
# What few recipes offer: a method that needs it is not worth a word where it is not there.
_SPECIAL: Final[frozenset[Need]] = frozenset({"adapters", "gram", "hessian"})
_PREFERENCE: Final = {method: place for place, method in enumerate(METHODS)}
DEFAULT_RETRAINING_DAYS: Final = 30

# The checks read every record once with the old and once with the new weights.
_VERIFICATION_PASSES: Final = 2
# Claiming, loading, storing, switching the deployment.
_OVERHEAD_SECONDS: Final = 10.0
_DURATIONS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """What the owner of a model allows; None is no limit, for `retraining_every_days` it is 30.

    `budget_seconds` is what one run may take, as predicted.
    """

    minimum_guarantee: Guarantee = "approximate"
    allowed_methods: frozenset[str] | None = None
    start: StartPolicy = field(default_factory=StartPolicy)
    retraining_every_days: int | None = None
    budget_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the planner knows about one model version.

    `slice_records` are the records trained on per shard and slice, before the erasure. `hits` is
    empty when no manifest says where the records are. `seconds_per_record_pass` is the rate where
    the run may be done. `weights` of one shard's network and `predictions` per record are None when
    nobody has counted them. `offered` is what the recipe offers.

    Raises:
        ValueError: `slice_records` is not shards by slices, or a hit lies outside it.
    """

    name: str
    version: int
    recipe: str | None
    weights_present: bool
    source_present: bool
    shards: int
    slices: int
    slice_records: tuple[tuple[int, ...], ...]
    hits: tuple[ShardHit, ...]
    epochs: int
    seconds_per_record_pass: float
    weights: int | None
    predictions: float | None
    offered: frozenset[Need]
    policy: ModelPolicy
    queue_seconds: float
    served: bool

    def __post_init__(self) -> None:
        """Refuses facts that contradict each other."""
        if [len(shard) for shard in self.slice_records] != [self.slices] * self.shards:
            raise ValueError("slice_records needs one number per shard and slice")
        if any(
            not (0 <= hit.shard < self.shards and 0 <= hit.first_slice < self.slices)
            for hit in self.hits
        ):
            raise ValueError("a hit lies outside the model's shards and slices")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One method that was considered, with why it was chosen or the one reason against it.

    The predictions and the times are None when the method cannot run or is not allowed.
    `predicted_seconds` count the checks as well; `flops` and `bytes` are the method's alone, and
    None where they are not known. `shards` are the ones that would be trained again.
    """

    method: str
    guarantee: Guarantee
    chosen: bool
    predicted_seconds: float | None
    starts_at: datetime | None
    finishes_at: datetime | None
    reason: str
    shards: tuple[int, ...]
    flops: float | None = None
    bytes: float | None = None


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """What one request means for one artifact. Method and guarantee are "none" if not reachable.

    `commitment_due_at` is set with an approximate method: by then the next full retraining must
    have left the records out (DESIGN decision 5).
    """

    method: str
    guarantee: Guarantee | Literal["none"]
    reason: str
    candidates: tuple[Candidate, ...]
    commitment_due_at: datetime | None
    state: Literal["planned", "not_reachable"]


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What the planner knows about one dataset version; `records` are those to forget."""

    name: str
    version: str
    records: int
    rewritable: bool
    format: str


@dataclass(frozen=True, slots=True)
class _Option:
    method: str
    guarantee: Guarantee
    estimate: Estimate
    seconds: float
    starts_at: datetime
    finishes_at: datetime
    shards: tuple[int, ...]

    @property
    def rank(self) -> tuple[int, float, int]:
        return (-_STRENGTH[self.guarantee], self.seconds, _PREFERENCE[self.method])


def plan_model(facts: ModelFacts, *, due_at: datetime, now: datetime) -> PlannedAction:
    """Returns the action for a model version that was trained on records to forget.

    1. Methods that cannot run, or that policy forbids, are set aside with the reason.
    2. Of the rest, those that finish by `due_at`: the strongest guarantee, then the cheapest.
    3. If none does, the one that finishes first, and the plan says that it misses the deadline.
    4. If there is nothing to choose from, the action is not reachable and says what to do.

    An approximate choice comes with a commitment: exact retraining no later than
    `retraining_every_days` (30 when the policy names none) after it is first allowed, which is
    `exact_not_before` or now, whichever is later.
    """
    obstacles = _obstacles(facts)
    options = [
        _option(facts, method, due_at, now)
        for method in _considered(facts)
        if method not in obstacles
    ]
    if not options:
        return _nothing_to_choose(facts, obstacles)
    chosen = min(
        options,
        key=lambda option: (
            (False, option.rank)
            if option.finishes_at <= due_at
            else (True, option.finishes_at, option.rank)
        ),
    )
    return _planned(facts, chosen, options, obstacles, due_at=due_at, now=now)


def stronger(
    facts: ModelFacts, tried: Sequence[str], *, due_at: datetime, now: datetime
) -> PlannedAction | None:
    """Returns what to do after the methods `tried`, of which the last one did not pass.

    Of what policy allows and is in time: the cheapest exact method; else the cheapest certified
    one; else, after an approximate one, the next approximate one in the order of `METHODS`. None
    of them is tried twice, so the ladder ends. None where there is no step up; nothing is stronger
    than exact, and no step leads to a weaker guarantee (DESIGN decision 9).

    Raises:
        KeyError: the last of `tried` is not one of `METHODS`.
    """
    reached = METHODS[tried[-1]].guarantee
    if reached == "exact":
        return None
    obstacles = _obstacles(facts) | dict.fromkeys(
        tried, "It was tried, and its verdict was not a pass."
    )
    options = [
        _option(facts, method, due_at, now)
        for method in _considered(facts)
        if method not in obstacles
    ]
    steps = [
        option
        for option in options
        if option.finishes_at <= due_at and _STRENGTH[option.guarantee] >= _STRENGTH[reached]
    ]
    if not steps:
        return None
    chosen = min(steps, key=_step)
    planned = _planned(facts, chosen, options, obstacles, due_at=due_at, now=now)
    reason = f"After {', '.join(tried)}, without a pass. {planned.reason}"
    return replace(
        planned,
        reason=reason,
        candidates=tuple(
            replace(one, reason=reason) if one.chosen else one for one in planned.candidates
        ),
    )


def _step(option: _Option) -> tuple[int, float, int]:
    # What an approximate method costs says nothing of how well it forgets; the order does.
    strength, seconds, place = option.rank
    return (strength, 0.0 if option.guarantee == "approximate" else seconds, place)


def plan_dataset(facts: DatasetFacts) -> PlannedAction:
    """Returns the action for a dataset version: erase the records where it can be rewritten."""
    records = f"{facts.records} record{'' if facts.records == 1 else 's'} to forget"
    found = f"Version {facts.version} of {facts.name} holds {records}"
    if not facts.rewritable:
        return _not_reachable(
            f"{found} and is {facts.format} that Lethe cannot rewrite. Erase them at the source and"
            " register the new version, or give Lethe write access to it."
        )
    reason = f"{found}; a new version without them takes its place."
    candidate = Candidate("erase_records", "exact", True, None, None, None, reason, ())
    return PlannedAction("erase_records", "exact", reason, (candidate,), None, "planned")


_DERIVED_ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "backup": "Let it expire or delete it, and do not restore it without erasing again.",
        "cache": "Empty it.",
        "checkpoint": "Delete it where it is stored.",
        "embedding_index": "Delete the person's vectors, or build the index again from the"
        " dataset version that replaces the old one.",
        "vendor_copy": "Tell the vendor to erase it (Art. 19 GDPR) and keep the answer.",
    }
)


def plan_derived(kind: str, name: str) -> PlannedAction:
    """Returns the action for an artifact derived from the records that no connector reaches."""
    advice = _DERIVED_ADVICE.get(kind, "Erase the person's data in it by hand.")
    return _not_reachable(
        f"{name} ({kind.replace('_', ' ')}) was made from the records and no connector reaches it."
        f" {advice} Then record that it was done."
    )


def _considered(facts: ModelFacts) -> tuple[str, ...]:
    named = facts.policy.allowed_methods or frozenset()
    return tuple(
        one.name
        for one in METHODS.values()
        if one.name in named
        or (one.is_default_for(facts.offered) and one.requires & _SPECIAL <= facts.offered)
    )


def _obstacles(facts: ModelFacts) -> dict[str, str]:
    found = {
        method: _impossible(facts, method)
        or _forbidden(facts.policy, method)
        or _over_budget(facts, method)
        for method in _considered(facts)
    }
    return {method: why for method, why in found.items() if why is not None}


def _impossible(facts: ModelFacts, method: str) -> str | None:
    if facts.recipe is None:
        return "No recipe is registered for the model, so nothing can train it."
    for need in sorted(METHODS[method].requires):
        missing = _LACKING[need](facts)
        if missing is not None:
            return missing
    return None


def _no_retained(facts: ModelFacts) -> str | None:
    return None if facts.source_present else "The records that it must train on cannot be read."


def _no_checkpoints(facts: ModelFacts) -> str | None:
    if "checkpoints" not in facts.offered:
        return f"The recipe {facts.recipe} keeps no training checkpoints."
    if facts.shards * facts.slices == 1:
        return "The model has one shard with one slice, so this would be retraining it whole."
    if not facts.hits:
        return "No manifest says which shards hold the records."
    return None


def _no_weights(facts: ModelFacts) -> str | None:
    return None if facts.weights_present else "The weights to start from are missing."


def _nothing_to_forget(facts: ModelFacts) -> str | None:
    if not facts.source_present:
        return "The records that it must forget cannot be read."
    if not any(hit.records for hit in facts.hits):
        return "It needs at least one known record to forget."
    return None


def _not_offered(need: Need) -> Callable[[ModelFacts], str | None]:
    def lacking(facts: ModelFacts) -> str | None:
        if need in facts.offered:
            return None
        return f"It needs {need}, which a model of the recipe {facts.recipe} does not have."

    return lacking


# What stands against a method that has this need.
_LACKING: Final[Mapping[Need, Callable[[ModelFacts], str | None]]] = MappingProxyType(
    {
        "forget": _nothing_to_forget,
        "retain": _no_retained,
        "holdout": _no_retained,
        "weights": _no_weights,
        "checkpoints": _no_checkpoints,
        "gradients": _not_offered("gradients"),
        "layers": _not_offered("layers"),
        "text": _not_offered("text"),
        "adapters": _not_offered("adapters"),
        "gram": _not_offered("gram"),
        "hessian": _not_offered("hessian"),
    }
)


def _forbidden(policy: ModelPolicy, method: str) -> str | None:
    guarantee = METHODS[method].guarantee
    if policy.allowed_methods is not None and method not in policy.allowed_methods:
        allowed = ", ".join(sorted(policy.allowed_methods)) or "no method"
        return f"The model's policy allows {allowed} only."
    if _STRENGTH[guarantee] < _STRENGTH[policy.minimum_guarantee]:
        return f"It is {guarantee}; the model's policy asks for {policy.minimum_guarantee}."
    return None


def _over_budget(facts: ModelFacts, method: str) -> str | None:
    budget, seconds = facts.policy.budget_seconds, predicted_seconds(facts, method)
    if budget is None or seconds <= budget:
        return None
    return (
        f"It would take about {_duration(seconds)}; the model's policy allows"
        f" {_duration(budget)} a run."
    )


def _option(facts: ModelFacts, method: str, due_at: datetime, now: datetime) -> _Option:
    guarantee = METHODS[method].guarantee
    seconds = predicted_seconds(facts, method)
    # Others may join: then it starts no later than alone.
    alone = Waiting(method, 1, now, due_at, seconds)
    start = max(starts_at(facts.policy.start, alone), now + timedelta(seconds=facts.queue_seconds))
    shards: tuple[int, ...] = ()
    if guarantee == "exact":
        every = method == "retrain"
        shards = tuple(range(facts.shards) if every else sorted({hit.shard for hit in facts.hits}))
    finish = start + timedelta(seconds=seconds)
    return _Option(method, guarantee, _estimate(facts, method), seconds, start, finish, shards)


def predicted_seconds(facts: ModelFacts, method: str) -> float:
    """Predicts a run on the long side: shards one after another, no record left out yet.

    The checks are allowed two passes over all records at the rate of training, although they only
    read forward.
    """
    checks = _VERIFICATION_PASSES * sum(map(sum, facts.slice_records))
    return (
        _estimate(facts, method).seconds
        + checks * facts.seconds_per_record_pass
        + _OVERHEAD_SECONDS
    )


def _estimate(facts: ModelFacts, method: str) -> Estimate:
    setting = Setting(
        facts.slice_records, facts.hits, facts.epochs, facts.weights, facts.predictions
    )
    return METHODS[method].estimate(setting, facts.seconds_per_record_pass)


def _planned(
    facts: ModelFacts,
    chosen: _Option,
    options: list[_Option],
    obstacles: Mapping[str, str],
    *,
    due_at: datetime,
    now: datetime,
) -> PlannedAction:
    reason = _why(facts, chosen, due_at)
    by_method = {option.method: option for option in options}
    candidates = tuple(
        _set_aside(method, obstacles[method])
        if method in obstacles
        else _candidate(by_method[method], chosen, reason, due_at)
        for method in _considered(facts)
    )
    commitment_due_at = None
    if chosen.guarantee != "exact":
        days = facts.policy.retraining_every_days
        first_allowed = max(now, facts.policy.start.exact_not_before or now)
        commitment_due_at = first_allowed + timedelta(
            days=DEFAULT_RETRAINING_DAYS if days is None else days
        )
    return PlannedAction(
        chosen.method, chosen.guarantee, reason, candidates, commitment_due_at, "planned"
    )


def _set_aside(method: str, why: str) -> Candidate:
    return Candidate(method, METHODS[method].guarantee, False, None, None, None, why, ())


def _candidate(option: _Option, chosen: _Option, reason: str, due_at: datetime) -> Candidate:
    is_chosen = option is chosen
    return Candidate(
        option.method,
        option.guarantee,
        is_chosen,
        option.seconds,
        option.starts_at,
        option.finishes_at,
        reason if is_chosen else _why_not(option, chosen, due_at),
        option.shards,
        option.estimate.flops,
        option.estimate.bytes,
    )


def _why(facts: ModelFacts, chosen: _Option, due_at: datetime) -> str:
    what = _what(facts, chosen)
    takes = f"{what} in about {_duration(chosen.seconds)}"
    after = "then serves the new version" if facts.served else "no deployment serves the model"
    late = (chosen.finishes_at - due_at).total_seconds()
    if late > 0:
        return (
            f"No method meets the deadline: it will be missed by {_duration(late)}. This one"
            f" finishes first. {takes}; {after}."
        )
    return (
        f"The strongest guarantee that can be had in time ({chosen.guarantee}). {takes}, by"
        f" {chosen.finishes_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC; {after}."
    )


def _what(facts: ModelFacts, chosen: _Option) -> str:
    match METHODS[chosen.method].way:
        case "switch_off":
            return f"Switches {len(chosen.shards)} of {facts.shards} shards off"
        case "remove":
            return "Takes the records out of what the model has stored of them"
        case "steps":
            return "Unlearns from the present weights"
        case "train" if len(chosen.shards) < facts.shards:
            return f"Trains {len(chosen.shards)} of {facts.shards} shards again"
        case "train":
            return "Trains the model again without the records"


def _why_not(option: _Option, chosen: _Option, due_at: datetime) -> str:
    late = (option.finishes_at - due_at).total_seconds()
    if late > 0:
        return (
            f"It could start on {option.starts_at.astimezone(UTC):%Y-%m-%d} and would finish"
            f" {_duration(late)} after the deadline."
        )
    if option.guarantee != chosen.guarantee:
        return f"It would be in time, but {option.guarantee} is weaker than {chosen.guarantee}."
    if option.seconds < chosen.seconds:
        return f"It would be in time; {chosen.method} comes before it in the order of preference."
    return (
        f"It would be in time, at no lower cost: {option.seconds:,.0f} s against"
        f" {chosen.seconds:,.0f} s."
    )


def _nothing_to_choose(facts: ModelFacts, obstacles: Mapping[str, str]) -> PlannedAction:
    if facts.recipe is None:
        advice = "Register the recipe and the data that it was trained on, or withdraw it"
    elif all(_impossible(facts, method) for method in obstacles):
        advice = "Restore what is missing, or withdraw it"
    else:
        advice = "Change the model's policy, or withdraw it"
    candidates = tuple(_set_aside(method, why) for method, why in obstacles.items())
    reason = f"No method can be used on version {facts.version} of {facts.name}. {advice}."
    return _not_reachable(reason, candidates)


def _not_reachable(reason: str, candidates: tuple[Candidate, ...] = ()) -> PlannedAction:
    return PlannedAction("none", "none", reason, candidates, None, "not_reachable")


def _duration(seconds: float) -> str:
    """Says a duration in its largest whole unit, rounded up: 3,601 s are 2 hours."""
    size, unit = next(
        ((size, unit) for size, unit in _DURATIONS if seconds >= size), _DURATIONS[-1]
    )
    number = ceil(seconds / size)
    return f"{number} {unit}{'' if number == 1 else 's'}"
