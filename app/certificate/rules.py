"""What a certificate says: an in-toto statement of what was asked, found, done and measured.

It promises no more than the facts carry. What is not covered and not guaranteed is derived from the
same facts and stands in the statement itself; facts that would make it say more than is true are
refused. It holds no identifier and no free text of a person: it outlives both.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from app.core.lifecycle import ActionState
from lethe.certificate import PREDICATE_TYPE, STATEMENT_TYPE

Guarantee = Literal["exact", "certified", "approximate"]
Verdict = Literal["pass", "fail", "inconclusive"]
_CLOSED: Final = frozenset({ActionState.DONE, ActionState.COMMITTED, ActionState.NOT_REACHABLE})
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CertificateRefused(ValueError):
    """The facts do not allow a certificate; the text says which one stands against it."""


@dataclass(frozen=True, slots=True)
class ArtifactDigest:
    """One stored object of an artifact, as `model/digits@4/shard-0`, and its SHA-256 in hex."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("a digest is 64 hexadecimal digits in lower case")


@dataclass(frozen=True, slots=True)
class FoundShard:
    """Where in a SISA model records were: a shard and its slices, counted from 0."""

    shard: int
    slices: tuple[int, ...]
    records: int


@dataclass(frozen=True, slots=True)
class FoundArtifact:
    """An artifact that held records of the person.

    Attributes:
        artifact: Its name with its version, as `dataset/patients@1`.
        kind: What it is: dataset_version, model_version, embedding_index…
        records: How many records of the person it held or was trained on.
        shards: Which shards and slices they were in; empty where it has none.
    """

    artifact: str
    kind: str
    records: int
    shards: tuple[FoundShard, ...] = ()


@dataclass(frozen=True, slots=True)
class EvidenceSummary:
    """One measured check, as the verification stored it (DESIGN decision 9).

    Attributes:
        name: The check.
        threat_model: What the attacker is taken to have.
        reference: What the forget set was compared with.
        unit: What n and m count: data subjects or records.
        n: The size of the forget side.
        m: The size of the reference side.
        estimate: The measured value.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Confidence level of the interval, 0 to 1.
        margin: The distance that still counts as no difference.
        verdict: What the check decided.
        reason: Why, in one sentence.
    """

    name: str
    threat_model: str
    reference: str
    unit: str
    n: int
    m: int
    estimate: float | None
    low: float | None
    high: float | None
    level: float | None
    margin: float | None
    verdict: Verdict | Literal["reported"]
    reason: str


@dataclass(frozen=True, slots=True)
class ActionTaken:
    """What was done to one artifact.

    Attributes:
        artifact: The artifact's name with the version that held the records.
        kind: What it is, as in `FoundArtifact`.
        state: Where the action ended: done, committed or not_reachable.
        method: How, as `sisa` or `erase_records`, or `destroy` where a training was given up;
            None where nothing could be done.
        guarantee: What the method promises; None where nothing could be done.
        reason: Why this method, or why it could not be reached, as the plan gave it.
        verdict: What the verification decided; None where there was nothing to measure.
        accepted_at: When a DPO accepted an inconclusive verdict.
        before: The superseded objects.
        after: The objects that replace them.
        destroyed: Those of `before` that were destroyed, by SHA-256.
        evidence: The measured checks.
    """

    artifact: str
    kind: str
    state: ActionState
    method: str | None
    guarantee: Guarantee | None
    reason: str
    verdict: Verdict | None = None
    accepted_at: datetime | None = None
    before: tuple[ArtifactDigest, ...] = ()
    after: tuple[ArtifactDigest, ...] = ()
    destroyed: tuple[str, ...] = ()
    evidence: tuple[EvidenceSummary, ...] = ()


