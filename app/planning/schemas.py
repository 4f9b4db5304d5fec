"""The plan as the API shows it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field


class CandidateOut(BaseModel):
    """A method that was considered: why it was chosen, or the one reason against it."""

    method: str
    guarantee: str
    chosen: bool
    predicted_seconds: float | None
    flops: float | None = Field(default=None, description="Of the method, without the checks")
    bytes: float | None = Field(
        default=None, description="Memory of weights, gradients and optimiser, without activations"
    )
    starts_at: datetime | None
    finishes_at: datetime | None
    reason: str
    shards: list[int]


class PlannedActionOut(BaseModel):
    """What one request means for one artifact, and why so."""

    id: UUID
    artifact: str
    kind: str
    state: str
    method: str
    guarantee: str
    reason: str
    found: dict[str, Any]
    commitment_due_at: datetime | None
    candidates: list[CandidateOut]
    tried: list[dict[str, Any]]


class PlanOut(BaseModel):
    """One action per artifact that the person reached."""

    request: UUID
    due_at: datetime
    actions: list[PlannedActionOut]
    unknown_lineage: list[str]
