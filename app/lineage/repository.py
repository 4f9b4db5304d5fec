"""The trace in SQL: subject keys → records → shards, slices, model versions → derived artifacts.

One chain of common table expressions, each a room of its own:

- `direct`: index rows of the subject keys;
- `owners`: where such a row names the owner (not a mention), the owner's key in that dataset;
- `owned`: what is filed under those keys, in any dataset;
- `found`: the direct rows, and what is filed under an owner in the dataset that named them. Record
  numbers are those of the dataset version as indexed; records erased from the file since stay here,
  since models may still hold them.

`UNION`, not `UNION ALL`, in the graph walk, so that cycles end. Retired edges are walked too: the
graph forgets nothing (DESIGN decision 14).
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.lineage.rules import FoundDerived, FoundModel, FoundRecords, FoundShard

# Keys reach the index as arrays, never by a join: the planner cannot know how few they are, and
# would read the whole index to meet them.
FOUND = """
WITH RECURSIVE direct AS MATERIALIZED (
    SELECT dataset_version_id, record_no, bucket, role, owner_key
    FROM subject_record
    WHERE subject_key = ANY(CAST(:keys AS uuid[]))
), owners AS MATERIALIZED (
    SELECT DISTINCT v.dataset_id, d.owner_key
    FROM direct d JOIN dataset_version v ON v.id = d.dataset_version_id
    WHERE d.role <> 2
), owned AS MATERIALIZED (
    SELECT dataset_version_id, record_no, bucket, owner_key
    FROM subject_record
    WHERE subject_key = ANY(ARRAY(SELECT owner_key FROM owners)) AND role = 0
), found AS (
    SELECT dataset_version_id, record_no, bucket FROM direct
    UNION
    SELECT r.dataset_version_id, r.record_no, r.bucket
    FROM owned r
    JOIN dataset_version v ON v.id = r.dataset_version_id
    JOIN owners o ON o.dataset_id = v.dataset_id AND o.owner_key = r.owner_key
)
"""

RECORDS = (
    FOUND
    + """
SELECT v.artifact_id, v.id, d.name, v.version, count(*)
FROM found f
JOIN dataset_version v ON v.id = f.dataset_version_id
JOIN dataset d ON d.id = v.dataset_id
LEFT JOIN erased_record e
    ON e.dataset_version_id = f.dataset_version_id AND e.record_no = f.record_no
WHERE e.record_no IS NULL
GROUP BY v.artifact_id, v.id, d.name, v.version
ORDER BY d.name, v.version
"""
)

# A version in training from scratch has its manifest already; one in training from another version
# replaces that one, whose action follows it, unless that one left the record out.
SHARDS = (
    FOUND
    + """
SELECT m.artifact_id, m.id, model.name, m.version,
    f.bucket % m.shards AS shard, (f.bucket / m.shards) % m.slices AS slice, count(*)
FROM found f
JOIN model_input i ON i.dataset_version_id = f.dataset_version_id
JOIN model_version m ON m.id = i.model_version_id
JOIN model ON model.id = m.model_id
LEFT JOIN manifest_exclusion x ON x.model_version_id = m.id
    AND x.dataset_version_id = f.dataset_version_id AND x.record_no = f.record_no
LEFT JOIN manifest_exclusion b ON b.model_version_id = m.base_version_id
    AND b.dataset_version_id = f.dataset_version_id AND b.record_no = f.record_no
WHERE (
    m.state = 'live'
    OR (m.state = 'training' AND (m.base_version_id IS NULL OR b.record_no IS NOT NULL))
)
    AND f.bucket < m.holdout_from
    AND x.record_no IS NULL
GROUP BY m.artifact_id, m.id, model.name, m.version, shard, slice
ORDER BY model.name, m.version, shard, slice
"""
)

# Whatever was made from a file before an erasure, or from a version that is gone, is still there.
EVER = (
    FOUND
    + """
SELECT v.artifact_id
FROM found f
JOIN dataset_version v ON v.id = f.dataset_version_id
UNION
SELECT m.artifact_id
FROM found f
JOIN model_input i ON i.dataset_version_id = f.dataset_version_id
JOIN model_version m ON m.id = i.model_version_id
LEFT JOIN manifest_exclusion x ON x.model_version_id = m.id
    AND x.dataset_version_id = f.dataset_version_id AND x.record_no = f.record_no
