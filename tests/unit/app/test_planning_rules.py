from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.planning.rules import (
    Candidate,
    DatasetFacts,
    ModelFacts,
    ModelPolicy,
    PlannedAction,
    plan_dataset,
    plan_derived,
    plan_model,
    predicted_seconds,
    stronger,
)
from app.runs.rules import StartPolicy, Window
from lethe.methods import METHODS
from lethe.methods.spec import Need, Setting, ShardHit

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
DUE = NOW + timedelta(days=30)
TRAINED: frozenset[Need] = frozenset({"gradients", "checkpoints", "layers", "text"})
DEFAULT = {"sisa", "retrain", "impair_repair"}


def make_facts(
    *,
    recipe: str | None = "classifier",
    weights_present: bool = True,
    source_present: bool = True,
    slice_records: tuple[tuple[int, ...], ...] = ((10, 20, 30), (40, 50, 60)),
    hits: tuple[ShardHit, ...] = (ShardHit(1, 1, 2),),
    epochs: int = 8,
    seconds_per_record_pass: float = 0.5,
    weights: int | None = None,
    predictions: float | None = None,
    offered: frozenset[Need] = TRAINED,
    policy: ModelPolicy | None = None,
    queue_seconds: float = 60.0,
    served: bool = True,
) -> ModelFacts:
    return ModelFacts(
        name="tumours",
        version=3,
        recipe=recipe,
        weights_present=weights_present,
        source_present=source_present,
        shards=len(slice_records),
        slices=len(slice_records[0]),
        slice_records=slice_records,
        hits=hits,
        epochs=epochs,
        seconds_per_record_pass=seconds_per_record_pass,
        weights=weights,
        predictions=predictions,
        offered=offered,
        policy=policy or ModelPolicy(),
        queue_seconds=queue_seconds,
        served=served,
    )


def candidate(action: PlannedAction, method: str) -> Candidate:
    (found,) = [each for each in action.candidates if each.method == method]
    return found


def plan(facts: ModelFacts, due_at: datetime = DUE) -> PlannedAction:
    return plan_model(facts, due_at=due_at, now=NOW)


def test_the_cheapest_exact_method_is_chosen_with_its_prediction() -> None:
    action = plan(make_facts())
    assert (action.method, action.guarantee, action.state) == ("sisa", "exact", "planned")
    assert action.commitment_due_at is None
    sisa = candidate(action, "sisa")
    # Slices 1 and 2 of shard 1, 2e/(R+1) = 4 epochs each on 40+50 and 40+50+60 records; two passes
    # over the 210 records for the checks; half a second each; 10 s overhead.
    seconds = (4 * (90 + 150) + 2 * 210) * 0.5 + 10
    assert sisa.predicted_seconds == seconds
    assert sisa.starts_at == NOW + timedelta(seconds=60)
    assert sisa.finishes_at == NOW + timedelta(seconds=60 + seconds)
    assert (sisa.chosen, sisa.shards, sisa.reason) == (True, (1,), action.reason)
    assert "1 of 2 shards" in action.reason
    assert "2026-11-20 10:12 UTC" in action.reason
    assert "then serves the new version" in action.reason


def test_each_other_candidate_has_its_reason_with_figures() -> None:
    action = plan(make_facts())
    retrain = candidate(action, "retrain")
    whole = (4 * ((10 + 30 + 60) + (40 + 90 + 150)) + 2 * 210) * 0.5 + 10
    assert retrain.predicted_seconds == whole
    assert retrain.shards == (0, 1)
    assert retrain.reason == "It would be in time, at no lower cost: 980 s against 700 s."
    repaired = candidate(action, "impair_repair")
    # 30 rounds, each of 30 steps of 16 records, at most.
    assert repaired.predicted_seconds == (30 * 30 * 16 + 2 * 210) * 0.5 + 10
    assert repaired.reason == "It would be in time, but approximate is weaker than exact."
    assert repaired.shards == ()
    assert [each.chosen for each in action.candidates].count(True) == 1


