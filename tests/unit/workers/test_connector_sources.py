import csv
import datetime as dt
import errno
import gzip
import hashlib
import io
import json
import os
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from workers.connectors import (
    ColumnMissing,
    RowUnreadable,
    SourceMissing,
    SourceUnreadable,
    UnknownFormat,
    open_source,
)
from workers.connectors.formats import FORMATS
from workers.connectors.records import record_digest

CANARY = "canary@example.org"
ROWS = [{"id": f"c-{n}", "note": f'a "quoted", note\nof {n} ü', "n": n} for n in range(25)]
TEXT_ROWS = [{**row, "n": str(row["n"])} for row in ROWS]

Rows = Sequence[dict[str, object]]


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=4)


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def zipped(write: Callable[[Path, Rows], None]) -> Callable[[Path, Rows], None]:
    def write_zipped(path: Path, rows: Rows) -> None:
        write(path, rows)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return write_zipped


WRITERS = {
    "parquet": write_parquet,
    "csv": write_csv,
    "jsonl": write_jsonl,
    "csv.gz": zipped(write_csv),
    "jsonl.gz": zipped(write_jsonl),
}


@pytest.fixture(params=sorted(WRITERS))
def suffix(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def memory() -> Iterator[str]:
    root = f"/{uuid.uuid4().hex}"
    yield root
    fs = fsspec.filesystem("memory")
    if fs.exists(root):
        fs.rm(root, recursive=True)


def all_rows(uri: Path | str, file_format: str | None = None, size: int = 10_000) -> Rows:
    source = open_source(str(uri), file_format)
    return [row for batch in source.batches(size=size) for row in batch.rows]


def expected(suffix: str) -> Rows:
    return TEXT_ROWS if suffix.startswith("csv") else ROWS


def test_every_format_gives_the_rows_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    WRITERS[suffix](path, ROWS)
    source = open_source(str(path), None)
    assert source.columns() == ["id", "note", "n"]
    assert all_rows(path) == expected(suffix)
    explicit = tmp_path / "unnamed"
    path.rename(explicit)
    assert all_rows(explicit, suffix.removesuffix(".gz")) == expected(suffix)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 25, 100])
def test_batches_say_where_they_start(suffix: str, size: int, tmp_path: Path) -> None:
    WRITERS[suffix](tmp_path / f"b.{suffix}", ROWS[10:])
    WRITERS[suffix](tmp_path / f"a.{suffix}", ROWS[:10])
    seen: list[dict[str, object]] = []
    for batch in open_source(str(tmp_path), None).batches(["n", "id"], size):
        assert batch.start == len(seen)
        assert 1 <= len(batch.rows) <= size
        seen.extend(batch.rows)
    assert [list(row.items()) for row in seen] == [
        [("n", row["n"]), ("id", row["id"])] for row in expected(suffix)
    ]


def test_reads_an_object_store_and_globs(memory: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    write_csv(tmp_path / "x", ROWS[:2])
    for name in ("2/part-b.csv", "1/part-a.csv", "1/other.csv", "_SUCCESS", ".x.csv"):
        fs.pipe_file(f"{memory}/{name}", (tmp_path / "x").read_bytes())
    uri = f"memory:/{memory}"
    assert len(all_rows(f"{uri}/*/part-*.csv")) == 4
    assert len(all_rows(uri, "csv")) == 6
    assert len(all_rows(f"{uri}/1/part-a.csv")) == 2


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    names = ["b/0.csv", "a.csv", "c.csv", "B.csv"]
    for name in names:
        write_csv(tmp_path / name, [{"name": name}])
    assert [row["name"] for row in all_rows(tmp_path)] == ["B.csv", "a.csv", "b/0.csv", "c.csv"]


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbf"a",b\r\n1.0,\r\n\r\n" x","y\r\nz"\r\n007,NA')
    assert all_rows(path) == [
        {"a": "1.0", "b": ""},
        {"a": " x", "b": "y\r\nz"},
        {"a": "007", "b": "NA"},
    ]


def test_a_long_csv_cell_is_read(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"text": "x" * 200_000}])
    assert all_rows(tmp_path / "x.csv") == [{"text": "x" * 200_000}]


