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
    evidence = result["stored_bytes"]
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
    assert (result["stored_bytes"]["estimate"], result["stored_bytes"]["n"]) == (0, 1)
    only_shared = erased(tmp_path / f"e.{kind}", reviews(texts), [3, 4])
    assert only_shared["stored_bytes"] is None


def test_one_own_text_among_shared_ones_still_tells_a_record(tmp_path: Path) -> None:
    table = reviews(REVIEWS).append_column("note", [["the same remark for every guest"] * 30])
    result = erased(tmp_path / "d.parquet", table, [7])
    assert (result["stored_bytes"]["estimate"], result["stored_bytes"]["n"]) == (0, 1)


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
    assert erased(tmp_path / "d.parquet", table, [6])["stored_bytes"]["n"] == 1


def test_records_without_a_long_text_give_no_evidence(tmp_path: Path) -> None:
    table = reviews(["yes", "no", "-" * 80, "perhaps"])
    assert erased(tmp_path / "d.csv", table, [0, 2])["stored_bytes"] is None
    assert erased(tmp_path / "e.csv", table, [])["stored_bytes"] is None


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
    evidence = erase(job, desk)["stored_bytes"]
    # Three files as they lie, and their rows.
    assert (evidence["estimate"], evidence["n"], evidence["m"]) == (0, 2, 4)
    size = sum(len(path.read_bytes()) for path in (tmp_path / "after").iterdir())
    assert evidence["details"]["bytes"] > size
