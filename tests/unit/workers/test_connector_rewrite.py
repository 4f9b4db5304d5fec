import csv
import gzip
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from workers.connectors import RewriteFailed, RowUnreadable, SourceMissing, open_source
from workers.connectors.rewrite import remove, rewrite_without

LINES = [f'{{"id": "c-{n}",  "text": "ü {n}"}}\r\n'.encode() for n in range(10)]
RECORDS = [f'c-{n},"two\nlines, ""{n}"""\r\n'.encode() for n in range(10)]
HEADER = b"\xef\xbb\xbfid,text\r\n"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"unit": "none"}),
        pa.field("when", pa.timestamp("ns", "UTC")),
        pa.field("nested", pa.struct([("a", pa.list_(pa.int8()))])),
    ],
    metadata={"owner": "clinic"},
)


def some_table(rows: int) -> pa.Table:
    return pa.table(
        {
            "id": [f"c-{n}" for n in range(rows)],
            "when": pa.array([n * 1001 for n in range(rows)], pa.timestamp("ns", "UTC")),
            "nested": [{"a": [n % 100]} for n in range(rows)],
        },
        SCHEMA,
    )


def write_parquet(path: Path, items: str = "element") -> None:
    pq.write_table(
        some_table(10),
        path,
        row_group_size=4,
        compression={"id": "zstd", "when": "none", f"nested.a.list.{items}": "gzip"},
        use_compliant_nested_type=items == "element",
    )


@pytest.fixture
def memory() -> Iterator[str]:
    root = f"/{uuid.uuid4().hex}"
    yield f"memory:/{root}"
    fs = fsspec.filesystem("memory")
    if fs.exists(root):
        fs.rm(root, recursive=True)


@given(removed=st.sets(st.integers(0, 9)), newline=st.booleans(), zipped=st.booleans())
@pytest.mark.parametrize(
    ("kind", "header", "rows"), [("jsonl", b"", LINES), ("csv", HEADER, RECORDS)]
)
def test_text_keeps_every_other_byte(
    kind: str, header: bytes, rows: list[bytes], removed: set[int], newline: bool, zipped: bool
) -> None:
    rows = rows if newline else [*rows[:-1], rows[-1].rstrip()]
    fs = fsspec.filesystem("memory")
    folder = f"/{uuid.uuid4().hex}"
    data = header + b"".join(rows)
    fs.pipe_file(f"{folder}/in", gzip.compress(data) if zipped else data)
    done = rewrite_without(f"memory:/{folder}/in", kind, removed, f"memory:/{folder}/out")
    written = fs.cat_file(f"{folder}/out")
    assert (written[:2] == b"\x1f\x8b") is zipped
    if zipped and removed:
        assert written[3:8] == bytes(5)  # RFC 1952 §2.3: no name, no time
    left = header + b"".join(row for n, row in enumerate(rows) if n not in removed)
    assert (gzip.decompress(written) if zipped else written) == left
    assert (done.rows_before, done.rows_removed) == (10, len(removed))
    assert done.digest == open_source(done.uri, kind).digest()
    fs.rm(folder, recursive=True)


