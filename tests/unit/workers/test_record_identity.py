import datetime as dt
import hashlib
import hmac
import uuid
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from workers.connectors.records import (
    canonical,
    logical_numbers,
    physical_positions,
    record_digest,
)

plain_cells = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1)
other_cells = (
    st.text(max_size=5)
    | st.floats(allow_nan=False)
    | st.binary(max_size=4)
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False)
)
cells = st.recursive(
    plain_cells | other_cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
rows = st.dictionaries(st.text(max_size=3), cells, max_size=4)


def test_the_digest_is_the_first_half_of_hmac_sha256() -> None:
    row = {"b": 1, "a": "x"}
    expected = hmac.new(b"k" * 32, b'{"a":"x","b":1}', hashlib.sha256).digest()[:16]
    assert record_digest(b"k" * 32, row) == expected
    assert record_digest(b"j" * 32, row) != expected


@given(st.dictionaries(st.text("abcxyz", max_size=4), st.text('az09 \\"/\n\t') | plain_cells))
def test_rows_of_plain_ascii_cells_are_written_as_by_rfc_8785(row: dict[str, object]) -> None:
    without_nulls = {name: cell for name, cell in row.items() if cell is not None}
    assert canonical(row) == rfc8785.dumps(without_nulls)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        (b"\x00\xff", '["bytes","AP8="]'),
        (float("nan"), '["float","nan"]'),
        (float("-inf"), '["float","-inf"]'),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (2**70, "1180591620717411303424"),
        (Decimal("1.10"), '["decimal","1.10"]'),
        (dt.datetime(2026, 11, 20, 11, tzinfo=ZoneInfo("Europe/Berlin")),
         '["instant","2026-11-20T10:00:00+00:00"]'),
        (dt.datetime(2026, 11, 20, 11), '["datetime","2026-11-20T11:00:00"]'),  # noqa: DTZ001
        (dt.date(2026, 11, 20), '["date","2026-11-20"]'),
        (dt.time(1, 2, 3), '["time","01:02:03"]'),
        (dt.timedelta(days=-1, microseconds=1), '["duration",-86399999999]'),
        (uuid.UUID(int=1), '["uuid","00000000-0000-0000-0000-000000000001"]'),
        ([1, None, [b""]], '["list",1,null,["list",["bytes",""]]]'),
        ({"b": 1, "a": [True]}, '["map",["a",["list",true]],["b",1]]'),
        ([("k", 1)], '["list",["list","k",1]]'),
        ("\ud800", '"\\ud800"'),
    ],
)  # fmt: skip
def test_each_type_has_its_own_form(cell: object, written: str) -> None:
    assert canonical({"c": cell}).decode() == f'{{"c":{written}}}'


def test_cells_that_look_alike_stay_apart() -> None:
    alike = [
        1, 1.0, True, "1", Decimal(1), [1], {"list": 1}, ["list", 1], b"1",
        dt.date(2026, 1, 1), "2026-01-01", ["date", "2026-01-01"],
        dt.datetime(2026, 1, 1),  # noqa: DTZ001
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        float("nan"), "nan", ["float", "nan"], [], {}, "", b"", [None],
    ]  # fmt: skip
    assert len({canonical({"c": cell}) for cell in alike}) == len(alike)


def frozen(cell: object) -> object:
    """The obvious equality: values with their types, all the way down, nulls left out on top."""
    if isinstance(cell, dict):
        return ("map", tuple(sorted((key, frozen(value)) for key, value in cell.items())))
    if isinstance(cell, list):
        return ("list", tuple(frozen(value) for value in cell))
    return (type(cell).__name__, str(cell))


@given(rows, rows)
def test_two_rows_are_written_alike_only_if_they_are_equal(
    one: dict[str, object], other: dict[str, object]
) -> None:
    kept = [
        {name: frozen(cell) for name, cell in row.items() if cell is not None}
        for row in (one, other)
    ]
    assert (canonical(one) == canonical(other)) == (kept[0] == kept[1])


@given(rows)
def test_neither_order_nor_absent_columns_matter(row: dict[str, object]) -> None:
    turned = dict(reversed(list(row.items())))
    assert canonical(turned) == canonical(row) == canonical({**row, "absent": None})


def test_an_unknown_type_is_refused_without_the_cell() -> None:
    with pytest.raises(TypeError, match="type complex") as caught:
        record_digest(b"k", {"c": complex(31337)})
    assert "31337" not in str(caught.value)


erasures = st.sets(st.integers(0, 60)).map(sorted)


@given(erasures, st.integers(0, 70), st.integers(0, 30))
def test_logical_numbers_equal_the_obvious_loop(erased: list[int], start: int, count: int) -> None:
    left = [number for number in range(500) if number not in erased]
    assert logical_numbers(start, count, erased) == left[start : start + count]


@given(erasures, st.lists(st.integers(0, 120)))
def test_physical_positions_equal_the_obvious_loop(erased: list[int], asked: list[int]) -> None:
    left = [number for number in range(500) if number not in erased]
    known = [number for number in asked if number not in erased]
    assert physical_positions(known, erased) == [left.index(number) for number in known]
    if erased:
        with pytest.raises(ValueError, match="erased record"):
            physical_positions([*known, erased[-1]], erased)


@given(erasures, st.integers(0, 70), st.integers(0, 30))
def test_numbers_and_positions_are_inverse(erased: list[int], start: int, count: int) -> None:
    numbers = logical_numbers(start, count, erased)
    assert physical_positions(numbers, erased) == list(range(start, start + count))
