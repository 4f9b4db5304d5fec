"""What is measured of a version: each check once, the same each time, and with nobody's name."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.unlearn.unlearn_cases import Rows, lm_params
from workers.attacks.examination import Examination, Models, examine
from workers.attacks.parts import Parts
from workers.attacks.references import references_of
from workers.attacks.side_effects import groups, most_similar
from workers.attacks.suite import Plan, attack
from workers.evidence.battery import Limits
from workers.evidence.statistics import subject_means
from workers.evidence.types import Evidence
from workers.evidence.utility import calibration, calibration_error
from workers.manifest import Record
from workers.recipes import make_task
from workers.steps import evaluate as step
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.task import Task

TRAINING = {"epochs": 1, "batch_size": 256, "learning_rate": 0.01}
TINY = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 32}
COLUMNS: Final = {"features": ["x0", "x1"], "label": "ward", "classes": 3}
KINDS: Final[Mapping[str, tuple[str, dict[str, object]]]] = {
    "classifier": ("classifier", {**COLUMNS, "hidden": [4], "training": TRAINING}),
    "gbdt": ("gbdt", {**COLUMNS, "trees_per_slice": 1, "max_depth": 2}),
    "causal_lm": (
        "causal_lm",
        lm_params() | {"config": TINY, "max_tokens": 32, "training": TRAINING},
    ),
}
WORDS = ("ward", "fever", "cough", "knee", "rest", "sleep", "tea", "salt")
FULL = Plan(full=True, relearning_steps=2)
SIDES = ("forget", "retain", "holdout")


@pytest.fixture(scope="module", autouse=True)
def _deterministic() -> None:
    deterministic()


def people(first: int, many: int, each: int = 2) -> tuple[Rows, list[int]]:
    draws = np.random.default_rng(first)
    rows: Rows = [
        {
            "note": " ".join(draws.choice(WORDS, 3)),
            "region": str(draws.choice(["Xanadu", "Ys"])),
            "x0": float(draws.normal()),
            "x1": float(draws.normal()),
            "ward": int(draws.integers(3)),
        }
        for _ in range(many * each)
    ]
    return rows, np.repeat(np.arange(first, first + many), each).tolist()


def task_of(kind: str) -> Task:
    recipe, params = KINDS[kind]
    return make_task(recipe, params)


def parts_of(task: Task, forget: int = 3, retain: int = 30, holdout: int = 4) -> Parts:
    return Parts.of(
        task,
        {
            "forget": people(0, forget),
            "retain": people(1_000, retain),
            "holdout": people(2_000, holdout),
        },
    )


def sharp(task: Task, seed: int, members: int = 1) -> Ensemble:
    models = [task.build(seed + i) for i in range(members)]
    with torch.no_grad():
        for parameter in (p for model in models for p in model.parameters() if p.dim() > 1):
            parameter.mul_(4.0)
    return Ensemble(task, tuple(models))


def models_of(before: Ensemble, after: Ensemble, parts: Parts) -> Models:
    scored = [
        {name: model.scores(getattr(parts, name).examples) for name in SIDES}
        for model in (before, after)
    ]
    return Models(before, after, *scored)


def examined(
    task: Task, parts: Parts, plan: Plan = FULL, members: int = 1, **more: object
) -> tuple[Models, Examination]:
    models = models_of(sharp(task, 1, members), sharp(task, 50, members), parts)
    settings: dict[str, object] = {"requests": {"one": [0], "two": [1, 2]}, **more}
    return models, examine(models, parts, plan, Limits(), **settings)  # type: ignore[arg-type]


def by_name(found: Examination) -> dict[str, Evidence]:
    names = [one.name for one in found.checks]
    assert len(names) == len(set(names))
    return {one.name: one for one in found.checks}


def as_json(found: Examination) -> str:
    rows = [one.as_dict() for one in found.checks]
    return json.dumps([rows, dict(found.own), [repr(one) for one in found.not_run]])


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_each_check_has_a_name_of_its_own_and_is_the_same_again(kind: str, members: int) -> None:
    task = task_of(kind)
    parts = parts_of(task)
    owners = (np.array([0, 0, 1, 1, 1, 1]) % members, np.arange(8) % members)
    plan = replace(FULL, owners=owners)
    more = {"group_column": "region", "downstream": parts.holdout.examples}
    _, found = examined(task, parts, plan, members, **more)
    checks = by_name(found)
    told = as_json(found)
    assert json.loads(told)[0][0]["name"] == "forget_loss"
    assert "NaN" not in told
    assert told == as_json(examined(task, parts, plan, members, **more)[1])
    expected = {"retain", "holdout", "similar", "downstream", "worst_group"}
    assert {f"utility_{one}" for one in expected} | {"calibration", "blind_baseline"} <= set(checks)
    assert ("rmia" in checks) is (members > 1)
    not_run = [one.name for one in found.not_run]
    assert len(not_run) == len(set(not_run))
    assert not set(not_run) & set(checks)
    assert ("prompted_baseline" in checks) is (kind == "causal_lm")
    assert ("prompted_baseline" in not_run) is (kind != "causal_lm")


def test_the_models_change_neither_in_weights_nor_in_what_they_say() -> None:
    task = task_of("causal_lm")
    parts = parts_of(task)
    models = models_of(sharp(task, 1), sharp(task, 50), parts)
    networks = [models.before.members[0], models.after.members[0]]
    weights = [{name: one.clone() for name, one in net.state_dict().items()} for net in networks]
    examine(models, parts, FULL, Limits(), requests={})
    for net, kept in zip(networks, weights, strict=True):
        assert all(torch.equal(one, kept[name]) for name, one in net.state_dict().items())


def test_every_attack_is_controlled_by_the_same_one_before() -> None:
    task = task_of("causal_lm")
    parts = parts_of(task)
    models, found = examined(task, parts)
    suite = {one.attack.name: one for one in attack(models.before, parts, FULL).attacked}
    checks = by_name(found)
    assert set(suite) <= set(checks)
    for name, one in suite.items():
        sides = [subject_means(*side) for side in (one.forget, one.holdout)]
        wins = np.mean([(a > b) + (a == b) / 2 for a in sides[0] for b in sides[1]])
        assert checks[name].details["auc_before"] == pytest.approx(wins)
        assert checks[name].positive_control is not None


def test_the_prompted_model_is_shown_and_decides_nothing() -> None:
    _, found = examined(task_of("causal_lm"), parts_of(task_of("causal_lm")))
    prompted = by_name(found)["prompted_baseline"]
    assert (prompted.family, prompted.p_value) == ("comparison", None)


def test_use_is_the_mean_change_on_the_same_records() -> None:
    task = task_of("classifier")
    parts = parts_of(task)
    models, found = examined(task, parts, group_column="region", downstream=parts.forget.examples)
    checks = by_name(found)

    def change(name: str, places: npt.ArrayLike) -> float:
        now, then = models.scores_after[name].accuracies, models.scores_before[name].accuracies
        each = [float(now[i]) - float(then[i]) for i in np.asarray(places).tolist()]
        return sum(each) / len(each)

    for name in ("retain", "holdout"):
        many = len(getattr(parts, name).rows)
        assert checks[f"utility_{name}"].estimate == pytest.approx(change(name, np.arange(many)))
    assert checks["utility_downstream"].estimate == pytest.approx(change("forget", np.arange(6)))
    split = groups(parts.retain.rows, "region")
    worst = min(change("retain", places) for places in split)
    assert len(split) == 2
    assert checks["utility_worst_group"].estimate == pytest.approx(worst)
    assert checks["utility_worst_group"].details["groups"] == 2
    given = [
        [{name: row[name] for name in ("x0", "x1", "ward")} for row in part.rows]
        for part in (parts.retain, parts.forget)
    ]
    similar = checks["utility_similar"]
    assert similar.estimate == pytest.approx(change("retain", most_similar(*given)))
    assert similar.n == 6


def test_a_group_is_not_named() -> None:
    task = task_of("causal_lm")
    _, found = examined(task, parts_of(task), group_column="region")
    assert "utility_worst_group" in by_name(found)
    told = as_json(found)
    assert not [word for word in ("Xanadu", "Ys", "fever", "cough", "knee") if word in told]


def test_without_forgotten_or_strangers_nothing_is_attacked() -> None:
    task = task_of("classifier")
    _, nobody = examined(task, parts_of(task, forget=0))
    assert set(by_name(nobody)) == {
        "utility_retain",
        "utility_retain_balanced",
        "utility_holdout",
        "calibration",
    }
    _, alone = examined(task, parts_of(task, holdout=0))
    assert set(by_name(alone)) == {"utility_retain", "utility_retain_balanced", "utility_similar"}
    assert nobody.own == alone.own == {}


def test_with_nothing_retained_what_needs_it_is_not_run() -> None:
    task = task_of("classifier")
    _, found = examined(task, parts_of(task, retain=0))
    reasons = {one.name: one.reason for one in found.not_run}
    assert "no retained records" in reasons["utility_similar"]
    assert "no downstream test" in reasons["downstream"]
    assert "utility_retain" not in by_name(found)


def test_one_person_on_a_side_is_measured_all_the_same() -> None:
    task = task_of("causal_lm")
    _, found = examined(task, parts_of(task, forget=1, holdout=1), requests={"one": [0]})
    checks = by_name(found)
    assert json.loads(as_json(found))
    assert (checks["loss_membership"].n, checks["loss_membership"].m) == (1, 1)
    assert "blind_baseline" in {one.name for one in found.not_run}
    assert found.own["one"] in (0.5, 1.0)


@pytest.mark.parametrize("full", [False, True])
def test_an_empty_downstream_test_is_none(full: bool) -> None:
    task = task_of("classifier")
    empty = task.encode([])
    _, found = examined(task, parts_of(task), replace(FULL, full=full), downstream=empty)
    assert "utility_downstream" not in by_name(found)
    assert ("downstream" in {one.name for one in found.not_run}) is full


def test_a_request_gets_the_p_value_of_its_own_people() -> None:
    task = task_of("classifier")
    parts = parts_of(task, holdout=9)
    requests = {"one": [0], "two": [1, 2], "stranger": [7], "none": []}
    models, found = examined(task, parts, Plan(full=False), requests=requests)
    losses = [models.scores_after[name].losses.double().numpy() for name in ("forget", "holdout")]
    ours, others = (
        subject_means(-loss, part.subjects)
        for loss, part in zip(losses, (parts.forget, parts.holdout), strict=True)
    )
    p = [(1 + sum(other >= one for other in others)) / 10 for one in ours]
    assert dict(found.own) == pytest.approx({"one": p[0], "two": min(1.0, 2 * min(p[1], p[2]))})


def test_small_models_lead_where_they_are_asked_for() -> None:
    task = task_of("classifier")
    parts = parts_of(task)
    references = references_of(task, parts, 2, "model")
    plan = Plan(full=False, references=references, references_are_whole=True)
    checks = by_name(examined(task, parts, plan)[1])
    assert {"reference_loss", "rmia", "residual_fraction"} <= set(checks)
    one = replace(plan, references=references_of(task, parts, 1, "model"))
    _, found = examined(task, parts, one)
    reasons = {left.name: left.reason for left in found.not_run}
    assert "one retrained model" in reasons["residual_fraction"]


# The expected calibration error.


def test_calibration_error_equals_a_loop_over_bins() -> None:
    draws = np.random.default_rng(0)
    sure, right = draws.uniform(size=500), draws.integers(2, size=500).astype(float)
    total = 0.0
    for i in range(15):
        own = [j for j, one in enumerate(sure) if i / 15 <= one < (i + 1) / 15]
        if own:
            gap = sum(right[own]) / len(own) - sum(sure[own]) / len(own)
            total += len(own) / 500 * abs(gap)
    assert calibration_error(sure, right) == pytest.approx(total, abs=1e-12)


def test_calibration_of_the_sure_and_right_and_of_the_sure_and_wrong() -> None:
    assert calibration_error([1.0, 1.0 + 1e-7], [1.0, 1.0]) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error([1.0, 1.0], [0.0, 0.0]) == 1.0
    # Two that err to either side in one bin make up for each other.
    assert calibration_error([0.5, 0.5], [1.0, 0.0]) == 0.0


def test_calibration_is_that_after_beside_that_before() -> None:
    found = calibration([0.9, 0.8], [1.0, 0.0], [0.6, 0.6], [1.0, 1.0])
    assert found.estimate == pytest.approx(calibration_error([0.9, 0.8], [1.0, 0.0]))
    assert found.details["before"] == pytest.approx(0.4)
    assert (found.n, found.m, found.p_value) == (2, 2, None)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (([], [], [], []), "at least one"),
        (([0.5, 0.5], [1.0], [0.5, 0.5], [1.0, 1.0]), "same records"),
        (([0.5], [1.0], [0.5, 0.5], [1.0, 1.0]), "same records"),
        (([math.nan], [1.0], [0.5], [1.0]), "NaN"),
        (([1.5], [1.0], [0.5], [1.0]), "probability"),
        (([-0.1], [1.0], [0.5], [1.0]), "probability"),
    ],
)
def test_calibration_refuses(rows: tuple[list[float], ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        calibration(*rows)


# Which shard's model is each record's own.


def record(owner: str, bucket: int, number: int = 0) -> Record:
    return Record(1, number, bucket, b"", owner, {})


def sets_of(shards: int, forget: list[Record], holdout: list[Record]) -> step._Sets:
    return step._Sets(shards, forget, [], holdout, retain_is_whole=True)


def loaded(*shards: int) -> step._Loaded:
    return step._Loaded(Ensemble(task_of("classifier"), ()), shards)


def test_a_record_is_set_against_the_shards_that_are_not_its_own() -> None:
    forget = [record("a", 8), record("b", 5), record("a", 8, 1)]
    holdout = [record(f"h{i}", 100 + i) for i in range(40)]
    # Shard 3 is empty, and nobody of the forgotten is in shards 2 and 5.
    version = loaded(0, 1, 2, 4, 5)
    owners = step._owners(sets_of(6, forget, holdout), version, version)
    # 8 % 6 = 2 and 5 % 6 = 5 are the third and the fifth member.
    assert owners is not None
    assert owners[0].tolist() == [2, 4, 2]
    assert sorted(set(owners[1].tolist())) == [2, 4]
    assert np.bincount(owners[1]).tolist() == [0, 0, 20, 0, 20]


def test_strangers_are_spread_as_the_forgotten_people_are() -> None:
    # Three people of shard 0 and one of shard 1, who has many records.
    forget = [record(owner, 0) for owner in "abc"] + [record("d", 1, i) for i in range(9)]
    holdout = [record(f"h{i}", 1_000 + i // 2, i) for i in range(160)]
    owners = step._owners(sets_of(4, forget, holdout), loaded(0, 1, 2), loaded(0, 1, 2))
    assert owners is not None
    assert np.bincount(owners[1]).tolist() == [120, 40]
    # Both records of one stranger have the same own member.
    assert (owners[1][::2] == owners[1][1::2]).all()


@pytest.mark.parametrize(
    ("before", "after", "forget"),
    [
        ((0, 1, 2), (0, 1), [record("a", 0)]),  # a shard was emptied
        ((0,), (0,), [record("a", 0)]),  # one member has no siblings
        ((0, 1), (0, 1), []),  # nobody is to be forgotten
        ((0, 1), (0, 1), [record("a", 2)]),  # the shard of the forgotten is gone in both
    ],
)
def test_there_are_no_siblings(
    before: tuple[int, ...], after: tuple[int, ...], forget: list[Record]
) -> None:
    sets = sets_of(3, forget, [record("h", 7)])
    assert step._owners(sets, loaded(*before), loaded(*after)) is None


def test_siblings_of_a_side_without_strangers() -> None:
    owners = step._owners(sets_of(2, [record("a", 1)], []), loaded(0, 1), loaded(0, 1))
    assert owners is not None
    assert (owners[0].tolist(), owners[1].tolist()) == ([1], [])
