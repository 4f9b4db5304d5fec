"""What a cell of a row may hold. Errors name the column, never the value."""

import math
from collections.abc import Mapping

Row = Mapping[str, object]


def number(row: Row, column: str) -> float:
    """The finite number in a column.

    Raises:
        ValueError: there is none.
    """
    return as_number(row.get(column), column)


def as_number(value: object, column: str) -> float:
    """A value of a column as a finite number.

    Raises:
        ValueError: it is none.
    """
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        # `from None`: the error of float() holds the value.
        raise ValueError(
            f"column {column!r} must hold a finite number in every record; fill or drop what is "
            "missing before the dataset version is registered"
        ) from None
    return found


def text(row: Row, column: str) -> str:
    """The text in a column.

    Raises:
        ValueError: there is none.
    """
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"column {column!r} must hold a text in every record")
    return value


def label(row: Row, column: str, classes: int) -> int:
    """The class in a column.

    Raises:
        ValueError: it holds no whole number from 0 to classes - 1.
    """
    found = number(row, column)
    if not found.is_integer() or not 0 <= found < classes:
        raise ValueError(f"column {column!r} must hold a class from 0 to {classes - 1}")
    return int(found)
