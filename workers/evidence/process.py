"""Evidence from how a model was made, which needs no statistics and holds for one record too.

Thudi et al. 2022 ("On the Necessity of Auditable Algorithmic Definitions for Machine Unlearning"):
weights alone cannot show that a record was left out; only the training that made them can.
"""

from bisect import bisect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lethe.absence import AbsenceProof, Json, ProvenLeaf
from lethe.merkle import EMPTY_ROOT, leaf_hash, node_hash, tree_root
from workers.evidence.types import Evidence


@dataclass(frozen=True)
class ProcessProof:
    """What shows to others, without the manifest, that records are not in it.

    Attributes:
        root: the Merkle root over the manifest's digests, hex.
        size: how many digests there are, each counted once.
        absent: the proof for each digest that is not among them, by the digest in hex, as
            `lethe.absence.verify_absence` takes it.
    """

    root: str
    size: int
    absent: Mapping[str, AbsenceProof]

    def as_dict(self) -> dict[str, Json]:
        """All attributes, ready for JSON."""
        return {
            "root": self.root,
            "size": self.size,
            "absent": {digest: proof.as_dict() for digest, proof in self.absent.items()},
        }


def process_evidence(
    forget_digests: Collection[bytes],
    manifest_digests: Collection[bytes],
    untouched_before: Mapping[str, str],
    untouched_after: Mapping[str, str],
    unlisted: int = 0,
) -> Evidence:
    """Count what contradicts exact unlearning; the estimate is 0 where nothing does.

    Args:
        forget_digests: digests of the records to forget.
        manifest_digests: digests of the records that the new model version was trained on.
        untouched_before: artifact digest of each shard that no record touches, before.
        untouched_after: the same after; a shard that is missing or new contradicts as well.
        unlisted: stored states that were trained on records which no manifest lists.

    Raises:
        ValueError: there is no record to forget, so nothing could be shown.
    """
    forget, manifest = set(forget_digests), set(manifest_digests)
    if not forget:
        raise ValueError("without a record to forget there is no evidence that it was left out")
    left = len(forget & manifest)
    changed = len({shard for shard, _ in untouched_before.items() ^ untouched_after.items()})
    return Evidence(
        name="process",
        family="process",
        threat_model="T0",
        reference="the manifest of the new model version and the digests of untouched shards",
        unit="record",
        n=len(forget),
        m=len(manifest),
        estimate=float(left + changed + unlisted),
        details={
            "unlisted": unlisted,
            "left_in_manifest": left,
            "untouched_shards": len(untouched_before),
            "untouched_changed": changed,
        },
        would_settle="nothing more; the training can be replayed from its manifest",
    )


def bound_evidence(removals: Sequence[tuple[float, float]]) -> Evidence:
    """Count the shards whose removals have spent more than their budget; 0 is what must be.

    Guo et al. 2020 ("Certified Data Removal from Machine Learning Models", arXiv 1911.03030),
    section 3: while the sum of the gradient residuals is within the budget, the model cannot be
    told from one trained without the records beyond epsilon and delta.

    Args:
        removals: (spent, budget) of each shard that records were taken out of.

    Raises:
        ValueError: there is no removal, so nothing is bounded.
    """
    if not removals:
        raise ValueError("without a removal there is no bound to show")
    spent, budget = max(removals, key=lambda one: one[0] - one[1])
    return Evidence(
        name="certified_bound",
        family="process",
        threat_model="T4",
        reference="training without the records, under the assumptions of the method",
        unit="record",
        n=len(removals),
        m=0,
        estimate=float(sum(not used <= allowed for used, allowed in removals)),
        details={"spent": spent, "budget": budget},
        would_settle="nothing more while the budget lasts; then the model is trained again",
    )


def manifest_root(digests: Collection[bytes]) -> str:
    """Return the Merkle root, in hex, over a manifest's record digests.

    Each digest counts once; the leaves stand in ascending order of bytes and are hashed by RFC 9162
    §2.1.1, so that the root says nothing of shards and slices and one digest's absence can be
    shown.
    """
    return tree_root(map(leaf_hash, sorted(set(digests)))).hex()


def absence_proofs(digests: Collection[bytes], absent: Collection[bytes]) -> ProcessProof:
    """Return the root over a manifest's digests and the proof that others are not among them.

    A digest of `absent` that is in the manifest gets no proof, as there is none. Takes 64 bytes for
    each record of the manifest while it runs.

    Args:
        digests: digests of the records that the model version was trained on.
        absent: digests of the records to forget, as long as the others.
    """
    leaves = sorted(set(digests))
    rows = _rows([leaf_hash(one) for one in leaves])
    proofs = {}
    for digest in sorted(set(absent)):
        place = bisect(leaves, digest)
        if place and leaves[place - 1] == digest:
            continue
        before = _proven(place - 1, leaves, rows) if place else None
        after = _proven(place, leaves, rows) if place < len(leaves) else None
        proofs[digest.hex()] = AbsenceProof(before, after)
    root = rows[-1][0] if leaves else EMPTY_ROOT
    return ProcessProof(root.hex(), len(leaves), proofs)


def _rows(hashes: list[bytes]) -> list[list[bytes]]:
    """Return the tree from the leaves up; a last node without a sibling moves up as it is."""
    rows = [hashes]
    while len(rows[-1]) > 1:
        below = rows[-1]
        joined = [node_hash(*below[i : i + 2]) for i in range(0, len(below) - 1, 2)]
        rows.append(joined + below[len(joined) * 2 :])
    return rows


def _proven(index: int, leaves: Sequence[bytes], rows: Sequence[Sequence[bytes]]) -> ProvenLeaf:
    """Return a leaf with its inclusion proof (RFC 9162 §2.1.3.1)."""
    hashes, place = [], index
    for row in rows[:-1]:
        if place ^ 1 < len(row):
            hashes.append(row[place ^ 1])
        place >>= 1
    return ProvenLeaf(index, leaves[index], tuple(hashes))
