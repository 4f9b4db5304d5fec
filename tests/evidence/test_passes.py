"""One pass against a plain loop with the full softmax, text by text."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lethe.recipes.training import Aggregation
from tests.unlearn.unlearn_cases import Rows, digits_task, lm_params
from workers.attacks.passes import predictions
from workers.evidence.text import Predictions, exact_memorisation, loss, min_k_plus_plus
from workers.recipes import make_task
from workers.recipes.causal_lm import CausalLm
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import IGNORED, Examples, Task, take

NOTES: Rows = [
    {"note": "a note that is longer than the model can take in"},
    {"note": "short"},
    {"note": ""},
    {"note": "Grüße"},
    {"note": "a short note"},
    {"note": "another"},
    {"note": "yet one more"},
]
DIGITS: Rows = [
    {**{f"pixel_{i}": float((7 * i + row) % 16) for i in range(64)}, "digit": row % 10}
    for row in range(11)
]


ROUNDING = 3e-6


def lm() -> Task:
    return make_task("causal_lm", lm_params())


def sharp(task: Task, seed: int) -> nn.Module:
    """A model that is far from uniform, and would draw other numbers each time if it trained."""
    model = task.build(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.train()


def single(task: Task, seed: int = 0) -> Ensemble:
    return Ensemble(task, (sharp(task, seed),))


def plainly(model: Ensemble, examples: Examples) -> list[list[tuple[float, ...]]]:
    """Each record by itself, each prediction by itself, in float64."""
    for member in model.members:
        member.eval()
    found = []
    for i in range(len(next(iter(examples.values())))):
        one = take(examples, torch.tensor([i]), torch.device("cpu"))
        with torch.no_grad():
            rows = model.log_distribution(one)[0].double()
        targets = model.task.targets(one)[0].tolist()
        found.append(
            [told(row, right) for row, right in zip(rows, targets, strict=True) if right != IGNORED]
        )
    return found


def told(log_p: Tensor, right: int) -> tuple[float, ...]:
    p = log_p.exp()
    mean = float((p * log_p).sum())
    std = float((p * (log_p - mean) ** 2).sum()) ** 0.5
    # Batches round otherwise than single texts: classes nearly as probable may change place.
    ranks = [float((log_p > log_p[right] + gap).sum()) for gap in (ROUNDING, -ROUNDING)]
    return float(log_p[right]), mean, std, *ranks


def check(found: Predictions, expected: list[list[tuple[float, ...]]]) -> None:
    assert found.counted.sum(axis=1).tolist() == [len(one) for one in expected]
    columns = np.array([one for record in expected for one in record]).T
    for name, values in zip(("log_p", "mean", "std"), columns[:3], strict=True):
        got = getattr(found, name)[found.counted]
        np.testing.assert_allclose(got, values, rtol=1e-6, atol=ROUNDING, err_msg=name)
    ranks = found.rank[found.counted]
    assert ((columns[3] <= ranks) & (ranks < columns[4])).all()
    assert (columns[4] - columns[3]).mean() < 8


def test_a_language_model_equals_the_plain_loop() -> None:
    model = single(lm())
    examples = model.task.encode(NOTES)
    found = predictions(model, examples)
    assert found.log_p.shape == (len(NOTES), 23)
    check(found, plainly(model, examples))


def test_a_classifier_has_one_prediction_per_record() -> None:
    model = single(digits_task())
    examples = model.task.encode(DIGITS)
    found = predictions(model, examples)
    assert found.log_p.shape == (len(DIGITS), 1)
    check(found, plainly(model, examples))


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
@pytest.mark.parametrize("task", [lm(), digits_task()], ids=["lm", "digits"])
def test_an_ensemble_equals_the_plain_loop(task: Task, aggregation: Aggregation) -> None:
    model = Ensemble(task, tuple(sharp(task, seed) for seed in range(3)), (5, 1, 2), aggregation)
    examples = task.encode(NOTES if isinstance(task, CausalLm) else DIGITS)
    check(predictions(model, examples), plainly(model, examples))


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("task", [lm(), digits_task()], ids=["lm", "digits"])
def test_losses_and_accuracies_are_those_of_the_ensemble(task: Task, members: int) -> None:
    model = Ensemble(task, tuple(sharp(task, seed) for seed in range(members)))
    examples = task.encode(NOTES if isinstance(task, CausalLm) else DIGITS)
    found, scores = predictions(model, examples), model.scores(examples)
    np.testing.assert_allclose(loss(found), scores.losses.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(exact_memorisation(found), scores.accuracies.numpy(), atol=1e-6)


WIDE: dict[str, object] = {
    "config": {
        "model_type": "gpt2",
        "n_layer": 1,
        "n_head": 1,
        "n_embd": 4,
        "n_positions": 32,
        "vocab_size": 90_000,
    }
}


@pytest.mark.parametrize("members", [1, 2])
def test_a_vocabulary_too_large_for_one_piece_is_asked_in_several(members: int) -> None:
    # 23 places at 90,000 classes fit in 8 MiB, and there are more in a batch of 3 texts.
    task = make_task("causal_lm", lm_params() | WIDE)
    model = Ensemble(task, tuple(sharp(task, seed) for seed in range(members)))
    examples = task.encode(NOTES)
    check(predictions(model, examples), plainly(model, examples))


def test_each_member_sees_each_record_once_and_little_padding() -> None:
    task, seen = lm(), list[tuple[int, int]]()
    member = sharp(task, 0)
    member.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(tuple(given["input_ids"].shape)),
        with_kwargs=True,
    )
    examples = task.encode(NOTES)
    predictions(Ensemble(task, (member,)), examples)
    assert [rows for rows, _ in seen] == [3, 3, 1]
    # Batches of 3 by length: the widest of each is all that is computed.
    ordered = sorted((examples["length"] - 1).tolist())
    assert [width for _, width in seen] == [ordered[2], ordered[5], ordered[6]]


def test_records_keep_their_places_whatever_stands_beside_them() -> None:
    model = single(lm())
    examples = model.task.encode(NOTES)
    order = torch.tensor([6, 2, 4, 0, 5, 1, 3])
    found, moved = (
        loss(predictions(model, one))
        for one in (examples, take(examples, order, torch.device("cpu")))
    )
    np.testing.assert_allclose(moved, found[order.numpy()], rtol=1e-5)
    assert np.unique(found.round(4)).size == len(NOTES)


@pytest.mark.parametrize("task", [lm(), digits_task()], ids=["lm", "digits"])
def test_no_record_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="at least one record"):
        predictions(single(task), task.encode([]))


def test_a_model_that_has_broken_is_refused_by_the_scores() -> None:
    model = single(lm())
    with torch.no_grad():
        next(model.members[0].parameters()).fill_(torch.nan)
    found = predictions(model, model.task.encode(NOTES))
    for score in (loss, min_k_plus_plus):
        with pytest.raises(ValueError, match="NaN or infinite"):
            score(found)


def test_a_uniform_model_tells_nothing() -> None:
    model = single(digits_task())
    with torch.no_grad():
        for parameter in model.members[0].parameters():
            parameter.zero_()
    found = predictions(model, model.task.encode(DIGITS))
    np.testing.assert_allclose(found.log_p, -np.log(10), rtol=1e-6)
    assert np.ptp(min_k_plus_plus(found)) == 0.0
    assert found.rank.max() == 0
