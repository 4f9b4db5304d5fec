"""Words that only the report of a run needs."""

from collections.abc import Mapping
from typing import Final

VERDICTS: Final[Mapping[str, str]] = {
    "pass by process": "The way in which the model was made shows that the records are no part of "
    "it. It does not rest on measurements, and can be replayed.",
    "pass within a bound": "What the records can have left in the model is bounded, as its method "
    "assumes, and the bound was kept. It is no more than the bound says.",
    "pass by statistics": "Not recovered by these attacks, at this power. It is no proof that "
    "nothing is left: an attack that was not tried, or more people to measure, might find it.",
    "fail": "Something of the records is left, or the model has lost too much. It is not put into "
    "service.",
    "inconclusive": "The evidence is too little to tell. That is no pass: what would settle it is "
    "said below.",
    "not judged": "There is no verdict. Either the run has not been measured yet, or it changes no "
    "model.",
}

ONE_IS_TOO_FEW: Final = (
    " One data subject among {m} never seen stands highest once in {of} times by chance alone, and "
    "no attack on one model can be surer than that; once in {asked} is asked for. Retraining "
    "without the records would settle it."
)

ROLES: Final[Mapping[str, str]] = {
    "rests": "What the verdict rests on",
    "can fail": "Further attacks: each can fail the model, none lets it pass",
    "shown": "Shown; these decide nothing here",
    "measured": "Measured, not judged yet",
}

BY_PROCESS: Final = "Not needed: the verdict rests on how the model was made."

THRESHOLDS: Final[Mapping[str, str]] = {
    "membership": "Distance of an AUC from 0.5 that still counts as none",
    "alpha": "Chance that a model which forgot is failed by the attacks",
    "power": "How surely a leak of one in ten must have been seen for a pass",
    "utility_drop": "Loss of accuracy that is allowed",
}

QUANTITIES: Final[Mapping[str, str]] = {
    "membership": "AUC",
    "extraction": "AUC",
    "recovery": "AUC",
    "shift": "AUC",
    "tail": "stand out",
    "sparse": "",
    "utility": "accuracy",
    "loss": "nats",
    "comparison": "",
    "process": "wrong",
    "storage": "found",
}

# The eight ways of Lynch et al. 2024, "Eight Methods to Evaluate Robust Unlearning in LLMs".
EIGHT_METHODS: Final[Mapping[str, str]] = {
    "translated": "Asking in other languages",
    "jailbreak_prompts": "Jailbreak prompts",
    "in_context": "Relearning in context",
    "relearning": "Relearning by fine-tuning",
    "utility_downstream": "Downstream tasks",
    "probe": "Knowledge that is latent",
    "prompted_baseline": "Comparison with a prompted model",
    "utility_similar": "Side effects on what is similar",
}
