"""Proof that a record is not among those that a model version was trained on, checked offline.

The digests of all records trained on, each once, in ascending order, are the leaves of a Merkle
tree (RFC 9162), whose size and root are signed. A digest that is not in it would stand between two
leaves that are neighbours, or before the first, or after the last; the proof shows these leaves.

What this cannot show: that whoever made the tree sorted it, or trained on these records alone. Both
come out when the manifest is read or the training is replayed. A proof gives away the digests of
the two neighbours; they are keyed and name nobody.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final, TypeAlias

from lethe.merkle import EMPTY_ROOT, ProofInvalid, leaf_hash, verify_inclusion

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A leaf, and the hashes that lead from it to the root.

    Attributes:
        index: its place, from 0.
        digest: the digest that it holds.
        hashes: the inclusion proof, from the leaf's sibling upwards, 32 bytes each.
    """

    index: int
    digest: bytes
    hashes: tuple[bytes, ...]

    def as_dict(self) -> dict[str, Json]:
        """All attributes, ready for JSON; bytes in lower-case hex."""
        return {
            "index": self.index,
            "digest": self.digest.hex(),
            "hashes": [one.hex() for one in self.hashes],
        }


@dataclass(frozen=True, slots=True)
class AbsenceProof:
    """The neighbours between which a digest would stand.

    Attributes:
        before: the largest leaf below it; None where there is none.
        after: the smallest leaf above it; None where there is none.
    """

    before: ProvenLeaf | None
    after: ProvenLeaf | None

    def as_dict(self) -> dict[str, Json]:
        """All attributes, ready for JSON; `parse_absence_proof` reads it."""
        return {
            "before": None if self.before is None else self.before.as_dict(),
            "after": None if self.after is None else self.after.as_dict(),
        }


def verify_absence(digest: bytes, proof: AbsenceProof, *, size: int, root: bytes) -> None:
    """Check that `digest` is no leaf of the sorted tree of `size` leaves with `root` (32 bytes).

    Take size and root from where they are signed, never from beside the proof. The leaves' hashes
    and inclusion proofs are those of RFC 9162 §2.1.1 and §2.1.3.2.

    Raises:
        ProofInvalid: it is one, or the proof does not show that it is none.
    """
    before, after = proof.before, proof.after
    # 1. Nothing is in the empty tree.
    if before is None and after is None:
        if size != 0 or not compare_digest(root, EMPTY_ROOT):
            raise ProofInvalid("only the empty tree needs no leaf to show that a digest is absent")
        return
    # 2. The leaves are next to each other, or at the end of the tree.
    first = -1 if before is None else before.index
    if (size if after is None else after.index) != first + 1:
        raise ProofInvalid("between the two leaves of the proof there may be others")
    # 3. The digest lies strictly between them.
    if before is not None:
        _check_below(before.digest, digest)
    if after is not None:
        _check_below(digest, after.digest)
    # 4. Both are in the tree.
    for leaf in (before, after):
        if leaf is not None:
            verify_inclusion(leaf_hash(leaf.digest), leaf.index, size, leaf.hashes, root)


def parse_absence_proof(value: object) -> AbsenceProof:
    """Read a proof from JSON that `lethe.encoding.decode_json` has decoded; verifies nothing.

    Raises:
        ProofInvalid: it is malformed.
    """
    if not isinstance(value, Mapping) or set(value) != {"before", "after"}:
        raise ProofInvalid("a proof of absence has a leaf before and a leaf after")
    return AbsenceProof(_leaf(value["before"]), _leaf(value["after"]))


def _check_below(lower: bytes, upper: bytes) -> None:
    if len(lower) != len(upper):
        raise ProofInvalid("the digests of the proof are not as long as the one asked for")
    if not lower < upper:
        raise ProofInvalid("the digest does not lie between the two leaves of the proof")


def _leaf(value: object) -> ProvenLeaf | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"index", "digest", "hashes"}:
        raise ProofInvalid("a leaf of the proof has an index, a digest and hashes")
    index, hashes = value["index"], value["hashes"]
    if type(index) is not int or not isinstance(hashes, list):
        raise ProofInvalid("a leaf of the proof has a number for its index and a list of hashes")
    return ProvenLeaf(index, _unhex(value["digest"]), tuple(map(_unhex, hashes)))


def _unhex(value: object) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ProofInvalid("a digest or hash of the proof is not lower-case hex")
    return bytes.fromhex(value)
