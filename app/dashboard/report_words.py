"""Words that only the report of a run needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class KindWords:
    """How a kind of run is told.

    `plain` is said where it has no verdict, `nothing` where nothing was tested; `scope` says what
    the tests are silent about, `legend` what n and m are, `made` is the title above digests and
    `counts`, which steps report, `searched` the one where there are checks of them as well. What is
    empty is not said.
    """

    plain: str
    tested: str = ""
    not_tested: str = ""
    nothing: str = ""
    scope: str = ""
    legend: str = ""
    made: str = ""
    searched: str = ""
    counts: tuple[str, ...] = ()


JUDGED: Final = "unlearn"
"""The kind of run that changes a model to forget, and is judged for it."""

KINDS: Final[Mapping[str, KindWords]] = {
    JUDGED: KindWords(
        plain="There is no verdict: the run has not been measured yet.",
        tested="What was tested",
        not_tested="What was not tested, and why",
        nothing="Nothing was measured.",
        scope="Only what is in the table of checks was tested.",
        legend="n: forgotten. m: those they are compared with. AUC 0.5 is as good as tossing a "
        "coin.",
        made="How the model was made",
    ),
    "train": KindWords(
        plain="A training forgets nobody, so there is nothing to judge.",
        tested="What was measured",
        not_tested="What was not measured, and why",
        made="How the model was made",
    ),
    "erase_records": KindWords(
        plain="The file is written again without the records, and the old one is destroyed.",
        tested="What was looked for",
        not_tested="What was not searched, and why",
        nothing="Nothing was searched.",
        scope="Only the files of this dataset version were searched; copies of it elsewhere are "
        "artifacts of their own.",
        legend="n: records looked for. m: files looked into, and their rows once more.",
        made="The file before and after",
        searched="What was searched",
    ),
    "index": KindWords(
        plain="Indexing reads a file once and keeps keyed hashes of who is in which record. It "
        "changes no file and no model, so there is nothing to judge.",
        made="What was read",
        counts=("records", "skipped"),
    ),
    "destroy": KindWords(
        plain="What is stored of a training that failed is destroyed. No model changes, so there "
        "is nothing to judge.",
        made="What was destroyed",
    ),
}
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
    "told": "What was found",
}

BY_PROCESS: Final = "Not needed: the verdict rests on how the model was made."

COUNTED: Final[Mapping[str, str]] = {
    "records": "Records",
    "skipped": "Identifiers that could not be read",
    "files": "Files, and their rows once more",
    "bytes": "Bytes",
    "unreadable": "Could not be read",
    "needles": "Erased records looked for",
    "found_ids": "Found by an id",
    "found_vectors": "Found by a vector",
    "found_texts": "Found by a text",
    "controls": "Kept records looked for, to test the search",
    "controls_found": "Kept records found",
}
"""What is counted, in the order in which it is told; the store keeps none."""

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

POINTS: Final = "percentage points"
COMPARED_IN: Final[Mapping[str, str]] = {"prompted_baseline": "AUC", "calibration": POINTS}
"""In what a check is measured whose family does not say so."""

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
