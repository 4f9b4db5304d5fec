"""Which states of a run are good, which is the best, and whether to go on."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import JsonValue, PlainSerializer, TypeAdapter
from torch import Tensor, nn

from lethe.methods.spec import GuardParams
from workers.unlearn.method import MoveState
from workers.unlearn.seeds import seed_for
from workers.unlearn.state import read_model, write_model
from workers.unlearn.task import Examples, Task, count, each_nll, take

PROBE_RECORDS = 512
"""Records of each set that are measured at every step; a larger set is sampled once."""

REACHED_SHARE = 0.95
"""Share of the way from the first forget loss to the target that counts as reaching it."""

RISING = 2.0
"""A gradient that grew by this since the last measurement is looked into at once."""

_CUTS = tuple(0.5**k for k in range(10))


def _writable(number: float) -> float | str:
    # JSON knows no NaN and no infinity; steps that led there may have been undone.
    return number if math.isfinite(number) else str(number)


Number = Annotated[float, PlainSerializer(_writable, when_used="json")]


@dataclass(frozen=True)
class StepTrace:
    """One step: the share of it that was kept (0: none), its gradient, the losses it led to.

    The gradient norm, taken before clipping, rises before the losses do. Numbers of a step that
    was not kept may be NaN or infinite.
    """

    step: int
    share: float
    gradient_norm: Number
    forget_loss: Number
    retain_loss: Number


@dataclass(frozen=True)
class Unlearned:
    """What came of it; losses are means in nats over the probes.

    Attributes:
        status: reached: the target, within the guard. stopped_at_guard: better than the start, and
            short of the target. failed: no step could be kept, so the model is what it was.
        state: the trained tensors of the best good state, as `state.read_model` gives them.
        reason: why it ended, in words for a report.
    """

    status: Literal["reached", "stopped_at_guard", "failed"]
    state: dict[str, Tensor]
    steps: int
    forget_loss_before: float
    forget_loss_after: float
    retain_loss_before: float
    retain_loss_after: float
    holdout_loss: float
    reason: str
    trace: tuple[StepTrace, ...]


@dataclass(frozen=True)
class UnlearnCheckpoint:
    """A run after one of its steps; one that resumes from it ends in the same bits.

    It goes with the model as it was before the first step, which it does not hold.

    Attributes:
        step: the number of the step.
        tensors: "model/…", "best/…" where the best state is an earlier one, "move/…"; on the CPU.
        facts: losses, the trace and what else the steps need, for JSON.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, JsonValue]


@dataclass(frozen=True)
class _Levels:
    """Mean losses on the probes."""

    forget: float
    retain: float


@dataclass(frozen=True)
class _Facts:
    """The numbers of a checkpoint."""

    start: _Levels
    holdout_loss: float
    levels: _Levels
    best: _Levels
    stride: int
    trace: tuple[StepTrace, ...]
    move: dict[str, float]


_FACTS = TypeAdapter(_Facts)


@dataclass(frozen=True)
class Probes:
    """What is measured after every step."""

    task: Task
    model: nn.Module
    forget: Examples
    retain: Examples

    def measure(self) -> _Levels:
        """The mean losses of both sets as the model is now."""
        return _Levels(
            forget=mean_loss(self.task, self.model, self.forget),
            retain=mean_loss(self.task, self.model, self.retain),
        )


