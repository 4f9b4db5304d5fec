"""What is known of a recipe without training by it: its parameters, and what it offers to methods.

A recipe of one's own is a `RecipeSpec` under the entry-point group `lethe.recipes`; see
docs/extending.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from lethe.methods.spec import Need

P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True)
class RecipeSpec(Generic[P]):
    """One recipe.

    Attributes:
        version: raised when the same parameters would train another model.
        params: what it is made from; checked when a model is registered.
        offers: what methods may ask of a model with these parameters.
        implementation: "module:function" from the parameters to a `workers.unlearn.task.Task`,
            imported by workers only.
    """

    name: str
    version: int
    params: type[P]
    offers: Callable[[P], frozenset[Need]]
    implementation: str
