"""What the child of a compute worker tells its parent."""

from dataclasses import dataclass

from app.core.errors import Problem
from workers.steps import Result


@dataclass(frozen=True)
class Ready:
    """The child has started, and trains on this device."""

    device: str


@dataclass(frozen=True)
class Progress:
    """How far the step is, 0 to 1."""

    share: float


@dataclass(frozen=True)
class Stored:
    """A checkpoint lies in the store."""

    values: Result


@dataclass(frozen=True)
class Done:
    """The step's result."""

    result: Result


@dataclass(frozen=True)
class Failed:
    """Why the step failed, without identifiers, and whether trying again is pointless."""

    problem: Problem
    permanent: bool


Message = Ready | Progress | Stored | Done | Failed
