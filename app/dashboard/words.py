"""What methods, checks and states mean, in words for someone who is no engineer."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from app.core.lifecycle import RequestState
from app.verification.checks import Family
from lethe import methods as registry


@dataclass(frozen=True, slots=True)
class CheckWords:
    """A check's title, what its number means, and the family that decides how it is drawn."""

    title: str
    meaning: str
    family: Family


_NEVER_SEEN: Final = "people whose records it was never trained on"
_COIN: Final = "0.5 is as good as tossing a coin; far from it, either way, gives the person away."


def _attack(title: str, what: str, family: Family = "membership") -> CheckWords:
    return CheckWords(title, f"{what} {_COIN}", family)


CHECKS: Final[Mapping[str, CheckWords]] = {
    "process": CheckWords(
        "How the model was made",
        "Counts records still in the training manifest, and parts of the model that should be "
        "unchanged and are not. It must be 0.",
        "process",
    ),
    "certified_bound": CheckWords(
        "Is the bound kept?",
        "Counts parts of the model whose removals have spent more than the method's budget. It "
        "must be 0.",
        "process",
    ),
    "stored_bytes": CheckWords(
        "Is anything left in files and stores?",
        "Searches files, logs and backups for the records' ids, vectors and texts. It must be 0.",
        "storage",
    ),
    "loss_membership": _attack(
        "Can the person be told apart?",
        f"An attacker who sees the model's losses tells the person from {_NEVER_SEEN}.",
    ),
    "zlib": _attack(
        "Told apart, for how rich a text is",
        "The model's loss on a text is set against how well the text can be compressed.",
    ),
    "min_k": _attack(
        "Told apart by the least likely words",
        "Looks at the words of a text that the model expected least.",
    ),
    "min_k_plus_plus": _attack(
        "Told apart by surprising words",
        "As by the least likely words, each set against what the model found likely there.",
    ),
    "extraction_strength": _attack(
        "How soon does the text run on by itself?",
        "How short a beginning is enough for the model to give the rest word by word.",
        "extraction",
    ),
    "exact_memorisation": _attack(
        "How many words does it know?",
        "The share of words that the model would have said next by itself.",
        "extraction",
    ),
    "target_rank": _attack(
        "How near are the right words?",
        "How far up the right words are among all that the model would say next.",
        "extraction",
    ),
    "reference_loss": _attack(
        "Told apart, beside other models",
        "The loss is set against that of models that never saw the records.",
    ),
    "rmia": _attack(
        "Told apart, record by record",
        "Each record is set against many others and against models that never saw it (RMIA).",
    ),
    "lira": _attack(
        "Told apart by models with and without",
        "Asks which is likelier: a model that saw the record, or one that did not (LiRA).",
    ),
    "tail_test": CheckWords(
        "Does anyone stand out alone?",
        "Looks for a single person who still looks trained on, even where the average does not. "
        "A small p-value means that one does.",
        "tail",
    ),
    "sparse_test": CheckWords(
        "Do a few stand out together?",
        "Looks for a small share of people who still look trained on, too few to move an average. "
        "A small p-value means that there are some.",
        "sparse",
    ),
    "greedy_extraction": _attack(
        "Does it complete the person's texts?",
        "The model is given the beginning of a text and says the rest as it finds likeliest.",
        "extraction",
    ),
    "sampled_extraction": _attack(
        "Does it complete them in many tries?",
        "The model is given the beginning of a text and says the rest many times, by chance.",
        "extraction",
    ),
    "exposure": _attack(
        "Do planted secrets come out?",
        "How far up a planted secret is among all that could have stood in its place.",
        "extraction",
    ),
    "relearning": _attack(
        "Does it come back with a little training?",
        "The model is trained for a few steps on other records, which brings back what was only "
        "suppressed.",
        "recovery",
    ),
    "quantised_int8": _attack(
        "Does it come back in 8 bits?",
        "The model's numbers are rounded to 8 bits, which undoes small changes.",
        "recovery",
    ),
    "quantised_int4": _attack(
        "Does it come back in 4 bits?",
        "The model's numbers are rounded to 4 bits, which undoes small changes.",
        "recovery",
    ),
    "in_context": _attack(
        "Does it come back when reminded?",
        "The model is given other records of the same person first.",
        "recovery",
    ),
    "jailbreak_prompts": _attack(
        "Do trick prompts bring it back?",
        "The model is told, in several ways, to ignore that it should not know.",
        "recovery",
    ),
    "paraphrased": _attack(
        "Does it know it in other words?",
        "The records are asked for in other words.",
        "recovery",
    ),
    "translated": _attack(
        "Does it know it in other languages?",
        "The records are asked for in other languages.",
        "recovery",
    ),
    "probe": _attack(
        "Is it still inside, though unsaid?",
        "A second, small model reads the inner state and looks for what training left there.",
        "recovery",
    ),
    "prompted_baseline": CheckWords(
        "How well would mere silence hide it?",
        "The model from before, only told to pretend that it knows nothing: unlearning has to hide "
        "the person better than that. 0.5 is as good as tossing a coin.",
        "comparison",
    ),
    "blind_baseline": CheckWords(
        "Do the two groups differ by themselves?",
        "Tells the person's records from the others without any model. Where that works, an attack "
        "may have seen the difference and no training. 0.5 is as good as tossing a coin.",
        "shift",
    ),
    "index_search": CheckWords(
        "Does a search still find it?",
        "Searches an index at full depth for the records and for what is nearly the same. It must "
        "be 0.",
        "storage",
    ),
    "residual_fraction": CheckWords(
        "How much is left, against training again?",
        "What is left of the difference that the records made, against models trained without "
        "them: 0 is nothing, 1 is all of it.",
        "comparison",
    ),
    "auc_change": CheckWords(
        "How far was the best attack pushed back?",
        "The AUC of the attack that told the most, before and after, on the same people, with the "
        "interval of its change.",
        "comparison",
    ),
    "epsilon_bound": CheckWords(
        "How much does the best attack prove?",
        "What a guarantee of the kind “(ε, 0)” must allow at least, by that attack. 0 proves "
        "nothing, neither a leak nor that there is none.",
        "comparison",
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
    "utility_retain_balanced": CheckWords(
        "Is it as good for every class it keeps?",
        "As on what it keeps, but as a mean over classes, so that a rare one counts as much.",
        "utility",
    ),
    "utility_holdout_balanced": CheckWords(
        "Is it as good for every class of new people?",
        "As on new people, but as a mean over classes, so that a rare one counts as much.",
        "utility",
    ),
    "utility_worst_group": CheckWords(
        "Is it as good for every group?",
        "Change of accuracy for the group of people that lost the most, from before to after.",
        "utility",
    ),
    "utility_downstream": CheckWords(
        "Is it as good at its own task?",
        "Change of accuracy on a test that was given with the model, from before to after.",
        "utility",
    ),
    "calibration": CheckWords(
        "Is it as sure as it may be?",
        f"How far its confidence is from how often it is right, on {_NEVER_SEEN}. 0 is best.",
        "comparison",
    ),
    "utility_similar": CheckWords(
        "Is the model as good on similar records?",
        "Change of accuracy on the records most like the forgotten ones, from before to after.",
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

PROVES_NOTHING: Final = "proves nothing"
"""Of an attack that did not find the records before unlearning either."""


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


def in_words(summary: str, names: Iterable[str]) -> str:
    """Return a verdict's summary with checks called by their titles instead of these names."""
    # A process is spoken of without its check being meant.
    titles = {one.replace("_", " "): check_words(one).title for one in names if one != "process"}
    if not titles:
        return summary
    longest_first = sorted(titles, key=len, reverse=True)
    named = "|".join(re.escape(one).replace(r"\ ", "[ _]") for one in longest_first)
    return re.sub(
        rf"\b(?:{named})\b", lambda found: f"“{titles[found[0].replace('_', ' ')]}”", summary
    )