@dataclass(frozen=True, slots=True)
class Commitment:
    """A dated promise, kept or open.

    Attributes:
        artifact: What it is about.
        promise: What will be done, as `exact_retraining` or `backup_expiry`.
        due_at: By when.
        fulfilled_at: When it was done; None while it is open.
    """

    artifact: str
    promise: str
    due_at: datetime
    fulfilled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """All that a certificate is made from.

    Attributes:
        request_id: The erasure request.
        regime: The law it was made under.
        ground: The ground given; None where none was.
        received_at: When the request was received.
        due_at: The end of its clock.
        closed_at: When it was closed.
        identifiers: How many identifiers of each type were given; never their values.
        found: The artifacts that held records.
        actions: What was done, one for each artifact.
        commitments: The dated promises.
        unknown_lineage: Models and datasets of which nobody can say whether the person is in them.
        revision: 1 for the first certificate of the request, one more for each that replaces it.
        supersedes: SHA-256 of the statement that this revision replaces.
    """

    request_id: str
    regime: str
    ground: str | None
    received_at: datetime
    due_at: datetime
    closed_at: datetime
    identifiers: tuple[tuple[str, int], ...]
    found: tuple[FoundArtifact, ...]
    actions: tuple[ActionTaken, ...]
    commitments: tuple[Commitment, ...] = ()
    unknown_lineage: tuple[str, ...] = ()
    revision: int = 1
    supersedes: str | None = None


def statement(facts: CertificateFacts) -> dict[str, object]:
    """Return the in-toto Statement v1 of a closed request.

    Its subjects are the objects that replace the superseded ones; where there are none, as for a
    person who is in no dataset, the request itself.

    Raises:
        CertificateRefused: The facts do not allow one (`refuse_overstatement`).
    """
    refuse_overstatement(facts)
    after = [digest for action in facts.actions for digest in action.after]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_subject(digest) for digest in after] or [_request_subject(facts.request_id)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "request": _request(facts),
            "found": _json(facts.found),
            "done": _json(facts.actions),
            "commitments": _json(facts.commitments),
            "not_covered": _json(not_covered(facts)),
            "not_guaranteed": _json(not_guaranteed(facts)),
            "revision": facts.revision,
            "supersedes": facts.supersedes,
        },
    }


def refuse_overstatement(facts: CertificateFacts) -> None:
    """Refuse facts from which a certificate would say more than is true.

    Raises:
        CertificateRefused: A found artifact has no action; an action has not ended or has failed; a
            superseded object was not destroyed; an inconclusive verdict was not accepted; or an
            approximate method or an accepted verdict has no commitment (DESIGN decisions 5, 9, 11).
    """
    acted_on = {action.artifact for action in facts.actions}
    for found in facts.found:
        if found.artifact not in acted_on:
            raise CertificateRefused(f"{found.artifact} held records and has no action")
    promised = {commitment.artifact for commitment in facts.commitments}
    for action in facts.actions:
        _refuse_action(action, promised)
    if (facts.revision == 1) != (facts.supersedes is None):
        raise CertificateRefused("a revision, and only a revision, supersedes a statement")


def _refuse_action(action: ActionTaken, promised: set[str]) -> None:
    if action.state not in _CLOSED:
        raise CertificateRefused(f"the action on {action.artifact} has not ended")
    if action.verdict == "fail":
        raise CertificateRefused(f"the verification of {action.artifact} failed")
    if action.state is ActionState.DONE and _left_over(action):
        raise CertificateRefused(f"superseded objects of {action.artifact} were not destroyed")
    inconclusive = action.verdict == "inconclusive"
    if inconclusive and action.accepted_at is None:
        raise CertificateRefused(f"nobody accepted the inconclusive verdict on {action.artifact}")
    needs_promise = (
        inconclusive
        or action.state is ActionState.COMMITTED
        or (action.guarantee == "approximate" and action.state is ActionState.DONE)
    )
    if needs_promise and action.artifact not in promised:
        raise CertificateRefused(f"{action.artifact} needs a dated commitment and has none")


def _left_over(action: ActionTaken) -> set[str]:
    # What the new version still uses, as an untouched shard, is not superseded.
    superseded = {digest.sha256 for digest in action.before}
    return superseded - {digest.sha256 for digest in action.after} - set(action.destroyed)


def not_covered(facts: CertificateFacts) -> tuple[str, ...]:
    """Return what the erasure did not reach, one sentence each."""
    unreached = [
        f"{action.artifact} was not reached: {action.reason}"
        for action in facts.actions
        if action.state is ActionState.NOT_REACHABLE
    ]
    unknown = [
        f"{name} is registered without its training data, or its data is not indexed; whether it "
        "holds or was trained on the person's records is not known."
        for name in facts.unknown_lineage
    ]
    return tuple(unreached + unknown)


