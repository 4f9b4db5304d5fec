"""Issuing certificates: facts from the rows, a signed statement, an entry in the log."""

import hashlib
from collections import Counter
from datetime import datetime
from uuid import UUID

import rfc8785
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.certificate import repository, rules
from app.core.errors import ConflictError, NotFoundError
from app.core.lifecycle import ActionState
from app.core.signing import SigningKeys
from app.models import Action, Artifact, Certificate, ErasureRequest, ModelVersion, Run
from lethe.bundle import format_bundle, sign_statement
from lethe.tlogproof import TlogProof


class CertificateNotReadyError(ConflictError):
    """The request has no certificate yet."""

    slug = "certificate-not-ready"
    advice = "Wait until the request is `completed` or `partially_completed`."


def issue(
    session: Session, keys: SigningKeys, request: ErasureRequest, now: datetime
) -> Certificate:
    """Sign the statement of a request whose actions have all ended, and enter it in the log.

    Raises:
        CertificateRefused: the facts would make it say more than is true.
    """
    earlier = repository.latest(session, request.id)
    facts = _facts(session, request, earlier, now)
    payload = rfc8785.dumps(rules.statement(facts))  # type: ignore[arg-type]
    digest = hashlib.sha256(payload).hexdigest()
    pending_id = audit.record(
        session,
        "certificate_issued",
        now,
        request_id=request.id,
        digest=digest,
        revision=facts.revision,
        supersedes=facts.supersedes,
    )
    return repository.add(
        session,
        Certificate(
            request_id=request.id,
            revision=facts.revision,
            envelope=sign_statement(payload, keys.certificates),
            payload_digest=digest,
            pending_id=pending_id,
            created_at=now,
        ),
    )


def is_logged(session: Session, request_id: UUID) -> bool:
    """Say whether the newest certificate of a request has its place in the log."""
    certificate = repository.latest(session, request_id)
    return certificate is not None and (audit.receipt(session, certificate.pending_id) is not None)


def is_issued(session: Session, request_id: UUID) -> bool:
    """Say whether a certificate was signed for the request."""
    return repository.latest(session, request_id) is not None


def bundle(session: Session, request_id: UUID, portal_id: UUID | None = None) -> str:
    """Return the newest certificate with its log entry and proof, as `lethe verify` reads it.

    Raises:
        NotFoundError: there is no such request for this portal.
        CertificateNotReadyError: none is issued, or it has no place in the log yet.
    """
    request = session.get(ErasureRequest, request_id)
    if request is None or portal_id not in {None, request.portal_id}:
        raise NotFoundError("No erasure request has this id, or another portal submitted it.")
    certificate = repository.latest(session, request_id)
    receipt = None if certificate is None else audit.receipt(session, certificate.pending_id)
    if certificate is None or receipt is None:
        raise CertificateNotReadyError
    leaf, head, path = receipt
    proof = TlogProof(index=leaf.index, hashes=path, checkpoint=head.note)
    return format_bundle(certificate.envelope, leaf.payload, proof)


def _facts(
    session: Session, request: ErasureRequest, earlier: Certificate | None, now: datetime
) -> rules.CertificateFacts:
    rows = repository.actions(session, request.id)
    commitments = repository.commitments(session, request.id)
    trace = request.trace or {}
    return rules.CertificateFacts(
        request_id=str(request.id),
        regime=request.regime,
        ground=request.ground,
        received_at=request.received_at,
        due_at=request.due_at,
        closed_at=request.closed_at or now,
        identifiers=tuple(sorted(Counter(request.identifier_types).items())),
        found=tuple(_found(action, artifact) for action, artifact, _ in rows),
        actions=tuple(_action(session, action, artifact, run) for action, artifact, run in rows),
        commitments=tuple(
            rules.Commitment(_name(artifact), one.kind, one.due_at, one.kept_at)
            for one, artifact in commitments
        ),
        unknown_lineage=tuple(trace.get("unknown_lineage", [])),
        revision=1 if earlier is None else earlier.revision + 1,
        supersedes=None if earlier is None else earlier.payload_digest,
    )


def _name(artifact: Artifact) -> str:
    kind = artifact.kind.removesuffix("_version")
    return f"{kind}/{artifact.name}" + (f"@{artifact.version}" if artifact.version else "")


