"""The baseline that sees no model: are the forgotten told from the holdout by their records alone?

Das et al. 2024 ("Blind Baselines Beat Membership Inference Attacks for Foundation Models", arXiv
2406.16201): where they are, an attack on a model may have learned nothing about the model.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

from workers.evidence.membership import Scored
from workers.evidence.shift import Block, NotApplicable

_HASHED = 2**14
_LARGEST = 1e100
"""Numbers beyond it, whose squares overflow, count as missing."""
_FOLDS = 5
_WORD = re.compile(r"\w+")


class _Side(NamedTuple):
    """Records of one side: which row of features, whose, and the fold of their data subject."""

    at: npt.NDArray[np.int64]
    subjects: npt.NDArray[np.int64]
    folds: npt.NDArray[np.int64]


def blind_blocks(
    forget: Sequence[Mapping[str, object]],
    forget_subjects: npt.ArrayLike,
    holdout: Sequence[Mapping[str, object]],
    holdout_subjects: npt.ArrayLike,
    *,
    seed: int,
) -> list[Block]:
    """Score records by a logistic regression on what stands in them.

    The data subjects of each side are put into five folds at random, fewer where there are fewer.
    Each fold but the first is scored by a classifier fitted to all folds before it, as
    `shift_evidence` needs; of this and of two halves that score each other, this was measured to
    see more. Features are column=value and the words and pairs of words of texts, hashed, and
    standardised numbers.

    Args:
        forget: rows to forget, with the columns that the model is given and no others: a running
            number would tell when a person came.
        forget_subjects: (n,) whose they are, as opaque numbers.
        holdout: rows never seen.
        holdout_subjects: (m,) likewise; nobody is in both sets.
        seed: of the order of data subjects.

    Returns:
        The blocks in order, for `shift_evidence`.

    Raises:
        NotApplicable: a side has one data subject only, so that there is none to learn from.
        ValueError: a set is empty, or lengths differ.
    """
    ours, others = np.asarray(forget_subjects), np.asarray(holdout_subjects)
    if not forget or not holdout or ours.shape != (len(forget),) or others.shape != (len(holdout),):
        raise ValueError("the blind baseline needs rows on both sides, and whose each of them is")
    least = min(np.unique(ours).size, np.unique(others).size)
    if least < 2:
        raise NotApplicable("one data subject leaves nobody that a classifier could learn from")
    folds, draws = min(_FOLDS, least), np.random.default_rng(seed)
    left = _Side(np.arange(len(forget)), ours, _folds(ours, folds, draws))
    right = _Side(len(forget) + np.arange(len(holdout)), others, _folds(others, folds, draws))
    features = features_of([*forget, *holdout])
    return [_scored(features, left, right, fold) for fold in range(1, folds)]


def _folds(
    subjects: npt.NDArray[np.int64], folds: int, draws: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The fold of each record; all records of a data subject are in one."""
    numbers, index = np.unique(subjects, return_inverse=True)
    drawn: npt.NDArray[np.int64] = draws.permutation(np.arange(numbers.size) % folds)[index]
    return drawn


def _scored(features: sparse.csr_matrix, left: _Side, right: _Side, fold: int) -> Block:
    known = [side.at[side.folds < fold] for side in (left, right)]
    classifier = LogisticRegression(
        class_weight="balanced", solver="liblinear", max_iter=1_000, random_state=0
    )
    labels = np.repeat([1, 0], [known[0].size, known[1].size])
    classifier.fit(features[np.concatenate(known)], labels)
    sides = [
        Scored(
            classifier.decision_function(features[side.at[side.folds == fold]]),
            side.subjects[side.folds == fold],
        )
        for side in (left, right)
    ]
    return Block(*sides)


def features_of(rows: Sequence[Mapping[str, object]]) -> sparse.csr_matrix:
    """One row of features for each record, made from all of them without telling the sides."""
    hasher = FeatureHasher(_HASHED, input_type="string")
    words = normalize(hasher.transform(list(_tokens(row)) for row in rows))
    numbers = [dict(_numbers(row)) for row in rows]
    columns = sorted({column for row in numbers for column in row})
    if not columns:
        return words.tocsr()
    values = np.array([[row.get(column, math.nan) for column in columns] for row in numbers])
    # A missing number is the mean one, and column=None tells that it was missing.
    scaled = np.nan_to_num(StandardScaler().fit_transform(values))
    return sparse.hstack([words, scaled], format="csr")


def _tokens(row: Mapping[str, object]) -> Iterator[str]:
    for column, value in row.items():
        if isinstance(value, str):
            words = _WORD.findall(value.lower())
            yield from words
            yield from (f"{one} {next_}" for one, next_ in itertools.pairwise(words))
        # Of numbers, whole ones may be classes.
        if not isinstance(value, float | list | tuple | np.ndarray):
            yield f"{column}={value}"


def _numbers(row: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """The numbers of a row; those of a list have a name each, as pixels need."""
    for column, value in row.items():
        values = value if isinstance(value, list | tuple | np.ndarray) else [value]
        for place, one in enumerate(values):
            plain = one.item() if isinstance(one, np.generic) else one
            if isinstance(plain, int | float) and abs(plain) <= _LARGEST:
                yield f"{column}[{place}]", float(plain)
