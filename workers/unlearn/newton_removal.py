"""Newton removal from logistic regression, and how far from the optimum it can have ended.

Guo et al., "Certified Data Removal from Machine Learning Models", 2020 (arXiv 1911.03030). Over n
records with features x, |x| <= 1, and targets t in {0, 1}, training minimises

    L_b(w) = sum_i [softplus(w.x_i) - t_i w.x_i] + (lambda n / 2) |w|^2 + b.w

with b drawn from N(0, sigma^2 I). Removing m records leaves a gradient residual u, that of L_b over
the n - m others, at the new w. As long as |u| <= sigma epsilon / c after all removals so far, the
noise b hides it (theorem 3). b is not kept: neither the step nor the bound needs it, and who knows
b sees through it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LIPSCHITZ = 1 / (6 * math.sqrt(3))
"""How fast the curvature of softplus changes at most: the largest |s (1 - s) (1 - 2 s)|."""

_MOST_STEPS = 100
_SHORTEST = 2.0**-20
_NEAR_ZERO = 1e-10


@dataclass(frozen=True)
class Step:
    """A Newton step and what it adds at most to the norm of the gradient residual.

    Attributes:
        weights: (d,) after the step.
        residual: the bound; `removal_step` derives it.
    """

    weights: Tensor
    residual: float


def clip_rows(features: Tensor) -> Tensor:
    """Shorten rows (n, d) that are longer than 1 to length 1."""
    lengths: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / lengths.clamp(min=1)


def gradient(x: Tensor, t: Tensor, w: Tensor, l2: float) -> Tensor:
    """Gradient of L_b less b: (d,).

    Args:
        x: (n, d) float64.
        t: (n,) float64, 0 or 1.
        w: (d,) float64.
        l2: lambda.
    """
    return x.T @ ((x @ w).sigmoid() - t) + l2 * len(x) * w


def hessian(x: Tensor, w: Tensor, l2: float) -> Tensor:
    """Hessian of L_b: (d, d); arguments as `gradient`."""
    s = (x @ w).sigmoid()
    matrix = x.T @ (x * (s * (1 - s)).unsqueeze(1))
    matrix.diagonal().add_(l2 * len(x))
    return matrix


def fit(x: Tensor, t: Tensor, b: Tensor, l2: float) -> Step:
    """Minimise L_b by Newton's method from zero (Guo et al. 2020, algorithm 1).

    Each step is halved until the norm of the gradient falls in proportion to it, which ends at the
    optimum of a strictly convex loss, or as near as float64 comes.

    Args:
        x: (n, d) float64, n at least 1.
        t: (n,) float64, 0 or 1.
        b: (d,) float64, the perturbation.
        l2: lambda, above 0.

    Returns:
        The weights, and the norm of the gradient that is left.
    """
    w = torch.zeros_like(b)
    g = gradient(x, t, w, l2) + b
    for _ in range(_MOST_STEPS):
        if float(g.norm()) <= _NEAR_ZERO:
            break
        v, length = _solve(hessian(x, w, l2), g), 1.0
        nearer = gradient(x, t, w - v, l2) + b
        while float(nearer.norm()) > (1 - length / 4) * float(g.norm()) and length > _SHORTEST:
            length /= 2
            nearer = gradient(x, t, w - length * v, l2) + b
        if length <= _SHORTEST:
            break
        w, g = w - length * v, nearer
    return Step(w, float(g.norm()))


def removal_step(
    w: Tensor,
    forget: tuple[Tensor, Tensor],
    retain: tuple[Tensor, Tensor],
    spectral: float,
    l2: float,
) -> Step:
    """Take m records out of an optimum by one Newton step (Guo et al. 2020, equation 3).

    w' = w + v with H v = Delta, where H is the Hessian over the retain set at w and Delta the
    gradient of the m forget records' terms: m lambda w + sum_F (s - t) x. The sign is plus: the
    gradient over the retain set at w is -Delta.

    The residual that this adds is u' - u = [integral over a in [0, 1] of H(w + a v) - H(w)] v
    = X^T D X v with |D_ii| <= LIPSCHITZ |x_i.v| / 2, hence its norm is at most
    (LIPSCHITZ / 2) |X| |(X v)^2|, |X| the largest singular value and the square by entries. This
    is never above corollary 1 of the paper, LIPSCHITZ |X| |v| |X v|. What the solve left of
    H v - Delta is added.

    Args:
        w: (d,) float64.
        forget: features (m, d) and targets (m,), float64.
        retain: features (n - m, d) and targets (n - m,); at least one record.
        spectral: |X| of the retain set.
        l2: lambda.
    """
    x = retain[0]
    delta = gradient(*forget, w, l2)
    matrix = hessian(x, w, l2)
    v = _solve(matrix, delta)
    curved = LIPSCHITZ / 2 * spectral * float((x @ v).square().norm())
    return Step(w + v, curved + float((matrix @ v - delta).norm()))


def spectral_norm(x: Tensor) -> float:
    """Largest singular value of x (n, d)."""
    return math.sqrt(float(torch.linalg.eigvalsh(x.T @ x)[-1]))


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(matrix)
    return torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1)
