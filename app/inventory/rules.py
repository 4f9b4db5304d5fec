"""Whether what an engineer registers can be trained and unlearned at all."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from lethe.methods import METHODS
from lethe.recipes import RECIPES


def wrong_with_recipe(recipe: str | None, parameters: Mapping[str, Any]) -> str | None:
    """Returns why no model can be made of a recipe and its parameters; None where one can."""
    if recipe is None:
        return None
    if recipe not in RECIPES:
        return f"There is no recipe of that name; there are {', '.join(sorted(RECIPES))}."
    return _wrong(RECIPES[recipe].params, parameters, "parameters")


def wrong_with_methods(
    named: Iterable[str], parameters: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Returns what a policy says that no method can follow; None where all of it can be."""
    unknown = sorted({*named, *parameters} - METHODS.keys())
    if unknown:
        return f"There is no method {', '.join(unknown)}; there are {', '.join(sorted(METHODS))}."
    for method, given in parameters.items():
        wrong = _wrong(METHODS[method].params, given, f"method_parameters.{method}")
        if wrong is not None:
            return wrong
    return None


def _wrong(params: type[BaseModel], given: Mapping[str, Any], field: str) -> str | None:
    try:
        params.model_validate(given)
    except ValidationError as error:
        # What is wrong with each, never what it holds.
        found = error.errors(include_input=False, include_url=False, include_context=False)
        places = [(".".join(map(str, (field, *one["loc"]))), one["msg"]) for one in found]
        return "; ".join(f"{place}: {message}" for place, message in places)
    return None