@dataclass
class Search:
    """Which states are good, which is the best, and whether to go on."""

    probes: Probes
    holdout_loss: float
    params: GuardParams
    gentler: str = ""
    stronger: str = ""
    kinder: str = ""
    trace: list[StepTrace] = field(default_factory=list)
    stride: int = 1
    waited: int = 0

    def __post_init__(self) -> None:
        self.start = self.best = self.levels = self.before = self.probes.measure()
        self.state = self.best_state = read_model(self.probes.model)
        if not all(map(math.isfinite, (self.start.forget, self.start.retain, self.holdout_loss))):
            raise ValueError("the model's loss is not finite before any step: retrain instead")
        self.target = min(self.params.forget_loss_target or math.inf, self.holdout_loss)

    def ended(self) -> bool:
        """Whether the target is reached, or no part of the last step could be kept."""
        stuck = bool(self.trace) and self.trace[-1].share == 0
        return stuck or self._reached()

    @property
    def steps(self) -> int:
        """The number of the last step measured."""
        return self.trace[-1].step if self.trace else 0

    def may_wait(self, gradient_norm: float) -> bool:
        """Whether the step just made may go unmeasured, so that it costs no extra pass.

        The gradient rises before the losses do, so a norm well over the last one measured is
        looked into at once.
        """
        calm = bool(self.trace) and gradient_norm <= RISING * self.trace[-1].gradient_norm
        if calm and self.waited + 1 < self.stride:
            self.waited += 1
            return True
        self.waited = 0
        return False

    def keep(self, step: int, gradient_norm: float) -> float:
        """Keep as much as the bounds allow of the way since the last step measured; tell how much.

        Where none of several steps can be kept, they are undone, and the next is measured again.
        """
        share = self._keep(step, gradient_norm)
        if share == 1 and self._far():
            self.stride = min(2 * self.stride, self.params.unmeasured_steps + 1)
        elif share < 1:
            undone = share == 0 and self.stride > 1
            self.stride = 1
            if undone:
                write_model(self.probes.model, self.state)
                self.trace[-1] = replace(self.trace[-1], share=_CUTS[-1])
                return _CUTS[-1]
        else:
            self.stride = 1
        return share

    def _far(self) -> bool:
        """Whether as much again as the last measurement brought would still be within the bounds.

        Twice as many steps may bring several times as much, so it is asked for four times as much.
        """
        before = self.before
        rise, drift = self.levels.forget - before.forget, self.levels.retain - before.retain
        bound = self.start.retain + self.params.retain_loss_increase
        return (
            self.levels.forget + 4 * rise <= self.target and self.levels.retain + 4 * drift <= bound
        )

    def _keep(self, step: int, gradient_norm: float) -> float:
        self.before = self.levels
        model = self.probes.model
        moved, share, levels = read_model(model), 0.0, self.levels
        for cut in _CUTS if math.isfinite(gradient_norm) else ():
            write_model(model, _between(self.state, moved, cut))
            levels = self.probes.measure()
            if self._good(levels):
                share, self.levels, self.state = cut, levels, read_model(model)
                break
        if share and levels.forget > self.best.forget:
            self.best, self.best_state = self.levels, self.state
        self.trace.append(StepTrace(step, share, gradient_norm, levels.forget, levels.retain))
        return share

    def checkpoint(self, move: MoveState) -> UnlearnCheckpoint:
        """What `load` needs, and what the move left in its own state."""
        kept = {"model": self.state, "move": move.tensors}
        if self.best_state is not self.state:
            kept["best"] = self.best_state
        facts = _Facts(
            self.start,
            self.holdout_loss,
            self.levels,
            self.best,
            self.stride,
            tuple(self.trace),
            move.numbers,
        )
        return UnlearnCheckpoint(
            self.steps,
            {f"{part}/{name}": t for part, named in kept.items() for name, t in named.items()},
            _FACTS.dump_python(facts, mode="json"),
        )

    def load(self, checkpoint: UnlearnCheckpoint) -> MoveState:
        """Go on from a checkpoint; returns what the move is to be told.

        Raises:
            ValueError: it is of another run.
        """
        facts = _FACTS.validate_python(checkpoint.facts)
        if (facts.start, facts.holdout_loss) != (self.start, self.holdout_loss):
            raise ValueError("the checkpoint is of another run: begin without it")
        state, best, move = (
            {
                key.removeprefix(part): tensor
                for key, tensor in checkpoint.tensors.items()
                if key.startswith(part)
            }
            for part in ("model/", "best/", "move/")
        )
        write_model(self.probes.model, state)
        self.state, self.best_state = state, best or state
        self.levels, self.best, self.trace = facts.levels, facts.best, list(facts.trace)
        self.stride = facts.stride
        return MoveState(move, facts.move)

    def result(self) -> Unlearned:
        """Put the best good state back, and tell what came of it."""
        write_model(self.probes.model, self.best_state)
        status, reason = self._end()
        return Unlearned(
            status=status,
            state=self.best_state,
            steps=self.steps,
            forget_loss_before=self.start.forget,
            forget_loss_after=self.best.forget,
            retain_loss_before=self.start.retain,
            retain_loss_after=self.best.retain,
            holdout_loss=self.holdout_loss,
            reason=reason,
            trace=tuple(self.trace),
        )

    def _good(self, levels: _Levels) -> bool:
        # A comparison with NaN is false, so a state that is not finite is never good.
        retain_bound = self.start.retain + self.params.retain_loss_increase
        return levels.retain <= retain_bound and levels.forget <= self.target

    def _reached(self) -> bool:
        way = self.target - self.start.forget
        return self.best.forget >= self.start.forget + REACHED_SHARE * way

    def _end(self) -> tuple[Literal["reached", "stopped_at_guard", "failed"], str]:
        if self._reached() and not self.trace:
            return "reached", "the forget loss was at its target before the first step"
        if self._reached():
            return "reached", "the forget loss came to its target within the guard"
        if self.best == self.start:
            return "failed", f"no step was better than the start: {self._why_stopped()}"
        return "stopped_at_guard", self._why_stopped()

    def _why_stopped(self) -> str:
        last = self.trace[-1]
        if last.share:
            return f"the steps allowed were not enough; {self.stronger}, or retrain"
        if not math.isfinite(last.forget_loss + last.retain_loss + last.gradient_norm):
            return f"the loss or its gradient was no longer finite; {self.gentler}"
        if last.forget_loss > self.target:
            return f"every cut of the step passed the target; {self.gentler}"
        return f"the retain loss came to its guard; retrain, or {self.kinder}"


def probe(examples: Examples, seed: str, name: str) -> Examples:
    """The records of a set that are measured; the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed_for(seed, "probe", name))
    order = torch.randperm(count(examples), generator=generator)
    return take(examples, order[:PROBE_RECORDS], torch.device("cpu"))


def mean_loss(task: Task, model: nn.Module, examples: Examples) -> float:
    """Mean loss in nats of at least one record."""
    return each_nll(task, model, examples).mean().item()


def _between(start: dict[str, Tensor], end: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The point at `share` of the way; at 1 exactly the end. Counters are taken from the end."""
    return {
        name: tensor.lerp(end[name], share) if tensor.is_floating_point() else end[name]
        for name, tensor in start.items()
    }
