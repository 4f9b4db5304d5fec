"""The demo's datasets: real measurements and images that scikit-learn carries, and short records.

The same made-up people own all of it, so that one person reaches every model. Everything is
deterministic: the same rows on every machine.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer, load_digits

from demo.people import Person, notes


@dataclass(frozen=True, slots=True)
class DemoDataset:
    """One dataset on disk.

    Attributes:
        name: The name to register it under; its file is named so too.
        version: The one version there is.
        format: `parquet` or `jsonl`.
        records: How many rows it has.
        content: What its rows are, for the reader.
    """

    name: str
    format: str
    records: int
    content: str
    version: str = "1"

    @property
    def file_name(self) -> str:
        """The file's name in the data folder."""
        return f"{self.name}.{self.format}"


def write_datasets(folder: Path, everybody: Sequence[Person], tag: str = "") -> list[DemoDataset]:
    """Write the three datasets into `folder`, which exists, over older ones; return them.

    Each row has the columns `person_id` (its owner) and `email`. `tag` ends each dataset's name.
    """
    return [
        _write_digits(folder, everybody, f"digits{tag}"),
        _write_patients(folder, everybody, f"patients{tag}"),
        _write_notes(folder, everybody, f"notes{tag}"),
    ]


def feature_column(feature: str) -> str:
    """Return the column of a measurement, such as `mean_radius` of `mean radius`."""
    return feature.replace(" ", "_")


def _write_digits(folder: Path, everybody: Sequence[Person], name: str) -> DemoDataset:
    images, labels = load_digits(return_X_y=True)
    columns = _owners(everybody, len(labels)) | {
        "pixels": pa.array(images.astype("float32").tolist(), pa.list_(pa.float32())),
        "label": pa.array(labels, pa.int64()),
    }
    dataset = DemoDataset(name, "parquet", len(labels), "handwritten digits (load_digits)")
    pq.write_table(pa.table(columns), folder / dataset.file_name)
    return dataset


def _write_patients(folder: Path, everybody: Sequence[Person], name: str) -> DemoDataset:
    source = load_breast_cancer()
    measured = {
        feature_column(str(feature)): pa.array(source.data[:, place])
        for place, feature in enumerate(source.feature_names)
    }
    owners = _owners(everybody, len(source.target))
    columns = owners | measured | {"label": pa.array(source.target, pa.int64())}
    dataset = DemoDataset(
        name, "parquet", len(source.target), "tumour measurements (load_breast_cancer)"
    )
    pq.write_table(pa.table(columns), folder / dataset.file_name)
    return dataset


def _write_notes(folder: Path, everybody: Sequence[Person], name: str) -> DemoDataset:
    rows = [
        {"person_id": person.person_id, "email": person.email, "text": text}
        for person in everybody
        for text in notes(person)
    ]
    dataset = DemoDataset(name, "jsonl", len(rows), "short written records")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / dataset.file_name).write_text(lines)
    return dataset


def _owners(everybody: Sequence[Person], rows: int) -> dict[str, pa.Array]:
    owners = [everybody[row % len(everybody)] for row in range(rows)]
    return {
        "person_id": pa.array([one.person_id for one in owners]),
        "email": pa.array([one.email for one in owners]),
    }
