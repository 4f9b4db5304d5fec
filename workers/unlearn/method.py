"""What a method is to the runner: it is shown the model and the sets, and prepares its steps."""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

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


@dataclass(frozen=True)
class MoveState:
    """What a move must be told to go on where another of the same kind stood.

    Attributes:
        tensors: on the CPU.
        numbers: finite.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, float]


@runtime_checkable
class Resumable(Protocol):
    """A move that can go on, bit for bit, where another one stood; the weights are not its own."""

    def state(self) -> MoveState:
        """Copy what the steps so far have left in the move."""

    def load_state(self, state: MoveState) -> None:
        """Go on from there; called on a fresh move, prepared on the model as it was at the start.

        Raises:
            ValueError: the state does not fit.
        """


P = TypeVar("P", bound="GuardParams")
P_contra = TypeVar("P_contra", bound="GuardParams", contravariant=True)


class Method(Protocol[P_contra]):
    """A method: it prepares its steps and leaves the model as it is meanwhile."""

    def __call__(self, context: Context, params: P_contra, /) -> Move:
        """Prepare the steps."""
