"""Merkle tree hashes and the verification of proofs, by RFC 9162.

Only what a verifier needs: no storage, and no making of proofs (that is `app/audit/rules.py`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from hmac import compare_digest

HASH_BYTES = 32
MAX_SIZE = 2**64 - 1
EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofInvalid(ValueError):
    """The proof does not show what it claims.

    Attributes:
        reason: What does not hold, in one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def leaf_hash(entry: bytes) -> bytes:
    """Hash one log entry: SHA-256(0x00 ‖ entry), 32 bytes (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children: SHA-256(0x01 ‖ left ‖ right), 32 bytes (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(subtrees: Sequence[bytes]) -> bytes:
    """Join the roots of adjacent complete subtrees, largest first, into the root over all of them.

    This is RFC 9162 §2.1.1 read from the right: what is left of the last split is hashed first. No
    subtree at all gives the root of the empty tree.
    """
    if not subtrees:
        return EMPTY_ROOT
    root = subtrees[-1]
    for subtree in reversed(subtrees[:-1]):
        root = node_hash(subtree, root)
    return root


class GrowingTree:
    """The root over entries that are read one by one, in memory that grows with log(n) only."""

    def __init__(self) -> None:
        self.size = 0
        self._subtrees: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Append one leaf hash (32 bytes)."""
        joined = leaf
        for _ in range(_trailing_ones(self.size)):
            joined = node_hash(self._subtrees.pop(), joined)
        self._subtrees.append(joined)
        self.size += 1

    def root(self) -> bytes:
        """Return the root over the leaves added so far, 32 bytes."""
        return fold(self._subtrees)


def tree_root(leaf_hashes: Iterable[bytes]) -> bytes:
    """Return the Merkle tree hash over all leaf hashes (RFC 9162 §2.1.1), 32 bytes."""
    tree = GrowingTree()
    for leaf in leaf_hashes:
        tree.add(leaf)
    return tree.root()


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf` is the leaf hash at `index` of the tree of `size` entries with `root`.

    The steps are those of RFC 9162 §2.1.3.2. All hashes are 32 bytes; `index` counts from 0.

    Raises:
        ProofInvalid: It is not, or the input cannot be such a proof.
    """
    _check_hashes(leaf, root, *proof)
    _check_size(size)
    # 1. The leaf must lie inside the tree.
    if not 0 <= index < size:
        raise ProofInvalid(f"entry {index} is not in a log of {size} entries")
    # 2. and 3. Start at the leaf: fn is its place in the row, sn the place of the row's last node.
    fn, sn, computed = index, size - 1, leaf
    # 4. Climb one row for each hash of the proof.
    for sibling in proof:
        if sn == 0:
            raise ProofInvalid("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            computed = node_hash(sibling, computed)
            # A last node without a right sibling moves up as it is.
            fn, sn = _skip_lone_rows(fn, sn)
        else:
            computed = node_hash(computed, sibling)
        fn, sn = fn >> 1, sn >> 1
    # 5. Exactly at the top, with exactly the signed root.
    if sn != 0:
        raise ProofInvalid("the inclusion proof is too short")
    if not compare_digest(computed, root):
        raise ProofInvalid("the entry and its inclusion proof lead to another root")


def verify_consistency(
    first_size: int, second_size: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `second_size` is the tree of `first_size` with entries appended.

    The steps are those of RFC 9162 §2.1.4.2. All hashes are 32 bytes. Every tree extends the empty
    one, so a proof from size 0 says nothing and is refused.

    Raises:
        ProofInvalid: It is not, or the input cannot be such a proof.
    """
    _check_hashes(first_root, second_root, *proof)
    _check_size(second_size)
    if not 0 < first_size <= second_size:
        raise ProofInvalid(f"no consistency proof leads from size {first_size} to {second_size}")
    if first_size == second_size:
        _check_same_tree(first_root, second_root, proof)
        return
    # 1. Between different sizes there is something to show.
    if not proof:
        raise ProofInvalid("the consistency proof is empty")
    # 2. A complete first tree is itself the first node.
    path = [first_root, *proof] if first_size.bit_count() == 1 else list(proof)
    # 3. and 4. Start at the largest complete subtree that ends where the first tree ends.
    complete_rows = _trailing_ones(first_size - 1)
    fn, sn = (first_size - 1) >> complete_rows, (second_size - 1) >> complete_rows
    # 5. and 6. From there both roots are computed side by side.
    first_computed, second_computed = _climb_both(path, fn, sn)
    # 7. Exactly at the top, with both roots.
    if not compare_digest(first_computed, first_root):
        raise ProofInvalid("the consistency proof does not lead to the first root")
    if not compare_digest(second_computed, second_root):
        raise ProofInvalid("the consistency proof does not lead to the second root")


def _climb_both(path: Sequence[bytes], fn: int, sn: int) -> tuple[bytes, bytes]:
    first = second = path[0]
    for node in path[1:]:
        if sn == 0:
            raise ProofInvalid("the consistency proof is too long")
        if fn & 1 or fn == sn:
            # Only nodes to the left belong to the first tree as well.
            first, second = node_hash(node, first), node_hash(node, second)
            fn, sn = _skip_lone_rows(fn, sn)
        else:
            second = node_hash(second, node)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise ProofInvalid("the consistency proof is too short")
    return first, second


def _skip_lone_rows(fn: int, sn: int) -> tuple[int, int]:
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _check_same_tree(first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> None:
    if proof:
        raise ProofInvalid("a consistency proof between equal sizes must be empty")
    if not compare_digest(first_root, second_root):
        raise ProofInvalid("two trees of the same size have different roots")


def _check_hashes(*hashes: bytes) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise ProofInvalid("a hash of the proof is not 32 bytes long")


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise ProofInvalid("the size of the log is out of range")


def _trailing_ones(number: int) -> int:
    return (~number & (number + 1)).bit_length() - 1
