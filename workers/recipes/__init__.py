"""From a recipe's name and parameters to a task that trains by it."""

import pkgutil
from collections.abc import Mapping

from lethe.recipes import recipe_spec
from workers.unlearn.task import Task


def make_task(recipe: str, params: Mapping[str, object]) -> Task:
    """Bind a recipe to its parameters.

    Raises:
        UnknownRecipe: there is no such recipe.
        pydantic.ValidationError: the parameters do not fit it.
        FileNotFoundError, ValueError: a file that the parameters name is missing or changed.
    """
    spec = recipe_spec(recipe)
    task: Task = pkgutil.resolve_name(spec.implementation)(spec.params.model_validate(params))
    return task
