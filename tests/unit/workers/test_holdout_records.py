"""Whom a model is compared with: whole people, as many as there is room for."""

import json
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from app.manifest.rules import ModelJob, SourceJob
from workers.manifest import holdout_records


@pytest.fixture
def model(tmp_path: Path) -> ModelJob:
    """Person i has 1 + i % 5 records; all are held out but those of record numbers 0 to 4."""
    rows = [{"person": f"C{i}", "note": f"{i} {k}"} for i in range(60) for k in range(1 + i % 5)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = SourceJob(
        dataset_version_id=1,
        uri=f"file://{path}",
        format="jsonl",
        key=b"k" * 32,
        owner_column="person",
        owner_type="customer_id",
        erased=(),
        excluded=(0, 1, 2, 3, 4),
    )
    return ModelJob(
        model_id=UUID(int=1),
        recipe="classifier",
        parameters={},
        seed="s",
        shards=1,
        slices=1,
        holdout_from=0,
        default_phone_region=None,
        sources=(source,),
    )


@pytest.mark.parametrize("limit", [7, 40, 120])
def test_people_are_taken_whole(model: ModelJob, limit: int) -> None:
    taken = holdout_records(model, limit)
    # There is somebody with a single record for any place that is left.
    assert len(taken) == limit
    for person, records in Counter(str(one.row["person"]) for one in taken).items():
        assert records == 1 + int(person[1:]) % 5
    assert min(one.record_no for one in taken) > 4
    assert [one.digest for one in taken] == sorted(one.digest for one in taken)


def test_more_room_than_people_takes_all_and_no_room_takes_one(model: ModelJob) -> None:
    assert len(holdout_records(model, 10_000)) == 180 - 5
    assert len({one.owner for one in holdout_records(model, 0)}) == 1
