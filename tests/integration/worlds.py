"""Small made-up worlds for integration tests: people and their rows."""

import random
from typing import Any

Row = dict[str, Any]

CLASSIFIER: dict[str, Any] = {
    "features": ["x0", "x1", "x2"],
    "label": "y",
    "classes": 2,
    "network": "mlp",
    "hidden": [8],
    "training": {"epochs": 3, "batch_size": 4},
}
LANGUAGE: dict[str, Any] = {
    "text": "text",
    "config": {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64},
    "max_tokens": 48,
    "training": {"epochs": 30, "batch_size": 8, "learning_rate": 3e-3},
}


def points(people: int, each: int = 3, seed: int = 0) -> list[Row]:
    """Rows with three numbers and a label; row i of person p is theirs alone."""
    source = random.Random(seed)
    rows = []
    for person in range(people):
        for _ in range(each):
            x = [round(source.gauss(0, 1), 6) for _ in range(3)]
            rows.append(
                {
                    "person": f"C{person:03d}",
                    "email": f"person{person}@example.org",
                    **{f"x{place}": value for place, value in enumerate(x)},
                    "y": int(sum(x) > 0),
                }
            )
    return rows


def notes(people: int, each: int = 2, seed: int = 1) -> list[Row]:
    """Rows with a short text that is unlike everyone else's."""
    source = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        {
            "person": f"C{person:03d}",
            "email": f"person{person}@example.org",
            "text": "note " + "".join(source.choice(letters) for _ in range(24)),
        }
        for person in range(people)
        for _ in range(each)
    ]
