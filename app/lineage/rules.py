"""What a trace found, as values; `app.lineage.repository` asks the database for them."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """Records of the person in one dataset version: how many, of how many."""

    artifact_id: int
    dataset_version_id: int
    name: str
    version: str
    records: int


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A shard of a model version that was trained on the person's records.

    `first_slice` is the earliest slice with one of them: training must go back to before it.
    """

    shard: int
    first_slice: int
    slices: tuple[int, ...]
    records: int


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model version that was trained on the person's records, and where in it."""

    artifact_id: int
    model_version_id: UUID
    name: str
    version: int
    shards: tuple[FoundShard, ...]

    @property
    def records(self) -> int:
        """How many of the person's records it was trained on."""
        return sum(one.records for one in self.shards)


@dataclass(frozen=True, slots=True)
class FoundDerived:
    """An artifact that derives from one of those above."""

    artifact_id: int
    kind: str
    name: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that the person reached; `unknown` is what nobody can say it of."""

    datasets: tuple[FoundRecords, ...]
    models: tuple[FoundModel, ...]
    derived: tuple[FoundDerived, ...]
    unknown: tuple[FoundDerived, ...]

    @property
    def empty(self) -> bool:
        """Whether the person is in no dataset, no model and nothing derived."""
        return not (self.datasets or self.models or self.derived)
