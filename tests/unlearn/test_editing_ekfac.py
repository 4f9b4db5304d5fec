"""EK-FAC against Fisher matrices written down, and for influence against leaving one out."""

import copy

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from lethe.methods.editing import InfluenceParams
from tests.unlearn.convex_cases import (
    RIDGE,
    convex,
    fitted,
    gauss_newton,
    left_out,
    logistic_task,
    some,
    some_vector,
)
from tests.unlearn.plain_cases import NOTES, context_of, lm
from workers.unlearn.curvature import MeanLoss, sample, unflat
from workers.unlearn.ekfac import Block, ekfac
from workers.unlearn.influence import inverse_curvature, rank
from workers.unlearn.method import Context
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import count


def test_ranks_by_ekfac_are_close_to_leaving_one_out() -> None:
    task, examples = convex()
    train = some(examples, list(range(60)))
    model, query, raised = left_out()
    inverse = ekfac(MeanLoss(task, model, train), RIDGE, "s").inverse
    scores = rank(task, model, train, query, inverse, 60)
    assert spearmanr(scores, raised).statistic > 0.9


def test_preconditioned_with_ekfac_two_iterations_come_closer() -> None:
    task, examples = convex()
    model = fitted(task, examples)
    loss = MeanLoss(task, model, examples)
    right = some_vector(14)
    columns = [loss.hessian_product(column) for column in torch.eye(14)]
    expected = torch.linalg.solve(torch.stack(columns) + RIDGE * torch.eye(14), right)
    missed = {}
    for preconditioner in ("none", "ekfac"):
        params = InfluenceParams.model_validate(
            {"damping": RIDGE, "iterations": 2, "preconditioner": preconditioner}
        )
        solution = inverse_curvature(loss, params, "s")(right)
        missed[preconditioner] = (solution - expected).norm().item()
    assert missed["ekfac"] < 0.5 * missed["none"]


def test_ekfac_equals_the_explicit_block_where_that_is_a_kronecker_product() -> None:
    # All records alike: the Gauss-Newton matrix is (diag p - p pᵀ) ⊗ (a aᵀ), a with its 1.
    task = logistic_task(3)
    one = task.encode([{"f0": 0.4, "f1": -1.2, "f2": 0.9, "y": 1}])
    many = some(one, [0] * 20_000)
    model = task.build(1)
    context = Context(task, model, one, one, "s")
    matrix = gauss_newton(context, one) + 0.01 * torch.eye(8)
    vector = some_vector(8)
    mine = ekfac(MeanLoss(task, model, many), 0.01, "s").inverse(vector)
    expected = torch.linalg.solve(matrix, vector)
    assert (mine - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("biased", [True, False])
def test_eigenvalues_are_the_diagonal_of_the_fisher_in_the_basis(biased: bool) -> None:
    # The classes drawn are drawn again here; with them the Fisher matrix is written down.
    task, examples = convex()
    model: nn.Module = nn.Sequential(
        nn.Linear(6, 4, bias=biased), nn.Tanh(), nn.Linear(4, 2, bias=biased)
    )
    part = some(examples, list(range(20)))
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        for weight in model.parameters():
            nn.init.normal_(weight)
    fitted_blocks = ekfac(MeanLoss(task, model, part), 0.3, "s").blocks
    generator = torch.Generator().manual_seed(seed_for("s", "classes drawn"))
    chances = model(part["x"]).softmax(-1)
    batches = torch.split(chances, task.training.batch_size)
    drawn = torch.cat([torch.multinomial(b, 1, generator=generator) for b in batches])
    for block in fitted_blocks:
        layer = block.module
        assert isinstance(layer, nn.Linear)
        gradients = []
        for i in range(20):
            loss = -model(part["x"][i]).log_softmax(-1)[drawn[i, 0]]
            grads = torch.autograd.grad(loss, list(layer.parameters()))
            columns = [grads[0], *(g.unsqueeze(1) for g in grads[1:])]
            gradients.append(torch.cat(columns, 1).flatten())
        fisher = torch.stack([torch.outer(g, g) for g in gradients]).mean(0)
        basis = torch.kron(block.outputs, block.inputs)
        torch.testing.assert_close(
            block.eigenvalues.flatten(), (basis.T @ fisher @ basis).diag(), atol=1e-5, rtol=1e-3
        )


def test_ekfac_inverts_itself(context: Context) -> None:
    loss = MeanLoss(context.task, context.model, context.retain)
    fisher = ekfac(loss, 0.01, "s")
    vector = some_vector(sum(weight.numel() for weight in fisher.weights))
    parts = unflat(fisher.inverse(vector), fisher.weights)
    wanted = unflat(vector, fisher.weights)
    at = {id(weight): i for i, weight in enumerate(fisher.weights)}
    assert len(fisher.blocks) == (4 if "tokens" in context.forget else 2)
    for block in fisher.blocks:
        back = times(block, parts[at[id(block.module.weight)]], parts[at[id(block.module.bias)]])
        weight = wanted[at[id(block.module.weight)]]
        torch.testing.assert_close(
            back[:, :-1], weight if isinstance(block.module, nn.Linear) else weight.T,
            atol=1e-3, rtol=1e-3,
        )  # fmt: skip
        torch.testing.assert_close(
            back[:, -1], wanted[at[id(block.module.bias)]], atol=1e-3, rtol=1e-3
        )


def times(block: Block, weight: Tensor, bias: Tensor) -> Tensor:
    """(F + damping) times a layer's part of a vector, with the Kronecker basis written down."""
    matrix = weight if isinstance(block.module, nn.Linear) else weight.T
    joined = torch.cat([matrix, bias.unsqueeze(1)], 1)
    basis = torch.kron(block.outputs, block.inputs).double()
    turned = (basis.T @ joined.flatten().double()) * (block.eigenvalues.flatten() + 0.01)
    return (basis @ turned).reshape(joined.shape).float()


def test_the_fisher_of_a_language_model_leaves_padding_out() -> None:
    lm_context = context_of(lm(), NOTES)
    filled = {
        **lm_context.retain,
        "tokens": lm_context.retain["tokens"].where(lm_context.retain["tokens"] != 258, 65),
    }
    for one, other in zip(
        ekfac(MeanLoss(lm_context.task, lm_context.model, lm_context.retain), 1.0, "s").blocks,
        ekfac(MeanLoss(lm_context.task, lm_context.model, filled), 1.0, "s").blocks,
        strict=True,
    ):
        torch.testing.assert_close(one.eigenvalues.sum(), other.eigenvalues.sum())


def test_samples_and_models_without_a_linear_layer() -> None:
    task, examples = convex()
    assert count(sample(examples, 10, "s")) == 10
    assert count(sample(examples, 1000, "s")) == 80
    frozen = copy.deepcopy(task.build(0))
    for weight in frozen.parameters():
        weight.requires_grad_(False)
    with pytest.raises(ValueError, match="no linear layer for ekfac"):
        ekfac(MeanLoss(task, frozen, examples), 1.0, "s")
    with pytest.raises(ValueError, match="at least one record"):
        MeanLoss(task, frozen, task.encode([]))
