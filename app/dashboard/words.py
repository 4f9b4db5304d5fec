"""What methods, checks and states mean, in words for someone who is no engineer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.core.lifecycle import RequestState
from app.verification.rules import Family
from lethe import methods as registry


@dataclass(frozen=True, slots=True)
class CheckWords:
    """A check's title, what its number means, and the family that decides how it is drawn."""

    title: str
    meaning: str
    family: Family


_NEVER_SEEN: Final = "people whose records it was never trained on"

CHECKS: Final[Mapping[str, CheckWords]] = {
    "process": CheckWords(
        "How the model was made",
        "Counts records still in the training manifest, and parts of the model that should be "
        "unchanged and are not. It must be 0.",
        "process",
    ),
    "loss_membership": CheckWords(
        "Can the person be told apart?",
        f"An attacker who sees the model's losses tells the person from {_NEVER_SEEN}. 0.5 is as "
        "good as tossing a coin; far from it, either way, gives the person away.",
        "membership",
    ),
    "tail_test": CheckWords(
        "Does anyone stand out alone?",
        "Looks for a single person who still looks trained on, even where the average does not. "
        "A small p-value means that one does.",
        "tail",
    ),
    "forget_loss": CheckWords(
        "How well are the records known?",
        f"Mean loss on the forgotten records, less that of {_NEVER_SEEN}. Near 0 the model knows "
        "them no better than strangers.",
        "loss",
    ),
    "utility_retain": CheckWords(
        "Is the model as good on what it keeps?",
        "Change of accuracy on records that it may keep, from before to after.",
        "utility",
    ),
    "utility_holdout": CheckWords(
        "Is the model as good on new people?",
        f"Change of accuracy on {_NEVER_SEEN}, from before to after.",
        "utility",
    ),
}

METHODS: Final[Mapping[str, str]] = {
    "sisa": "trains only the shards again that held the records",
    "retrain": "trains the whole model again without the records",
    "impair_repair": "makes the model worse on the records, then trains it on the rest",
    "gradient_ascent": "pushes the present weights away from the records",
    "grad_diff": "pushes the weights away from the records and holds them on the rest",
    "npo": "prefers not to say the records, measured against the version before",
    "simnpo": "prefers not to say the records, without a reference",
    "scrub": "disobeys the version before on the records, obeys it on the rest",
    "ssd": "dampens the weights that matter most to the records",
    "rmu": "scrambles what one layer makes of the records",
    "fine_tune": "trains on with the rest, so that the records fade",
    "erase_records": "writes the file again without the records",
    "destroy": "destroys what is stored of a training that failed",
}

GUARANTEES: Final[Mapping[str, str]] = {
    "exact": "equal to training without the records, by its process",
    "certified": "what is left of the records is bounded, under the method's assumptions",
    "approximate": "rests on measurements only",
}

THREAT_MODELS: Final[Mapping[str, str]] = {
    "T0": "what is stored",
    "T1": "the model's scores",
    "T2": "prompts to the model",
    "T3": "the model's weights",
    "T4": "the model before and after",
}

WHAT_NEXT: Final[Mapping[RequestState, str]] = {
    RequestState.RECEIVED: "The person's records are being looked for.",
    RequestState.AWAITING_IDENTITY: "Confirm who is asking, or refuse the request. The clock runs.",
    RequestState.TRACED: "A plan is being made.",
    RequestState.PLANNED: "The plan is being put before you.",
    RequestState.AWAITING_APPROVAL: "Read the plan, then approve it or refuse the request.",
    RequestState.APPROVED: "The work is about to begin.",
    RequestState.EXECUTING: "The plan is being carried out.",
    RequestState.VERIFYING: "The new versions are being measured.",
    RequestState.PROMOTING: "New versions go into service; what they replace is destroyed.",
    RequestState.PAUSED: "The request is paused until you let it go on. The clock runs.",
    RequestState.FAILED: "Something went wrong and waits for a person. The clock runs.",
    RequestState.COMPLETED: "Everything was erased, or is promised with a date.",
    RequestState.PARTIALLY_COMPLETED: "Closed; something could not be reached, and the certificate "
    "says what.",
    RequestState.REJECTED: "The request was refused.",
    RequestState.CANCELLED: "The request was called off.",
}
ACCEPTANCE_NEEDED: Final = (
    "A measurement could not decide, and no stronger method is in time. Read the evidence; you may "
    "accept it with a reason and a dated promise to retrain exactly."
)


def method_words(name: str) -> str:
    """Return what a method does; one that has no words here is told as its registry tells it."""
    known = registry.METHODS.get(name)
    if name in METHODS or known is None:
        return METHODS.get(name, "")
    return known.summary[:1].lower() + known.summary[1:].removesuffix(".")


def check_words(name: str) -> CheckWords:
    """Return a check's words; one that has none of its own keeps its name."""
    title = name.replace("_", " ").capitalize()
    return CHECKS.get(name, CheckWords(title, "Measured and shown.", "loss"))