def not_guaranteed(facts: CertificateFacts) -> tuple[str, ...]:
    """Return what nobody may conclude from this certificate, one plain sentence each."""
    limits: list[str] = []
    if not facts.found:
        limits.append(
            "No record was found under the identifiers given; records under other identifiers of "
            "the person, if there are any, were not looked for."
        )
    for action in facts.actions:
        limits.extend(_action_limits(action))
    limits.extend(_open_promises(facts.commitments))
    if any(action.destroyed for action in facts.actions):
        limits.append(
            "Destroyed means deleted from the artifact store; a copy in a backup, a snapshot or an "
            "older object version below that store lasts until it expires there."
        )
    return (*limits, *_ALWAYS)


_ALWAYS: Final = (
    "Only artifacts registered with Lethe were searched; a copy that was never registered, or that "
    "left the controller's systems, is not covered.",
    "Records were found by the identifiers given; a record that speaks of the person in another "
    "way is not covered.",
    "What a model gave out before the erasure, and what others built from it, is not undone.",
    "The signature shows who states this, and the log that the statement was not changed since; "
    "neither shows that the service ran unaltered software.",
)


def _action_limits(action: ActionTaken) -> list[str]:
    if action.state is ActionState.NOT_REACHABLE or action.kind == "dataset_version":
        return []
    limits = []
    if action.method == "destroy":
        return []
    if action.kind == "model_version" and not action.before:
        limits.append(
            f"{action.artifact} was trained elsewhere: it is replaced where it was served from "
            "here, but its weights are not in the artifact store, and copies of them may remain."
        )
    if action.guarantee == "exact":
        limits.append(
            f"{action.artifact}: exact means that the new version is bit for bit what training "
            "without the records gives in the same environment. What other people's records let "
            "one infer about the person is not removed."
        )
    if action.guarantee == "certified":
        limits.append(
            f"{action.artifact}: certified means that the remaining influence is bounded under the "
            "method's assumptions, not that it is zero."
        )
    if action.guarantee == "approximate":
        limits.append(
            f"{action.artifact}: {action.method} is approximate. The evidence covers the attacks "
            "named, at the sample sizes named; it does not prove that the influence of the records "
            "is gone, and a stronger attack may find it."
        )
    if action.verdict == "inconclusive" and action.accepted_at is not None:
        limits.append(
            f"{action.artifact}: the measurements could not decide whether the records are "
            f"forgotten. A data protection officer accepted this on {_day(action.accepted_at)}; it "
            "is not evidence of forgetting."
        )
    return limits


def _open_promises(commitments: Sequence[Commitment]) -> list[str]:
    return [
        f"{commitment.artifact}: {commitment.promise} is promised by {_day(commitment.due_at)} and "
        "was not done when this was signed."
        for commitment in commitments
        if commitment.fulfilled_at is None
    ]


def _request(facts: CertificateFacts) -> dict[str, object]:
    unreached = any(action.state is ActionState.NOT_REACHABLE for action in facts.actions)
    return {
        "id": facts.request_id,
        "regime": facts.regime,
        "ground": facts.ground,
        "received_at": _json(facts.received_at),
        "due_at": _json(facts.due_at),
        "closed_at": _json(facts.closed_at),
        "within_clock": facts.closed_at <= facts.due_at,
        "outcome": "partially_completed" if unreached else "completed",
        "identifiers": dict(facts.identifiers),
    }


def _json(value: object) -> object:
    """Return a fact as JSON: a dataclass by its field names, a time as RFC 3339 in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: _json(getattr(value, field.name)) for field in fields(value)}
    return value.value if isinstance(value, ActionState) else value


def _subject(digest: ArtifactDigest) -> dict[str, object]:
    return {"name": digest.name, "digest": {"sha256": digest.sha256}}


def _request_subject(request_id: str) -> dict[str, object]:
    digest = hashlib.sha256(request_id.encode()).hexdigest()
    return _subject(ArtifactDigest(f"erasure-request/{request_id}", digest))


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()