WHERE f.bucket < m.holdout_from AND x.record_no IS NULL
"""
)

# Models of ours are known by their records, more exactly than an edge can say.
DERIVED = """
WITH RECURSIVE reached AS (
    SELECT unnest(CAST(:start AS bigint[])) AS id
    UNION
    SELECT e.child
    FROM reached r JOIN edge e ON e.parent = r.id
    WHERE e.relation <> 'replaced_by'
        AND NOT EXISTS (
            SELECT 1 FROM model_version m JOIN model_input i ON i.model_version_id = m.id
            WHERE m.artifact_id = e.child
        )
)
SELECT a.id, a.kind, a.name, a.version
FROM reached r JOIN artifact a ON a.id = r.id
WHERE a.destroyed_at IS NULL AND a.kind <> 'deployment' AND a.id <> ALL(CAST(:start AS bigint[]))
ORDER BY a.kind, a.name, a.version
"""

# Nobody said what it was made from, or nobody read yet who is in it.
UNKNOWN = """
WITH unread AS (SELECT id, artifact_id FROM dataset_version WHERE state <> 'indexed')
SELECT a.id, a.kind, a.name, a.version
FROM artifact a
WHERE a.destroyed_at IS NULL AND (
    a.lineage = 'unknown'
    OR a.id IN (SELECT artifact_id FROM unread)
    OR a.id IN (
        SELECT m.artifact_id FROM model_version m
        JOIN model_input i ON i.model_version_id = m.id
        JOIN unread u ON u.id = i.dataset_version_id
    )
)
ORDER BY a.kind, a.name, a.version
"""

SUPPRESS = (
    FOUND
    + """
INSERT INTO suppressed_record (request_id, dataset_version_id, record_no, bucket)
SELECT :request_id, dataset_version_id, record_no, bucket FROM found
ON CONFLICT DO NOTHING
"""
)


def found_records(session: Session, keys: Sequence[UUID]) -> tuple[FoundRecords, ...]:
    """Return the dataset versions that hold records of the person now."""
    return tuple(FoundRecords(*row) for row in session.execute(text(RECORDS), _keys(keys)))


def found_models(session: Session, keys: Sequence[UUID]) -> tuple[FoundModel, ...]:
    """Return the model versions trained on records of the person, with shards and slices."""
    cells: dict[tuple[int, UUID, str, int], dict[int, dict[int, int]]] = defaultdict(dict)
    rows = session.execute(text(SHARDS), _keys(keys))
    for artifact, version, name, number, shard, piece, records in rows:
        cells[artifact, version, name, number].setdefault(shard, {})[piece] = records
    return tuple(
        FoundModel(artifact, version, name, number, _shards(shards))
        for (artifact, version, name, number), shards in cells.items()
    )


def _shards(cells: dict[int, dict[int, int]]) -> tuple[FoundShard, ...]:
    return tuple(
        FoundShard(shard, min(slices), tuple(sorted(slices)), sum(slices.values()))
        for shard, slices in sorted(cells.items())
    )


def found_derived(session: Session, keys: Sequence[UUID]) -> tuple[FoundDerived, ...]:
    """Return artifacts reached by edges from all that ever held the person's records."""
    start = list(session.scalars(text(EVER), _keys(keys)))
    rows = session.execute(text(DERIVED), {"start": start})
    return tuple(FoundDerived(*row) for row in rows)


def unknown_lineage(session: Session) -> tuple[FoundDerived, ...]:
    """Return artifacts that nobody can say of whether the person is in them."""
    return tuple(FoundDerived(*row) for row in session.execute(text(UNKNOWN)))


def suppress(
    session: Session, request_id: UUID, keys: Sequence[UUID], received_at: datetime, now: datetime
) -> None:
    """Put the subject keys and their records on the suppression list, once per request."""
    session.execute(text(SUPPRESS), {**_keys(keys), "request_id": request_id})
    session.execute(
        text(
            """
            INSERT INTO suppression (id, subject_key, request_id, received_at, created_at)
            SELECT gen_random_uuid(), key, :request_id, :received_at, :now
            FROM unnest(CAST(:keys AS uuid[])) AS key
            WHERE NOT EXISTS (
                SELECT 1 FROM suppression WHERE request_id = :request_id AND subject_key = key
            )
            """
        ),
        {**_keys(keys), "request_id": request_id, "received_at": received_at, "now": now},
    )


def lock_manifests(session: Session) -> None:
    """Hold back the making of manifests until this transaction ends.

    A training that starts while a person is being suppressed would otherwise miss them.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(hashtext('lethe.manifests'))"))


def _keys(keys: Sequence[UUID]) -> dict[str, Any]:
    return {"keys": [str(key) for key in keys]}