@given(
    st.integers(1, 4).flatmap(
        lambda slices: st.lists(
            st.lists(st.integers(0, 50), min_size=slices, max_size=slices).map(tuple),
            min_size=1,
            max_size=4,
        )
    ),
    st.integers(1, 20),
    st.data(),
)
def test_predictions_equal_the_schedule_walked_slice_by_slice(
    records: list[tuple[int, ...]], epochs: int, data: st.DataObject
) -> None:
    slices = len(records[0])
    hits = data.draw(
        st.lists(
            st.builds(
                ShardHit,
                st.integers(0, len(records) - 1),
                st.integers(0, slices - 1),
                st.integers(1, 5),
            ),
            min_size=1,
            max_size=5,
        )
    )
    action = plan(make_facts(slice_records=tuple(records), hits=tuple(hits), epochs=epochs))

    def walked(first_slices: dict[int, int]) -> float:
        seconds = 10.0
        for shard, first in first_slices.items():
            for last in range(first, slices):
                for earlier in range(last + 1):
                    seconds += records[shard][earlier] * max(1, 2 * epochs / (slices + 1)) * 0.5
        return seconds + sum(number for shard in records for number in shard)

    retrain = candidate(action, "retrain").predicted_seconds
    assert retrain == pytest.approx(walked(dict.fromkeys(range(len(records)), 0)))
    if len(records) * slices > 1:
        first: dict[int, int] = {}
        for hit in sorted(hits, key=lambda hit: -hit.first_slice):
            first[hit.shard] = hit.first_slice
        sisa = candidate(action, "sisa")
        assert sisa.predicted_seconds == pytest.approx(walked(first))
        assert sisa.shards == tuple(sorted(first))


def test_a_single_shard_and_slice_is_retrained_whole() -> None:
    action = plan(make_facts(slice_records=((100,),), hits=(ShardHit(0, 0, 1),)))
    assert action.method == "retrain"
    assert "one shard with one slice" in candidate(action, "sisa").reason
    assert candidate(action, "sisa").predicted_seconds is None
    assert candidate(action, "sisa").finishes_at is None
    assert "Trains the model again" in action.reason
    # Plain training: 2e/(1+1) = e epochs.
    assert candidate(action, "retrain").predicted_seconds == (8 * 100 + 200) * 0.5 + 10


@pytest.mark.parametrize(
    ("facts", "method", "reason"),
    [
        (make_facts(hits=()), "sisa", "No manifest"),
        (make_facts(hits=()), "impair_repair", "at least one known record"),
        (make_facts(hits=(ShardHit(0, 0, 0),)), "impair_repair", "at least one known record"),
        (make_facts(weights_present=False), "impair_repair", "weights to start from"),
        (
            make_facts(offered=frozenset()),
            "sisa",
            "keeps no training checkpoints",
        ),
        (
            make_facts(policy=ModelPolicy(minimum_guarantee="exact")),
            "impair_repair",
            "It is approximate; the model's policy asks for exact.",
        ),
        (
            make_facts(policy=ModelPolicy(minimum_guarantee="certified")),
            "impair_repair",
            "policy asks for certified",
        ),
        (
            make_facts(policy=ModelPolicy(allowed_methods=frozenset({"retrain", "x"}))),
            "sisa",
            "The model's policy allows retrain, x only.",
        ),
    ],
)
def test_what_cannot_or_may_not_run_is_set_aside(
    facts: ModelFacts, method: str, reason: str
) -> None:
    action = plan(facts)
    assert action.state == "planned"
    assert action.method != method
    against = candidate(action, method)
    assert reason in against.reason
    assert (against.predicted_seconds, against.starts_at, against.shards) == (None, None, ())


