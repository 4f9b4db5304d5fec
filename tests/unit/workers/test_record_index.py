import uuid
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.identifiers import InvalidIdentifier, normalise, owner_bucket, subject_key
from workers.connectors import Batch, RowUnreadable
from workers.connectors.index import Column, IndexRow, IndexSpec, Role, index_rows

SPEC = IndexSpec(
    owner=Column("id", "customer_id"),
    aliases=(Column("email", "email"), Column("phone", "phone")),
    mentions=(Column("cc", "email"),),
)


class KeyedHashers:
    """The real hashes of the service under fixed keys."""

    def subject_key(self, identifier_type: str, value: str) -> uuid.UUID | None:
        try:
            return subject_key(b"s" * 32, identifier_type, normalise(identifier_type, value))
        except InvalidIdentifier:
            return None

    def bucket(self, identifier_type: str, value: str) -> int:
        return owner_bucket(b"d" * 32, normalise(identifier_type, value))


def key(identifier_type: str, value: str) -> uuid.UUID:
    found = KeyedHashers().subject_key(identifier_type, value)
    assert found is not None
    return found


def indexed(
    *rows: dict[str, object], start: int = 0, spec: IndexSpec = SPEC
) -> tuple[list[IndexRow], Counter[str]]:
    skipped: Counter[str] = Counter()
    return list(index_rows(Batch(start, list(rows)), spec, KeyedHashers(), skipped)), skipped


def test_a_record_is_filed_under_owner_aliases_and_mentions() -> None:
    row: dict[str, object] = {
        "id": " c-1 ",
        "email": "Ana@Example.org",
        "phone": "+49 30 901820",
        "cc": ["bo@example.org", "cy@example.org"],
    }
    found, skipped = indexed({"id": "c-0"}, row, start=41)
    owner = key("customer_id", "c-1")
    bucket = owner_bucket(b"d" * 32, "c-1")
    assert found[0].record_no == 41
    assert found[1:] == [
        IndexRow(owner, 42, bucket, Role.OWNER, owner),
        IndexRow(key("email", "ana@example.org"), 42, bucket, Role.ALIAS, owner),
        IndexRow(key("phone", "+4930901820"), 42, bucket, Role.ALIAS, owner),
        IndexRow(key("email", "bo@example.org"), 42, bucket, Role.MENTION, owner),
        IndexRow(key("email", "cy@example.org"), 42, bucket, Role.MENTION, owner),
    ]
    assert not skipped
    assert [int(row.role) for row in found[1:4]] == [0, 1, 1]


def test_one_person_is_one_row_in_the_strongest_role() -> None:
    spec = IndexSpec(
        Column("owner", "email"),
        aliases=(Column("login", "email"),),
        mentions=(Column("cc", "email"),),
    )
    row: dict[str, object] = {
        "owner": "ana@example.org",
        "login": ["ANA@example.org", "bo@example.org"],
        "cc": ["cy@example.org", "bo@example.org", "ana@example.org", "cy@EXAMPLE.org"],
    }
    found, _ = indexed(row, spec=spec)
    assert [(row.subject_key, row.role) for row in found] == [
        (key("email", "ana@example.org"), Role.OWNER),
        (key("email", "bo@example.org"), Role.ALIAS),
        (key("email", "cy@example.org"), Role.MENTION),
    ]


@pytest.mark.parametrize("owner", [None, "", "  ", float("nan"), [], ["a", "b"], True, {"a": 1}])
def test_a_row_without_one_owner_is_refused(owner: object) -> None:
    with pytest.raises(RowUnreadable) as caught:
        indexed({"id": "c-0"}, {"id": owner}, start=7)
    assert (caught.value.row, caught.value.column) == (8, "id")
    assert caught.value.next_step


def test_an_owner_that_is_no_identifier_is_refused_without_echo() -> None:
    spec = IndexSpec(Column("mail", "email"))
    with pytest.raises(RowUnreadable, match="type 'email'") as caught:
        indexed({"mail": "ana-at-example.org"}, spec=spec)
    assert "ana" not in str(caught.value)


def test_what_is_no_identifier_is_left_out_and_counted() -> None:
    row: dict[str, object] = {
        "id": "c-1",
        "email": "not an address",
        "phone": None,
        "cc": ["", None, "bo@example.org", "@", 17.5],
    }
    found, skipped = indexed(row, row)
    assert [row.role for row in found] == [Role.OWNER, Role.MENTION] * 2
    assert skipped == {"email": 2, "cc": 4}


@pytest.mark.parametrize(
    "cell", [17, 17.0, Decimal("17.00"), b"17", "17", ["17"], " 17\n"], ids=repr
)
def test_a_number_is_read_as_the_digits_a_person_gives(cell: object) -> None:
    found, _ = indexed({"id": cell})
    assert [row.subject_key for row in found] == [key("customer_id", "17")]


@pytest.mark.parametrize("cell", [b"\xff", float("inf"), object()])
def test_a_cell_that_cannot_be_an_identifier_is_counted(cell: object) -> None:
    _, skipped = indexed({"id": "c", "cc": cell})
    assert skipped == {"cc": 1}


def test_reads_each_column_once() -> None:
    mail = Column("mail", "email")
    spec = IndexSpec(mail, aliases=(Column("id", "customer_id"),), mentions=(mail,))
    assert spec.columns() == ["mail", "id"]


people = st.sampled_from(["a@x.org", "b@x.org", "c@x.org", "", "broken"])


@given(st.lists(st.tuples(people.filter(lambda p: "@" in p), people, st.lists(people))))
def test_equals_the_obvious_loop(records: list[tuple[str, str, list[str]]]) -> None:
    spec = IndexSpec(Column("o", "email"), (Column("a", "email"),), (Column("m", "email"),))
    expected = set()
    for number, (owner, alias, mentions) in enumerate(records):
        for person in {p for p in (owner, alias, *mentions) if "@" in p}:
            role = 0 if person == owner else 1 if person == alias else 2
            bucket = owner_bucket(b"d" * 32, owner)
            expected.add((key("email", person), number, bucket, role, key("email", owner)))
    rows: list[dict[str, object]] = [{"o": o, "a": a, "m": m} for o, a, m in records]
    found, _ = indexed(*rows, spec=spec)
    as_tuples = [(r.subject_key, r.record_no, r.bucket, int(r.role), r.owner_key) for r in found]
    assert len(as_tuples) == len(set(as_tuples))
    assert set(as_tuples) == expected


def test_no_repr_shows_a_cell() -> None:
    batch = Batch(0, [{"id": "canary@example.org"}])
    rows = list(index_rows(batch, SPEC, KeyedHashers(), Counter()))
    assert "canary" not in repr(batch) + repr(rows)
