"""Bodies of the erasure request calls."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictBool

from app.core.clock import Moment
from app.core.identifiers import IDENTIFIER_TYPE_PATTERN
from app.core.plain_text import Label, Reason

Ground = Literal[
    "no_longer_necessary",
    "consent_withdrawn",
    "objection",
    "unlawful_processing",
    "legal_obligation",
    "child_consent",
]


class IdentifierIn(BaseModel):
    """One identifier of the person."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(pattern=IDENTIFIER_TYPE_PATTERN, examples=["email"])
    value: SecretStr = Field(min_length=1, max_length=256, examples=["ana@example.org"])


class SubjectIn(BaseModel):
    """The person, by every identifier the portal knows."""

    model_config = ConfigDict(extra="forbid")
    identifiers: list[IdentifierIn] = Field(min_length=1, max_length=20)


class ErasureRequestIn(BaseModel):
    """A person's request to be erased."""

    model_config = ConfigDict(extra="forbid")
    subject: SubjectIn
    regime: str = Field(examples=["gdpr"], max_length=40)
    received_at: Moment | None = Field(
        default=None, description="When the controller received it; the clock starts here"
    )
    reference: Label | None = Field(
        default=None, description="The portal's own number; not an identifier"
    )
    ground: Ground | None = Field(default=None, description="GDPR Art. 17(1)(a)-(f)")
    identity_verified: StrictBool = Field(
        default=False, description="False: waits in `awaiting_identity`, the clock running"
    )


class ReasonIn(BaseModel):
    """Why a person decided so; goes into the log, so it must not name the data subject."""

    model_config = ConfigDict(extra="forbid")
    reason: Reason


class ApproveIn(BaseModel):
    """An approval may carry a remark."""

    model_config = ConfigDict(extra="forbid")
    reason: Reason | None = None


class AcceptIn(ReasonIn):
    """Acceptance of inconclusive verdicts, with the date by which exact retraining is promised."""

    commitment_due_at: Moment


class IdentityIn(BaseModel):
    """The outcome of the identity check."""

    model_config = ConfigDict(extra="forbid")
    verified: StrictBool
    reason: Reason | None = None


class SlaOut(BaseModel):
    """Where the clock stands."""

    status: Literal["on_track", "at_risk", "breached", "met"]
    days_left: int


class ActionOut(BaseModel):
    """What the request means for one artifact."""

    id: UUID
    artifact: str
    kind: str
    method: str
    guarantee: str
    state: str
    reason: str
    run: UUID | None
    found: dict[str, Any]
    commitment_due_at: datetime | None


class ErasureRequestOut(BaseModel):
    """An erasure request without the person."""

    id: UUID
    state: str
    regime: str
    ground: str | None
    reference: str | None
    received_at: datetime
    due_at: datetime
    closed_at: datetime | None
    sla: SlaOut
    failure: dict[str, Any] | None
    linked: list[UUID]
    actions: list[ActionOut]
    links: dict[str, str]


class ErasureRequestsOut(BaseModel):
    """A page of requests."""

    items: list[ErasureRequestOut]
    next_cursor: UUID | None


class TimelineEntry(BaseModel):
    """One event of a request; `index` is its number in the log, none while it waits for one."""

    event: str
    at: datetime
    index: int | None
    facts: dict[str, Any]


class TimelineOut(BaseModel):
    """What happened to a request."""

    items: list[TimelineEntry]