def test_an_approximate_method_in_time_comes_with_a_commitment() -> None:
    not_before = DUE + timedelta(days=12)
    policy = ModelPolicy(start=StartPolicy(exact_not_before=not_before))
    action = plan(make_facts(policy=policy))
    assert (action.method, action.guarantee) == ("impair_repair", "approximate")
    assert action.commitment_due_at == not_before + timedelta(days=30)
    assert "Unlearns from the present weights" in action.reason
    for method in ("sisa", "retrain"):
        against = candidate(action, method)
        assert against.starts_at == not_before
        assert "could start on 2027-01-01 and would finish 13 days after" in against.reason
    weekly = replace(policy, retraining_every_days=7)
    assert plan(make_facts(policy=weekly)).commitment_due_at == not_before + timedelta(days=7)


def test_the_commitment_counts_from_now_when_exact_is_allowed_already() -> None:
    past = ModelPolicy(start=StartPolicy(exact_not_before=NOW - timedelta(days=90)))
    for policy in (past, ModelPolicy()):
        facts = make_facts(policy=replace(policy, allowed_methods=frozenset({"impair_repair"})))
        assert plan(facts).commitment_due_at == NOW + timedelta(days=30)
    at_once = replace(past, retraining_every_days=0)
    facts = make_facts(policy=replace(at_once, allowed_methods=frozenset({"impair_repair"})))
    assert plan(facts).commitment_due_at == NOW


def test_exact_waits_for_its_day_when_that_is_still_in_time() -> None:
    not_before = NOW + timedelta(days=3)
    action = plan(make_facts(policy=ModelPolicy(start=StartPolicy(exact_not_before=not_before))))
    assert action.method == "sisa"
    assert candidate(action, "sisa").starts_at == not_before
    assert candidate(action, "impair_repair").starts_at == NOW + timedelta(seconds=60)


def test_finishing_at_the_deadline_is_in_time_and_a_second_later_is_not() -> None:
    facts = make_facts(epochs=2_000)
    finish = candidate(plan(facts), "sisa").finishes_at
    assert finish is not None
    assert plan(facts, finish).method == "sisa"
    late = plan(facts, finish - timedelta(seconds=1))
    assert late.method == "impair_repair"
    assert "would finish 1 second after the deadline" in candidate(late, "sisa").reason


def test_a_missed_deadline_is_said_and_the_first_to_finish_is_chosen() -> None:
    facts = make_facts(
        epochs=2_000, seconds_per_record_pass=4_000, hits=(ShardHit(1, 2, 1),), served=False
    )
    action = plan(facts, NOW + timedelta(days=1))
    finishes = {each.method: each.finishes_at for each in action.candidates}
    assert finishes[action.method] == min(each for each in finishes.values() if each)
    assert action.method == "impair_repair"
    assert action.commitment_due_at is not None
    assert "it will be missed by 686 days" in action.reason
    assert "no deployment serves the model" in action.reason
    assert all("after the deadline" in each.reason for each in action.candidates[:2])
    overdue = plan(make_facts(hits=(ShardHit(0, 2, 50),)), NOW - timedelta(hours=1))
    assert overdue.method == "sisa"
    assert "missed by 2 hours" in overdue.reason


@pytest.mark.parametrize(
    ("facts", "advice", "reason"),
    [
        (make_facts(recipe=None), "Register the recipe", "No recipe is registered"),
        (make_facts(source_present=False), "Restore what is missing", "cannot be read"),
        (
            make_facts(policy=ModelPolicy(allowed_methods=frozenset())),
            "Change the model's policy",
            "allows no method only",
        ),
    ],
)
def test_nothing_to_choose_from_is_not_reachable_with_advice(
    facts: ModelFacts, advice: str, reason: str
) -> None:
    action = plan(facts)
    assert (action.method, action.guarantee, action.state) == ("none", "none", "not_reachable")
    assert "version 3 of tumours" in action.reason
    assert advice in action.reason
    assert action.commitment_due_at is None
    assert {each.method for each in action.candidates} == DEFAULT
    assert all(reason in each.reason and not each.chosen for each in action.candidates)


