import pytest
import torch

from tests.unlearn.unlearn_cases import Rows
from workers.unlearn.aggregate import ensemble
from workers.unlearn.task import IGNORED, Task, count, join, mean_nll, share_right

NOTES: Rows = [{"note": "x" * i} for i in range(7)]


def examples_of(kind: str, task: Task, digit_rows: Rows) -> dict[str, torch.Tensor]:
    return task.encode(NOTES if kind == "lm_task" else digit_rows[:7])


@pytest.mark.parametrize("kind", ["task", "lm_task"])
def test_one_member_is_an_ordinary_model(
    kind: str, digit_rows: Rows, request: pytest.FixtureRequest
) -> None:
    task: Task = request.getfixturevalue(kind)
    examples, model = examples_of(kind, task, digit_rows), task.build(1).train()
    scores = ensemble(task, [(5, model)]).scores(examples)
    torch.testing.assert_close(scores.losses, task.losses(model.eval(), examples))
    torch.testing.assert_close(scores.accuracies, task.accuracies(model, examples))
    assert not scores.losses.requires_grad


@pytest.mark.parametrize("kind", ["task", "lm_task"])
def test_members_are_joined_by_the_mean_of_their_probabilities(
    kind: str, digit_rows: Rows, request: pytest.FixtureRequest
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
            mean = torch.stack(each).mean(0)
            nll.append(-mean[target].log().item())
            right.append(float(mean.argmax().item() == target))
        losses.append(sum(nll) / len(nll))
        accuracies.append(sum(right) / len(right))
    together = ensemble(task, [(3, model) for model in models])
    torch.testing.assert_close(together.losses(examples), torch.tensor(losses))
    torch.testing.assert_close(together.accuracies(examples), torch.tensor(accuracies))


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
