"""The unlearning methods: tensors, modules and callables in, dataclasses out.

No rows, files, settings or database: what runs the methods knows those.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel
from torch import nn

from workers.unlearn.fine_tune import FineTuneParams, fine_tune
from workers.unlearn.grad_diff import GradDiffParams, grad_diff
from workers.unlearn.gradient_ascent import GradientAscentParams, ascent
from workers.unlearn.guarded import Unlearned, unlearn
from workers.unlearn.method import Method, P
from workers.unlearn.npo import NpoParams, npo
from workers.unlearn.rmu import RmuParams, rmu
from workers.unlearn.scrub import ScrubParams, scrub
from workers.unlearn.simnpo import SimNpoParams, simnpo
from workers.unlearn.ssd import SsdParams, ssd
from workers.unlearn.task import Examples, Task


class UnknownMethod(ValueError):
    """There is no approximate method of this name: take one of the registered names."""


class Run(Protocol):
    """An approximate method under the guards, its parameters not checked yet."""

    def __call__(
        self,
        task: Task,
        model: nn.Module,
        *,
        forget: Examples,
        retain: Examples,
        holdout: Examples,
        parameters: Mapping[str, object],
        seed: str,
        on_progress: Callable[[float], None],
        cancelled: Callable[[], bool],
    ) -> Unlearned:
        """Check the parameters and run."""


@dataclass(frozen=True)
class MethodSpec:
    """What planning has to know about a method.

    Attributes:
        version: raised when the same arguments would give another model.
        guarantee: exact: equals retraining without the records, provably; approximate: evidence
            only.
        requires: what must be at hand: forget, retain, holdout, checkpoints.
        params: the parameters that the method takes beyond the recipe's, if any.
        summary: what it does, in one line.
        run: how `run_method` runs it; None for a method that trains, shard by shard.
    """

    name: str
    version: int
    guarantee: Literal["exact", "approximate"]
    requires: frozenset[str]
    params: type[BaseModel] | None
    summary: str
    run: Run | None = None


def _approximate(name: str, params: type[P], method: Method[P], summary: str) -> MethodSpec:
    def run(
        task: Task,
        model: nn.Module,
        *,
        forget: Examples,
        retain: Examples,
        holdout: Examples,
        parameters: Mapping[str, object],
        seed: str,
        on_progress: Callable[[float], None],
        cancelled: Callable[[], bool],
    ) -> Unlearned:
        return unlearn(
            method,
            task,
            model,
            forget=forget,
            retain=retain,
            holdout=holdout,
            params=params.model_validate(parameters),
            seed=seed,
            on_progress=on_progress,
            cancelled=cancelled,
        )

    needs = frozenset({"forget", "retain", "holdout"})
    return MethodSpec(name, 1, "approximate", needs, params, summary, run)


METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec(
            "retrain",
            1,
            "exact",
            frozenset({"retain"}),
            None,
            "Trains again from scratch on what is left.",
        ),
        MethodSpec(
            "sisa",
            1,
            "exact",
            frozenset({"retain", "checkpoints"}),
            None,
            "Retrains the shards that held the records, from the last checkpoint before them.",
        ),
        _approximate(
            "gradient_ascent",
            GradientAscentParams,
            ascent,
            "Raises the loss on the forget set and lowers it on the retain set.",
        ),
        _approximate(
            "grad_diff",
            GradDiffParams,
            grad_diff,
            "Weighs both sets, or keeps the predictions on the retain set as they were.",
        ),
        _approximate(
            "npo",
            NpoParams,
            npo,
            "Ascends on the forget set ever more slowly as its records are forgotten.",
        ),
        _approximate(
            "simnpo",
            SimNpoParams,
            simnpo,
            "Ascends on the forget set where its loss per prediction is still low.",
        ),
        _approximate(
            "fine_tune",
            FineTuneParams,
            fine_tune,
            "Trains on with the retain set alone, so that the rest fades.",
        ),
        _approximate(
            "scrub",
            ScrubParams,
            scrub,
            "Leaves its earlier predictions on the forget set, holds to them on the retain set.",
        ),
        _approximate(
            "ssd",
            SsdParams,
            ssd,
            "Shrinks, once, the weights that matter more to the forget set than to the retain set.",
        ),
        _approximate(
            "rmu",
            RmuParams,
            rmu,
            "Leads the activations of the forget set astray at one layer, and holds the others.",
        ),
    )
}


def run_method(
    name: str,
    task: Task,
    model: nn.Module,
    *,
    forget: Examples,
    retain: Examples,
    holdout: Examples,
    parameters: Mapping[str, object],
    seed: str,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> Unlearned:
    """Run an approximate method by its name: the other arguments and errors of `guarded.unlearn`.

    Raises:
        UnknownMethod: there is no approximate method of this name.
        pydantic.ValidationError: the parameters do not fit it.
    """
    run = METHODS[name].run if name in METHODS else None
    if run is None:
        known = ", ".join(sorted(name for name, spec in METHODS.items() if spec.run))
        raise UnknownMethod(f"there is no such approximate method; registered are {known}")
    return run(
        task,
        model,
        forget=forget,
        retain=retain,
        holdout=holdout,
        parameters=parameters,
        seed=seed,
        on_progress=on_progress,
        cancelled=cancelled,
    )
