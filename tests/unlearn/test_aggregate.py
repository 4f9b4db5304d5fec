from typing import get_args

import pytest
import torch
from torch import Tensor

from lethe.recipes.training import Aggregation
from tests.unlearn.unlearn_cases import Rows
from workers.unlearn.aggregate import Ensemble, ensemble
from workers.unlearn.task import IGNORED, Task, count, join, mean_nll, share_right

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
NOTES: Rows = [{"note": "x" * i} for i in range(7)]


def examples_of(kind: str, task: Task, digit_rows: Rows) -> dict[str, torch.Tensor]:
    return task.encode(NOTES if kind == "lm_task" else digit_rows[:7])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kind", ["task", "lm_task"])
def test_one_member_is_an_ordinary_model(
    kind: str, aggregation: Aggregation, digit_rows: Rows, request: pytest.FixtureRequest
) -> None:
    task: Task = request.getfixturevalue(kind)
    examples, model = examples_of(kind, task, digit_rows), task.build(1).train()
    scores = ensemble(task, [(5, model)], aggregation).scores(examples)
    torch.testing.assert_close(scores.losses, task.losses(model.eval(), examples))
    torch.testing.assert_close(scores.accuracies, task.accuracies(model, examples))
    assert not scores.losses.requires_grad


def plain_join(aggregation: Aggregation, each: list[Tensor], records: list[int]) -> Tensor:
    """The K probabilities of one prediction, from those of each member, by the book."""
    shares = [own / sum(records) for own in records]
    mean = torch.stack([share * p for share, p in zip(shares, each, strict=True)]).sum(0)
    if aggregation == "mean_probabilities":
        return mean
    if aggregation == "mean_logits":
        product = torch.ones(len(mean))
        for share, p in zip(shares, each, strict=True):
            product = product * p**share
        return product / product.sum()
    votes = [0.0] * len(mean)
    for share, p in zip(shares, each, strict=True):
        votes[int(p.argmax())] += share
    return (len(each) * torch.tensor(votes) + mean) / (len(each) + 1)


@pytest.mark.parametrize("records", [[3, 3, 3], [50, 7, 1]])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kind", ["task", "lm_task"])
def test_members_are_joined_as_the_aggregation_says(
    kind: str,
    aggregation: Aggregation,
    records: list[int],
    digit_rows: Rows,
    request: pytest.FixtureRequest,
) -> None:
    task: Task = request.getfixturevalue(kind)
    examples = examples_of(kind, task, digit_rows)
    models = [task.build(seed).eval() for seed in range(3)]
    targets = task.targets(examples)
    losses, accuracies = [], []
    for i in range(7):
        nll, right = [], []
        for t, target in enumerate(targets[i].tolist()):
            if target == IGNORED:
                continue
            each = [task.log_distribution(m, examples)[i, t].exp() for m in models]
            joined = plain_join(aggregation, each, records)
            nll.append(-joined[target].log().item())
            right.append(float(joined.argmax().item() == target))
        losses.append(sum(nll) / len(nll))
        accuracies.append(sum(right) / len(right))
    together = ensemble(task, list(zip(records, models, strict=True)), aggregation)
    torch.testing.assert_close(together.losses(examples), torch.tensor(losses))
    torch.testing.assert_close(together.accuracies(examples), torch.tensor(accuracies))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_probabilities_of_all_classes_sum_to_one(
    aggregation: Aggregation, task: Task, digit_rows: Rows
) -> None:
    examples = task.encode(digit_rows[:7])
    together = ensemble(task, [(n, task.build(n)) for n in (9, 2, 4)], aggregation)
    each = [
        together.losses(examples | {"y": torch.full((7,), digit)}).neg().exp()
        for digit in range(10)
    ]
    torch.testing.assert_close(torch.stack(each).sum(0), torch.ones(7))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_members_without_record_numbers_weigh_the_same(
    aggregation: Aggregation, task: Task, digit_rows: Rows
) -> None:
    examples = task.encode(digit_rows[:7])
    models = tuple(task.build(seed) for seed in range(3))
    equal = ensemble(task, [(5, model) for model in models], aggregation)
    unnumbered = Ensemble(task, models, aggregation=aggregation)
    assert torch.equal(unnumbered.losses(examples), equal.losses(examples))


def test_a_vote_leaves_no_class_impossible(task: Task, digit_rows: Rows) -> None:
    examples = task.encode(digit_rows[:7])
    sure = [task.build(seed) for seed in range(2)]
    for model in sure:
        for weights in model.parameters():
            weights.data *= 1e3
    losses = ensemble(task, [(1, model) for model in sure], "vote").losses(examples)
    assert losses.isfinite().all()
    assert losses.max() > 50


def test_shards_without_records_do_not_count(task: Task, digit_rows: Rows) -> None:
    examples = task.encode(digit_rows[:5])
    model, empty = task.build(1), task.build(2)
    scores = ensemble(task, [(4, model), (0, empty)]).scores(examples)
    assert torch.equal(scores.losses, ensemble(task, [(4, model)]).losses(examples))
    with pytest.raises(ValueError, match="no shard holds a record"):
        ensemble(task, [(0, empty)])


def test_no_records_give_no_scores(task: Task) -> None:
    scores = ensemble(task, [(1, task.build(1))]).scores(task.encode([]))
    assert scores.losses.shape == scores.accuracies.shape == (0,)


def test_places_without_a_target_do_not_count() -> None:
    log_distribution = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]]]).log()
    targets = torch.tensor([[IGNORED, 1], [IGNORED, IGNORED]])
    torch.testing.assert_close(
        mean_nll(log_distribution, targets), torch.tensor([-torch.tensor(0.1).log().item(), 0.0])
    )
    assert share_right(log_distribution, targets).tolist() == [0.0, 0.0]
    assert share_right(log_distribution, torch.tensor([[0, 1], [1, 1]])).tolist() == [0.5, 0.5]


def test_examples_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of records"):
        count({"x": torch.zeros(2), "y": torch.zeros(3)})
    with pytest.raises(ValueError, match="at least one tensor"):
        count({})
    with pytest.raises(ValueError, match="same tensors"):
        join([{"x": torch.zeros(2)}, {"y": torch.zeros(2)}])
