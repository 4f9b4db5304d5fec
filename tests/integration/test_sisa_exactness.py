"""A shard retrained after an erasure is bit for bit the shard that never saw the person."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.manifest.rules import SourceJob, TrainShardJob
from app.models import Checkpoint, ModelSlice, ModelVersion
from tests.integration.town import Town
from tests.integration.worlds import CLASSIFIER, Row, points
from workers.artifacts import ArtifactStore
from workers.steps import Desk
from workers.steps.train import train


def slices_of(town: Town, model: str, number: int) -> dict[tuple[int, int], ModelSlice]:
    with town.database.transaction() as session:
        rows = session.scalars(
            select(ModelSlice)
            .join(ModelVersion, ModelVersion.id == ModelSlice.model_version_id)
            .where(ModelVersion.version == number)
        ).all()
    return {(one.shard, one.slice): one for one in rows}


def from_scratch(town: Town, rows: Sequence[Row], folder: Path, shard: int) -> dict[str, Any]:
    """Train the shard anew from a file that never held the person, into an empty store."""
    job = next(
        one
        for one in reversed(town.work.jobs)
        if isinstance(one, TrainShardJob) and one.shard == shard
    )
    source: SourceJob = dataclasses.replace(
        job.model.sources[0],
        uri=town.write_jsonl("never-seen", rows),
        erased=(),
        excluded=(),
    )
    fresh = dataclasses.replace(
        job, model=dataclasses.replace(job.model, sources=(source,)), checkpoints={}
    )
    store = ArtifactStore(f"file://{folder}/fresh")
    return train(fresh, Desk(store, lambda _: None, lambda _: None))


@pytest.mark.parametrize(
    ("people", "each", "shards", "slices"),
    [
        (12, 3, 3, 2),
        (11, 1, 2, 5),  # n not divisible by shards or slices
        (7, 4, 4, 3),  # some slices empty
        (5, 2, 9, 2),  # more shards than people
        (6, 3, 1, 1),  # ordinary retraining
        (6, 16, 2, 2),  # people who own whole batches
    ],
)
def test_retrained_shard_equals_the_one_that_never_saw_the_person(
    town: Town, tmp_path: Path, people: int, each: int, shards: int, slices: int
) -> None:
    rows = points(people, each)
    town.dataset("d", rows)
    town.model("m", "d", "classifier", CLASSIFIER, shards=shards, slices=slices, holdout_share=0)
    before = slices_of(town, "m", 1)
    person = "C003"
    shard, first = town.place_of("d", person, shards, slices)

    request = town.erase(("email", "person3@example.org"))

    assert request["state"] == "completed"
    after = slices_of(town, "m", 2)
    expected = from_scratch(town, [row for row in rows if row["person"] != person], tmp_path, shard)
    for one in expected["slices"]:
        place = shard, one["slice"]
        assert after[place].object_digest == one["object_digest"], place
        assert after[place].chain == one["chain"]
    # The erasure changed something: without it the last state would be the old one.
    last = shard, slices - 1
    assert after[last].object_digest != before[last].object_digest
    # Slices before the person's, and every other shard, are the very same files.
    for place, one in before.items():
        if place[0] != shard or place[1] < first:
            assert after[place].object_digest == one.object_digest
    assert town.version("m", 1)["state"] == "destroyed"


def test_untouched_shards_files_are_not_written_again(town: Town) -> None:
    town.dataset("d", points(12))
    town.model("m", "d", "classifier", CLASSIFIER, shards=4, slices=2, holdout_share=0)
    shard, _ = town.place_of("d", "C003", 4, 2)
    folder = Path(town.settings.artifacts_url.removeprefix("file://"))
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    kept = {
        one.object_digest for place, one in slices_of(town, "m", 1).items() if place[0] != shard
    }

    town.erase(("customer_id", "C003"))

    for path, stamp in written.items():
        if path.name in kept:
            assert path.stat().st_mtime_ns == stamp
        elif not path.exists():
            assert path.name not in kept
    trained = [one.shard for one in town.work.jobs if isinstance(one, TrainShardJob)]
    assert trained == [0, 1, 2, 3, shard]


def test_superseded_states_are_gone_from_the_store(town: Town) -> None:
    town.dataset("d", points(12))
    town.model("m", "d", "classifier", CLASSIFIER, shards=3, slices=3, holdout_share=0)
    shard, first = town.place_of("d", "C003", 3, 3)
    old = {
        one.object_digest
        for place, one in slices_of(town, "m", 1).items()
        if place[0] == shard and place[1] >= first
    }

    town.erase(("customer_id", "C003"))

    folder = Path(town.settings.artifacts_url.removeprefix("file://"))
    stored = {path.name for path in folder.rglob("*") if path.is_file()}
    assert old.isdisjoint(stored)
    needed = {one.object_digest for one in slices_of(town, "m", 2).values()}
    assert needed <= stored
    with town.database.transaction() as session:
        assert old.isdisjoint(session.scalars(select(Checkpoint.object_digest)))


def test_an_emptied_shard_leaves_a_model_without_it(town: Town, tmp_path: Path) -> None:
    rows = points(4, 3)
    town.dataset("d", rows)
    alone, shards = town.alone_in_a_shard("d", 4)
    shard, _ = town.place_of("d", alone, shards, 2)
    town.model("m", "d", "classifier", CLASSIFIER, shards=shards, slices=2, holdout_share=0)

    request = town.erase(("customer_id", alone))

    assert request["state"] == "completed"
    after = slices_of(town, "m", 2)
    assert [after[shard, piece].records for piece in range(2)] == [0, 0]
    expected = from_scratch(town, [row for row in rows if row["person"] != alone], tmp_path, shard)
    assert expected["slices"][-1]["object_digest"] == after[shard, 1].object_digest


def test_a_person_known_by_two_identifiers_is_one_person(town: Town) -> None:
    rows = points(12, 4)
    # Half of the person's rows lack the e-mail by which the request names them.
    for number, row in enumerate(row for row in rows if row["person"] == "C003"):
        if number % 2:
            row["email"] = None
    town.dataset("d", rows)
    town.model("m", "d", "classifier", CLASSIFIER, shards=3, slices=2, holdout_share=0)

    request = town.erase(("email", "person3@example.org"))

    found = {one["kind"]: one["found"] for one in request["actions"]}
    assert found["dataset_version"]["records"] == 4
    assert found["model_version"]["records"] == 4
    assert len(found["model_version"]["shards"]) == 1
    again = town.trace(("customer_id", "C003"))
    assert again == {"datasets": [], "models": [], "derived": [], "unknown_lineage": []}


def test_a_mention_reaches_only_the_records_that_name_the_person(town: Town) -> None:
    rows = points(10, 2)
    rows[0]["doctor"] = "C009"
    rows[5]["doctor"] = "C009"
    town.dataset("d", rows, mentions=[("doctor", "customer_id")])

    found = town.trace(("customer_id", "C009"))

    # Two rows of their own and two that mention them, but not the other rows of those owners.
    assert found["datasets"] == [{"dataset": "d", "version": "1", "records": 4}]
