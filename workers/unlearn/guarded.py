"""The one runner of the approximate methods: it owns the guards, a method owns its steps.

An approximate method gives evidence, no proof. Plain ascent runs off a cliff that is less than ten
steps wide, and its kin do so later, so every step of every method is measured before it is kept:

1. the never-seen level is the mean loss of the holdout; the forget loss never passes it;
2. a step whose forget loss, retain loss or weights leave the bounds is cut in half until it fits;
3. where no cut fits, or the gradient is not finite, the work stops;
4. the best good state is what remains: finite, retain loss within its guard, forget loss highest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.methods.spec import GuardParams
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.method import Context, Method, Move, P
from workers.unlearn.seeds import seed_for
from workers.unlearn.sisa import Cancelled
from workers.unlearn.state import read_model, write_model
from workers.unlearn.task import Examples, Task, count, take

PROBE_RECORDS = 512
"""Records of each set that are measured at every step; a larger set is sampled once."""

REACHED_SHARE = 0.95
"""Share of the way from the first forget loss to the target that counts as reaching it."""

_CUTS = tuple(0.5**k for k in range(10))


@dataclass(frozen=True)
class StepTrace:
    """One step: the share of it that was kept (0: none), its gradient, the losses it led to.

    The gradient norm, taken before clipping, rises before the losses do. Numbers of a step that
    was not kept may be NaN or infinite.
    """

    step: int
    share: float
    gradient_norm: float
    forget_loss: float
    retain_loss: float


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


def unlearn(
    method: Method[P],
    task: Task,
    model: nn.Module,
    *,
    forget: Examples,
    retain: Examples,
    holdout: Examples,
    params: P,
    seed: str,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> Unlearned:
    """Raise the forget set's loss to the never-seen level without losing the retain set.

    The model is changed in place and ends in the returned state, which is always finite and within
    the guard; where no step could be kept, it is what it was, bit for bit.

    Args:
        method: prepares and makes the steps.
        task: the recipe of the model.
        model: the trained model, on the device to work on.
        forget: records to forget.
        retain: records to keep.
        holdout: records never trained on.
        params: the method's parameters, and the guard's.
        seed: fixes probes, batches and dropout.
        on_progress: receives the share of the steps that is done, after each step; 1 at the end.
        cancelled: asked before each step.

    Raises:
        ValueError: a set is empty, or the model's loss is not finite to begin with.
        Cancelled: `cancelled` said yes; the model is then not to be used.
    """
    for name, examples in (("forget", forget), ("retain", retain), ("holdout", holdout)):
        if not count(examples):
            raise ValueError(f"unlearning needs records in the {name} set; retrain instead")
    search = _Search(
        probes=_Probes(task, model, _probe(forget, seed, "forget"), _probe(retain, seed, "retain")),
        holdout_loss=_mean_loss(task, model, _probe(holdout, seed, "holdout")),
        params=params,
    )
    if not search.ended():
        devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
        with torch.random.fork_rng(devices):
            move = method(Context(task, model, forget, retain, seed), params)
            search.gentler, search.stronger, search.kinder = (
                move.gentler,
                move.stronger,
                move.kinder,
            )
            _advance(search, move, on_progress, cancelled)
    on_progress(1.0)
    return search.result()


def _advance(
    search: "_Search",
    move: Move,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> None:
    for step in range(1, move.max_steps + 1):
        if search.ended():
            return
        if cancelled():
            raise Cancelled
        norm = move.step(step)
        if norm is None:
            return
        move.pace(search.keep(step, norm))
        on_progress(step / move.max_steps)


@dataclass(frozen=True)
class _Levels:
    """Mean losses on the probes."""

    forget: float
    retain: float


@dataclass(frozen=True)
class _Probes:
    """What is measured after every step."""

    task: Task
    model: nn.Module
    forget: Examples
    retain: Examples

    def measure(self) -> _Levels:
        return _Levels(
            forget=_mean_loss(self.task, self.model, self.forget),
            retain=_mean_loss(self.task, self.model, self.retain),
        )


@dataclass
class _Search:
    """Which states are good, which is the best, and whether to go on."""

    probes: _Probes
    holdout_loss: float
    params: GuardParams
    gentler: str = ""
    stronger: str = ""
    kinder: str = ""
    trace: list[StepTrace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = self.best = self.levels = self.probes.measure()
        self.state = self.best_state = read_model(self.probes.model)
        if not all(map(math.isfinite, (self.start.forget, self.start.retain, self.holdout_loss))):
            raise ValueError("the model's loss is not finite before any step: retrain instead")
        self.target = min(self.params.forget_loss_target or math.inf, self.holdout_loss)

    def ended(self) -> bool:
        stuck = bool(self.trace) and self.trace[-1].share == 0
        return stuck or self._reached()

    def keep(self, step: int, gradient_norm: float) -> float:
        """Keep as much of the step just made as the bounds allow, and tell how much."""
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

    def result(self) -> Unlearned:
        write_model(self.probes.model, self.best_state)
        status, reason = self._end()
        return Unlearned(
            status=status,
            state=self.best_state,
            steps=len(self.trace),
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
        if self.best is self.start:
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


def _probe(examples: Examples, seed: str, name: str) -> Examples:
    generator = torch.Generator().manual_seed(seed_for(seed, "probe", name))
    order = torch.randperm(count(examples), generator=generator)
    return take(examples, order[:PROBE_RECORDS], torch.device("cpu"))


def _mean_loss(task: Task, model: nn.Module, examples: Examples) -> float:
    return Ensemble(task, (model,)).losses(examples).mean().item()


def _between(start: dict[str, Tensor], end: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The point at `share` of the way; at 1 exactly the end. Counters are taken from the end."""
    return {
        name: tensor.lerp(end[name], share) if tensor.is_floating_point() else end[name]
        for name, tensor in start.items()
    }
