"""The unlearning methods: tensors, modules and callables in, dataclasses out.

No rows, files, settings or database: what runs the methods knows those. What a method takes, needs
and costs is in `lethe.methods`.
"""

import pkgutil
from collections.abc import Callable, Mapping

from torch import nn

from lethe.methods import METHODS
from lethe.methods.spec import GuardParams
from workers.unlearn.guarded import UnlearnCheckpoint, Unlearned, unlearn
from workers.unlearn.method import Method
from workers.unlearn.task import Examples, Task


class UnknownMethod(ValueError):
    """There is no approximate method of this name: take one of the registered names."""


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
    on_checkpoint: Callable[[UnlearnCheckpoint], None] | None = None,
    resume: UnlearnCheckpoint | None = None,
) -> Unlearned:
    """Run an approximate method by its name: the other arguments and errors of `guarded.unlearn`.

    Raises:
        UnknownMethod: there is no approximate method of this name.
        pydantic.ValidationError: the parameters do not fit it.
    """
    spec = METHODS.get(name)
    if spec is None or spec.implementation is None:
        known = ", ".join(sorted(one.name for one in METHODS.values() if one.implementation))
        raise UnknownMethod(f"there is no such approximate method; registered are {known}")
    method: Method[GuardParams] = pkgutil.resolve_name(spec.implementation)
    params = spec.params.model_validate(parameters)
    if not isinstance(params, GuardParams):
        raise UnknownMethod(f"the parameters of {name} do not have the guard's bounds among them")
    return unlearn(
        method,
        task,
        model,
        forget=forget,
        retain=retain,
        holdout=holdout,
        params=params,
        seed=seed,
        on_progress=on_progress,
        cancelled=cancelled,
        on_checkpoint=on_checkpoint,
        resume=resume,
    )
