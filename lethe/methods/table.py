"""The table of methods in the README, written from what is registered."""

from collections.abc import Iterable, Mapping
from typing import Final

from lethe.methods.spec import ByDefault, MethodSpec

BEGIN: Final = "<!-- methods: written by `make table` -->"
END: Final = "<!-- /methods -->"
HEAD: Final = (
    "| method | guarantee | needs | cost | not used when |",
    "|---|---|---|---|---|",
)


class MarkersMissing(ValueError):
    """The text has no place for the table: put the two markers around it, each on a line."""


def table(methods: Iterable[MethodSpec]) -> str:
    """Return the methods as a Markdown table, in the order given."""
    return "\n".join([*HEAD, *(_row(spec) for spec in methods)])


def with_table(text: str, methods: Mapping[str, MethodSpec]) -> str:
    """Return a text with the table of `methods` between its two markers.

    Raises:
        MarkersMissing: the markers are not there, each once and in order.
    """
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise MarkersMissing("the text has no markers for the table of methods")
    return f"{before}{BEGIN}\n\n{table(methods.values())}\n\n{END}{after}"


_USED: dict[ByDefault, str] = {
    "always": "",
    "text": "; by default for language models",
    "other": "; by default for other models",
    "named": ", where a policy names it",
}


def _row(spec: MethodSpec) -> str:
    guarantee = f"{spec.guarantee}{_USED[spec.by_default]}"
    cells = (
        f"`{spec.name}`<br>{spec.summary}",
        guarantee,
        ", ".join(sorted(spec.requires)),
        spec.cost,
        spec.refused,
    )
    # A bar within a cell would end it.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
