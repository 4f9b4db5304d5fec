"""Is a secret of a record more likely to the model than any other of its shape?

Carlini et al. 2019 ("The Secret Sharer", arXiv 1802.08232), section 4: a canary's exposure is how
far up it stands among random strings in its place. A card number or an address in a record does as
well as one planted on purpose.
"""

import string
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from workers.attacks.prompts import OfText
from workers.evidence.shift import NotApplicable
from workers.evidence.text import exposure
from workers.unlearn.aggregate import Ensemble

Scores = npt.NDArray[np.float64]

REFERENCES = 1_023
"""Random strings beside each secret, so that the first of all has an exposure of ten bits."""

_KINDS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
_ASCII = frozenset("".join(_KINDS))


def exposures(
    model: Ensemble,
    rows: Sequence[Mapping[str, object]],
    column: str,
    *,
    references: int = REFERENCES,
    seed: int,
) -> Scores:
    """Exposure of the secret of each record, in bits: (n,), the higher the better it is known.

    A reference has a random digit for each digit and a random letter for each letter of the
    secret, and the rest of the record around it.

    Args:
        model: of a task on texts.
        rows: (n,) records whose text holds their secret.
        column: where the secret stands by itself.
        references: how many other strings each secret is compared with.
        seed: of these.

    Raises:
        NotApplicable: the task is not on texts.
        ValueError: there is no row, or one has no secret, or its text does not hold it.
    """
    task: object = model.task
    if not isinstance(task, OfText):
        raise NotApplicable("the model itself reads no text that could hold a secret")
    if not rows:
        raise ValueError("there is no record whose secret could be asked for")
    draws = np.random.default_rng(seed)
    return np.array(
        [_exposure(model, row, task.params.text, column, references, draws) for row in rows]
    )


def _exposure(
    model: Ensemble,
    row: Mapping[str, object],
    text: str,
    column: str,
    references: int,
    draws: np.random.Generator,
) -> float:
    secret, whole = row.get(column), str(row[text])
    if not isinstance(secret, str) or not secret or secret not in whole:
        raise ValueError(f"a record's {text} does not hold what its {column} says")
    others = [like(secret, draws) for _ in range(references)]
    texts = [whole.replace(secret, one) for one in (secret, *others)]
    losses = model.losses(model.task.encode([{**row, text: one} for one in texts])).double()
    return float(exposure(losses[:1].numpy(), losses[1:].numpy()).ranked[0])


def like(secret: str, draws: np.random.Generator) -> str:
    """A random string of the same shape: for a letter another of its script and case."""
    return "".join(kind[draws.integers(len(kind))] for kind in map(_alike, secret))


@cache
def _alike(letter: str) -> str:
    """The characters that may stand in place of one; of another script, those near it."""
    if letter in _ASCII:
        return next(kind for kind in _KINDS if letter in kind)
    category, page = unicodedata.category(letter), ord(letter) & ~0x1F
    if category[0] not in "LN":
        return letter
    near = map(chr, range(page, page + 0x20))
    return "".join(one for one in near if unicodedata.category(one) == category)