@given(
    st.floats(0.001, 40_000),
    st.integers(-1, 60),
    st.none() | st.integers(-5, 90),
    st.sampled_from(["approximate", "certified", "exact"]),
)
def test_no_candidate_in_time_is_stronger_or_as_strong_and_cheaper(
    rate: float, due_days: int, exact_days: int | None, minimum: str
) -> None:
    policy = ModelPolicy(
        minimum_guarantee="exact" if minimum == "exact" else "approximate",
        start=StartPolicy(
            exact_not_before=None if exact_days is None else NOW + timedelta(days=exact_days)
        ),
    )
    due = NOW + timedelta(days=due_days)
    action = plan(make_facts(seconds_per_record_pass=rate, policy=policy), due)
    chosen = candidate(action, action.method)
    assert chosen.finishes_at is not None
    assert chosen.predicted_seconds is not None
    assert (action.commitment_due_at is not None) is (action.guarantee == "approximate")
    in_time = [each for each in action.candidates if each.finishes_at and each.finishes_at <= due]
    assert (chosen in in_time) is bool(in_time)
    for each in in_time:
        assert each.predicted_seconds is not None
        assert not (each.guarantee == "exact" and chosen.guarantee == "approximate")
        if each.guarantee == chosen.guarantee:
            assert each.predicted_seconds >= chosen.predicted_seconds
    assert ("No method meets the deadline" in action.reason) is not bool(in_time)
    assert len({each.method for each in action.candidates}) == 3


def test_stronger_is_the_cheapest_exact_method_in_time() -> None:
    action = stronger(make_facts(), ["impair_repair"], due_at=DUE, now=NOW)
    assert action is not None
    assert (action.method, action.guarantee) == ("sisa", "exact")
    assert action.commitment_due_at is None
    assert "was tried" in candidate(action, "impair_repair").reason
    assert candidate(action, "sisa").chosen
    assert "no lower cost" in candidate(action, "retrain").reason


def test_stronger_is_none_when_late_forbidden_or_already_exact() -> None:
    late = make_facts(policy=ModelPolicy(start=StartPolicy(exact_not_before=DUE)))
    assert stronger(late, ["impair_repair"], due_at=DUE, now=NOW) is None
    forbidden = make_facts(policy=ModelPolicy(allowed_methods=frozenset({"impair_repair"})))
    assert stronger(forbidden, ["impair_repair"], due_at=DUE, now=NOW) is None
    assert stronger(make_facts(), ["sisa"], due_at=DUE, now=NOW) is None
    with pytest.raises(KeyError):
        stronger(make_facts(), ["prayer"], due_at=DUE, now=NOW)


def ladder(facts: ModelFacts, *tried: str, due_at: datetime = DUE) -> PlannedAction | None:
    return stronger(facts, tried, due_at=due_at, now=NOW)


CONVEX: frozenset[Need] = TRAINED | {"hessian"}
APPROXIMATE = frozenset({"impair_repair", "npo", "ssd", "scrub"})


def test_the_ladder_tries_each_approximate_method_once_in_order_and_ends() -> None:
    facts = make_facts(policy=ModelPolicy(allowed_methods=APPROXIMATE))
    tried = ["scrub"]
    while (action := ladder(facts, *tried)) is not None:
        assert f"After {', '.join(tried)}, without a pass." in action.reason
        assert candidate(action, action.method).reason == action.reason
        assert action.commitment_due_at is not None
        for method in tried:
            assert "was tried" in candidate(action, method).reason
        tried.append(action.method)
    order = [method for method in METHODS if method in APPROXIMATE - {"scrub"}]
    assert tried == ["scrub", *order]


