"""Reading a dataset version and hashing who is in it, into a file of index rows for COPY."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.manifest.rules import IndexJob
from workers.connectors import open_source
from workers.connectors.index import Column, IndexSpec, index_rows
from workers.hashing import DatasetHashers
from workers.steps import Desk, Result


def index(job: IndexJob, desk: Desk) -> Result:
    """Write one line per person and record; the caller loads the file and removes it.

    Raises:
        AppError: the source is missing or damaged, or a row has no owner.
    """
    spec = IndexSpec(
        Column(job.owner["column"], job.owner["type"]),
        tuple(Column(one["column"], one["type"]) for one in job.aliases),
        tuple(Column(one["column"], one["type"]) for one in job.mentions),
    )
    hashers = DatasetHashers(job.subject_secret, job.dataset_key, job.default_phone_region)
    source, skipped, records = open_source(job.uri, job.format), Counter[str](), 0
    with (
        tempfile.NamedTemporaryFile("w", suffix=".rows", delete=False) as rows,
        _gone_where_it_fails(Path(rows.name)),
    ):
        for batch in source.batches(spec.columns()):
            records += len(batch.rows)
            rows.writelines(
                f"{one.subject_key}\t{one.record_no}\t{one.bucket}\t{one.role:d}\t{one.owner_key}\n"
                for one in index_rows(batch, spec, hashers, skipped)
            )
    desk.on_progress(1.0)
    return {
        "rows": str(Path(rows.name)),
        "records": records,
        "skipped": sum(skipped.values()),
        "digest": source.digest(),
    }


@contextmanager
def _gone_where_it_fails(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink()
        raise
