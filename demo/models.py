"""The demo's three models, one for each method that a planner may choose.

Inputs are scaled by public constants: anything fitted to the records would carry each of them into
every shard, and nothing trained on it would be exact any more (DESIGN decision 7).
"""

from dataclasses import dataclass
from datetime import datetime

from demo.data import feature_column
from lethe.client import JsonObject

# Lower and upper end of each measurement: the ranges of its published description (Wolberg, Street
# and Mangasarian 1995, UCI Breast Cancer Wisconsin Diagnostic), rounded outward.
RANGES: dict[str, tuple[float, float]] = {
    "mean radius": (5, 30),
    "mean texture": (5, 40),
    "mean perimeter": (40, 200),
    "mean area": (100, 2600),
    "mean smoothness": (0.05, 0.2),
    "mean compactness": (0, 0.4),
    "mean concavity": (0, 0.5),
    "mean concave points": (0, 0.25),
    "mean symmetry": (0.1, 0.35),
    "mean fractal dimension": (0.04, 0.1),
    "radius error": (0, 3),
    "texture error": (0, 5),
    "perimeter error": (0, 25),
    "area error": (0, 600),
    "smoothness error": (0, 0.04),
    "compactness error": (0, 0.15),
    "concavity error": (0, 0.4),
    "concave points error": (0, 0.06),
    "symmetry error": (0, 0.08),
    "fractal dimension error": (0, 0.03),
    "worst radius": (5, 40),
    "worst texture": (10, 50),
    "worst perimeter": (50, 260),
    "worst area": (100, 4500),
    "worst smoothness": (0.05, 0.25),
    "worst compactness": (0, 1.1),
    "worst concavity": (0, 1.3),
    "worst concave points": (0, 0.3),
    "worst symmetry": (0.1, 0.7),
    "worst fractal dimension": (0.05, 0.25),
}
PIXEL_LEVELS = 16
LONGEST_NOTE = 104
"""Bytes of a note with its start and end marks."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """One model to register, train and deploy.

    Attributes:
        name: The model's name; its deployment is called `<name>-live`.
        dataset: The dataset that it is trained on.
        expected_method: What the planner must choose for it.
        content: What it is, for the reader.
        registration: The body that registers it.
    """

    name: str
    dataset: str
    expected_method: str
    content: str
    registration: JsonObject

    @property
    def deployment(self) -> str:
        """The name of what serves it."""
        return f"{self.name}-live"


def demo_models(exact_not_before: datetime, tag: str = "") -> list[DemoModel]:
    """Return the three models; `tag` ends their names and those of their datasets.

    Exact retraining of the language model is forbidden before `exact_not_before`.
    """
    return [
        _language_model(f"notes-lm{tag}", f"notes{tag}", exact_not_before),
        _sharded_classifier(f"digits-sisa{tag}", f"digits{tag}"),
        _plain_network(f"patients-net{tag}", f"patients{tag}"),
    ]


def _sharded_classifier(name: str, dataset: str) -> DemoModel:
    registration: JsonObject = {
        "name": name,
        "recipe": "classifier",
        "shards": 5,
        "slices": 3,
        "parameters": {
            "image": {"column": "pixels", "height": 8, "width": 8},
            "label": "label",
            "classes": 10,
            "hidden": [64],
            "scale": PIXEL_LEVELS,
            "training": {"epochs": 24, "learning_rate": 3e-3},
        },
    }
    content = "SISA classifier, 5 shards of 3 slices"
    return DemoModel(name, dataset, "sisa", content, registration)


def _plain_network(name: str, dataset: str) -> DemoModel:
    registration: JsonObject = {
        "name": name,
        "recipe": "classifier",
        "parameters": {
            "features": [feature_column(feature) for feature in RANGES],
            "label": "label",
            "classes": 2,
            "hidden": [32],
            "offset": [low for low, _ in RANGES.values()],
            "scale": [high - low for low, high in RANGES.values()],
            "training": {"epochs": 40, "learning_rate": 1e-3},
        },
    }
    return DemoModel(name, dataset, "retrain", "ordinary neural network", registration)


def _language_model(name: str, dataset: str, exact_not_before: datetime) -> DemoModel:
    registration: JsonObject = {
        "name": name,
        "recipe": "causal_lm",
        "parameters": {
            "text": "text",
            "config": {
                "model_type": "gpt2",
                "n_layer": 2,
                "n_head": 4,
                "n_embd": 64,
                "n_positions": LONGEST_NOTE,
                "resid_pdrop": 0,
                "embd_pdrop": 0,
                "attn_pdrop": 0,
            },
            "max_tokens": LONGEST_NOTE,
            "training": {"epochs": 14, "learning_rate": 3e-3},
        },
        "policy": {"exact_not_before": exact_not_before.isoformat(), "retraining_every_days": 7},
    }
    content = "small GPT-2, its retraining frozen this month"
    return DemoModel(name, dataset, "impair_repair", content, registration)
