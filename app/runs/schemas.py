"""Bodies of the runs' calls."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Name = str


class InputRef(BaseModel):
    """A dataset version by name."""

    model_config = ConfigDict(extra="forbid")
    dataset: str = Field(max_length=100)
    version: str = Field(max_length=100)


class TrainIn(BaseModel):
    """Which dataset versions to train the next model version on, and in how many parts."""

    model_config = ConfigDict(extra="forbid")
    inputs: list[InputRef] = Field(min_length=1, max_length=100)
    shards: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Sets the model's shards before its first version; none: as they are",
    )
    slices: int | None = Field(default=None, ge=1, le=64, description="As `shards`")


class StepOut(BaseModel):
    """One piece of a run."""

    id: UUID
    kind: str
    target: str
    stage: int
    state: str
    progress: float
    attempts: int
    epoch: int
    failure: dict[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None


class RunOut(BaseModel):
    """A run: what it does to what, where it stands, and its verdict."""

    id: UUID
    kind: str
    state: str
    method: str | None
    guarantee: str | None
    model: str | None
    base_version: int | None
    new_version: int | None
    starts_at: datetime | None = Field(
        description="When a queued run may start; others may join until then"
    )
    predicted_seconds: float | None
    actual_seconds: float | None = Field(description="From its start to its end, checks and all")
    verdict: dict[str, Any] | None
    accepted: dict[str, Any] | None
    failure: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    steps: list[StepOut]


class RunsOut(BaseModel):
    """A page of runs."""

    items: list[RunOut]
    next_cursor: UUID | None


class EvidenceOut(BaseModel):
    """A run's measured checks, each with its interval, and the verdict."""

    run: UUID
    verdict: dict[str, Any] | None
    checks: list[dict[str, Any]]