@pytest.mark.skipif("influence" not in METHODS, reason="no method of another cost is installed")
def test_an_approximate_method_comes_next_though_a_cheaper_one_comes_after_it() -> None:
    named = frozenset({"impair_repair", "npo", "influence"})
    facts = make_facts(hits=(ShardHit(1, 1, 100),), policy=ModelPolicy(allowed_methods=named))
    action = ladder(facts, "impair_repair")
    assert action is not None
    assert action.method == "npo"
    influence = candidate(action, "influence")
    npo = candidate(action, "npo").predicted_seconds
    assert npo is not None
    assert influence.predicted_seconds is not None
    assert influence.predicted_seconds < npo
    assert "; npo comes before it in the order of preference." in influence.reason


def test_exact_in_time_comes_before_another_approximate_method() -> None:
    named = APPROXIMATE | {"sisa"}
    action = ladder(make_facts(policy=ModelPolicy(allowed_methods=named)), "impair_repair")
    assert action is not None
    assert (action.method, action.commitment_due_at) == ("sisa", None)
    late = ModelPolicy(allowed_methods=named, start=StartPolicy(exact_not_before=DUE))
    action = ladder(make_facts(policy=late), "impair_repair")
    assert action is not None
    assert action.guarantee == "approximate"
    assert "after the deadline" in candidate(action, "sisa").reason


@pytest.mark.skipif("newton_removal" not in METHODS, reason="no certified method is installed")
def test_certified_comes_between_and_no_step_goes_down_from_it() -> None:
    late = StartPolicy(exact_not_before=DUE)
    named = APPROXIMATE | {"newton_removal"}
    facts = make_facts(offered=CONVEX, policy=ModelPolicy(allowed_methods=named, start=late))
    action = ladder(facts, "impair_repair")
    assert action is not None
    assert (action.method, action.guarantee) == ("newton_removal", "certified")
    assert ladder(facts, "newton_removal") is None


def test_a_step_that_would_be_late_is_not_taken() -> None:
    facts = make_facts(policy=ModelPolicy(allowed_methods=APPROXIMATE))
    finish = candidate(plan(facts), "npo").finishes_at
    assert finish is not None
    assert ladder(facts, "impair_repair", due_at=finish) is not None
    assert ladder(facts, "impair_repair", due_at=finish - timedelta(seconds=1)) is None


def test_a_method_over_the_runs_budget_is_set_aside_with_the_reason() -> None:
    # Of sisa 12,220 s are predicted, of retraining 19,220 s.
    action = plan(make_facts(epochs=200, policy=ModelPolicy(budget_seconds=12_220)))
    assert action.method == "sisa"
    against = candidate(action, "retrain")
    assert against.reason == "It would take about 6 hours; the model's policy allows 4 hours a run."
    assert against.predicted_seconds is None
    action = plan(make_facts(epochs=200, policy=ModelPolicy(budget_seconds=12_219)))
    assert action.method == "impair_repair"
    nothing = plan(make_facts(policy=ModelPolicy(budget_seconds=1)))
    assert nothing.state == "not_reachable"
    assert "Change the model's policy" in nothing.reason


def test_the_plan_counts_the_wait_for_others_and_for_the_window() -> None:
    start = StartPolicy(Window(time(22), time(5)), max_wait=timedelta(hours=8))
    facts = make_facts(policy=ModelPolicy(start=start))
    action = plan(facts)
    assert action.method == "sisa"
    # At 10 it waits until 18 for others, and until 22 for its window.
    assert candidate(action, "sisa").starts_at == NOW.replace(hour=22)
    assert candidate(action, "impair_repair").starts_at == NOW.replace(hour=18)
    # Never so long that it would be late; the queue cannot be jumped.
    due = NOW + timedelta(days=1, hours=2)
    soon = candidate(plan(facts, due), "sisa")
    assert soon.starts_at == due - timedelta(days=1) - 2 * timedelta(seconds=700)
    overdue = candidate(plan(facts, NOW - timedelta(days=1)), "sisa")
    assert overdue.starts_at == NOW + timedelta(seconds=60)


