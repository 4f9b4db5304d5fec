"""Tree hashes and proofs against published values and against the definition in RFC 9162."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.merkle import (
    EMPTY_ROOT,
    GrowingTree,
    ProofInvalid,
    fold,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

# The eight entries, and the roots of sizes 1 to 8, that Certificate Transparency tests with.
CT_ENTRIES = [
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, as written."""
    if not leaves:
        return hashlib.sha256(b"").digest()
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
    k = 1
    while k * 2 < width:
        k *= 2
    return k


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(f"entry {index}".encode()) for index in range(size)]


def test_hashes_are_domain_separated_as_published() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == CT_ROOTS[0]
    assert leaf_hash(b"L123456").hex() == (
        "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    )
    assert node_hash(b"N123", b"N456").hex() == (
        "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    )


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_of_the_published_tree(size: int) -> None:
    assert tree_root(map(leaf_hash, CT_ENTRIES[:size])).hex() == CT_ROOTS[size - 1]


@pytest.mark.parametrize("size", range(131))
def test_root_equals_the_recursive_definition(size: int) -> None:
    assert tree_root(leaves_of(size)) == mth(leaves_of(size))


def test_growing_tree_knows_the_root_at_every_size() -> None:
    tree = GrowingTree()
    for size, leaf in enumerate(leaves_of(40)):
        assert (tree.size, tree.root()) == (size, mth(leaves_of(size)))
        tree.add(leaf)


def test_fold_of_nothing_is_the_empty_root() -> None:
    assert fold([]) == EMPTY_ROOT


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65])
def test_every_inclusion_proof_of_the_definition_holds(size: int) -> None:
    leaves = leaves_of(size)
    for index in range(size):
        verify_inclusion(leaves[index], index, size, path(index, leaves), mth(leaves))


@pytest.mark.parametrize("second", [*range(1, 34), 63, 64, 65])
def test_every_consistency_proof_of_the_definition_holds(second: int) -> None:
    leaves = leaves_of(second)
    for first in range(1, second + 1):
        proof = subproof(first, leaves, known=True)
        verify_consistency(first, second, mth(leaves[:first]), mth(leaves), proof)


@given(size=st.integers(1, 70), data=st.data())
def test_a_changed_inclusion_proof_never_holds(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    proof, root, foreign = path(index, leaves), mth(leaves), leaf_hash(b"foreign")
    broken: list[tuple[bytes, int, int, list[bytes], bytes]] = [
        (foreign, index, size, proof, root),
        (leaves[index], index, size, proof, foreign),
        (leaves[index], index, size, [*proof, foreign], root),
        (leaves[index], index, size, [foreign, *proof], root),
        (leaves[index], size, size, proof, root),
        (leaves[index], -1, size, proof, root),
        (leaves[index][:31], index, size, proof, root),
        (leaves[index], index, 2**64, proof, root),
    ]
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        other = data.draw(st.integers(0, size - 1).filter(lambda value: value != index))
        broken += [
            (leaves[index], index, size, proof[:-1], root),
            (leaves[index], index, size, [*proof[:place], foreign, *proof[place + 1 :]], root),
            (leaves[index], index, size, [*proof[:place], b"", *proof[place + 1 :]], root),
            (leaves[index], other, size, proof, root),
        ]
    for case in broken:
        with pytest.raises(ProofInvalid):
            verify_inclusion(*case)


@given(second=st.integers(2, 70), data=st.data())
def test_a_changed_consistency_proof_never_holds(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, second - 1))
    leaves = leaves_of(second)
    proof = subproof(first, leaves, known=True)
    old, new, foreign = mth(leaves[:first]), mth(leaves), leaf_hash(b"foreign")
    place = data.draw(st.integers(0, len(proof) - 1))
    broken: list[tuple[int, int, bytes, bytes, list[bytes]]] = [
        (first, second, foreign, new, proof),
        (first, second, old, foreign, proof),
        (first, second, old, new, []),
        (first, second, old, new, proof[:-1]),
        (first, second, old, new, [*proof, foreign]),
        (first, second, old, new, [*proof[:place], foreign, *proof[place + 1 :]]),
        (second, first, new, old, proof),
        (0, second, EMPTY_ROOT, new, []),
        (second, second, new, new, proof),
        (second, second, new, old, []),
    ]
    for case in broken:
        with pytest.raises(ProofInvalid):
            verify_consistency(*case)


@pytest.mark.parametrize(
    ("size", "index", "extra", "reason"),
    [
        (5, 5, 0, "entry 5 is not in a log of 5 entries"),
        (5, 1, 1, "the inclusion proof is too long"),
        (5, 1, -1, "the inclusion proof is too short"),
    ],
)
def test_reasons_are_told(size: int, index: int, extra: int, reason: str) -> None:
    leaves = leaves_of(size)
    proof = path(min(index, size - 1), leaves)
    proof = proof[:extra] if extra < 0 else proof + [leaf_hash(b"")] * extra
    with pytest.raises(ProofInvalid) as refused:
        verify_inclusion(leaves[1], index, size, proof, mth(leaves))
    assert refused.value.reason == reason


def test_a_history_that_was_rewritten_is_not_consistent() -> None:
    leaves = leaves_of(12)
    rewritten = [leaf_hash(b"changed"), *leaves[1:]]
    proof = subproof(7, rewritten, known=True)
    with pytest.raises(ProofInvalid, match="first root"):
        verify_consistency(7, 12, mth(leaves[:7]), mth(rewritten), proof)
