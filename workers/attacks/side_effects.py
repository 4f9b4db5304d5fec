"""Where unlearning may have hurt besides: on records like the forgotten, on a group, on other work.

Lynch et al. 2024 ("Eight Methods to Evaluate Robust Unlearning in LLMs", arXiv 2402.16835), side
effects in similar domains.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from workers.attacks.blind import features_of

Row = Mapping[str, object]
Indices = npt.NDArray[np.int64]

LEAST_OF_GROUP = 20
"""Records that a group needs to be looked at by itself."""
_SIMILAR_SHARE = 0.1


def most_similar(retain: Sequence[Row], forget: Sequence[Row]) -> Indices:
    """Places of the tenth of the retained records that are most like one of the forgotten.

    By the cosine of the features that the blind baseline sees, the largest over the forgotten.

    Raises:
        ValueError: a set is empty.
    """
    if not retain or not forget:
        raise ValueError("likeness needs records on both sides")
    features = features_of([*retain, *forget])
    lengths = np.sqrt(np.asarray(features.multiply(features).sum(axis=1))).ravel()
    scaled = features.multiply(1 / np.maximum(lengths, 1e-12)[:, None]).tocsr()
    likeness = (scaled[: len(retain)] @ scaled[len(retain) :].T).max(axis=1)
    nearest = max(1, round(_SIMILAR_SHARE * len(retain)))
    order = np.argsort(-np.asarray(likeness.todense()).ravel(), kind="stable")
    return np.sort(order[:nearest])


def groups(rows: Sequence[Row], column: str) -> list[Indices]:
    """Places of the records of each group that is large enough, largest group first.

    A row without the column is in no group.
    """
    values = [str(row[column]) if row.get(column) is not None else None for row in rows]
    places: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            places.setdefault(value, []).append(i)
    large = [np.array(one) for one in places.values() if len(one) >= LEAST_OF_GROUP]
    return sorted(large, key=len, reverse=True)
