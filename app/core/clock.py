"""The one place that reads the wall clock; everything else takes `now` as an argument."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError

_WRITTEN_OUT: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]")


def _written_out(value: object) -> object:
    # A number may be seconds, milliseconds or a year; one that is guessed moves a deadline.
    if isinstance(value, datetime) or (isinstance(value, str) and _WRITTEN_OUT.match(value)):
        return value
    raise PydanticCustomError("not_an_rfc_3339_moment", "Write it as 2026-07-01T12:00:00Z")


Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC)),
    BeforeValidator(_written_out),
]
"""A moment that a caller writes out (RFC 3339): far enough from both ends that no time zone, no
calendar month and no column of Postgres leaves what a datetime can hold."""


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
