"""The records of an evaluation, as every attack is given them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel

from workers.evidence.battery import Attacked
from workers.evidence.membership import Attack, Scored
from workers.unlearn.task import Examples, Task, take

Row = Mapping[str, object]
Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

_CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Part:
    """Some records: as rows, as the task's examples, and whose they are, as opaque numbers."""

    # A record may name a person, so that neither form shows in a log or an error.
    rows: Sequence[Row] = field(repr=False)
    examples: Examples = field(repr=False)
    subjects: Indices

    def at(self, places: Indices) -> "Part":
        """Return the records at some places."""
        rows = [self.rows[i] for i in places]
        chosen = torch.from_numpy(np.asarray(places, dtype=np.int64))
        return Part(rows, take(self.examples, chosen, _CPU), self.subjects[places])

    def bringing(self, column: str) -> "Part":
        """Return the records that have a text in a column."""
        said = [row.get(column) for row in self.rows]
        places = [i for i, one in enumerate(said) if isinstance(one, str) and one.strip()]
        return self.at(np.array(places, dtype=np.int64))

    def few(self, most: int, seed: int) -> "Part":
        """Return the records of as many whole data subjects as fit, at least one, drawn at random.

        Data subjects are numbered by their identifiers, so that the first would be the oldest
        customers, and who is forgotten would be compared with those.
        """
        _, index, records = np.unique(self.subjects, return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(records.size)
        fits = max(1, int(np.searchsorted(records[order].cumsum(), most, side="right")))
        return self.at(np.flatnonzero(np.isin(index, order[:fits])))


@dataclass(frozen=True)
class Parts:
    """The records of an evaluation; nobody is in two of them."""

    forget: Part
    retain: Part
    holdout: Part

    @property
    def sides(self) -> tuple[Part, Part]:
        """What an attack tells apart."""
        return self.forget, self.holdout

    def scored(self, kind: Attack, ours: Scores, others: Scores) -> Attacked:
        """Return what an attack gave each record of both sides."""
        return Attacked(
            kind, Scored(ours, self.forget.subjects), Scored(others, self.holdout.subjects)
        )

    @classmethod
    def of(cls, task: Task, records: Mapping[str, tuple[Sequence[Row], Sequence[int]]]) -> "Parts":
        """Encode rows and their data subjects, by the name of the part.

        Raises:
            ValueError: a row does not fit the task.
        """
        return cls(
            **{
                name: Part(rows, task.encode(rows), np.asarray(subjects, dtype=np.int64))
                for name, (rows, subjects) in records.items()
            }
        )


class References(NamedTuple):
    """What models that saw neither side make of the records: (models, records) losses in nats."""

    forget: Scores
    holdout: Scores


def columns_given(task: Task, rows: Sequence[Row]) -> Sequence[Row]:
    """Return the columns of rows that the task reads, by what its parameters name.

    A column that no parameter names, such as a customer's number, may tell when a person came.
    """
    params = getattr(task, "params", None)
    if not isinstance(params, BaseModel):
        return rows
    # Pixels are named by a prefix and a number.
    named = set(_strings(params))
    return [
        {
            column: value
            for column, value in row.items()
            if column in named or column.rstrip("0123456789") in named
        }
        for row in rows
    ]


def _strings(value: object) -> Iterator[str]:
    """Yield every text in a tree of parameters, mappings and sequences; not parameters' names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        for _, one in value:
            yield from _strings(one)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _strings(key)
            yield from _strings(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _strings(one)
