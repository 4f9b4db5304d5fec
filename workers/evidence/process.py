"""Evidence from how a model was made, which needs no statistics and holds for one record too.

Thudi et al. 2022 ("On the Necessity of Auditable Algorithmic Definitions for Machine Unlearning"):
weights alone cannot show that a record was left out; only the training that made them can.
"""

from collections.abc import Collection, Mapping, Sequence

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
        low=None,
        high=None,
        level=None,
        p_value=None,
        positive_control=None,
        details={"spent": spent, "budget": budget},
        would_settle="nothing more while the budget lasts; then the model is trained again",
    )
