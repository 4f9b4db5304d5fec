"""The unlearning methods: tensors, modules and callables in, dataclasses out.

No rows, files, settings or database: what runs the methods knows those.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from workers.unlearn.gradient_ascent import GradientAscentParams


@dataclass(frozen=True)
class MethodSpec:
    """What planning has to know about a method.

    Attributes:
        version: raised when the same arguments would give another model.
        guarantee: exact: equals retraining without the records, provably; approximate: evidence
            only.
        requires: what must be at hand: forget, retain, holdout, checkpoints.
        params: the parameters that the method takes beyond the recipe's, if any.
    """

    name: str
    version: int
    guarantee: Literal["exact", "approximate"]
    requires: frozenset[str]
    params: type[BaseModel] | None


METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec("retrain", 1, "exact", frozenset({"retain"}), None),
        MethodSpec("sisa", 1, "exact", frozenset({"retain", "checkpoints"}), None),
        MethodSpec(
            "gradient_ascent",
            1,
            "approximate",
            frozenset({"forget", "retain", "holdout"}),
            GradientAscentParams,
        ),
    )
}
