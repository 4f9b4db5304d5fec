"""The stored tree against the whole tree, and the entries against what they must never hold."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import count

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from app.audit.rules import (
    _COUNT_FIELDS,
    _TEXT_FIELDS,
    EntryRefused,
    append,
    consistency_nodes,
    consistency_proof,
    entry_payload,
    frontier_nodes,
    inclusion_nodes,
    inclusion_proof,
    root,
)
from lethe.merkle import EMPTY_ROOT, leaf_hash, node_hash, verify_consistency, verify_inclusion

LEAVES = [leaf_hash(f"entry {index}".encode()) for index in range(131)]
AT = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
ID = "01934567-89ab-7cde-8f01-23456789abcd"


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, as written."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162 §2.1.3.1, as written."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], known: bool) -> list[bytes]:
    """RFC 9162 §2.1.4.1, as written."""
    if m == len(leaves):
        return [] if known else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def split(width: int) -> int:
    return next(1 << level for level in count() if 1 << (level + 1) >= width)


class Stored:
    """The node table, as the database keeps it; counts what is read."""

    def __init__(self) -> None:
        self.hashes: dict[tuple[int, int], bytes] = {}
        self.size = 0
        self.frontier: tuple[bytes, ...] = ()
        self.reads = 0

    def append(self, leaves: list[bytes]) -> bytes:
        appended = append(self.frontier, self.size, leaves)
        for node in appended.nodes:
            assert (node.level, node.index) not in self.hashes, "a stored node never changes"
            self.hashes[node.level, node.index] = node.hash
        self.frontier, self.size = appended.frontier, appended.size
        return appended.root

    def get(self, level: int, index: int) -> bytes:
        self.reads += 1
        return self.hashes[level, index]


@pytest.fixture(scope="module")
def stored() -> Stored:
    tree = Stored()
    tree.append(LEAVES)
    return tree


@pytest.mark.parametrize("size", range(131))
def test_roots_equal_those_of_the_whole_tree(size: int) -> None:
    tree = Stored()
    assert tree.append(LEAVES[:size]) == mth(LEAVES[:size])
    assert tree.size == size
    assert tree.frontier == tuple(tree.hashes[place] for place in frontier_nodes(size))


@pytest.mark.parametrize("size", range(131))
def test_exactly_the_complete_subtrees_are_stored(size: int) -> None:
    tree = Stored()
    tree.append(LEAVES[:size])
    complete = {
        (level, index): mth(LEAVES[index << level : (index + 1) << level])
        for level in range(8)
        for index in range(size >> level)
    }
    assert tree.hashes == complete


@given(batches=st.lists(st.integers(0, 30), max_size=5))
def test_it_does_not_matter_how_entries_are_batched(batches: list[int]) -> None:
    tree, seen = Stored(), 0
    for batch in batches:
        taken = [LEAVES[(seen + place) % 131] for place in range(batch)]
        seen += batch
        newest = tree.append(taken)
        assert newest == mth([LEAVES[place % 131] for place in range(seen)])
        assert newest == root(seen, tree.get)


@pytest.mark.parametrize("size", range(1, 131))
def test_proofs_of_inclusion_equal_the_definition(size: int, stored: Stored) -> None:
    for index in range(size):
        proof = inclusion_proof(index, size, stored.get)
        assert list(proof) == path(index, LEAVES[:size])
        verify_inclusion(LEAVES[index], index, size, proof, root(size, stored.get))


@pytest.mark.parametrize("second", range(1, 131))
def test_proofs_of_consistency_equal_the_definition(second: int, stored: Stored) -> None:
    for first in range(1, second + 1):
        proof = consistency_proof(first, second, stored.get)
        assert list(proof) == subproof(first, LEAVES[:second], known=True)
        old, new = root(first, stored.get), root(second, stored.get)
        verify_consistency(first, second, old, new, proof)


@given(size=st.integers(1, 2**63), data=st.data())
def test_proofs_read_few_and_only_complete_nodes(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size))
    for groups in (inclusion_nodes(index, size), consistency_nodes(first, size)):
        places = [place for group in groups for place in group]
        assert len(places) <= 2 * size.bit_length()
        assert all((place + 1) << level <= size for level, place in places)


def test_a_proof_reads_each_node_once() -> None:
    tree = Stored()
    tree.append(LEAVES)
    inclusion_proof(5, 131, tree.get)
    assert tree.reads == sum(len(group) for group in inclusion_nodes(5, 131))


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda: inclusion_nodes(3, 3), id="behind the last leaf"),
        pytest.param(lambda: inclusion_nodes(-1, 3), id="before the first leaf"),
        pytest.param(lambda: consistency_nodes(0, 3), id="from the empty tree"),
        pytest.param(lambda: consistency_nodes(4, 3), id="to a smaller tree"),
        pytest.param(lambda: append((), 3, []), id="a frontier too short"),
        pytest.param(lambda: append((LEAVES[0],), -1, []), id="a negative size"),
    ],
)
def test_what_no_tree_has_is_refused(ask: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="tree"):
        ask()


# --- entries -----------------------------------------------------------------------------------


def test_an_entry_is_canonical_json() -> None:
    payload = entry_payload("certificate_issued", {"request": ID, "digest": "ab" * 32}, AT)
    assert payload == (
        b'{"at":"2026-11-20T10:00:00.000000Z","digest":"' + b"ab" * 32 + b'",'
        b'"event":"certificate_issued","request":"' + ID.encode() + b'"}'
    )
    assert rfc8785.dumps(json.loads(payload)) == payload


def test_times_are_written_in_utc() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert entry_payload("plan_approved", {}, elsewhere) == entry_payload("plan_approved", {}, AT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request", "ana@example.org"),
        ("request", ID.upper()),
        ("request", ID + "\n"),
        ("digest", "ana@example.org"),
        ("digest", "AB" * 32),
        ("method", "Ana Smith"),
        ("method", ""),
        ("state", "+4915112345678"),
        ("records", -1),
        ("records", True),
        ("records", "ana"),
        ("records", 2**53),
        ("method", 5),
        ("email", "ana@example.org"),
        ("ana@example.org", 1),
        ("event", "plan_approved"),
        ("reason", "she asked us to"),
    ],
)
def test_no_field_and_no_form_lets_a_person_in(field: str, value: str | int) -> None:
    with pytest.raises(EntryRefused) as refused:
        entry_payload("plan_approved", {field: value}, AT)
    for private in ("ana@", "Ana", "+49", "she"):
        assert private not in str(refused.value)


@given(value=st.text())
def test_no_text_of_an_identifiers_form_passes(value: str) -> None:
    identifier = f"{value}@example.org"
    for field in _TEXT_FIELDS:
        with pytest.raises(EntryRefused):
            entry_payload("plan_approved", {field: identifier}, AT)


@pytest.mark.parametrize("event", ["", "Plan approved", "ana@example.org", "a" * 65])
def test_an_event_is_one_word(event: str) -> None:
    with pytest.raises(EntryRefused):
        entry_payload(event, {}, AT)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(EntryRefused):
        entry_payload("plan_approved", {}, AT.replace(tzinfo=None))


def test_the_longest_entry_fits_a_tile() -> None:
    longest: dict[str, str | int] = dict.fromkeys(_COUNT_FIELDS, 2**53 - 1)
    for field, form in _TEXT_FIELDS.items():
        longest[field] = next(
            text for text in (ID, "ab" * 32, "a" * 64) if form.fullmatch(text) is not None
        )
    assert len(entry_payload("e" * 64, longest, AT)) <= 65_535
