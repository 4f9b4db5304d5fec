import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.unlearn.unlearn_cases import Training, digits_task, lm_params
from workers.attacks.probe import hidden_features, probe
from workers.evidence.shift import NotApplicable
from workers.evidence.statistics import auc, mann_whitney_p
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble, ensemble
from workers.unlearn.sisa import restore
from workers.unlearn.task import Examples, Task

LETTERS = list("abcdefghij")


def words(task: Task, seed: int, n: int) -> Examples:
    draws = np.random.default_rng(seed)
    return task.encode([{"note": "".join(draws.choice(LETTERS, 10))} for _ in range(n)])


def numbers_task(epochs: int) -> Task:
    return make_task(
        "classifier",
        {
            "features": [f"x{i}" for i in range(12)],
            "label": "y",
            "classes": 3,
            "hidden": [48],
            "training": {"epochs": epochs, "batch_size": 32, "learning_rate": 0.01},
        },
    )


def strangers(task: Task, seed: int, n: int) -> Examples:
    draws = np.random.default_rng(seed)
    return task.encode(
        [
            {f"x{i}": float(x) for i, x in enumerate(row)} | {"y": int(draws.integers(3))}
            for row in draws.normal(size=(n, 12))
        ]
    )


def trained(task: Task, examples: Examples) -> Ensemble:
    state = Training()(task, [examples])
    member = restore(task, state, seed="model-1", shard=2, device=torch.device("cpu"))
    return ensemble(task, [(1, member)])


def test_the_middle_layers_mean_over_tokens_equals_that_of_transformers() -> None:
    task = make_task("causal_lm", lm_params())
    model = ensemble(task, [(1, task.build(1)), (1, task.build(2))])
    rows = [{"note": "a"}, {"note": "longer than that"}, {"note": ""}]
    found = hidden_features(model, task.encode(rows))
    assert found.shape == (3, 32)
    for i, row in enumerate(rows):
        tokens = torch.tensor([[256, *row["note"].encode()]])
        # Blocks 0 and 1: what block 1 gives, before the last norm, is what the norm is given.
        for k, member in enumerate(model.members):
            given: list[torch.Tensor] = []
            handle = member.get_submodule("transformer.ln_f").register_forward_pre_hook(
                lambda _module, inputs, given=given: given.append(inputs[0])
            )
            member.eval()(input_ids=tokens)
            handle.remove()
            expected = given[0][0].mean(0).detach().numpy()
            np.testing.assert_allclose(found[i, 16 * k : 16 * (k + 1)], expected, atol=1e-5)


def test_models_without_layers_show_their_answers() -> None:
    task = digits_task()
    model = ensemble(task, [(1, task.build(1))])
    rows = [{f"pixel_{i}": float(i % 5) for i in range(64)} | {"digit": 3}] * 2
    examples = task.encode(rows)
    found = hidden_features(model, examples)
    assert found.shape == (2, 11)
    np.testing.assert_allclose(found[:, 0], model.losses(examples), atol=1e-6)
    np.testing.assert_allclose(np.exp(found[:, 1:]).sum(1), 1, atol=1e-6)


def probed_p(model: Ensemble, sets: list[Examples], owners: npt.NDArray[np.int64]) -> float:
    forget, retain, holdout = sets
    found = probe(model, forget, retain, holdout, owners, seed=1)
    assert found.holdout.size == found.tested.size
    return mann_whitney_p(found.forget, found.holdout)


def test_what_was_trained_on_is_known_inside_and_what_was_not_is_not() -> None:
    task = numbers_task(30)
    forget, retain, holdout = (strangers(task, *one) for one in ((1, 40), (2, 120), (3, 160)))
    both = {name: torch.cat([forget[name], retain[name]]) for name in forget}
    owners = np.arange(160)
    knowing, without = trained(task, both), trained(task, retain)
    assert probed_p(knowing, [forget, retain, holdout], owners) < 1e-6
    assert probed_p(without, [forget, retain, holdout], owners) > 0.01


def test_the_holdout_is_halved_by_data_subject() -> None:
    task = make_task("causal_lm", lm_params())
    model, owners = ensemble(task, [(1, task.build(1))]), np.repeat(np.arange(6), 3)
    forget, retain, holdout = (words(task, *one) for one in ((1, 5), (2, 8), (3, 18)))
    found = probe(model, forget, retain, holdout, owners, seed=4)
    assert (found.forget.shape, found.holdout.shape) == ((5,), (9,))
    assert np.unique(owners[found.tested]).size == 3


def test_records_that_are_all_alike_tell_nothing() -> None:
    task = make_task("causal_lm", lm_params())
    model, same = ensemble(task, [(1, task.build(1))]), task.encode([{"note": "same"}] * 6)
    found = probe(model, same, same, same, np.arange(6), seed=4)
    assert auc(found.forget.round(9), found.holdout.round(9)) == 0.5


def test_what_a_probe_cannot_learn_from_is_refused() -> None:
    task = make_task("causal_lm", lm_params())
    model = ensemble(task, [(1, task.build(1))])
    some, none = words(task, 1, 4), task.encode([])
    with pytest.raises(NotApplicable, match="cannot be halved"):
        probe(model, some, some, some, [1] * 4, seed=1)
    for sets, owners in (([none, some, some], 4), ([some, none, some], 4), ([some, some, some], 3)):
        with pytest.raises(ValueError, match="a probe needs"):
            probe(model, sets[0], sets[1], sets[2], np.arange(owners), seed=1)
    with torch.no_grad():
        next(model.members[0].parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        probe(model, some, some, some, np.arange(4), seed=1)
