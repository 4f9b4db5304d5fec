"""What the service says of methods and recipes is what planner and workers go by."""

from app.core.security import Role
from lethe.methods import METHODS
from lethe.recipes import RECIPES
from tests.integration.town import Town


def test_methods_are_listed_with_all_that_is_known_of_them(town: Town) -> None:
    listed = town.ok(Role.DPO, "GET", "/v1/methods")
    assert [one["name"] for one in listed] == list(METHODS)
    for one in listed:
        spec = METHODS[one["name"]]
        assert one["guarantee"] == spec.guarantee
        assert one["by_default"] == spec.by_default
        assert set(one["requires"]) == spec.requires
        assert all(one[told] == getattr(spec, told) for told in ("summary", "cost", "refused"))
    npo = next(one for one in listed if one["name"] == "npo")
    assert npo["parameters"]["properties"]["beta"]["default"] == 0.1
    assert npo["parameters"]["properties"]["beta"]["exclusiveMinimum"] == 0


def test_recipes_are_listed_with_their_parameters(town: Town) -> None:
    listed = town.ok(Role.AUDITOR, "GET", "/v1/recipes")
    assert [one["name"] for one in listed] == list(RECIPES)
    classifier = next(one for one in listed if one["name"] == "classifier")
    assert {"label", "classes"} <= set(classifier["parameters"]["required"])
