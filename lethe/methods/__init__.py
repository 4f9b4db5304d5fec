"""Every unlearning method that is known here, by name and in the order of preference."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Final

from lethe.methods import approximate, editing, statistics, training
from lethe.methods.spec import Guarantee, MethodSpec

GROUP: Final = "lethe.methods"
_STRONGEST_FIRST: Final[tuple[Guarantee, ...]] = ("exact", "certified", "approximate")


class MethodClash(ValueError):
    """Two methods have one name: uninstall one of the packages that bring them."""


def _known() -> Mapping[str, MethodSpec]:
    specs = [*statistics.SPECS, *training.SPECS, *approximate.SPECS, *editing.SPECS]
    specs += [entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name)]
    # Stable: among equals the order above.
    specs.sort(
        key=lambda spec: (_STRONGEST_FIRST.index(spec.guarantee), spec.by_default == "named")
    )
    known = {spec.name: spec for spec in specs}
    if len(known) != len(specs):
        raise MethodClash("two unlearning methods are installed under one name")
    return MappingProxyType(known)


METHODS: Final[Mapping[str, MethodSpec]] = _known()
EXACT: Final = frozenset(name for name, spec in METHODS.items() if spec.guarantee == "exact")


def guarantee_of(method: str) -> Guarantee:
    """Return the guarantee of a run's method.

    What is no unlearning method (erasing records from a file, destroying what is stored) does
    exactly what it says.
    """
    return METHODS[method].guarantee if method in METHODS else "exact"
