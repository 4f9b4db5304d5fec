"""Which attacks are mounted on which model, and that each treats forgotten and strangers alike."""

import string
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.unlearn.unlearn_cases import Rows, lm_params
from workers.attacks.parts import Part, Parts, References, columns_given
from workers.attacks.suite import MOST_GENERATED, Plan, Suite, attack
from workers.evidence.battery import Attacked
from workers.evidence.statistics import auc
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import restore, train_shard
from workers.unlearn.task import Task, take

Owned = tuple[Rows, list[int]]
Scores = npt.NDArray[np.float64]

ONCE = {"epochs": 1, "batch_size": 256, "learning_rate": 0.01}
COLUMNS: Final = {"features": ["x0", "x1"], "label": "ward", "classes": 3}
TINY = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 32}
TEXT = lm_params() | {"config": TINY, "max_tokens": 32, "training": ONCE}
LORA = {"r": 2, "alpha": 4, "target_modules": ["c_attn"]}
KINDS: Final[Mapping[str, tuple[str, dict[str, object]]]] = {
    "classifier": ("classifier", {**COLUMNS, "hidden": [4], "training": ONCE}),
    "gbdt": ("gbdt", {**COLUMNS, "trees_per_slice": 2, "max_depth": 2, "min_leaf_hessian": 0.1}),
    "closed_form": ("closed_form", {**COLUMNS, "ridge": 1.0}),
    "sequence_classifier": ("sequence_classifier", {**TEXT, "label": "ward", "classes": 3}),
    "causal_lm": ("causal_lm", TEXT),
    "lora": ("causal_lm", {**TEXT, "lora": LORA}),
}
FULL: Final = Plan(full=True, relearning_steps=2, paraphrase_column="said", canary_column="pin")

