"""Every recipe through the service: trained in shards and slices, erased from exactly."""

from pathlib import Path

import pytest

from lethe.recipes import RECIPES
from tests.integration.test_sisa_exactness import from_scratch, slices_of
from tests.integration.town import Json, Town
from tests.integration.worlds import CLASSIFIER, LANGUAGE, Row, notes, points

COLUMNS: Json = {"features": ["x0", "x1", "x2"], "label": "y", "classes": 2}
SHORT: Json = LANGUAGE | {"training": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}}
LORA: Json = {"lora": {"r": 2, "target_modules": ["c_attn"]}}
SISA: Json = {"allowed_methods": ["sisa"]}
PEOPLE, SHARDS, SLICES = 16, 2, 3

CASES: list[tuple[str, Json]] = [
    ("classifier", CLASSIFIER),
    ("causal_lm", SHORT),
    ("causal_lm", SHORT | LORA),
    ("sequence_classifier", SHORT | {"label": "y", "classes": 2}),
    ("gbdt", COLUMNS | {"trees_per_slice": 4}),
    ("closed_form", COLUMNS),
    ("convex", COLUMNS | {"l2": 1e-1}),
]


def rows() -> list[Row]:
    """A text and three numbers each; two people share every text."""
    texts = notes(PEOPLE, each=2)
    return [
        number | {"text": texts[place // 2]["text"]}
        for place, number in enumerate(points(PEOPLE, each=2))
    ]


def test_every_recipe_is_run_here() -> None:
    assert {name for name, _ in CASES} == set(RECIPES)


@pytest.mark.parametrize(("recipe", "parameters"), CASES)
def test_a_shard_trained_again_is_the_one_that_never_saw_the_person(
    town: Town, tmp_path: Path, recipe: str, parameters: Json
) -> None:
    everyone = rows()
    town.dataset("d", everyone)
    town.model("m", "d", recipe, parameters, shards=SHARDS, slices=SLICES, policy=SISA)
    somebody = town.trained_on("m", PEOPLE)[0]
    request = town.erase(somebody.customer)
    assert request["state"] == "completed"
    (action,) = (one for one in request["actions"] if one["kind"] == "model_version")
    run = town.run(action["run"])
    assert (run["method"], run["verdict"]["verdict"]) == ("sisa", "pass")

    never = [row for row in everyone if row["person"] != somebody.customer[1]]
    fresh = from_scratch(town, never, tmp_path, somebody.shard)
    served = slices_of(town, "m", 2)
    for one in fresh["slices"]:
        assert served[somebody.shard, one["slice"]].object_digest == one["object_digest"]
