"""Rounds of a disturbance and a recovery: the state between the two is never kept nor measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from workers.unlearn.descent import Descent

Kept = Sequence[tuple[nn.Parameter, Tensor]]
"""Parameters with masks of their shapes; what a mask leaves out stays zero in the recovery."""


@dataclass
class Rounds:
    """Steps that each disturb the weights and then recover by `recovery_steps` of a descent.

    Attributes:
        disturb: is told the round, from 1, and its strength in (0, 1]; changes the weights.
    """

    descent: Descent
    recovery_steps: int
    disturb: Callable[[int, float], Kept]
    gentler: str = "lower the noise or the learning rate"
    stronger: str = "allow more rounds or raise the noise"
    kinder: str = "lower the noise or recover for more steps"
    strength: float = 1.0

    @property
    def max_steps(self) -> int:
        """The most rounds that the parameters allow."""
        return self.descent.max_steps

    def step(self, step: int) -> float:
        """Make one round; returns the largest norm of its gradients before clipping."""
        kept = self.disturb(step, self.strength)
        largest = 0.0
        first = (step - 1) * self.recovery_steps + 1
        for inner in range(first, first + self.recovery_steps):
            norm = self.descent.step(inner)
            if not math.isfinite(norm):
                return norm
            largest = max(largest, norm)
            for weight, mask in kept:
                weight.data.mul_(mask)
        return largest

    def pace(self, share: float) -> None:
        """Disturb the next time as little as this time was kept; after a whole round, more."""
        self.strength = min(1.0, self.strength * (2 if share == 1 else share))