def _found(action: Action, artifact: Artifact) -> rules.FoundArtifact:
    return rules.FoundArtifact(
        artifact=_name(artifact),
        kind=artifact.kind,
        records=int(action.found.get("records", 0)),
        shards=tuple(
            rules.FoundShard(one["shard"], tuple(one["slices"]), one["records"])
            for one in action.found.get("shards", [])
        ),
    )


def _action(
    session: Session, action: Action, artifact: Artifact, run: Run | None
) -> rules.ActionTaken:
    reached = action.state != ActionState.NOT_REACHABLE
    verdict = (run.verdict or {}).get("verdict") if run is not None else None
    accepted = run.accepted if run is not None else None
    before, after, destroyed = _objects(session, run)
    return rules.ActionTaken(
        artifact=_name(artifact),
        kind=artifact.kind,
        state=ActionState(action.state),
        method=action.method if reached else None,
        guarantee=action.guarantee if reached else None,  # type: ignore[arg-type]
        reason=action.reason,
        verdict=verdict,
        accepted_at=datetime.fromisoformat(accepted["at"]) if accepted else None,
        before=before,
        after=after,
        destroyed=destroyed,
        evidence=() if run is None else _evidence(session, run) + _not_measured(session, run),
    )


Digests = tuple[rules.ArtifactDigest, ...]


def _objects(session: Session, run: Run | None) -> tuple[Digests, Digests, tuple[str, ...]]:
    if run is None:
        return (), (), ()
    if run.kind == "erase_records":
        destroyed = repository.step_result(session, run.id, "destroy").get("destroyed")
        erased = repository.step_result(session, run.id, "erase_records")
        name = f"dataset_version/{run.dataset_version_id}"
        return (
            (rules.ArtifactDigest(f"{name}/before", erased["digest_before"]),),
            (rules.ArtifactDigest(f"{name}/after", erased["digest_after"]),),
            (erased["digest_before"],) if destroyed else (),
        )
    before = _digests(session, run.base_version_id)
    # An object that another version shared went with that version's run.
    gone = repository.destroyed_objects(session, run.model_id)
    if run.kind == "destroy":
        # What a live version has in common with the given up training is no part of it.
        before = tuple(one for one in before if one.sha256 in gone)
    return (
        before,
        _digests(session, run.new_version_id) + _manifest(session, run.new_version_id),
        tuple(sorted(gone & {one.sha256 for one in before})),
    )


def _digests(session: Session, version_id: UUID | None) -> Digests:
    if version_id is None:
        return ()
    return tuple(
        rules.ArtifactDigest(
            f"model_version/{version_id}/shard-{one.shard}/slice-{one.slice}", one.object_digest
        )
        for one in repository.objects(session, version_id)
        if one.object_digest is not None
    )


def _manifest(session: Session, version_id: UUID | None) -> Digests:
    """Return the version's manifest, which holds the Merkle root of what it was trained on."""
    digest = (
        None if version_id is None else session.get_one(ModelVersion, version_id).manifest_digest
    )
    if digest is None:
        return ()
    return (rules.ArtifactDigest(f"model_version/{version_id}/manifest", digest),)


def _evidence(session: Session, run: Run) -> tuple[rules.EvidenceSummary, ...]:
    verdict = run.verdict or {"checks": [], "margins": {}}
    judged = {one["name"]: one for one in verdict["checks"]}
    margin = verdict["margins"].get("membership")
    return tuple(
        rules.EvidenceSummary(
            name=one["name"],
            threat_model=one["threat_model"],
            reference=one["reference"],
            unit=one["unit"],
            n=one["n"],
            m=one["m"],
            estimate=one["estimate"],
            low=one["low"],
            high=one["high"],
            level=one["level"],
            margin=margin if one["family"] == "membership" else None,
            verdict=judged[one["name"]]["verdict"],
            reason=judged[one["name"]]["reason"],
        )
        for one in repository.evidence(session, run.id)
        if one["name"] in judged
    )


def _not_measured(session: Session, run: Run) -> tuple[rules.EvidenceSummary, ...]:
    """Return, for erased records, what nothing in the new files could be looked for, and why."""
    if run.kind != "erase_records":
        return ()
    return tuple(
        rules.EvidenceSummary(
            name=one["name"],
            threat_model="T0",
            reference="the bytes of the files as they are stored",
            unit="record",
            n=0,
            m=0,
            estimate=None,
            low=None,
            high=None,
            level=None,
            margin=None,
            verdict="inconclusive",
            reason=f"Not looked for: {one['reason']}.",
        )
        for one in repository.step_result(session, run.id, "erase_records").get("not_run", [])
    )