READ = {"zlib", "min_k", "min_k_plus_plus", "target_rank"}
SAID = {"exact_memorisation", "extraction_strength", "greedy_extraction", "sampled_extraction"}
ASKED = {"in_context", "jailbreak_prompts", "paraphrased", "exposure"}
ROUNDED = {"quantised_int8", "quantised_int4"}
NO_TEXT = {
    "greedy_extraction": "says no text",
    "exposure": "reads no text",
    "in_context": "reads no text",
    "jailbreak_prompts": "reads no text",
    "paraphrased": "reads no text",
}
UNTRANSLATED = {"translated": "names no column of translations"}
MOUNTED: Final[Mapping[str, tuple[set[str], dict[str, str]]]] = {
    "classifier": ({"loss_membership", "probe", "relearning"} | ROUNDED, NO_TEXT | UNTRANSLATED),
    "gbdt": (
        {"loss_membership", "probe"},
        NO_TEXT
        | UNTRANSLATED
        | {"quantised": "no weight matrix", "relearning": "steps down a gradient"},
    ),
    "closed_form": (
        {"loss_membership", "probe"} | ROUNDED,
        NO_TEXT | UNTRANSLATED | {"relearning": "steps down a gradient"},
    ),
    "sequence_classifier": (
        {"loss_membership", "probe", "relearning"} | ROUNDED | ASKED,
        UNTRANSLATED | {"greedy_extraction": "says no text"},
    ),
    **dict.fromkeys(
        ("causal_lm", "lora"),
        (
            {"loss_membership", "probe", "relearning"} | ROUNDED | READ | SAID | ASKED,
            UNTRANSLATED,
        ),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _deterministic() -> None:
    deterministic()


def row_of(draws: np.random.Generator) -> dict[str, object]:
    word, pin = "".join(draws.choice([*"abcde"], 3)), "".join(draws.choice([*string.digits], 3))
    return {
        "note": f"{word} {pin}",
        "said": f"{pin} {word}",
        "pin": pin,
        "x0": float(draws.normal()),
        "x1": float(draws.normal()),
        "ward": int(draws.integers(3)),
    }


def people(first: int, many: int, each: int = 2) -> Owned:
    draws = np.random.default_rng(first)
    subjects = np.repeat(np.arange(first, first + many), each).tolist()
    return [row_of(draws) for _ in subjects], subjects


def parts_of(task: Task, forget: Owned, retain: Owned, holdout: Owned) -> Parts:
    return Parts.of(task, {"forget": forget, "retain": retain, "holdout": holdout})


def usual(task: Task) -> Parts:
    return parts_of(task, people(0, 3), people(100, 4), people(200, 3))


def task_of(kind: str) -> Task:
    recipe, params = KINDS[kind]
    return make_task(recipe, params)


def trained(task: Task, part: Part, seed: str = "model") -> Ensemble:
    state = train_shard(
        task,
        [part.examples],
        seed=seed,
        shard=0,
        resume=None,
        on_checkpoint=lambda _slice, _state: None,
        on_progress=lambda _share: None,
        cancelled=lambda: False,
    )
    return Ensemble(task, (restore(task, state, seed=seed, shard=0),))


def sharp(task: Task, seed: int = 0, members: int = 1) -> Ensemble:
    """Models far from uniform, so that no two records are alike to them."""
    models = [task.build(seed + i) for i in range(members)]
    with torch.no_grad():
        for parameter in (p for model in models for p in model.parameters() if p.dim() > 1):
            parameter.mul_(4.0)
    return Ensemble(task, tuple(models))


def by_name(suite: Suite) -> dict[str, Attacked]:
    found = {one.attack.name: one for one in suite.attacked}
    assert len(found) == len(suite.attacked)
    return found


def scores(one: Attacked) -> tuple[Scores, Scores]:
    return np.asarray(one.forget.scores), np.asarray(one.holdout.scores)


def check_sound(suite: Suite) -> None:
    for one in by_name(suite).values():
        for side in (one.forget, one.holdout):
            assert np.shape(np.asarray(side.scores)) == np.shape(np.asarray(side.subjects))
            assert np.isfinite(np.asarray(side.scores)).all()
            assert np.size(np.asarray(side.scores))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_mounted_on_each_kind_of_model(kind: str) -> None:
    task = task_of(kind)
    parts = usual(task)
    suite = attack(trained(task, parts.retain), parts, FULL)
    names, refused = MOUNTED[kind]
    assert set(by_name(suite)) == names
    assert {one.name for one in suite.not_run} == set(refused)
    for one in suite.not_run:
        assert refused[one.name] in one.reason
    check_sound(suite)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_battery_is_one_pass_and_what_follows_from_it(kind: str) -> None:
    task = task_of(kind)
    suite = attack(sharp(task), usual(task), Plan(full=False))
    names, _ = MOUNTED[kind]
    short = {"loss_membership"} | READ | {"exact_memorisation", "extraction_strength"}
    assert set(by_name(suite)) == names & short
    assert suite.not_run == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_person_with_one_record_and_nobody_retained(kind: str) -> None:
    task = task_of(kind)
    parts = parts_of(task, people(0, 1, 1), ([], []), people(200, 1, 1))
    suite = attack(sharp(task), parts, FULL)
    check_sound(suite)
    reasons = {one.name: one.reason for one in suite.not_run}
    assert reasons["probe"] == "no record is retained that a probe could learn from"
    assert reasons["relearning"] == "there is no record to teach"
    if kind in ("causal_lm", "lora", "sequence_classifier"):
        assert "no data subject has a second record" in reasons["in_context"]


def test_texts_of_no_token_one_token_and_more_than_fit() -> None:
    task = task_of("causal_lm")
    notes = ["", "a", "b" * 100, "é", "c" * 31, "d e f"]

    def written(first: int) -> Owned:
        return [{"note": one} for one in notes], [first + i // 2 for i in range(len(notes))]

    parts = parts_of(task, written(0), written(10), written(20))
    suite = attack(sharp(task), parts, FULL)
    check_sound(suite)
    assert set(by_name(suite)) >= READ | SAID | {"in_context", "jailbreak_prompts", "probe"}


def test_records_that_fill_the_context_leave_no_room_for_words_before_them() -> None:
    task = task_of("causal_lm")
    full: Rows = [{"note": "b" * 40}] * 4
    parts = parts_of(task, (full, [0, 0, 1, 1]), people(100, 3), (full, [5, 5, 6, 6]))
    suite = attack(sharp(task), parts, FULL)
    reasons = {one.name: one.reason for one in suite.not_run}
    assert "fill the model's context" in reasons["in_context"]
    assert "fill the model's context" in reasons["jailbreak_prompts"]
    # All records are the same text, so that nobody stands out.
    assert auc(*scores(by_name(suite)["loss_membership"])) == 0.5


def swapped(parts: Parts) -> Parts:
    return Parts(forget=parts.holdout, retain=parts.retain, holdout=parts.forget)


def references_for(parts: Parts, many: int) -> References:
    draws = np.random.default_rng(0)
    return References(
        *(draws.exponential(size=(many, len(one.rows))) for one in (parts.forget, parts.holdout))
    )


@pytest.mark.parametrize("kind", ["classifier", "sequence_classifier", "causal_lm"])
def test_the_sides_may_be_exchanged(kind: str) -> None:
    task = task_of(kind)
    parts, model = usual(task), sharp(task_of(kind))
    given = references_for(parts, 4)
    plan = replace(FULL, references=given)
    there = by_name(attack(model, parts, plan))
    back = by_name(
        attack(model, swapped(parts), replace(plan, references=References(*given[::-1])))
    )
    # Relearning draws people, and the probe learns from half the holdout: alike, yet not mirrored.
    for name in there.keys() - {"relearning", "probe"}:
        for mine, theirs in zip(scores(there[name]), scores(back[name])[::-1], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5, err_msg=name)
    assert {"reference_loss", "rmia", "lira"} <= there.keys()


def test_rmia_ties_nobody_who_is_not_tied() -> None:
    task = task_of("classifier")
    parts = usual(task)
    plan = Plan(full=False, references=references_for(parts, 2))
    ours, others = scores(by_name(attack(sharp(task), parts, plan))["rmia"])
    assert np.unique(np.concatenate([ours, others])).size == ours.size + others.size


@pytest.mark.parametrize("many", [1, 3, 4])
def test_scores_set_against_small_models(many: int) -> None:
    task = task_of("classifier")
    parts, model = usual(task), sharp(task)
    plan = Plan(full=False, references=references_for(parts, many))
    found = by_name(attack(model, parts, plan))
    given = references_for(parts, many)
    for part, others, told in zip(
        (parts.forget, parts.holdout), given, scores(found["reference_loss"]), strict=True
    ):
        own = model.losses(part.examples).double().numpy()
        for i in range(len(part.rows)):
            plain = sum(others[j][i] for j in range(many)) / many - own[i]
            assert told[i] == pytest.approx(plain, abs=1e-6)
    assert ("lira" in found) is (many == 4)
    kind = found["rmia"].attack
    # Only LiRA knows how far models differ on a record, and not only how easy it is.
    assert (kind.calibrated, kind.threat_model) == (False, "T1")
    assert "lira" not in found or found["lira"].attack.calibrated
    assert "small models" in kind.reference


@pytest.mark.parametrize("members", [2, 3, 5])
def test_scores_set_against_sibling_shards(members: int) -> None:
    task = task_of("classifier")
    parts, model = usual(task), sharp(task, members=members)
    draws = np.random.default_rng(1)
    owners = (draws.integers(members, size=6), draws.integers(members, size=6))
    found = by_name(attack(model, parts, Plan(full=False, owners=owners)))
    for part, own, told in zip(
        (parts.forget, parts.holdout), owners, scores(found["reference_loss"]), strict=True
    ):
        for i in range(len(part.rows)):
            one = take(part.examples, torch.tensor([i]), torch.device("cpu"))
            each = [float(Ensemble(task, (member,)).losses(one)) for member in model.members]
            mine = each.pop(own[i])
            assert told[i] == pytest.approx(sum(each) / len(each) - mine, abs=1e-5)
    assert ("lira" in found) is (members == 5)
    assert found["rmia"].attack.threat_model == "T3"


def test_small_models_come_before_siblings_and_one_member_has_none() -> None:
    task = task_of("classifier")
    parts = usual(task)
    owners = (np.zeros(6, dtype=np.int64), np.zeros(6, dtype=np.int64))
    plan = Plan(full=False, owners=owners, references=references_for(parts, 1))
    two = by_name(attack(sharp(task, members=2), parts, plan))
    assert two["rmia"].attack.threat_model == "T1"
    alone = by_name(attack(sharp(task), parts, Plan(full=False, owners=owners)))
    assert set(alone) == {"loss_membership"}


def test_only_records_that_bring_other_words_are_asked_in_them() -> None:
    task = task_of("causal_lm")
    forget, retain, holdout = people(0, 3), people(100, 3), people(200, 3)
    for (rows, _), broken in ((forget, None), (holdout, ["a list"])):
        rows[1] = {**rows[1], "said": broken}
        rows[2] = {**rows[2], "said": "  "}
        rows[3] = {**rows[3], "pin": "not in the text"}
        rows[4] = {**rows[4], "pin": 7}
    found = by_name(attack(sharp(task), parts_of(task, forget, retain, holdout), FULL))
    for side, first in ((found["paraphrased"].forget, 0), (found["paraphrased"].holdout, 200)):
        assert np.asarray(side.subjects).tolist() == [first, first + 1, first + 2, first + 2]
    for side, first in ((found["exposure"].forget, 0), (found["exposure"].holdout, 200)):
        assert np.asarray(side.subjects).tolist() == [first, first, first + 1, first + 2]


def test_a_side_without_other_words_or_secrets_is_told() -> None:
    task = task_of("causal_lm")
    bare: Owned = ([{"note": "a b"}, {"note": "c"}], [200, 201])
    suite = attack(sharp(task), parts_of(task, people(0, 2), people(100, 2), bare), FULL)
    reasons = {one.name: one.reason for one in suite.not_run}
    assert reasons["paraphrased"] == "the records of one side bring no paraphrases"
    assert reasons["exposure"] == "the records of one side hold no secret"


def test_zlib_packs_what_was_predicted_and_no_more() -> None:
    task = task_of("causal_lm")
    cut = "x" * 31
    forget: Owned = ([{"note": cut + "abcdefgh" * 9}, {"note": cut + "!"}], [0, 1])
    parts = parts_of(task, forget, people(100, 1), ([{"note": "short"}], [200]))
    one, other = scores(by_name(attack(sharp(task), parts, Plan(full=False)))["zlib"])[0]
    assert one == pytest.approx(other, rel=1e-6)


def test_generation_takes_whole_people_as_many_as_fit() -> None:
    task = task_of("causal_lm")
    many = MOST_GENERATED // 60

    def brief(first: int, sizes: list[int]) -> Owned:
        subjects = [first + i for i, size in enumerate(sizes) for _ in range(size)]
        return [{"note": "a"} for _ in subjects], subjects

    forget, holdout = brief(0, [60] * (many + 2)), brief(500, [MOST_GENERATED + 1])
    parts = parts_of(task, forget, people(100, 1), holdout)
    plan = Plan(full=True, relearning_steps=1)
    found = by_name(attack(sharp(task), parts, plan))["greedy_extraction"]
    subjects, records = np.unique(np.asarray(found.forget.subjects), return_counts=True)
    assert (len(subjects), records.tolist()) == (many, [60] * many)
    # Whoever has more records than that is taken whole all the same.
    assert np.asarray(found.holdout.subjects).tolist() == [500] * (MOST_GENERATED + 1)


def test_an_empty_side_is_refused() -> None:
    task = task_of("classifier")
    with pytest.raises(ValueError, match="at least one record"):
        attack(sharp(task), parts_of(task, ([], []), people(1, 1), people(2, 1)), FULL)


def test_a_broken_model_is_refused() -> None:
    task = task_of("causal_lm")
    model = sharp(task)
    with torch.no_grad():
        next(model.members[0].parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        attack(model, usual(task), Plan(full=False))


def test_attacking_leaves_the_model_as_it_is_and_gives_the_same_again() -> None:
    task = task_of("causal_lm")
    parts, model = usual(task), sharp(task)
    weights = {name: one.clone() for name, one in model.members[0].state_dict().items()}
    first, again = (by_name(attack(model, parts, FULL)) for _ in range(2))
    for name, one in first.items():
        for side, same in zip(scores(one), scores(again[name]), strict=True):
            np.testing.assert_array_equal(side, same, err_msg=name)
    now = model.members[0].state_dict()
    assert all(torch.equal(one, now[name]) for name, one in weights.items())


def test_only_columns_that_the_recipe_names_are_given() -> None:
    row = {"x0": 1.0, "x1": 2.0, "x2": 3.0, "ward": 1, "customer": "17", "note": "n"}
    assert columns_given(task_of("classifier"), [row, {"x1": 5.0, "x2": 4.0}]) == [
        {"x0": 1.0, "x1": 2.0, "ward": 1},
        {"x1": 5.0},
    ]
    assert columns_given(task_of("causal_lm"), [row]) == [{"note": "n"}]
    pixels = {"image": {"prefix": "pixel_", "height": 1, "width": 2}, "label": "y", "classes": 2}
    task = make_task("classifier", {**pixels, "hidden": [], "training": ONCE})
    trees = {"features": ["x0"], "categories": {"city": ["a", "b"]}, "label": "y", "classes": 2}
    (given,) = columns_given(make_task("gbdt", trees), [{"x0": 0, "city": "a", "y": 1, "id": 3}])
    assert set(given) == {"x0", "city", "y"}
    (given,) = columns_given(task, [{"pixel_0": 0, "pixel_1": 1, "pixels": 2, "y": 1, "z": 3}])
    assert set(given) == {"pixel_0", "pixel_1", "y"}


def test_a_few_are_drawn_from_all_people_and_are_whole() -> None:
    everybody = Part([{}] * 600, {"y": torch.zeros(600)}, np.repeat(np.arange(200), 3))
    drawn = [everybody.few(60, seed) for seed in range(40)]
    for few in drawn:
        people, records = np.unique(few.subjects, return_counts=True)
        assert (people.size, set(records)) == (20, {3})
    # Numbers follow identifiers, and identifiers time: the first twenty would have a mean of 9.5.
    middle = np.mean([few.subjects.mean() for few in drawn])
    assert middle == pytest.approx(99.5, abs=10)
    assert np.unique(everybody.few(1, 0).subjects).size == 1


def test_records_show_in_no_repr() -> None:
    parts = parts_of(task_of("causal_lm"), ([{"note": "Ada Lovelace"}], [0]), ([], []), ([], []))
    assert "Ada" not in repr(parts)
    assert "tensor" not in repr(parts)
