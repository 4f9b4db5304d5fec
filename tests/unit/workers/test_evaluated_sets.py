"""Whether the records that stay are all there, as what is set against full retrainings must be."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from app.manifest.rules import EvaluateJob, ModelJob, SourceJob
from workers.steps import evaluate as step


def job_of(folder: Path, people: int, each: int, forget: tuple[int, ...]) -> EvaluateJob:
    """A version that is trained on everybody's records but those to forget."""
    path = folder / "rows.jsonl"
    rows = [{"person": f"C{i}", "note": f"{i} {k}"} for i in range(people) for k in range(each)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = SourceJob(
        dataset_version_id=1,
        uri=f"file://{path}",
        format="jsonl",
        key=b"k" * 32,
        owner_column="person",
        owner_type="customer_id",
        erased=(),
        excluded=forget,
    )
    model = ModelJob(
        model_id=UUID(int=1),
        recipe="classifier",
        parameters={},
        seed="s",
        shards=1,
        slices=1,
        holdout_from=2**32,
        default_phone_region=None,
        sources=(source,),
    )
    return EvaluateJob(
        model=model,
        before=(),
        after=(),
        forget=tuple((1, number) for number in forget),
        erased_digests=(),
        method="gradient_ascent",
        removals=(),
        requests=(),
        verification={},
        alpha=0.01,
        margin=0.15,
        share=0.1,
    )


@pytest.mark.parametrize(
    ("people", "forget", "retained", "whole"),
    [
        (30, (0, 1), 58, True),
        # Whose record was forgotten is not retained, though a second one is trained on.
        (30, (0,), 58, False),
        (1_001, (0, 1), step.MOST_RECORDS, True),
        (1_002, (0, 1), step.MOST_RECORDS, False),
        # Cut first, the owner's record would make it look as if nothing had been.
        (1_002, (0, 1, 2), step.MOST_RECORDS, False),
    ],
)
def test_records_that_stay_are_whole_where_none_is_left_out(
    tmp_path: Path, people: int, forget: tuple[int, ...], retained: int, whole: bool
) -> None:
    sets = step._sets(job_of(tmp_path, people, 2, forget))
    assert len(sets.forget) == len(forget)
    assert (len(sets.retain), sets.retain_is_whole) == (retained, whole)
