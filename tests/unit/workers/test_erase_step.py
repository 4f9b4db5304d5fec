"""Erasing writes a dataset's files again and looks whether a text of the erased is left in them."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from app.manifest.rules import EraseJob
from workers.artifacts import ArtifactStore
from workers.connectors import RewriteFailed, open_source
from workers.steps import Desk, Result
from workers.steps.erase import erase

KINDS = ["jsonl", "csv", "parquet", "jsonl.gz"]
REVIEWS = [f'Guest {n} said "the house by the lake is nö good for {n} people"' for n in range(30)]


def write(path: Path, table: pa.Table) -> str:
    """Write a table as the name says, and return its format."""
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        pq.write_table(table, path, compression="zstd")
    elif kind == "csv":
        pa.csv.write_csv(table, path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    return kind.removesuffix(".gz")


def reviews(texts: Sequence[str]) -> pa.Table:
    return pa.table({"id": [f"c-{n}" for n in range(len(texts))], "review": list(texts)})


def erased(path: Path, table: pa.Table, records: Sequence[int]) -> Result:
    job = EraseJob(
        uri=str(path),
        format=write(path, table),
        key=b"k" * 32,
        erased=(),
        records=tuple(records),
        target_uri=str(path.parent / f"after-{path.name}"),
    )
    desk = Desk(ArtifactStore(f"file://{path.parent}/store"), lambda _: None, lambda _: None)
    return erase(job, desk)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_erased_is_looked_for_and_gone(tmp_path: Path, kind: str) -> None:
    result = erased(tmp_path / f"d.{kind}", reviews(REVIEWS), [3, 4, 29])
    [evidence] = result["checks"]
    assert result["not_run"] == []
    assert (evidence["estimate"], evidence["n"]) == (0, 3)
    assert evidence["details"]["unreadable"] == 0
    assert evidence["details"]["controls"] == evidence["details"]["controls_found"] == 8
    assert "Guest" not in json.dumps(result)
    rows = [row for batch in open_source(result["uri"], None).batches() for row in batch.rows]
    assert [row["review"] for row in rows] == [*REVIEWS[:3], *REVIEWS[5:29]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_someone_who_stays_has_as_well_is_not_left_over(
    tmp_path: Path, kind: str
) -> None:
    texts = list(REVIEWS)
    texts[10] = texts[3]
    texts[11] = f"I quote: {texts[4]}, and so on"
    result = erased(tmp_path / f"d.{kind}", reviews(texts), [3, 4, 29])
    # The texts of records 3 and 4 were found in the rows that stay, also in those of a compressed
    # file; record 29 is still told by its own.
    [evidence] = result["checks"]
    assert (evidence["estimate"], evidence["n"]) == (0, 1)
    [untold] = result["not_run"]
    assert untold["name"] == "stored_bytes"
    assert untold["reason"].startswith("of 3 erased records, 2 hold no long text and no identifier")
    only_shared = erased(tmp_path / f"e.{kind}", reviews(texts), [3, 4])
    assert only_shared["checks"] == []
    assert "of 2 erased records, 2 hold" in only_shared["not_run"][0]["reason"]


def test_one_own_text_among_shared_ones_still_tells_a_record(tmp_path: Path) -> None:
    table = reviews(REVIEWS).append_column("note", [["the same remark for every guest"] * 30])
    result = erased(tmp_path / "d.parquet", table, [7])
    [evidence] = result["checks"]
    assert (evidence["estimate"], evidence["n"]) == (0, 1)


def test_a_text_left_beside_the_rows_fails_and_leaves_no_copy(tmp_path: Path) -> None:
    # The writer keeps a schema's metadata, and some programs put example rows there.
    table = reviews(REVIEWS).replace_schema_metadata({"example": REVIEWS[5]})
    with pytest.raises(RewriteFailed, match="text of 1 erased records") as failed:
        erased(tmp_path / "d.parquet", table, [5, 6])
    assert "Guest" not in str(failed.value) + failed.value.advice
    assert not (tmp_path / "after-d.parquet").exists()
    assert (tmp_path / "d.parquet").exists()


def test_texts_within_lists_and_structs_are_looked_for(tmp_path: Path) -> None:
    nested = [{"turns": [{"says": text}]} for text in REVIEWS]
    table = reviews(["yes"] * 30).append_column("chat", pa.array(nested))
    table = table.replace_schema_metadata({"example": REVIEWS[5]})
    with pytest.raises(RewriteFailed):
        erased(tmp_path / "d.parquet", table, [5])
    assert erased(tmp_path / "d.parquet", table, [6])["checks"][0]["n"] == 1


def people(count: int) -> pa.Table:
    """Numbers and an e-mail address each, and a city that many share."""
    return pa.table(
        {
            "email": [f"p{n}@example.org" for n in range(100, 100 + count)],
            "customer": [4_711_000 + n for n in range(count)],
            "city": ["Rotterdam 3012"] * count,
            "amount": [0.5 + n for n in range(count)],
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_short_identifiers_tell_records_that_have_no_long_text(tmp_path: Path, kind: str) -> None:
    result = erased(tmp_path / f"d.{kind}", people(40), [3, 4])
    [evidence] = result["checks"]
    assert (evidence["estimate"], evidence["n"], result["not_run"]) == (0, 2, [])
    assert evidence["details"]["controls"] == evidence["details"]["controls_found"] == 8
    said = json.dumps(result)
    assert "example.org" not in said
    assert "4711" not in said
    # One of them writes from another's address: then the number alone tells the record.
    table = people(40)
    shared = table.set_column(0, "email", [["one@example.org"] * 40])
    assert erased(tmp_path / f"e.{kind}", shared, [3, 4])["checks"][0]["n"] == 2
    nothing = shared.drop_columns(["customer"])
    result = erased(tmp_path / f"f.{kind}", nothing, [3, 4])
    assert result["checks"] == []
    assert "of 2 erased records, 2 hold" in result["not_run"][0]["reason"]


def test_a_text_within_the_bytes_of_one_who_stays_is_not_left_over(tmp_path: Path) -> None:
    letters = [b"<p>" + REVIEWS[5].encode() if n == 9 else b"<p>" for n in range(30)]
    table = reviews(REVIEWS).append_column("letter", pa.array(letters))
    result = erased(tmp_path / "d.parquet", table, [5, 6])
    assert [one["n"] for one in result["checks"]] == [1]


@pytest.mark.parametrize("left", ["p105@example.org", "4711005"])
def test_an_identifier_left_beside_the_rows_fails(tmp_path: Path, left: str) -> None:
    table = people(40).replace_schema_metadata({"example": f"last seen: {left}"})
    assert erased(tmp_path / "d.parquet", table, [6])["checks"][0]["estimate"] == 0
    with pytest.raises(RewriteFailed, match="text of 1 erased records") as failed:
        erased(tmp_path / "e.parquet", table, [5, 6])
    assert left not in str(failed.value) + failed.value.advice


@pytest.mark.parametrize("kind", ["jsonl", "csv", "jsonl.gz"])
def test_a_number_that_is_part_of_another_is_not_left_over(tmp_path: Path, kind: str) -> None:
    table = pa.table({"id": ["471100", "471101", "b"], "x": [0.1, 0.2, 12_471_101], "y": [1.0] * 3})
    result = erased(tmp_path / f"d.{kind}", table, [0])
    assert [(one["n"], one["estimate"]) for one in result["checks"]] == [(1, 0)]
    # "471101" stands in a number that stays.
    result = erased(tmp_path / f"e.{kind}", table, [1])
    assert result["checks"] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # What lies in two cells of one who stays, with what is between them.
        ("d.csv", 'a,b\n"12,345678",z\nx12,345678\n'),
        # Read as a number it is written another way.
        ("d.jsonl", '{"a": "1234.50"}\n{"a": "b", "x": 1234.50}\n'),
    ],
)
def test_what_only_looks_like_an_identifier_in_the_raw_file_is_not_left_over(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    job = EraseJob(
        uri=str(tmp_path / name),
        format=name.partition(".")[2],
        key=b"k" * 32,
        erased=(),
        records=(0,),
        target_uri=str(tmp_path / f"after-{name}"),
    )
    desk = Desk(ArtifactStore(f"file://{tmp_path}/store"), lambda _: None, lambda _: None)
    result = erase(job, desk)
    assert result["checks"] == []
    assert len(result["not_run"]) == 1


def test_records_that_nothing_tells_are_said(tmp_path: Path) -> None:
    table = reviews(["yes", "no", "-" * 80, "perhaps"])
    result = erased(tmp_path / "d.csv", table, [0, 2])
    assert result["checks"] == []
    [untold] = result["not_run"]
    assert "of 2 erased records, 2 hold" in untold["reason"]
    again = erased(tmp_path / "e.csv", table, [])
    assert again["checks"] == []
    assert [one["name"] for one in again["not_run"]] == ["stored_bytes"]
    assert "nothing was written" in again["not_run"][0]["reason"]


def test_a_file_of_which_no_record_is_kept_says_that_it_has_no_controls(tmp_path: Path) -> None:
    [evidence] = erased(tmp_path / "d.csv", reviews(REVIEWS[:2]), [0, 1])["checks"]
    assert (evidence["estimate"], evidence["details"]["controls"]) == (0, 0)
    assert evidence["would_settle"].startswith("the same look for records that are kept")


def test_every_file_of_a_folder_is_looked_into(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for part in range(3):
        write(folder / f"{part}.jsonl", reviews(REVIEWS[part * 10 : part * 10 + 10]))
    job = EraseJob(
        uri=str(folder),
        format="jsonl",
        key=b"k" * 32,
        erased=(),
        records=(0, 15),
        target_uri=str(tmp_path / "after"),
    )
    desk = Desk(ArtifactStore(f"file://{tmp_path}/store"), lambda _: None, lambda _: None)
    [evidence] = erase(job, desk)["checks"]
    # Three files as they lie, and their rows.
    assert (evidence["estimate"], evidence["n"], evidence["m"]) == (0, 2, 4)
    size = sum(len(path.read_bytes()) for path in (tmp_path / "after").iterdir())
    assert evidence["details"]["bytes"] > size
