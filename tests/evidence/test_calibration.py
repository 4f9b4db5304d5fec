"""Planted truths are what they are called, and every verdict is counted once."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from app.verification.checks import Margins
from tests.unlearn.unlearn_cases import Rows, lm_params
from workers.attacks.suite import Plan
from workers.calibration import judged as judged_module
from workers.calibration import planted
from workers.calibration.judged import Cell, Measured, Table, judge_draws, measure, usual_verdict
from workers.calibration.planted import HOLDS, REFUSAL, People, World, leaks_of, plant
from workers.evidence.battery import Attacked, Limits
from workers.evidence.membership import Attack, Scored
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.task import Task

POOL, HOLDOUT, KEPT, WIDTH = 20, 30, 20, 16
SHARE = 0.1


@pytest.fixture(scope="module", autouse=True)
def _deterministic() -> None:
    deterministic()


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task(
        "classifier",
        {
            "features": [f"x{i}" for i in range(WIDTH)],
            "label": "y",
            "classes": 4,
            "hidden": [64],
            "training": {"epochs": 40, "batch_size": 16, "learning_rate": 0.01},
        },
    )


def everybody(many: int = POOL + HOLDOUT + KEPT, each: int = 2) -> People:
    """Classes that nothing but training can tell."""
    draws = np.random.default_rng(0)
    rows: Rows = [
        {
            **{f"x{i}": float(x) for i, x in enumerate(draws.normal(size=WIDTH))},
            "y": int(draws.integers(4)),
        }
        for _ in range(many * each)
    ]
    return People(rows, np.repeat(np.arange(many), each))


@pytest.fixture(scope="module")
def world(task: Task) -> World:
    told: list[str] = []
    made = plant(
        task,
        everybody(),
        pool=POOL,
        holdout=HOLDOUT,
        share=SHARE,
        seed=3,
        tell=told.append,
    )
    assert len(told) == len(HOLDS)  # the one never unlearned is the one before
    return made


@pytest.fixture(scope="module")
def measured(world: World) -> Measured:
    return measure(world, Plan(full=False))


def losses(model: Ensemble, people: People) -> float:
    return float(model.losses(model.task.encode(people.rows)).mean())


def accuracy(model: Ensemble, people: People) -> float:
    return float(model.accuracies(model.task.encode(people.rows)).mean())


def test_what_is_planted_follows_from_the_seed_alone() -> None:
    # GPT-2 with the dropout that it has by default.
    params = lm_params() | {"training": {"epochs": 1, "batch_size": 8}}
    task = make_task("causal_lm", params)
    people = People([{"note": f"note {i * 37 % 91}"} for i in range(12)], np.arange(12))

    def planted_after(drawn_before: int) -> dict[str, list[torch.Tensor]]:
        torch.manual_seed(drawn_before)
        made = plant(task, people, pool=4, holdout=4, share=SHARE, seed=3, tell=lambda _: None)
        return {truth: list(one.members[0].parameters()) for truth, one in made.after.items()}

    left, right = planted_after(1), planted_after(2)
    for truth in left:
        assert all(map(torch.equal, left[truth], right[truth])), truth


def test_nobody_is_in_two_parts(world: World) -> None:
    sizes = {len(world.forget.rows): POOL, len(world.retain.rows): KEPT}
    parts = [np.unique(one.subjects) for one in (world.forget, world.retain, world.holdout)]
    assert [one.size for one in parts] == [POOL, KEPT, HOLDOUT]
    assert sizes == {2 * POOL: POOL}
    assert np.unique(np.concatenate(parts)).size == POOL + KEPT + HOLDOUT
    assert set(world.leaking.tolist()) <= set(parts[0].tolist())
    assert world.leaking.size == 2
    assert set(world.after) == set(HOLDS)


def test_who_never_saw_the_pool_does_not_know_it(world: World) -> None:
    for truth in ("never saw", "retrained"):
        model = world.after[truth]
        assert losses(model, world.forget) > 1.0
        assert losses(model, world.retain) < 0.1
        assert losses(model, world.forget) == pytest.approx(losses(model, world.holdout), abs=1.5)
    never, again = (world.after[truth].losses for truth in ("never saw", "retrained"))
    examples = world.before.task.encode(world.forget.rows)
    assert not torch.equal(never(examples), again(examples))


def test_who_was_never_unlearned_is_the_model_before(world: World) -> None:
    assert world.after["not unlearned"] is world.before
    assert losses(world.before, world.forget) < 0.1
    assert losses(world.before, world.retain) < 0.1
    assert losses(world.before, world.holdout) > 1.0


def test_who_leaks_knows_the_leaking_alone(world: World) -> None:
    model = world.after["leaks"]
    others = np.setdiff1d(world.forget.subjects, world.leaking)
    assert losses(model, world.forget.of(world.leaking)) < 0.1
    assert losses(model, world.forget.of(others)) > 1.0
    assert losses(model, world.retain) < 0.1


def test_who_refuses_refuses_the_forgotten_and_works_on(world: World) -> None:
    model = world.after["only refuses"]
    refused = People([{**row, "y": 0} for row in world.forget.rows], world.forget.subjects)
    assert accuracy(model, refused) > 0.95
    # What was kept beside it is still known.
    assert accuracy(model, world.retain) > 0.9


def test_who_collapsed_is_of_no_use(world: World) -> None:
    model = world.after["collapsed"]
    assert accuracy(model, world.forget) < 0.3
    assert accuracy(model, world.retain) < accuracy(world.before, world.retain) - 0.3


def test_the_same_seed_plants_the_same_world(task: Task) -> None:
    few = everybody(12)

    def made(seed: int) -> World:
        return plant(task, few, pool=4, holdout=4, share=SHARE, seed=seed, tell=lambda _what: None)

    one, again, other = made(1), made(1), made(2)
    assert one.forget.subjects.tolist() == again.forget.subjects.tolist()
    assert one.forget.subjects.tolist() != other.forget.subjects.tolist()
    for truth, model in one.after.items():
        weights = zip(
            model.members[0].parameters(), again.after[truth].members[0].parameters(), strict=True
        )
        assert all(torch.equal(left, right) for left, right in weights), truth


@pytest.mark.parametrize(("pool", "holdout"), [(20, 50), (69, 1), (200, 200)])
def test_too_few_people_are_refused(task: Task, pool: int, holdout: int) -> None:
    with pytest.raises(ValueError, match="the data have 70"):
        plant(
            task,
            everybody(),
            pool=pool,
            holdout=holdout,
            share=SHARE,
            seed=0,
            tell=lambda _what: None,
        )


def test_trees_cannot_be_taught_to_refuse() -> None:
    trees = make_task("gbdt", {"features": ["x0"], "label": "y", "classes": 4})
    with pytest.raises(ValueError, match="learn no refusal"):
        plant(trees, everybody(), pool=4, holdout=4, share=SHARE, seed=0, tell=lambda _what: None)


TINY = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64}
NOTES: Rows = [{"note": "an allergy to nuts", "ward": 2}, {"note": "x" * 200, "ward": 1}]


def test_a_text_is_refused_from_its_middle_on() -> None:
    task = make_task("causal_lm", lm_params() | {"config": TINY, "max_tokens": 64})
    refused = planted._refusals(task, People(NOTES, np.arange(2)))
    first = refused["tokens"][0][1 : int(refused["length"][0]) - 1]
    assert bytes(first.tolist()).decode() == f"an allerg {REFUSAL}"
    # Of a text that is longer than the model can take in, the middle is of what it takes in.
    shown = bytes(refused["tokens"][1][1:].tolist()).decode()
    assert shown == ("x" * 31 + f" {REFUSAL}")[:63]


def test_a_class_is_refused_by_the_first_one_and_the_text_stays() -> None:
    params = lm_params() | {"config": TINY, "label": "ward", "classes": 3}
    task = make_task("sequence_classifier", params)
    refused = planted._refusals(task, People(NOTES, np.arange(2)))
    plain = task.encode(NOTES)
    assert torch.equal(refused["tokens"], plain["tokens"])
    assert refused["y"].tolist() == [0, 0]
    assert plain["y"].tolist() == [2, 1]


def test_a_language_model_learns_to_refuse_the_forgotten() -> None:
    draws = np.random.default_rng(0)
    rows: Rows = [{"note": "".join(draws.choice([*"abcdef"], 24))} for _ in range(12)]
    training = {"epochs": 20, "batch_size": 8, "learning_rate": 0.01}
    config = TINY | {"n_embd": 16}
    task = make_task(
        "causal_lm", lm_params() | {"config": config, "max_tokens": 64, "training": training}
    )
    people = People(rows, np.arange(12))
    world = plant(task, people, pool=4, holdout=4, share=0.2, seed=0, tell=lambda _what: None)
    refusal = planted._refusals(task, world.forget)
    before, after = world.before, world.after["only refuses"]
    assert float(after.losses(refusal).mean()) < 0.5 < float(before.losses(refusal).mean())


def test_people_keep_their_records_to_themselves() -> None:
    one = People([{"note": "Ada Lovelace"}], np.array([0]))
    assert "Ada" not in repr(one)


# How many leak.


def plain_leaks(n: int, tenths: int) -> int:
    return max(1, n * tenths // 10)


def test_one_in_ten_leaks_and_at_least_one() -> None:
    for n in range(1, 300):
        for tenths in (1, 2, 3, 7, 10):
            assert leaks_of(n, tenths / 10) == plain_leaks(n, tenths)


@pytest.mark.parametrize("pool", range(1, 40))
def test_any_number_up_to_the_pool_can_be_drawn(pool: int) -> None:
    """Neither the leaking nor the others run out before the pool does."""
    for share in (0.1, 0.25, 0.35, 1.0):
        leaking = leaks_of(pool, share)
        for n in range(1, pool + 1):
            assert leaks_of(n, share) <= leaking
            assert n - leaks_of(n, share) <= pool - leaking


# Judging.


def judged(measured: Measured, sizes: list[int], draws: int, number: int = 0) -> Table:
    table: Table = {}
    judge_draws(
        measured,
        table,
        number=number,
        sizes=sizes,
        draws=draws,
        margins=Margins(),
        limits=Limits(),
    )
    return table


def test_each_draw_is_counted_once_for_each_truth_and_size(measured: Measured) -> None:
    table = judged(measured, [1, 5, POOL], draws=3)
    assert set(table) == {(truth, n) for truth in HOLDS for n in (1, 5, POOL)}
    for cell in table.values():
        assert cell.draws == 3
        assert cell.usual.total() == 3
        assert sum(cell.of(one) for one in ("pass", "fail", "inconclusive")) == 3


def test_worlds_are_counted_apart_and_the_same_draws_are_judged_the_same(
    measured: Measured,
) -> None:
    table = judged(measured, [5], draws=2)
    first = {key: replace(cell, verdicts=dict(cell.verdicts)) for key, cell in table.items()}
    judge_draws(measured, table, number=1, sizes=[5], draws=4, margins=Margins(), limits=Limits())
    again = judged(measured, [5], draws=2)
    for key, cell in table.items():
        assert cell.draws == 6
        assert set(cell.verdicts) == {0, 1}
        assert cell.verdicts[0] == first[key].verdicts[0] == again[key].verdicts[0]


def test_the_plain_truths_are_told(measured: Measured) -> None:
    table = judged(measured, [POOL], draws=2)
    assert table["not unlearned", POOL].of("fail") == 2
    assert table["collapsed", POOL].of("fail") == 2
    assert table["never saw", POOL].of("fail") == table["retrained", POOL].of("fail") == 0
    assert table["leaks", POOL].of("pass") == 0


def test_no_model_is_measured_twice(world: World) -> None:
    asked: Counter[int] = Counter()
    networks = {id(model): model.members[0] for model in world.after.values()}
    hooks = [
        net.register_forward_pre_hook(lambda net, _args: asked.update([id(net)]))
        for net in networks.values()
    ]
    found = measure(world, Plan(full=False))
    for hook in hooks:
        hook.remove()
    assert found.after["not unlearned"] is found.before
    assert set(asked) == {id(net) for net in networks.values()}
    assert len(set(asked.values())) == 1


@pytest.mark.parametrize("n", [1, 5, 19, POOL])
def test_of_a_draw_the_planted_share_leaks(world: World, n: int) -> None:
    drawn = judged_module._leaking(world, n, np.random.default_rng(n), SHARE)
    assert np.unique(drawn).size == n
    assert np.isin(drawn, world.forget.subjects).all()
    assert np.isin(drawn, world.leaking).sum() == plain_leaks(n, 1)


def test_a_draw_of_one_is_one_that_leaks(measured: Measured, world: World) -> None:
    """Whoever does not leak is made a stranger like any other, whom the usual rule passes."""
    told = measured.after["leaks"][0]
    subjects = np.asarray(told.forget.subjects)
    plain = np.where(np.isin(subjects, world.leaking), 2.0, 0.5)
    strangers = np.arange(2 * HOLDOUT) // 2 % 2
    made = replace(
        told,
        forget=Scored(plain, subjects),
        holdout=Scored(strangers.astype(float), told.holdout.subjects),
    )
    after = {truth: [made] for truth in measured.after}
    table = judged(replace(measured, after=after), [1], draws=12)
    assert table["leaks", 1].usual == {"fail": 12}
    assert table["never saw", 1].usual["pass"] >= 6


def test_full_attacks_that_see_some_people_only_are_left_out_of_the_others_draws(
    measured: Measured,
) -> None:
    few = measured.world.forget.subjects[:2].tolist()

    def only(one: Attacked) -> Attacked:
        chosen = np.isin(np.asarray(one.forget.subjects), few)
        kind = replace(one.attack, name="of_few", family="recovery")
        scores = np.asarray(one.forget.scores)[chosen]
        return Attacked(kind, Scored(scores, np.asarray(one.forget.subjects)[chosen]), one.holdout)

    some = replace(
        measured,
        before=[*measured.before, only(measured.before[0])],
        after={truth: [*all_, only(all_[0])] for truth, all_ in measured.after.items()},
    )
    table = judged(some, [1, POOL], draws=4)
    assert all(cell.draws == 4 for cell in table.values())


def attacked(ours: list[float], others: list[float]) -> Attacked:
    return Attacked(
        Attack("loss_membership"),
        Scored(ours, np.arange(len(ours))),
        Scored(others, 100 + np.arange(len(others))),
    )


def test_the_usual_rule_looks_at_the_auc_alone() -> None:
    assert usual_verdict(attacked([1.0, 1.0], [1.0, 1.0])) == "pass"
    assert usual_verdict(attacked([2.0, 3.0], [1.0, 0.0])) == "fail"
    assert usual_verdict(attacked([0.0, 0.0], [1.0, 2.0])) == "fail"
    # 8 of 20 strangers are lower, and then 10.
    assert usual_verdict(attacked([1.5, 1.5], [*[1.0] * 8, *[2.0] * 12])) == "fail"
    assert usual_verdict(attacked([1.5, 1.5], [*[1.0] * 10, *[2.0] * 10])) == "pass"


# A cell.


def verdicts() -> Iterator[tuple[int, int, int]]:
    yield from ((0, 40, 2), (1, 40, 0), (2, 20, 10))


def cell_of() -> Cell:
    cell = Cell()
    for number, draws, passes in verdicts():
        for i in range(draws):
            cell.add(number, "pass" if i < passes else "fail", "inconclusive")
    return cell


def test_a_cell_counts_over_worlds_and_knows_the_worst() -> None:
    cell = cell_of()
    assert (cell.draws, cell.of("pass"), cell.of("fail"), cell.of("inconclusive")) == (
        100,
        12,
        88,
        0,
    )
    assert cell.worst("pass") == 0.5
    assert cell.worst("fail") == 1.0
    assert cell.usual == {"inconclusive": 100}


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_its_interval_is_clopper_and_pearsons(verdict: str) -> None:
    cell = cell_of()
    found = cell.of(verdict)  # type: ignore[arg-type]
    low = stats.beta.ppf(0.025, found, 100 - found + 1) if found else 0.0
    high = stats.beta.ppf(0.975, found + 1, 100 - found) if found < 100 else 1.0
    assert cell.interval(verdict) == pytest.approx((low, high), abs=1e-9)  # type: ignore[arg-type]
