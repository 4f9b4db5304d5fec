"""Erasing records from a dataset version's file."""

from app.manifest.rules import EraseJob
from workers.connectors import open_source
from workers.connectors.records import physical_positions, record_digest
from workers.connectors.rewrite import rewrite_without
from workers.steps import Desk, Result


def erase(job: EraseJob, desk: Desk) -> Result:
    """Write the file again without the records; the old one stays until the version points here.

    A record that an earlier erasure took is left out; with none left, nothing is written. What goes
    is told by its keyed digests, so that later manifests can be shown not to hold it.
    """
    gone = set(job.erased)
    records = [one for one in job.records if one not in gone]
    source = open_source(job.uri, job.format)
    before = source.digest()
    result: Result = {"source_uri": job.uri, "digests": {}, "digest_before": before}
    if not records:
        return result | {"uri": job.uri, "digest_after": before}
    positions = dict(zip(physical_positions(records, job.erased), records, strict=True))
    digests = {
        str(positions[place]): record_digest(job.key, row).hex()
        for batch in source.batches()
        for place, row in enumerate(batch.rows, batch.start)
        if place in positions
    }
    desk.on_progress(0.5)
    rewritten = rewrite_without(job.uri, job.format, list(positions), job.target_uri)
    desk.on_progress(1.0)
    return result | {
        "digests": digests,
        "uri": rewritten.uri,
        "digest_after": rewritten.digest,
    }
