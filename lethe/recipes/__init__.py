"""Every way to train a model that is known here, by name."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Final

import rfc8785

from lethe.methods.spec import Need
from lethe.recipes import (
    causal_lm,
    classifier,
    closed_form,
    convex,
    gbdt,
    sequence_classifier,
)
from lethe.recipes.spec import RecipeSpec

GROUP: Final = "lethe.recipes"


class RecipeClash(ValueError):
    """Two recipes have one name: uninstall one of the packages that bring them."""


class UnknownRecipe(ValueError):
    """There is no recipe of this name: take one of the registered names."""


def _known() -> Mapping[str, RecipeSpec[Any]]:
    specs: list[RecipeSpec[Any]] = [
        classifier.SPEC,
        causal_lm.SPEC,
        sequence_classifier.SPEC,
        gbdt.SPEC,
        closed_form.SPEC,
        convex.SPEC,
    ]
    specs += [entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name)]
    known = {spec.name: spec for spec in specs}
    if len(known) != len(specs):
        raise RecipeClash("two recipes are installed under one name")
    return MappingProxyType(known)


RECIPES: Final[Mapping[str, RecipeSpec[Any]]] = _known()


def recipe_spec(recipe: str) -> RecipeSpec[Any]:
    """Return a recipe by its name.

    Raises:
        UnknownRecipe: there is no such recipe.
    """
    if recipe not in RECIPES:
        raise UnknownRecipe(f"there is no such recipe; registered are {', '.join(sorted(RECIPES))}")
    return RECIPES[recipe]


def recipe_digest(recipe: str, params: Mapping[str, object]) -> str:
    """Digest the recipe's name, version and parameters, defaults filled in: SHA-256 in hex.

    Raises:
        UnknownRecipe: there is no such recipe.
        pydantic.ValidationError: the parameters do not fit it.
    """
    spec = recipe_spec(recipe)
    filled = spec.params.model_validate(params).model_dump(mode="json")
    return hashlib.sha256(rfc8785.dumps([spec.name, spec.version, filled])).hexdigest()


def offered(recipe: str, params: Mapping[str, object]) -> frozenset[Need]:
    """Return what methods may ask of a model of this recipe.

    Raises:
        UnknownRecipe: there is no such recipe.
        pydantic.ValidationError: the parameters do not fit it.
    """
    spec = recipe_spec(recipe)
    return spec.offers(spec.params.model_validate(params))
