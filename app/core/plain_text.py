"""Texts that a person gives and others read later: never blank, and nothing in them that hides.

A reason of spaces is no reason, and a control or bidi character makes a name or a number look like
another one on a terminal or a page.
"""

from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from app.core.identifiers import holds_invisible

# Persian and Hindi are written with joiners, and a reason may have several lines.
_IN_PROSE: Final = "\n\r\t\u200c\u200d"


def _without_invisible(allowed: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if holds_invisible(text, allowed):
            raise PydanticCustomError("invisible_characters", "Remove control and bidi characters")
        return text

    return check


Label = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100),
    AfterValidator(_without_invisible("")),
]
"""One line by which something is called: who holds an API key, the portal's own number."""

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=2000),
    AfterValidator(_without_invisible(_IN_PROSE)),
]
"""Why a person decided so."""
