"""A claim on a step, and the arithmetic of leases and retries. Values only."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

FIRST_RETRY_SECONDS = 2.0


LONGEST_RETRY_SECONDS = 300.0


NewStep = tuple[str, str, dict[str, Any]]
"""A step to add: its kind, its target, its parameters."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A step that this worker holds: every write names the epoch."""

    step_id: UUID
    run_id: UUID
    kind: str
    epoch: int
    attempts: int


def lease_until(now: datetime, lease_seconds: float) -> datetime:
    """Return when a lease taken or renewed now ends."""
    return now + timedelta(seconds=lease_seconds)


def retry_at(now: datetime, attempts: int) -> datetime:
    """Return when to try again after `attempts` failures: 2 s, doubling, at most 5 minutes."""
    seconds = min(FIRST_RETRY_SECONDS * 2 ** (attempts - 1), LONGEST_RETRY_SECONDS)
    return now + timedelta(seconds=seconds)


def after_failure(attempts: int, allowed: int, *, permanent: bool) -> Literal["pending", "failed"]:
    """Return what a failed step becomes: tried again, unless that cannot help or was enough."""
    return "failed" if permanent or attempts >= allowed else "pending"