@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), max_size=5))
def test_csv_equals_the_writer_of_the_standard_library(cells: list[tuple[str, str]]) -> None:
    # Lone surrogates are no text; a lone carriage return or zero byte is not quoted by the writer.
    rows: Rows = [{"a": a, "b": b} for a, b in cells if (a + b).isprintable()]
    name = f"/{uuid.uuid4().hex}/x.csv"
    fs = fsspec.filesystem("memory")
    with fs.open(name, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    assert all_rows(f"memory:/{name}") == rows
    fs.rm(name)


def test_parquet_cells_are_python_values(tmp_path: Path) -> None:
    berlin = pa.timestamp("ms", "Europe/Berlin")
    moment = dt.datetime(2026, 11, 20, 10, tzinfo=dt.UTC)
    nanoseconds = pa.array([1_500, None], pa.timestamp("ns"))
    table = pa.table(
        {
            "when": pa.array([moment, None], berlin),
            "fine": nanoseconds,
            "clock": nanoseconds.cast(pa.time64("ns")),
            "span": pa.array([1_500, None], pa.duration("ns")),
            "money": pa.array([Decimal("1.10"), None], pa.decimal128(38, 2)),
            "raw": pa.array([b"\xff", None]),
            "tags": pa.array([["x", None], []], pa.list_(pa.string())),
            "nested": pa.array([{"k": 1}, None]),
            "category": pa.array(["u", "v"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    first, second = all_rows(tmp_path / "x.parquet")
    assert first == {
        "when": moment,
        "fine": dt.datetime(1970, 1, 1, 0, 0, 0, 1),  # noqa: DTZ001
        "clock": dt.time(0, 0, 0, 1),
        "span": dt.timedelta(microseconds=1),
        "money": Decimal("1.10"),
        "raw": b"\xff",
        "tags": ["x", None],
        "nested": {"k": 1},
        "category": "u",
    }
    assert len({record_digest(b"k", row) for row in (first, second)}) == 2


def test_one_logical_row_has_one_digest_in_parquet_and_json_lines(tmp_path: Path) -> None:
    rows: Rows = [{"id": "c-1", "n": 1, "x": 0.1, "tags": ["ü"], "gone": None}, {"id": "c-2"}]
    schema = pa.schema(
        [("gone", pa.string()), ("x", pa.float64()), ("n", pa.int64()), ("id", pa.string())]
    ).append(pa.field("tags", pa.list_(pa.string())))
    pq.write_table(pa.Table.from_pylist(list(rows), schema), tmp_path / "x.parquet")
    write_jsonl(tmp_path / "x.jsonl", rows)
    digests = [
        [record_digest(b"k", row) for row in all_rows(tmp_path / name)]
        for name in ("x.parquet", "x.jsonl", "x.jsonl")
    ]
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_column_that_some_files_lack_is_null_there(suffix: str, tmp_path: Path) -> None:
    WRITERS[suffix](tmp_path / f"1.{suffix}", [{"id": "a"}])
    WRITERS[suffix](tmp_path / f"2.{suffix}", [{"id": "b", "later": "x"}])
    source = open_source(str(tmp_path), None)
    assert source.columns() == ["id", "later"]
    rows = [row for batch in source.batches(["later"]) for row in batch.rows]
    assert rows == [{"later": None}, {"later": "x"}]
    with pytest.raises(ColumnMissing, match="'Later'") as caught:
        list(source.batches(["id", "Later"]))
    assert caught.value.next_step


def test_json_lines_columns_are_looked_for_only_until_found(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "note": "x"}\n not json\n')
    batches = open_source(str(path), None).batches(["note"], size=1)
    assert [next(batches).rows, next(batches).rows] == [[{"note": None}], [{"note": "x"}]]
    with pytest.raises(RowUnreadable):
        next(batches)


def test_an_emptied_source_has_no_rows_and_misses_no_column(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b" \n\n")
    (tmp_path / "x.csv").write_bytes(b"id,note")
    schema = pa.schema([("id", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.csv", "x.parquet"):
        assert list(open_source(str(tmp_path / name), None).batches(["id"])) == []


def test_rows_without_columns_are_still_counted(tmp_path: Path) -> None:
    WRITERS["parquet"](tmp_path / "x.parquet", ROWS)
    batches = open_source(str(tmp_path / "x.parquet"), None).batches([])
    assert sum(len(batch.rows) for batch in batches) == len(ROWS)


def test_a_source_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"id": n} for n in range(50_000)])
    batches = open_source(str(path), None).batches(size=10)
    assert next(batches).rows[0] == {"id": 0}
    with path.open("ab") as file:
        file.write(b'{"id": "added while reading"}\n')
    *_, last = batches
    assert last.rows[-1] == {"id": "added while reading"}


def test_the_digest_of_a_file_is_that_of_its_bytes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    WRITERS[suffix](path, ROWS)
    assert open_source(str(path), None).digest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digest_of_a_folder_knows_names_and_bytes(tmp_path: Path) -> None:
    write_csv(tmp_path / "b.csv", ROWS)
    write_csv(tmp_path / "a.csv", ROWS[:1])
    (tmp_path / "_SUCCESS").touch()
    listed = [
        [name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()]
        for name in ("a.csv", "b.csv")
    ]
    before = open_source(str(tmp_path), None).digest()
    assert before == hashlib.sha256(rfc8785.dumps(listed)).hexdigest()
    assert open_source(f"{tmp_path}/*.csv", None).digest() == before
    (tmp_path / "a.csv").rename(tmp_path / "c.csv")
    assert open_source(str(tmp_path), None).digest() != before


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.txt", ROWS)
    write_csv(tmp_path / "x.csv", ROWS)
    write_jsonl(tmp_path / "x.jsonl", ROWS)
    for uri, name in ((tmp_path / "x.txt", None), (tmp_path, None), (tmp_path / "x.csv", "xml")):
        with pytest.raises(UnknownFormat) as caught:
            open_source(str(uri), name)
        assert caught.value.next_step


def test_a_uri_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "_SUCCESS").touch()
    for uri in (f"{tmp_path}/none", f"{tmp_path}/empty", f"{tmp_path}/*.csv", "nothing://x/y"):
        with pytest.raises(SourceMissing) as caught:
            open_source(uri, "csv")
        assert caught.value.next_step
        assert uri not in str(caught.value)


def corrupt_page(path: Path) -> None:
    table = pa.table({"id": [CANARY] * 1000, "n": list(range(1000))})
    pq.write_table(table, path, compression="snappy", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[30:120] = b"\xff" * 90
    path.write_bytes(bytes(data))


DAMAGED: dict[str, bytes] = {
    "1.csv": f"id,n\na,1\n{CANARY},1,2\n".encode(),
    "2.csv": f"id,n\na,1\n{CANARY}\n".encode(),
    "3.csv": f'id,n\na,1\n"{CANARY},2\n'.encode(),
    "4.csv": f'id,n\na,1\n"{CANARY}"x,2\n'.encode(),
    "5.csv": b"id,n\na,1\n" + CANARY.encode() + b"\xff,2\n",
    "1.jsonl": f'{{"id": "a"}}\n\n{{"id": "{CANARY}"\n'.encode(),
    "2.jsonl": f'{{"id": "a"}}\n["{CANARY}"]\n'.encode(),
    "3.jsonl": b'{"id": "a"}\n{"id": "' + CANARY.encode() + b'\xff"}\n',
    "4.jsonl": b'{"id": "a"}\n{"' + CANARY.encode() + b'": ' + b"9" * 5000 + b"}\n",
    "5.jsonl": b'{"id": "a"}\n{"' + CANARY.encode() + b'": ' + b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_a_damaged_row_is_named_and_never_shown(name: str, tmp_path: Path) -> None:
    good = {"csv": b"id,n\nfirst,0\n", "jsonl": b'{"id": "first"}\n'}[name.partition(".")[2]]
    (tmp_path / f"0.{name}").write_bytes(good)
    (tmp_path / f"1.{name}").write_bytes(DAMAGED[name])
    batches = open_source(str(tmp_path), None).batches(size=1)
    assert [next(batches).start, next(batches).start] == [0, 1]
    with pytest.raises(RowUnreadable, match=r"^Row 2 ") as caught:
        next(batches)
    assert caught.value.row == 2
    assert_shows_nothing(caught.value)


def assert_shows_nothing(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert "canary" not in shown
    assert error.__cause__ is None


def test_a_value_outside_pythons_range_is_named(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "t": pa.array([0, 10**14], pa.timestamp("s"))})
    pq.write_table(table, tmp_path / "x.parquet")
    for size in (1, 2):
        with pytest.raises(RowUnreadable) as caught:
            all_rows(tmp_path / "x.parquet", size=size)
        assert (caught.value.row, caught.value.column) == (1, "t")
    assert list(open_source(str(tmp_path / "x.parquet"), None).batches(["id"]))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", b""),
        ("x.csv", b"\n"),
        ("x.csv", f'"{CANARY}'.encode()),
        ("x.csv", b"id,id\na,b\n"),
        ("x.parquet", CANARY.encode()),
        ("x.csv.gz", gzip.compress(b"id\n" + os.urandom(4000).hex().encode())[:900]),
        ("x.jsonl.gz", b"\x1f\x8b" + CANARY.encode()),
    ],
)
def test_a_damaged_file_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceUnreadable, match="File 0 ") as caught:
        all_rows(tmp_path / name)
    assert_shows_nothing(caught.value)


def test_a_damaged_parquet_page_is_refused(tmp_path: Path) -> None:
    corrupt_page(tmp_path / "x.parquet")
    with pytest.raises(SourceUnreadable, match="page") as caught:
        all_rows(tmp_path / "x.parquet")
    assert_shows_nothing(caught.value)


class FailingStorage(io.BytesIO):
    """A stream whose storage fails."""

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, "the network is gone")


def test_a_failing_storage_is_not_called_a_damaged_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", ROWS)
    stream = FailingStorage((tmp_path / "x.parquet").read_bytes())
    with pytest.raises(OSError, match="network is gone"):
        FORMATS["parquet"].count(stream, start=0)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["id", "id"]), tmp_path / "x.parquet")
    with pytest.raises(SourceUnreadable, match="same name"):
        all_rows(tmp_path / "x.parquet")


def test_real_files_are_read_whole() -> None:
    root = Path(__file__).parents[3]
    folder = Path(os.environ.get("LETHE_TEST_DATA", root / "../shared/data"))
    if not (folder / "adult.csv").exists() or not (folder / "tofu.jsonl").exists():
        pytest.skip("no adult.csv and tofu.jsonl in LETHE_TEST_DATA")
    adult = all_rows(folder / "adult.csv", size=1000)
    with (folder / "adult.csv").open(encoding="utf-8", newline="") as file:
        assert adult == list(csv.DictReader(file))
    tofu = all_rows(folder / "tofu.jsonl")
    lines = (folder / "tofu.jsonl").read_text(encoding="utf-8").splitlines()
    assert tofu == [json.loads(line) for line in lines]
    assert "perturbed_answer" in open_source(str(folder / "tofu.jsonl"), None).columns()
