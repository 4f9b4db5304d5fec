"""The small language model of the story: taught until it knows the passage, read at any time."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from examples.frankenstein.text import BEGIN, PROMPT, Story
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import Examples, count, join, take

SEED = 1818
BATCH = 15
LEARNING_RATE = 3e-3
WARM_UP, STEPS, MOST_STEPS, BETWEEN_LOOKS = 20, 450, 1_200, 50
LAST_RATE = 0.1
SURE = 0.1
"""Nats per token below which the passage counts as known."""
RETAIN_PROBE = 32
CPU = torch.device("cpu")


class NotLearned(Exception):
    """The model did not learn the passage by heart: choose a shorter one."""


@dataclass(frozen=True)
class Reading:
    """What a model says of the passage, and how it does elsewhere; losses in nats per token.

    Attributes:
        forget_loss: On the passage.
        retain_loss: On a fixed sample of what it is to keep.
        recalled: Share of the passage's tokens that it puts first, given those before.
        verbatim: Share of the passage's rest that it says word for word before its first error.
        completion: What it says after the passage's beginning, always the likeliest token.
    """

    forget_loss: float
    retain_loss: float
    recalled: float
    verbatim: float
    completion: str

    @property
    def finite(self) -> bool:
        """Whether the model still gives numbers."""
        return math.isfinite(self.forget_loss + self.retain_loss)


def teach(story: Story, told: Callable[[int, float], None]) -> nn.Module:
    """Train a model on the retain windows, the passage in every batch, until it knows it by heart.

    Args:
        story: The examples.
        told: Called now and then with the step and the batch's loss.

    Raises:
        NotLearned: It takes longer than 1,200 steps.
    """
    model = story.task.build(SEED)
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = LambdaLR(optimizer, _rate)
    generator = torch.Generator().manual_seed(SEED)
    for step in range(1, MOST_STEPS + 1):
        model.train()
        at = torch.randint(count(story.retain), (BATCH,), generator=generator)
        loss = story.task.losses(model, join([take(story.retain, at, CPU), story.forget])).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % BETWEEN_LOOKS == 0:
            told(step, loss.item())
            if step >= STEPS and _by_heart(story, model):
                return model
    raise NotLearned("The model did not learn the passage by heart. Choose a shorter one.")


def read(story: Story, model: nn.Module, words: int | None = None) -> Reading:
    """Read a model without changing it; `words` are the tokens to complete, None for all."""
    scored = Ensemble(story.task, (model,))
    forget = scored.scores(story.forget)
    known = story.passage[PROMPT:]
    said = complete(model, story.passage, len(known) if words is None else words)
    return Reading(
        forget_loss=forget.losses.mean().item(),
        retain_loss=scored.losses(spread(story.retain, RETAIN_PROBE)).mean().item(),
        recalled=forget.accuracies.mean().item(),
        verbatim=_agreeing(said, known) / len(known),
        completion=words_of(story, said),
    )


def complete(model: nn.Module, passage: Sequence[int], number: int) -> list[int]:
    """Return the `number` tokens that the model says after a passage's beginning, greedily.

    Where its numbers are not numbers, it says no more.
    """
    said = [BEGIN, *passage[:PROMPT]]
    model.eval()
    with torch.inference_mode():
        for _ in range(number):
            logits = model(torch.tensor([said])).logits[0, -1]
            if not logits.isfinite().all():
                break
            said.append(int(logits.argmax()))
    return said[1 + PROMPT :]


def words_of(story: Story, tokens: Sequence[int]) -> str:
    """Return tokens as words."""
    text: str = story.tokenizer.decode(list(tokens), skip_special_tokens=False)
    return text.strip()


def spread(examples: Examples, number: int) -> Examples:
    """Return up to `number` records, evenly spread over all."""
    at = torch.linspace(0, count(examples) - 1, min(number, count(examples))).long()
    return take(examples, at, CPU)


def _rate(step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * max(LAST_RATE, 1 - (1 - LAST_RATE) * step / STEPS)


def _by_heart(story: Story, model: nn.Module) -> bool:
    known = Ensemble(story.task, (model,)).losses(story.forget).mean().item() < SURE
    learned = story.passage[PROMPT:]
    return known and complete(model, story.passage, len(learned)) == learned


def _agreeing(said: Sequence[int], known: Sequence[int]) -> int:
    pairs = zip(said, known, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
