"""Bodies of the clocks' calls."""

from typing import Any

from pydantic import BaseModel


class SummaryOut(BaseModel):
    """How many requests stand where, and the promises."""

    by_status: dict[str, int]
    by_state: dict[str, int]
    regimes: list[str]
    commitments: list[dict[str, Any]]
