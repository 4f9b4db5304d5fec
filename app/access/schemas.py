"""Bodies of the API key calls."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from app.core.plain_text import Label
from app.core.security import Role


class ApiKeyIn(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")
    name: Label
    role: Role


class ApiKeyOut(BaseModel):
    """A key, without its secret."""

    model_config = ConfigDict(from_attributes=True)
    id: UUID
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None


class NewApiKeyOut(BaseModel):
    """A fresh key; the token is shown this once."""

    id: UUID
    name: str
    role: Role
    token: str
