"""The work of a step, without database: a job in, objects stored, a JSON result out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workers.artifacts import ArtifactStore

Result = dict[str, Any]


@dataclass(frozen=True)
class Desk:
    """What a step works with: the store, how it tells of progress and checkpoints, its device.

    Attributes:
        device: where tensors are worked on, as torch names it; where to train and to measure.
    """

    store: ArtifactStore
    on_progress: Callable[[float], None]
    on_checkpoint: Callable[[Result], None]
    device: str = "cpu"

    def cancelled(self) -> bool:
        """A step is never cancelled from inside: its process is ended."""
        return False
