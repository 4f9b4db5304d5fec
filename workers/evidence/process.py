"""Evidence from how a model was made, which needs no statistics and holds for one record too.

Thudi et al. 2022 ("On the Necessity of Auditable Algorithmic Definitions for Machine Unlearning"):
weights alone cannot show that a record was left out; only the training that made them can.
"""

from collections.abc import Collection, Mapping

from workers.evidence.types import Evidence


def process_evidence(
    forget_digests: Collection[bytes],
    manifest_digests: Collection[bytes],
    untouched_before: Mapping[str, str],
    untouched_after: Mapping[str, str],
) -> Evidence:
    """Count what contradicts exact unlearning; the estimate is 0 where nothing does.

    Args:
        forget_digests: digests of the records to forget.
        manifest_digests: digests of the records that the new model version was trained on.
        untouched_before: artifact digest of each shard that no record touches, before.
        untouched_after: the same after; a shard that is missing or new contradicts as well.

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
        estimate=float(left + changed),
        low=None,
        high=None,
        level=None,
        p_value=None,
        positive_control=None,
        details={
            "left_in_manifest": left,
            "untouched_shards": len(untouched_before),
            "untouched_changed": changed,
        },
        would_settle="nothing more; the training can be replayed from its manifest",
    )