def test_a_candidate_shows_arithmetic_and_memory_where_the_network_was_measured() -> None:
    action = plan(make_facts(weights=1000, predictions=12.5))
    sisa = candidate(action, "sisa")
    # 4 passes over 90 and 150 records; 6 operations per weight and prediction; 16 bytes.
    assert sisa.flops == 6 * 1000 * 12.5 * 4 * (90 + 150)
    assert sisa.bytes == 16_000
    assert candidate(plan(make_facts(weights=1000)), "sisa").bytes == 16_000
    unknown = candidate(plan(make_facts()), "sisa")
    assert (unknown.flops, unknown.bytes) == (None, None)
    setting = Setting(((9, 9),), (ShardHit(0, 0, 1),), 3, 1000, 1.0)
    off = METHODS["adapter_sharding"].estimate(setting, 2.0)
    assert (off.record_passes, off.seconds, off.flops, off.bytes) == (0, 0, None, None)


def test_a_runs_prediction_covers_everybody_in_it() -> None:
    one, other = ShardHit(1, 1, 2), ShardHit(0, 2, 1)
    alone = predicted_seconds(make_facts(hits=(one,)), "sisa")
    both = predicted_seconds(make_facts(hits=(one, other)), "sisa")
    assert both == alone + 4 * (10 + 20 + 30) * 0.5
    assert predicted_seconds(make_facts(hits=(one, one)), "sisa") == alone


@pytest.mark.parametrize(
    "hit", [ShardHit(2, 0, 1), ShardHit(-1, 0, 1), ShardHit(0, 3, 1), ShardHit(0, -1, 1)]
)
def test_facts_that_contradict_each_other_are_refused(hit: ShardHit) -> None:
    with pytest.raises(ValueError, match="outside"):
        make_facts(hits=(hit,))
    with pytest.raises(ValueError, match="one number per shard and slice"):
        replace(make_facts(), slice_records=((1, 2), (3, 4)))
    with pytest.raises(ValueError, match="one number per shard and slice"):
        replace(make_facts(), shards=3)


def test_a_dataset_is_rewritten_or_says_what_to_do() -> None:
    facts = DatasetFacts("patients", "2", 1, rewritable=True, format="parquet")
    action = plan_dataset(facts)
    assert (action.method, action.guarantee, action.state) == ("erase_records", "exact", "planned")
    assert "Version 2 of patients holds 1 record to forget" in action.reason
    assert [each.chosen for each in action.candidates] == [True]
    action = plan_dataset(replace(facts, rewritable=False, records=7))
    assert (action.method, action.state, action.candidates) == ("none", "not_reachable", ())
    assert (
        "holds 7 records to forget and is parquet that Lethe cannot rewrite. Erase them"
        in action.reason
    )


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("backup", "do not restore"),
        ("cache", "Empty it"),
        ("checkpoint", "Delete it"),
        ("embedding_index", "vectors"),
        ("vendor_copy", "Art. 19"),
        ("spreadsheet", "by hand"),
    ],
)
def test_what_no_connector_reaches_says_what_to_do(kind: str, advice: str) -> None:
    action = plan_derived(kind, "nightly")
    assert (action.method, action.state) == ("none", "not_reachable")
    assert advice in action.reason
    assert "nightly" in action.reason


def test_other_methods_are_considered_only_where_policy_names_them() -> None:
    assert {one.method for one in plan(make_facts()).candidates} == DEFAULT
    named = ModelPolicy(allowed_methods=frozenset({"npo", "scrub"}))
    action = plan(make_facts(policy=named))
    assert action.method == "npo"
    assert action.guarantee == "approximate"
    assert action.commitment_due_at is not None
    assert {one.method for one in action.candidates} == DEFAULT | {"npo", "scrub"}
    refused = plan(make_facts(policy=named, offered=frozenset()))
    assert refused.state == "not_reachable"
