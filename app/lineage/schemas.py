"""Bodies of the trace call."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.core.identifiers import IDENTIFIER_TYPE_PATTERN


class TraceIdentifierIn(BaseModel):
    """One identifier of the person."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(pattern=IDENTIFIER_TYPE_PATTERN, examples=["email"])
    value: SecretStr = Field(min_length=1, max_length=256, examples=["ana@example.org"])


class TraceIn(BaseModel):
    """Whom to trace; nothing is stored."""

    model_config = ConfigDict(extra="forbid")
    identifiers: list[TraceIdentifierIn] = Field(min_length=1, max_length=20)


class DatasetFound(BaseModel):
    """Records of the person in one dataset version."""

    dataset: str
    version: str
    records: int


class ShardFound(BaseModel):
    """A shard that was trained on them."""

    shard: int
    first_slice: int
    slices: list[int]
    records: int


class ModelFound(BaseModel):
    """A model version that was trained on them."""

    id: UUID
    model: str
    version: int
    records: int
    shards: list[ShardFound]


class DerivedFound(BaseModel):
    """An artifact made from them, or one whose lineage nobody declared."""

    kind: str
    name: str
    version: str | None


class TraceOut(BaseModel):
    """What an erasure would touch."""

    datasets: list[DatasetFound]
    models: list[ModelFound]
    derived: list[DerivedFound]
    unknown_lineage: list[DerivedFound]
