"""Ridge regression on integer sums: what was added can be subtracted again without a trace.

Features are whole numbers, so that the sums over records do not depend on the order in which they
came, nor on the batches they came in. Weights solved from the sums after a subtraction are, bit for
bit, those of a fit that never saw the records. Products run in float64, whose matrix products are
fast and, below 2^53, exact; torch has no fast ones for integers.
"""

import torch
from torch import Tensor

UNIT = 2**14
"""The whole number that stands for a feature of 1."""

_EXACT = 2**53


def most_records(largest: int) -> int:
    """How many records the int64 sums hold, where no feature is above `largest` in size."""
    return (2**63 - 1) // largest**2


def integer_sums(features: Tensor, targets: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Sum the products of features with features and with targets, exactly.

    Args:
        features: (n, d) whole numbers as float64, none above `largest` in size.
        targets: (n, K) whole numbers as float64, none above `largest` in size.
        largest: at most 2^26, so that each product is exact.

    Returns:
        The Gram matrix (d, d) and the moments (d, K), int64; right for up to
        `most_records(largest)` records.
    """
    rows = _EXACT // largest**2
    gram, moments = _products(features[:rows], targets[:rows])
    for start in range(rows, len(features), rows):
        more_gram, more_moments = _products(
            features[start : start + rows], targets[start : start + rows]
        )
        gram += more_gram
        moments += more_moments
    return gram, moments


def factorise(gram: Tensor, ridge: float) -> Tensor:
    """Cholesky factor L (d, d), lower, of G + ridge I in units of features.

    Args:
        gram: (d, d) int64, of features in `UNIT`.
        ridge: above 0.

    Raises:
        ValueError: the ridge is lost in the rounding of the sums.
    """
    matrix = gram.to(torch.float64).div_(UNIT**2)
    matrix.diagonal().add_(ridge)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise ValueError("ridge is too small beside the sums of the features: raise it")
    return factor


def solve(gram: Tensor, moments: Tensor, ridge: float) -> Tensor:
    """Weights that minimise the squared error plus ridge times their squares: (d, K) float64.

    A function of the sums alone: equal sums give equal bits in one environment. Where ridge is 0,
    the least squares of the smallest weights (by the pseudoinverse).

    Args:
        gram: (d, d) int64, of features in `UNIT`.
        moments: (d, K) int64, of features in `UNIT` with targets in 1.
        ridge: at least 0.

    Raises:
        ValueError: as `factorise`.
    """
    right = moments.to(torch.float64).div_(UNIT)
    if ridge > 0:
        return torch.cholesky_solve(right, factorise(gram, ridge))
    inverse: Tensor = torch.linalg.pinv(gram.to(torch.float64).div_(UNIT**2), hermitian=True)
    return inverse @ right


def provisional_weights(
    factor: Tensor, weights: Tensor, features: Tensor, targets: Tensor
) -> Tensor:
    """Weights without k records by the Woodbury identity: close to a refit at once, not its bits.

    With A the matrix before, U = A^-1 F^T for the k rows F and their targets Y:
    W' = W - U (I - F U)^-1 (Y - F W). For the time until the weights are solved again.

    Args:
        factor: (d, d), what `factorise` gave with the records.
        weights: (d, K) float64, solved from the same sums.
        features: (k, d) of the records to take out, float64, in units of 1 rather than `UNIT`.
        targets: (k, K) float64.

    Returns:
        (d, K) float64.
    """
    u = torch.cholesky_solve(features.T, factor)
    inner = torch.eye(len(features), dtype=u.dtype, device=u.device) - features @ u
    change: Tensor = u @ torch.linalg.solve(inner, targets - features @ weights)
    return weights - change


def _products(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    gram, moments = features.T @ features, features.T @ targets
    return gram.to(torch.int64), moments.to(torch.int64)
