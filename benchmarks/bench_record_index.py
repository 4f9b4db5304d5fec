"""The record index: loading it sorted against loading it as it comes, and tracing one person.

    python benchmarks/bench_record_index.py [--subjects 200000] [--records 5]

Both loads go into an index that already holds as many rows, in the same run on the same server.
Sorting pays once the index no longer fits in memory, and costs a little while it does.
"""

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.migrations import migrate
from app.core.testing import RecordingDoorbell
from app.inventory.repository import load_index
from app.lineage.service import trace_subject
from app.models import Artifact, Dataset, DatasetVersion, Model, ModelInput, ModelVersion
from app.supervisor.servers import EmbeddedServers

TRACES = 500
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    """Print rows per second of both loads, their ratio, and the latency of a trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=100_000)
    parser.add_argument("--records", type=int, default=5, help="records of each subject")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedServers(Path(folder) / "bench") as servers:
            migrate(servers.owner_url, servers.app_url)
            database = Database(servers.app_url, RecordingDoorbell())
            report(database, Path(folder), options.subjects, options.records)
            database.dispose()


def report(database: Database, folder: Path, subjects: int, records: int) -> None:
    """Load twice, trace, print."""
    with database.transaction() as session:
        versions = [dataset_version(session, number) for number in range(3)]
    keys = [uuid.UUID(int=Random(number).getrandbits(128)) for number in range(subjects)]
    rows = subjects * records
    files = [write_rows(folder / f"{number}.rows", keys, records, number) for number in range(3)]
    with database.transaction() as session:
        load_index(session, versions[0], files[0])
    plain = timed(lambda: copy_as_it_comes(database, versions[1], files[1]))
    ordered = timed(lambda: load(database, versions[2], files[2]))
    with database.transaction() as session:
        model_on(session, versions[2])
        session.connection().exec_driver_sql("ANALYZE subject_record")
    latencies = trace_latencies(database, keys)

    table = Table(title=f"{rows:,} rows of {subjects:,} people into an index of {rows:,}")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_row("COPY as it comes", f"{rows / plain:,.0f} rows/s")
    table.add_row("COPY to a stage, insert sorted", f"{rows / ordered:,.0f} rows/s")
    table.add_row("ratio", f"{plain / ordered:.1f} ×")
    table.add_row("trace one person, median", f"{statistics.median(latencies) * 1e3:.2f} ms")
    table.add_row(
        "trace one person, p99", f"{statistics.quantiles(latencies, n=100)[98] * 1e3:.2f} ms"
    )
    Console().print(table)


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that some work took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def load(database: Database, version: int, rows: Path) -> None:
    """Load as the service does."""
    with database.transaction() as session:
        load_index(session, version, rows)


def copy_as_it_comes(database: Database, version: int, rows: Path) -> None:
    """Load in the order of the file, straight into the live index."""
    statement = (
        "COPY subject_record"
        " (subject_key, record_no, bucket, role, owner_key, dataset_version_id) FROM STDIN"
    )
    with database.transaction() as session:
        driver = session.connection().connection.driver_connection
        if not isinstance(driver, psycopg.Connection):
            message = "the benchmark copies through psycopg"
            raise TypeError(message)
        with driver.cursor() as cursor, cursor.copy(statement) as copy, rows.open() as lines:
            for line in lines:
                copy.write(f"{line.rstrip()}\t{version}\n")


def write_rows(path: Path, keys: list[uuid.UUID], records: int, seed: int) -> Path:
    """Write index rows in the order in which people come in a file: at random."""
    order = [key for key in keys for _ in range(records)]
    Random(seed).shuffle(order)
    with path.open("w") as lines:
        for number, key in enumerate(order):
            lines.write(f"{key}\t{number}\t{key.int % 65536}\t0\t{key}\n")
    return path


def dataset_version(session: Session, number: int) -> int:
    """Register a dataset with one version."""
    artifact = artifact_of(session, "dataset_version", f"d{number}")
    dataset = Dataset(
        name=f"d{number}",
        owner={"column": "person", "type": "customer_id"},
        aliases=[],
        mentions=[],
        wrapped_key=b"",
        created_at=NOW,
    )
    session.add(dataset)
    session.flush()
    version = DatasetVersion(
        dataset_id=dataset.id,
        version="1",
        artifact_id=artifact.id,
        uri="",
        format="jsonl",
        rewritable=True,
        state="indexed",
        created_at=NOW,
    )
    session.add(version)
    session.flush()
    return version.id


def model_on(session: Session, version: int) -> None:
    """Register a model of 20 shards and 5 slices that was trained on a dataset version."""
    model = Model(
        name="m",
        parameters={},
        seed="m",
        shards=20,
        slices=5,
        holdout_from=65536,
        policy={},
        created_at=NOW,
    )
    session.add(model)
    session.flush()
    trained = ModelVersion(
        model_id=model.id,
        version=1,
        artifact_id=artifact_of(session, "model_version", "m").id,
        state="live",
        method="train",
        shards=20,
        slices=5,
        holdout_from=65536,
        created_at=NOW,
    )
    session.add(trained)
    session.flush()
    session.add(ModelInput(model_version_id=trained.id, dataset_version_id=version))


def artifact_of(session: Session, kind: str, name: str) -> Artifact:
    """Register an artifact."""
    artifact = Artifact(kind=kind, name=name, version="1", lineage="complete", created_at=NOW)
    session.add(artifact)
    session.flush()
    return artifact


def trace_latencies(database: Database, keys: list[uuid.UUID]) -> list[float]:
    """Trace people one after another; return the seconds of each."""
    latencies = []
    with database.transaction() as session:
        for key in Random(0).sample(keys, TRACES):
            start = time.perf_counter()
            trace = trace_subject(session, [key])
            latencies.append(time.perf_counter() - start)
            if not trace.models:
                message = "the trace missed the model"
                raise RuntimeError(message)
    return latencies


if __name__ == "__main__":
    main()
