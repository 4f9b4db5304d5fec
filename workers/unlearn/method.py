"""What a method is to the runner: it is shown the model and the sets, and prepares its steps."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import nn

from lethe.methods.spec import GuardParams
from workers.unlearn.task import Examples, Task


@dataclass(frozen=True)
class Context:
    """What a method may use: the model as it is before the first step, and both sets.

    The model is on the device to work on, the records are on the CPU. What a method needs of the
    model before, it measures while it prepares; nobody keeps a second model.
    """

    task: Task
    model: nn.Module
    forget: Examples
    retain: Examples
    seed: str


class Move(Protocol):
    """A prepared method: it changes the model in place, one step at a time."""

    @property
    def max_steps(self) -> int:
        """The most steps that it will make."""

    @property
    def gentler(self) -> str:
        """Advice for where its steps were too long, in words for a report."""

    @property
    def stronger(self) -> str:
        """Advice for where its steps were not enough, in words for a report."""

    @property
    def kinder(self) -> str:
        """Advice for where its steps cost the retain set too much, in words for a report."""

    def step(self, step: int) -> float | None:
        """Make step number `step`, from 1; returns its gradient's norm before clipping.

        The weights may be left anyhow where the norm is not finite. None: there is nothing left
        to do, and nothing was changed.
        """

    def pace(self, share: float) -> None:
        """Take note of the share of the last step that was kept, in (0, 1]; 0: none."""


P = TypeVar("P", bound="GuardParams")
P_contra = TypeVar("P_contra", bound="GuardParams", contravariant=True)


class Method(Protocol[P_contra]):
    """A method: it prepares its steps and leaves the model as it is meanwhile."""

    def __call__(self, context: Context, params: P_contra, /) -> Move:
        """Prepare the steps."""
