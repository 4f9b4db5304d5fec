"""The manifest's Merkle root, and proofs that records are not in it."""

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.audit import rules
from lethe.absence import AbsenceProof, ProvenLeaf, parse_absence_proof, verify_absence
from lethe.merkle import EMPTY_ROOT, ProofInvalid, leaf_hash, node_hash
from workers.evidence.process import ProcessProof, absence_proofs, manifest_root

digests = st.binary(min_size=2, max_size=2)
manifests = st.sets(digests, max_size=40)


def verify(proven: ProcessProof, digest: bytes, proof: AbsenceProof | None = None) -> None:
    verify_absence(
        digest,
        proof or proven.absent[digest.hex()],
        size=proven.size,
        root=bytes.fromhex(proven.root),
    )


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, as written."""
    if len(leaves) < 2:
        return leaf_hash(leaves[0]) if leaves else EMPTY_ROOT
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


@given(manifests, st.randoms())
def test_the_root_is_that_of_the_sorted_digests_each_once(
    manifest: set[bytes], rng: Random
) -> None:
    shuffled = list(manifest) * 2
    rng.shuffle(shuffled)
    assert manifest_root(shuffled) == mth(sorted(manifest)).hex()
    assert absence_proofs(shuffled, []) == ProcessProof(manifest_root(manifest), len(manifest), {})


@given(manifests, st.sets(digests, min_size=1, max_size=10))
def test_every_absent_digest_is_proven_and_no_present_one(
    manifest: set[bytes], asked: set[bytes]
) -> None:
    present = set(sorted(manifest)[:3])
    proven = absence_proofs(manifest, asked | present)
    assert set(proven.absent) == {one.hex() for one in asked - manifest}
    for digest in asked - manifest:
        verify(proven, digest)


@given(manifests.filter(bool), digests)
def test_no_proof_made_from_the_tree_shows_a_present_digest_as_absent(
    manifest: set[bytes], digest: bytes
) -> None:
    """Every pair of neighbouring leaves, each with its true proof, is refused."""
    ordered = sorted(manifest)
    nodes = {(0, i): leaf_hash(one) for i, one in enumerate(ordered)}
    for node in rules.append((), 0, [leaf_hash(one) for one in ordered]).nodes:
        nodes[node.level, node.index] = node.hash
    leaves: list[ProvenLeaf | None] = [
        ProvenLeaf(
            i, one, rules.inclusion_proof(i, len(ordered), lambda level, at: nodes[level, at])
        )
        for i, one in enumerate(ordered)
    ]
    proven = absence_proofs(manifest, [digest])
    pairs = [
        AbsenceProof(before, after)
        for before, after in zip([None, *leaves], [*leaves, None], strict=True)
    ]
    shown = [pair for pair in pairs if _holds(proven, digest, pair)]
    assert shown == list(proven.absent.values())
    for present in ordered:
        assert not any(_holds(proven, present, pair) for pair in pairs)


def _holds(proven: ProcessProof, digest: bytes, proof: AbsenceProof) -> bool:
    try:
        verify(proven, digest, proof)
    except ProofInvalid:
        return False
    return True


@given(manifests.filter(bool), digests, st.data())
def test_a_proof_with_any_byte_changed_is_refused(
    manifest: set[bytes], digest: bytes, data: st.DataObject
) -> None:
    assume(digest not in manifest)
    proven = absence_proofs(manifest, [digest])
    proof = proven.absent[digest.hex()]
    side = data.draw(st.sampled_from([one for one in ("before", "after") if getattr(proof, one)]))
    leaf: ProvenLeaf = getattr(proof, side)
    parts = [leaf.digest, *leaf.hashes]
    which = data.draw(st.integers(0, len(parts) - 1))
    place = data.draw(st.integers(0, len(parts[which]) - 1))
    changed = bytearray(parts[which])
    changed[place] ^= data.draw(st.integers(1, 255))
    parts[which] = bytes(changed)
    forged = replace(leaf, digest=parts[0], hashes=tuple(parts[1:]))
    with pytest.raises(ProofInvalid):
        verify(proven, digest, replace(proof, **{side: forged}))


@given(manifests, digests, st.integers(1, 50), st.integers(0, 31))
def test_another_root_place_or_leaf_is_refused(
    manifest: set[bytes], digest: bytes, step: int, place: int
) -> None:
    assume(digest not in manifest)
    proven = absence_proofs(manifest, [digest])
    proof = proven.absent[digest.hex()]
    root = bytearray.fromhex(proven.root)
    root[place] ^= 1
    with pytest.raises(ProofInvalid):
        verify(replace(proven, root=root.hex()), digest)
    for side in ("before", "after"):
        leaf: ProvenLeaf | None = getattr(proof, side)
        if leaf is None:
            continue
        for index in (leaf.index + step, leaf.index - step):
            moved = replace(proof, **{side: replace(leaf, index=index)})
            with pytest.raises(ProofInvalid):
                verify(proven, digest, moved)
        with pytest.raises(ProofInvalid):
            verify(proven, digest, replace(proof, **{side: None}))


def test_the_ends_of_a_tree_are_ends_only_of_its_size() -> None:
    proven = absence_proofs([b"aa", b"bb", b"cc"], [b"zz", b"bc"])
    last = proven.absent[b"zz".hex()]
    assert last.after is None
    with pytest.raises(ProofInvalid, match="there may be others"):
        verify(replace(proven, size=4), b"zz", last)
    # A leaf in the middle is not the last one, though it is below.
    middle = replace(last, before=proven.absent[b"bc".hex()].before)
    with pytest.raises(ProofInvalid, match="there may be others"):
        verify(proven, b"zz", middle)


def test_nothing_is_in_the_empty_tree() -> None:
    proven = absence_proofs([], [b"aa"])
    assert (proven.size, proven.root) == (0, EMPTY_ROOT.hex())
    verify(proven, b"aa")
    filled = absence_proofs([b"aa"], [])
    with pytest.raises(ProofInvalid, match="only the empty tree"):
        verify(filled, b"aa", AbsenceProof(None, None))
    with pytest.raises(ProofInvalid, match="only the empty tree"):
        verify(replace(filled, size=0), b"aa", AbsenceProof(None, None))
    with pytest.raises(ProofInvalid, match="only the empty tree"):
        verify(replace(proven, size=1), b"aa", AbsenceProof(None, None))


def test_a_digest_of_another_length_is_refused() -> None:
    proven = absence_proofs([b"aa", b"cc"], [b"bb"])
    with pytest.raises(ProofInvalid, match="as long as"):
        verify(proven, b"aab", proven.absent[b"bb".hex()])


@given(manifests, digests)
def test_proofs_travel_as_json(manifest: set[bytes], digest: bytes) -> None:
    assume(digest not in manifest)
    proven = absence_proofs(manifest, [digest])
    told = json.loads(json.dumps(proven.as_dict()))
    assert (told["root"], told["size"]) == (proven.root, proven.size)
    assert parse_absence_proof(told["absent"][digest.hex()]) == proven.absent[digest.hex()]


LEAF = {"index": 0, "digest": "aa", "hashes": []}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"before": None},
        {"before": None, "after": None, "more": None},
        {"before": "aa", "after": None},
        {"before": {**LEAF, "index": True}, "after": None},
        {"before": {**LEAF, "index": "0"}, "after": None},
        {"before": {**LEAF, "digest": "AA"}, "after": None},
        {"before": {**LEAF, "digest": "a"}, "after": None},
        {"before": {**LEAF, "digest": ""}, "after": None},
        {"before": {**LEAF, "hashes": "aa"}, "after": None},
        {"before": {**LEAF, "hashes": [1]}, "after": None},
        {"before": {**LEAF, "more": 1}, "after": None},
    ],
)
def test_a_malformed_proof_is_refused(value: object) -> None:
    with pytest.raises(ProofInvalid):
        parse_absence_proof(value)


def test_many_leaves_take_few_hashes() -> None:
    manifest = [number.to_bytes(16, "big") for number in range(0, 200_000, 2)]
    absent = [number.to_bytes(16, "big") for number in range(1, 200_000, 9_998)]
    proven = absence_proofs(manifest, absent)
    assert len(proven.absent) == len(absent)
    for digest in absent:
        verify(proven, digest)
        assert all(
            len(leaf.hashes) <= 17
            for leaf in (proven.absent[digest.hex()].before, proven.absent[digest.hex()].after)
            if leaf
        )
