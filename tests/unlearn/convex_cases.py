"""A convex model with a known minimum, and curvature written down, for what approximates both."""

from functools import cache

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from tests.unlearn.plain_cases import CPU, record
from workers.recipes import make_task
from workers.unlearn.curvature import flat, trainable
from workers.unlearn.method import Context
from workers.unlearn.task import Examples, Task, count, take

RIDGE = 0.02


def some_vector(size: int, seed: int = 5) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def gauss_newton(context: Context, examples: Examples) -> Tensor:
    """The matrix itself: Jᵀ (diag p - p pᵀ) J of the logits, place by place."""
    model, weights = context.model.eval(), trainable(context.model)
    size = sum(weight.numel() for weight in weights)
    total = torch.zeros(size, size)
    for i in range(count(examples)):
        logits, targets = record(model, examples, i)
        for place in logits:
            jacobian = torch.stack(
                [
                    flat(
                        torch.autograd.grad(one, weights, retain_graph=True, materialize_grads=True)
                    )
                    for one in place
                ]
            )
            p = place.detach().softmax(-1)
            middle = p.diag() - torch.outer(p, p)
            total += jacobian.T @ middle @ jacobian / len(targets) / count(examples)
    return total


def logistic_task(features: int) -> Task:
    columns = [f"f{i}" for i in range(features)]
    return make_task("classifier", {"features": columns, "label": "y", "classes": 2, "hidden": []})


@cache
def convex() -> tuple[Task, Examples]:
    raw = load_breast_cancer()
    features = (raw.data[:80, :6] - raw.data[:, :6].mean(0)) / raw.data[:, :6].std(0)
    labels = raw.target[:80].copy()
    labels[::9] = 1 - labels[::9]  # no model can separate these
    rows: list[dict[str, object]] = [
        {**{f"f{i}": float(x) for i, x in enumerate(row)}, "y": int(label)}
        for row, label in zip(features, labels, strict=True)
    ]
    task = logistic_task(6)
    return task, task.encode(rows)


def fitted(task: Task, examples: Examples, weights: Tensor | None = None) -> nn.Module:
    """The minimum of mean weighted loss + RIDGE / 2 · |w|², by L-BFGS in double precision."""
    shares = torch.ones(count(examples)) if weights is None else weights
    model = task.build(0).double()
    inputs = {name: t.double() if t.is_floating_point() else t for name, t in examples.items()}
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        size = torch.stack([w.square().sum() for w in model.parameters()]).sum()
        loss = (shares * task.losses(model, inputs)).mean() + RIDGE / 2 * size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model.float()


def some(examples: Examples, places: list[int]) -> Examples:
    return take(examples, torch.tensor(places), CPU)


@cache
def left_out() -> tuple[nn.Module, Examples, Tensor]:
    """A fitted model, a query, and by how much leaving out each record raises the query's loss."""
    task, examples = convex()
    train, query = some(examples, list(range(60))), some(examples, list(range(60, 80)))
    model = fitted(task, train)
    loss = task.losses(model, query).mean().item()
    raised = [
        task.losses(fitted(task, some(train, [j for j in range(60) if j != i])), query)
        .mean()
        .item()
        - loss
        for i in range(60)
    ]
    return model, query, torch.tensor(raised)
