"""The registered ways to train a model, by name."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import rfc8785
from pydantic import BaseModel

from workers.recipes.causal_lm import CausalLmParams, make_causal_lm
from workers.recipes.classifier import Classifier, ClassifierParams
from workers.unlearn.task import Task

P = TypeVar("P", bound=BaseModel)


class UnknownRecipe(ValueError):
    """There is no recipe of this name: take one of the registered names."""


@dataclass(frozen=True)
class RecipeSpec(Generic[P]):
    """One recipe; a version is raised when the same parameters would train another model."""

    name: str
    version: int
    params: type[P]
    make: Callable[[P], Task]

    def task(self, params: Mapping[str, object]) -> Task:
        """Check the parameters and bind the recipe to them."""
        return self.make(self.params.model_validate(params))


RECIPES: dict[str, RecipeSpec[ClassifierParams] | RecipeSpec[CausalLmParams]] = {
    "classifier": RecipeSpec("classifier", 1, ClassifierParams, Classifier),
    "causal_lm": RecipeSpec("causal_lm", 1, CausalLmParams, make_causal_lm),
}


def make_task(recipe: str, params: Mapping[str, object]) -> Task:
    """Bind a recipe to its parameters.

    Raises:
        UnknownRecipe: there is no such recipe.
        pydantic.ValidationError: the parameters do not fit it.
        FileNotFoundError, ValueError: a file that the parameters name is missing or changed.
    """
    return _spec(recipe).task(params)


def recipe_digest(recipe: str, params: Mapping[str, object]) -> str:
    """Digest what a recipe will do: its name, version and parameters, defaults filled in.

    Returns:
        SHA-256, in hex, of the canonical JSON (RFC 8785).

    Raises:
        UnknownRecipe: there is no such recipe.
        pydantic.ValidationError: the parameters do not fit it.
    """
    spec = _spec(recipe)
    filled = spec.params.model_validate(params).model_dump(mode="json")
    return hashlib.sha256(rfc8785.dumps([spec.name, spec.version, filled])).hexdigest()


def _spec(recipe: str) -> RecipeSpec[ClassifierParams] | RecipeSpec[CausalLmParams]:
    if recipe not in RECIPES:
        raise UnknownRecipe(f"there is no such recipe; registered are {', '.join(sorted(RECIPES))}")
    return RECIPES[recipe]
