"""The one place that reads the wall clock; everything else takes `now` as an argument."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, Field

Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC)),
]
"""A moment that a caller names: far enough from both ends that no time zone, no calendar month and
no column of Postgres leaves what a datetime can hold."""


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
