"""The demo's data: the same for everybody, and owned by the same people throughout."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from app.core.identifiers import normalise
from demo.data import write_datasets
from demo.models import LONGEST_NOTE, RANGES
from demo.people import PEOPLE, notes, people

EVERYBODY = people()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("data")
    write_datasets(written, EVERYBODY)
    return written


def test_no_two_people_share_an_id_a_name_or_an_address() -> None:
    for values in zip(*((one.person_id, one.name, one.email) for one in EVERYBODY), strict=True):
        assert len(set(values)) == PEOPLE
    assert all(normalise("email", one.email) == one.email for one in EVERYBODY)


def test_another_tag_gives_other_people() -> None:
    others = people("-2")
    assert {one.email for one in others}.isdisjoint(one.email for one in EVERYBODY)
    assert {one.person_id for one in others}.isdisjoint(one.person_id for one in EVERYBODY)
    assert all(normalise("email", one.email) == one.email for one in others)


def test_the_rows_are_those_of_scikit_learn_in_their_order(folder: Path) -> None:
    patients = pq.read_table(folder / "patients.parquet").to_pydict()
    source = load_breast_cancer()
    assert (
        patients["worst_area"]
        == source.data[:, list(source.feature_names).index("worst area")].tolist()
    )
    assert patients["label"] == source.target.tolist()
    digits = pq.read_table(folder / "digits.parquet").to_pydict()
    images, labels = load_digits(return_X_y=True)
    assert digits["pixels"] == images.tolist()
    assert digits["label"] == labels.tolist()


def test_everybody_owns_rows_of_every_dataset_under_the_own_address(folder: Path) -> None:
    addresses = {one.person_id: one.email for one in EVERYBODY}
    notes_rows = [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]
    tables = [
        pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("digits", "patients")
    ]
    for rows, fewest in zip([*tables, notes_rows], [11, 3, 4], strict=True):
        owned = Counter(row["person_id"] for row in rows)
        assert owned.keys() == addresses.keys()
        assert min(owned.values()) == fewest
        assert all(row["email"] == addresses[row["person_id"]] for row in rows)


def test_each_persons_notes_are_four_to_six_and_nobody_elses(folder: Path) -> None:
    written = [notes(one) for one in EVERYBODY]
    assert {len(lines) for lines in written} == {4, 5, 6}
    assert len({line for lines in written for line in lines}) == sum(map(len, written))
    cards = [{line.partition("(")[2].partition(")")[0] for line in lines} for lines in written]
    assert all(len(one) == 1 for one in cards)
    assert len(set().union(*cards)) == PEOPLE
    # A start and an end mark come with the bytes.
    assert max(len(line.encode()) for lines in written for line in lines) + 2 <= LONGEST_NOTE


def test_the_same_data_come_again(folder: Path, tmp_path: Path) -> None:
    for dataset in write_datasets(tmp_path, people()):
        again, before = tmp_path / dataset.file_name, folder / dataset.file_name
        if dataset.format == "jsonl":
            assert again.read_bytes() == before.read_bytes()
            assert len(again.read_bytes().splitlines()) == dataset.records
        else:
            assert pq.read_table(again) == pq.read_table(before)
            assert pq.read_table(again).num_rows == dataset.records


def test_every_measurement_lies_in_its_public_range() -> None:
    source = load_breast_cancer()
    assert list(RANGES) == list(source.feature_names)
    for place, (low, high) in enumerate(RANGES.values()):
        column = source.data[:, place]
        assert low <= column.min() < column.max() <= high
        assert column.max() - column.min() > (high - low) / 2
