"""Indexing leaves nothing behind where it fails."""

import json
import tempfile
from pathlib import Path

import pytest

from app.core.errors import AppError
from app.manifest.rules import IndexJob
from workers.artifacts import ArtifactStore
from workers.steps import Desk
from workers.steps.index import index


def job(path: Path) -> IndexJob:
    return IndexJob(
        dataset_version_id=1,
        uri=f"file://{path}",
        format="jsonl",
        owner={"column": "person", "type": "customer_id"},
        aliases=(),
        mentions=(),
        dataset_key=b"k" * 32,
        subject_secret=b"s" * 32,
        default_phone_region=None,
    )


def test_a_row_without_owner_leaves_no_hashes_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    desk = Desk(ArtifactStore(f"file://{tmp_path}/store"), lambda _: None, lambda _: None)
    rows = [{"person": "C1"}, {"person": "C2"}, {"person": None}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(AppError):
        index(job(data), desk)
    assert list(temporary.iterdir()) == []
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:2]))
    result = index(job(data), desk)
    assert len(Path(result["rows"]).read_text().splitlines()) == 2


def test_a_job_shows_no_key() -> None:
    shown = repr(job(Path("/data/rows.jsonl")))
    assert "kkkk" not in shown
    assert "ssss" not in shown
