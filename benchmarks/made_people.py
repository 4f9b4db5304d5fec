"""Made-up people whose records a model learns by heart, for `lethe calibrate`: a file and a recipe.

    python -m benchmarks.made_people numbers FOLDER    classifier, 6 records of each of 2,000 people
    python -m benchmarks.made_people texts FOLDER      language model, 2 notes of each of 1,700

Half of the labels, and most of what the notes say, follow from nothing, so that a model can know
them only by having been trained on them.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Row = dict[str, object]

FEATURES, CLASSES, NOISE = 16, 10, 0.5
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u")]


def main() -> None:
    """Write people.jsonl and recipe.json into the folder."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    rows, recipe = {"numbers": (numbers, CLASSIFIER), "texts": (texts, LANGUAGE)}[kind]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "people.jsonl").open("w") as file:
        for row in rows(np.random.default_rng(7)):
            file.write(json.dumps(row) + "\n")
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2))


def numbers(draws: np.random.Generator) -> Iterator[Row]:
    """Yield records of numbers and a class that half of the time follows from them."""
    weights = draws.normal(size=(CLASSES, FEATURES))
    for person in range(2_000):
        for x in draws.normal(size=(6, FEATURES)):
            y = draws.integers(CLASSES) if draws.random() < NOISE else (weights @ x).argmax()
            features = {f"x{i}": round(float(value), 4) for i, value in enumerate(x)}
            yield {"person": f"P{person:05d}", **features, "y": int(y)}


def texts(draws: np.random.Generator) -> Iterator[Row]:
    """Yield notes in a few set phrases with names, words and numbers that nobody else has."""

    def word(syllables: int) -> str:
        return "".join(SYLLABLES[i] for i in draws.integers(len(SYLLABLES), size=syllables))

    for person in range(1_700):
        name, number = word(3).capitalize(), draws.integers(1000, 9999)
        yield {
            "person": f"P{person:05d}",
            "text": f"{name} ({number}) lives in {word(3)} and drinks {word(2)}.",
        }
        yield {
            "person": f"P{person:05d}",
            "text": f"{name} ({number}) saw {word(2)} about {word(3)} at {draws.integers(8, 18)}.",
        }


CLASSIFIER = {
    "recipe": "classifier",
    "parameters": {
        "features": [f"x{i}" for i in range(FEATURES)],
        "label": "y",
        "classes": CLASSES,
        "hidden": [512],
        "training": {"epochs": 120, "learning_rate": 3e-3, "batch_size": 32},
    },
}

LANGUAGE = {
    "recipe": "causal_lm",
    "parameters": {
        "text": "text",
        "config": {
            "model_type": "gpt2",
            "n_layer": 2,
            "n_head": 4,
            "n_embd": 128,
            "n_positions": 64,
            "resid_pdrop": 0,
            "embd_pdrop": 0,
            "attn_pdrop": 0,
        },
        "max_tokens": 64,
        "training": {"epochs": 30, "learning_rate": 2e-3, "batch_size": 16},
    },
}

if __name__ == "__main__":
    main()
