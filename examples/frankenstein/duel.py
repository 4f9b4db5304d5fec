"""Two ways to forget one passage, step beside step: the notebook's, and a method under guard.

Both begin with the same weights and climb the same loss with AdamW at the same rate. The notebook's
way, found in many tutorials, does only that. The other is `gradient_ascent` as Lethe runs it: it
also descends on the retain set, and `workers.unlearn.guarded` measures every step before it is
kept.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import AdamW

from examples.frankenstein.model import Reading, complete, read, spread, words_of
from examples.frankenstein.text import Story
from workers.unlearn import run_method
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.guarded import Unlearned
from workers.unlearn.sisa import CPU
from workers.unlearn.task import take

METHOD = "gradient_ascent"
RATE = 1e-4
NOTEBOOK_STEPS = 100
RETAIN_RECORDS = 192
"""Records of the retain set that the method sees; the guard measures all of them at every step."""
SAID = 24
"""Tokens completed at every step; all of them only at the end."""


@dataclass(frozen=True)
class Side:
    """One side at one step.

    Attributes:
        step: Steps made; it no longer grows once the side has stopped.
        reading: What the model says and how it does.
        stopped: Why no further step is made; None while there are more.
    """

    step: int
    reading: Reading
    stopped: str | None


@dataclass(frozen=True)
class Frame:
    """Both sides after as many steps."""

    notebook: Side
    guarded: Side


@dataclass(frozen=True)
class End:
    """How a model ended.

    Attributes:
        reading: On the passage and on the retain set, the completion in full.
        never_seen: Its mean loss on the holdout, nats per token.
        never_seen_right: Share of the holdout's tokens that it puts first, given those before.
        elsewhere: What it says after the beginning of a holdout window.
        model: The model itself.
    """

    reading: Reading
    never_seen: float
    never_seen_right: float
    elsewhere: str
    model: nn.Module


@dataclass(frozen=True)
class Outcome:
    """How a duel ended; `unlearned` is the guarded side's own report."""

    notebook: End
    guarded: End
    unlearned: Unlearned


class Seen(Protocol):
    """Called with every frame."""

    def __call__(self, frame: Frame, /) -> None:
        """Show it."""


def duel(story: Story, taught: nn.Module, dtype: torch.dtype, seen: Seen) -> Outcome:
    """Let both forget the passage, from copies of the taught model in `dtype`.

    The guarded method leads, and the notebook makes a step whenever that one is about to make its
    next; when it has ended, the notebook goes on alone. So neither waits for the other's end.
    """
    notebook = Notebook(story, copy.deepcopy(taught).to(dtype))
    model = copy.deepcopy(taught).to(dtype)
    frames = _Frames(story, notebook, model, seen)
    unlearned = run_method(
        METHOD,
        story.task,
        model,
        forget=story.forget,
        retain=spread(story.retain, RETAIN_RECORDS),
        holdout=story.holdout,
        parameters={"learning_rate": RATE},
        seed="frankenstein",
        on_progress=lambda _share: None,
        cancelled=frames.before_step,
    )
    frames.finish(unlearned)
    return Outcome(end_of(story, notebook.model), end_of(story, model), unlearned)


def end_of(story: Story, model: nn.Module) -> End:
    """Read a model in full."""
    elsewhere = complete(model, unseen(story), SAID)
    unknown = Ensemble(story.task, (model,)).scores(story.holdout)
    return End(
        reading=read(story, model),
        never_seen=unknown.losses.mean().item(),
        never_seen_right=unknown.accuracies.mean().item(),
        elsewhere=words_of(story, elsewhere),
        model=model,
    )


def unseen(story: Story) -> list[int]:
    """Return the tokens of a window that was never trained on."""
    tokens: list[int] = story.holdout["tokens"][0, 1:].tolist()
    return tokens


def served_in_half(story: Story, model: nn.Module) -> End:
    """Return how a model does whose weights are rounded to fp16 after all work was done in fp32."""
    return end_of(story, copy.deepcopy(model).half())


class Notebook:
    """Plain ascent on the one passage: AdamW, no retain set, no clipping, no guard."""

    def __init__(self, story: Story, model: nn.Module) -> None:
        self.model = model
        self.steps = 0
        self._story = story
        self._optimizer = AdamW(model.parameters(), lr=RATE)

    def step(self) -> None:
        """Make one step."""
        self.model.train()
        passage = take(self._story.forget, torch.tensor([0]), CPU)
        loss = -self._story.task.losses(self.model, passage).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.steps += 1

    def side(self) -> Side:
        """Read how it stands."""
        reading = read(self._story, self.model, SAID)
        stopped = None
        if not reading.finite:
            stopped = "every number is NaN"
        elif self.steps == NOTEBOOK_STEPS:
            stopped = "its steps are done"
        return Side(self.steps, reading, stopped)


@dataclass
class _Frames:
    """Makes the notebook keep step with the guarded method."""

    story: Story
    notebook: Notebook
    model: nn.Module
    seen: Callable[[Frame], None]
    steps: int = 0

    def before_step(self) -> bool:
        """Show both as they stand, then step the notebook; the runner asks this before each step.

        Then the model holds what the guard has kept, never a step that it is still weighing.
        """
        notebook = self._show(Side(self.steps, read(self.story, self.model, SAID), None))
        self.steps += 1
        if notebook.stopped is None:
            self.notebook.step()
        return False

    def finish(self, unlearned: Unlearned) -> None:
        """Show the guarded side's end, and the notebook's other steps."""
        ended = unlearned.status.replace("_", " ")
        guarded = Side(unlearned.steps, read(self.story, self.model, SAID), ended)
        while self._show(guarded).stopped is None:
            self.notebook.step()

    def _show(self, guarded: Side) -> Side:
        notebook = self.notebook.side()
        self.seen(Frame(notebook, guarded))
        return notebook
