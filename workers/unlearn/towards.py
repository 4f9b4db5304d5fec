"""A move to one end that a method has computed: all the way, or as far as the guards allow."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Towards:
    """Steps to one end: each goes all the way, and the guards cut it to what is good.

    Where one was cut, the next tries what is left of the way, so the end of the steps is close to
    the last good point of the way.

    Attributes:
        weights: the parameters that move.
        ends: where each of them goes.
        norm: told for every step; of the gradient that the end was computed from.
    """

    weights: Sequence[Tensor]
    ends: Sequence[Tensor]
    norm: float
    gentler: str
    stronger: str
    kinder: str
    max_steps: int = 12
    arrived: bool = False

    def step(self, step: int) -> float | None:  # noqa: ARG002
        """Go to the end."""
        if self.arrived:
            return None
        for weight, end in zip(self.weights, self.ends, strict=True):
            weight.data.copy_(end)
        return self.norm

    def pace(self, share: float) -> None:
        """Stop once all of the way was good."""
        self.arrived = share == 1