@pytest.mark.parametrize(
    "removed", [[], [0], [9], [4, 5, 6, 7], [3, 4], list(range(10)), [8, 9], [1, 1]]
)
@pytest.mark.parametrize("items", ["element", "item"])
def test_parquet_keeps_rows_schema_groups_and_compression(
    removed: list[int], items: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "in.parquet", items)
    before = pq.ParquetFile(tmp_path / "in.parquet")
    table = before.read()
    target = tmp_path / "out.parquet"
    done = rewrite_without(str(tmp_path / "in.parquet"), None, removed, str(target))
    left = [n for n in range(10) if n not in removed]
    written = pq.ParquetFile(target)
    assert written.read().equals(table.take(pa.array(left, pa.int64())), check_metadata=True)
    assert written.schema.equals(before.schema)
    assert written.schema_arrow.metadata == {b"owner": b"clinic"}
    groups = [len([n for n in left if n // 4 == group]) for group in range(3)]
    assert [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)] == [
        size for size in groups if size
    ]
    if left:
        first = written.metadata.row_group(0)
        kept = [first.column(n).compression for n in range(first.num_columns)]
        assert kept == ["ZSTD", "UNCOMPRESSED", "GZIP"]
    assert done.rows_removed == len(set(removed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_a_removed_value_is_nowhere_in_the_new_parquet_file(tmp_path: Path) -> None:
    # The smallest and largest values also stand in the statistics, and all in the dictionary.
    ids = ["aaa-canary", *["m"] * 8, "zzz-canary"]
    pq.write_table(pa.table({"id": ids}), tmp_path / "in.parquet", compression="none")
    assert (tmp_path / "in.parquet").read_bytes().count(b"canary") > 2
    rewrite_without(str(tmp_path / "in.parquet"), None, {0, 9}, str(tmp_path / "out.parquet"))
    assert b"canary" not in (tmp_path / "out.parquet").read_bytes()


def test_a_parquet_file_without_rows_stays_one(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "in.parquet")
    write_parquet(tmp_path / "more.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("in.parquet", "more.parquet"):
        (tmp_path / name).rename(folder / name)
    done = rewrite_without(str(folder), None, [0], str(tmp_path / "new"))
    assert (done.rows_before, done.rows_removed) == (10, 1)
    assert pq.read_table(tmp_path / "new" / "in.parquet").num_rows == 0


def make_folder(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(b"".join(LINES[:3]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(LINES[3:6]), mtime=7))
    (folder / "sub" / "c.jsonl").write_bytes(b"".join(LINES[6:]))
    (folder / "_SUCCESS").write_bytes(b"c-4")


@pytest.mark.parametrize("removed", [{4}, {0, 1, 2}, {2, 3, 9}, set(), set(range(10))])
def test_a_folder_keeps_names_and_untouched_files(removed: set[int], tmp_path: Path) -> None:
    make_folder(tmp_path / "v1")
    done = rewrite_without(str(tmp_path / "v1"), None, removed, str(tmp_path / "v2"))
    names = sorted(str(p.relative_to(tmp_path / "v2")) for p in (tmp_path / "v2").rglob("*.*"))
    assert names == ["a.jsonl", "b.jsonl.gz", "sub/c.jsonl"]
    for name, held in zip(names, ({0, 1, 2}, {3, 4, 5}, {6, 7, 8, 9}), strict=True):
        old, new = ((tmp_path / version / name).read_bytes() for version in ("v1", "v2"))
        assert (old == new) is not bool(held & removed)
    left = [json.loads(line)["id"] for n, line in enumerate(LINES) if n not in removed]
    source = open_source(str(tmp_path / "v2"), None)
    assert [row["id"] for batch in source.batches() for row in batch.rows] == left
    assert done.digest == source.digest()
    assert (done.rows_before, done.rows_removed) == (10, len(removed))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1", "v2"]


def test_a_folder_moves_between_stores_and_a_second_call_replaces_it(
    memory: str, tmp_path: Path
) -> None:
    make_folder(tmp_path / "v1")
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"{memory.removeprefix('memory:/')}/v2/stale.jsonl", LINES[4])
    first = rewrite_without(str(tmp_path / "v1"), None, {4}, f"{memory}/v2")
    second = rewrite_without(str(tmp_path / "v1"), None, {4}, f"{memory}/v2")
    assert first == second
    within = rewrite_without(f"{memory}/v2", None, {0}, f"{memory}/v3")
    ids = [r["id"] for b in open_source(within.uri, None).batches() for r in b.rows]
    assert ids == ["c-1", "c-2", "c-3", "c-5", "c-6", "c-7", "c-8", "c-9"]
    # An object store has no empty folders to leave behind.
    assert not [path for path in fs.find(memory.removeprefix("memory:/")) if "part" in path]


def test_a_glob_becomes_a_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "v1")
    done = rewrite_without(f"{tmp_path}/v1/*.jsonl", None, {0}, str(tmp_path / "v2"))
    assert done.rows_before == 3
    assert [path.name for path in (tmp_path / "v2").iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("positions", [[10], [-1], [0, 10], [-1, 3]])
@pytest.mark.parametrize("folder", [True, False])
def test_a_position_outside_the_files_leaves_nothing(
    positions: list[int], folder: bool, tmp_path: Path
) -> None:
    make_folder(tmp_path / "v1")
    (tmp_path / "one.jsonl").write_bytes(b"".join(LINES))
    source = tmp_path / ("v1" if folder else "one.jsonl")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RewriteFailed) as caught:
        rewrite_without(str(source), None, positions, str(tmp_path / "v2"))
    assert caught.value.next_step
    assert sorted(tmp_path.rglob("*")) == before


class ForgetfulStorage(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Local files, but a copy is empty."""

    protocol = "forgetful"

    @override
    def cp_file(self, path1: str, path2: str, **_: object) -> None:
        Path(path2).touch()


def test_rows_that_got_lost_are_noticed_before_the_target_appears(tmp_path: Path) -> None:
    fsspec.register_implementation("forgetful", ForgetfulStorage, clobber=True)
    make_folder(tmp_path / "v1")
    with pytest.raises(RewriteFailed, match="should remain"):
        rewrite_without(f"forgetful://{tmp_path}/v1", None, {4}, f"forgetful://{tmp_path}/v2")
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_an_unreadable_row_leaves_the_old_target(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,n\na,1\nb\n")
    (tmp_path / "out.csv").write_bytes(b"old")
    with pytest.raises(RowUnreadable) as caught:
        rewrite_without(str(tmp_path / "in.csv"), None, [0], str(tmp_path / "out.csv"))
    assert caught.value.row == 1
    assert (tmp_path / "out.csv").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.parametrize("target", ["v1", "v1/v2", "", "v1/../v1"])
def test_a_target_within_the_source_is_refused(target: str, tmp_path: Path) -> None:
    make_folder(tmp_path / "v1")
    with pytest.raises(ValueError, match="beside its source"):
        rewrite_without(str(tmp_path / "v1"), None, {0}, f"{tmp_path}/{target}")


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        rewrite_without(str(tmp_path / "none.csv"), None, {0}, str(tmp_path / "out.csv"))


def test_csv_records_stay_what_the_standard_library_reads(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b"\r\n".join(RECORDS))
    done = rewrite_without(
        str(tmp_path / "in.csv"), None, range(1, 10, 2), str(tmp_path / "out.csv")
    )
    text = io.StringIO((tmp_path / "out.csv").read_text("utf-8-sig"), newline="")
    assert [row["id"] for row in csv.DictReader(text)] == ["c-0", "c-2", "c-4", "c-6", "c-8"]
    assert done.rows_removed == 5


def test_remove_takes_a_file_a_folder_or_a_glob_and_what_a_killed_rewrite_left(
    tmp_path: Path, memory: str
) -> None:
    make_folder(tmp_path / "v1")
    (tmp_path / ".v1.0123.part").mkdir()
    (tmp_path / ".v1.0123.part" / "a.jsonl").touch()
    (tmp_path / "v10").mkdir()
    (tmp_path / "one.csv").touch()
    assert remove(f"{tmp_path}/v1/*.jsonl")
    assert sorted(path.name for path in (tmp_path / "v1").iterdir()) == [
        "_SUCCESS",
        "b.jsonl.gz",
        "sub",
    ]
    assert remove(str(tmp_path / "v1"))
    assert not remove(str(tmp_path / "v1"))
    assert remove(str(tmp_path / "one.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["v10"]
    fsspec.filesystem("memory").pipe_file(f"{memory.removeprefix('memory:/')}/v1/x", b"")
    assert remove(f"{memory}/v1")
    assert not remove(f"{memory}/v1")


@pytest.mark.parametrize("uri", ["/", "file:///", "memory://", "memory://bucket", "/data"])
def test_remove_refuses_a_root(uri: str) -> None:
    with pytest.raises(ValueError, match="everything"):
        remove(uri)
