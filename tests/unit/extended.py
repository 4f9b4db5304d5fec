"""What tests/unit/test_extending.py does in a process of its own, where the guide's package is.

python -m tests.unit.extended service    what the service knows, without torch
python -m tests.unit.extended worker     what a worker does with it
"""

import json
import sys
from datetime import UTC, datetime, timedelta

from app.inventory.rules import wrong_with_methods, wrong_with_recipe
from app.planning.rules import ModelFacts, ModelPolicy, plan_model
from lethe.methods.spec import ShardHit
from lethe.recipes import offered

PARAMETERS = {
    "text": "text",
    "label": "topic",
    "classes": 2,
    "training": {"epochs": 40, "learning_rate": 0.05},
}
NOW = datetime(2026, 11, 2, tzinfo=UTC)


def rows(first: int, last: int) -> list[dict[str, object]]:
    """Texts of topic 0 and 1 in turn, each with a word of its own."""
    return [
        {"text": f"{['rain wind', 'goal match'][n % 2]} word{n}", "topic": n % 2}
        for n in range(first, last)
    ]


def considered(policy: ModelPolicy) -> dict[str, bool]:
    """Each method that the planner considers for a model, and whether it chooses it."""
    facts = ModelFacts(
        name="mails",
        version=1,
        recipe="bag_of_words",
        weights_present=True,
        source_present=True,
        shards=1,
        slices=1,
        slice_records=((64,),),
        hits=(ShardHit(0, 0, 4),),
        epochs=2,
        seconds_per_record_pass=0.001,
        weights=None,
        predictions=None,
        offered=offered("bag_of_words", PARAMETERS),
        policy=policy,
        queue_seconds=0.0,
        served=True,
    )
    plan = plan_model(facts, due_at=NOW + timedelta(days=30), now=NOW)
    return {one.method: one.chosen for one in plan.candidates}


def service() -> dict[str, object]:
    named = ModelPolicy(allowed_methods=frozenset({"flatten"}))
    return {
        "recipe": wrong_with_recipe("bag_of_words", PARAMETERS),
        "bad recipe": wrong_with_recipe("bag_of_words", PARAMETERS | {"classes": 1}),
        "method": wrong_with_methods(["flatten"], {"flatten": {"gamma": 2}}),
        "bad method": wrong_with_methods(["flatten"], {"flatten": {"gamma": 0}}),
        "named": considered(named),
        "unnamed": considered(ModelPolicy()),
        "torch": "torch" in sys.modules,
    }


def worker() -> dict[str, object]:
    import torch  # noqa: PLC0415 - the service has none

    from workers.recipes import make_task  # noqa: PLC0415
    from workers.unlearn import run_method  # noqa: PLC0415
    from workers.unlearn.sisa import restore, train_shard  # noqa: PLC0415
    from workers.unlearn.state import TrainingState  # noqa: PLC0415

    torch.set_num_threads(1)
    task = make_task("bag_of_words", PARAMETERS)
    parts = [task.encode(rows(0, 32)), task.encode(rows(32, 64))]
    states: dict[int, TrainingState] = {}

    def train(resume: tuple[int, TrainingState] | None) -> TrainingState:
        return train_shard(
            task,
            parts,
            seed="mails",
            shard=0,
            resume=resume,
            on_checkpoint=lambda r, state: states.update({r: state}),
            on_progress=lambda _: None,
            cancelled=lambda: False,
        )

    trained = train(None)
    resumed = train((0, states[0]))
    model = restore(task, trained, seed="mails", shard=0)
    holdout = task.encode(rows(100, 132))
    accuracy = task.accuracies(model, holdout).mean().item()
    outcome = run_method(
        "flatten",
        task,
        model,
        forget=task.encode(rows(0, 8)),
        retain=task.encode(rows(8, 64)),
        holdout=holdout,
        parameters={"learning_rate": 1e-2, "gamma": 0.5},
        seed="run",
        on_progress=lambda _: None,
        cancelled=lambda: False,
    )
    return {
        "accuracy": accuracy,
        "resumed to the same bits": all(
            torch.equal(trained.model[name], resumed.model[name]) for name in trained.model
        ),
        "status": outcome.status,
        "steps": outcome.steps,
        "forget": [outcome.forget_loss_before, outcome.forget_loss_after],
        "retain": [outcome.retain_loss_before, outcome.retain_loss_after],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"service": service, "worker": worker}[sys.argv[1]]()))
