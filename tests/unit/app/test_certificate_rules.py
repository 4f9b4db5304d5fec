"""What a certificate says and refuses to say; and the offline verifier reads what rules write."""

import dataclasses
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit.rules import append, entry_payload, inclusion_proof
from app.certificate.rules import (
    ActionTaken,
    ArtifactDigest,
    CertificateFacts,
    CertificateRefused,
    Commitment,
    EvidenceSummary,
    FoundArtifact,
    FoundShard,
    not_covered,
    not_guaranteed,
    statement,
)
from app.core.lifecycle import ActionState
from lethe.bundle import format_bundle, sign_statement
from lethe.certificate import CERTIFICATE_ISSUED, verify_bundle
from lethe.keys import PublicKeys
from lethe.merkle import leaf_hash
from lethe.notes import Checkpoint, Signer
from lethe.tlogproof import TlogProof

REQUEST = "01934567-89ab-7cde-8f01-23456789abcd"
RECEIVED = datetime(2026, 11, 1, 9, 30, tzinfo=UTC)
DUE = datetime(2026, 12, 1, 23, 59, 59, tzinfo=UTC)
CLOSED = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
OLD, NEW, KEPT = "0a" * 32, "0b" * 32, "0c" * 32

EVIDENCE = EvidenceSummary(
    name="loss_membership",
    threat_model="T1",
    reference="holdout",
    unit="data_subject",
    n=4,
    m=200,
    estimate=0.52,
    low=0.21,
    high=0.81,
    level=0.9,
    margin=0.15,
    verdict="inconclusive",
    reason="the interval is wider than the margin",
)
SISA = ActionTaken(
    artifact="model/digits@3",
    kind="model_version",
    state=ActionState.DONE,
    method="sisa",
    guarantee="exact",
    reason="the cheapest exact method that meets the deadline",
    verdict="pass",
    before=(ArtifactDigest("model/digits@3/0", OLD), ArtifactDigest("model/digits@3/1", KEPT)),
    after=(ArtifactDigest("model/digits@4/0", NEW), ArtifactDigest("model/digits@4/1", KEPT)),
    destroyed=(OLD,),
)
ASCENT = ActionTaken(
    artifact="model/notes@1",
    kind="model_version",
    state=ActionState.COMMITTED,
    method="gradient_ascent",
    guarantee="approximate",
    reason="exact retraining is not allowed this month",
    verdict="inconclusive",
    accepted_at=CLOSED,
    evidence=(EVIDENCE,),
)
ROWS = ActionTaken(
    artifact="dataset/patients@1",
    kind="dataset_version",
    state=ActionState.DONE,
    method="erase_records",
    guarantee="exact",
    reason="the file can be rewritten",
)
VENDOR = ActionTaken(
    artifact="cache/vendor@1",
    kind="cache",
    state=ActionState.NOT_REACHABLE,
    method=None,
    guarantee=None,
    reason="no connector; ask the vendor to delete it.",
)
PROMISE = Commitment("model/notes@1", "exact_retraining", DUE)


def facts(**changes: Any) -> CertificateFacts:
    base = CertificateFacts(
        request_id=REQUEST,
        regime="gdpr",
        ground="consent_withdrawn",
        received_at=RECEIVED,
        due_at=DUE,
        closed_at=CLOSED,
        identifiers=(("email", 1), ("phone", 2)),
        found=(FoundArtifact("model/digits@3", "model_version", 5, (FoundShard(0, (1, 2), 5),)),),
        actions=(SISA,),
    )
    return dataclasses.replace(base, **changes)


def change(action: ActionTaken, **changes: Any) -> ActionTaken:
    return dataclasses.replace(action, **changes)


NOTHING_FOUND: dict[str, Any] = {"found": (), "actions": ()}


def test_the_statement_in_full() -> None:
    assert statement(facts()) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "model/digits@4/0", "digest": {"sha256": NEW}},
            {"name": "model/digits@4/1", "digest": {"sha256": KEPT}},
        ],
        "predicateType": "https://lethe.dev/erasure/v1",
        "predicate": {
            "request": {
                "id": REQUEST,
                "regime": "gdpr",
                "ground": "consent_withdrawn",
                "received_at": "2026-11-01T09:30:00Z",
                "due_at": "2026-12-01T23:59:59Z",
                "closed_at": "2026-11-20T10:00:00Z",
                "within_clock": True,
                "outcome": "completed",
                "identifiers": {"email": 1, "phone": 2},
            },
            "found": [
                {
                    "artifact": "model/digits@3",
                    "kind": "model_version",
                    "records": 5,
                    "shards": [{"shard": 0, "slices": [1, 2], "records": 5}],
                }
            ],
            "done": [
                {
                    "artifact": "model/digits@3",
                    "kind": "model_version",
                    "state": "done",
                    "method": "sisa",
                    "guarantee": "exact",
                    "reason": "the cheapest exact method that meets the deadline",
                    "verdict": "pass",
                    "accepted_at": None,
                    "before": [
                        {"name": "model/digits@3/0", "sha256": OLD},
                        {"name": "model/digits@3/1", "sha256": KEPT},
                    ],
                    "after": [
                        {"name": "model/digits@4/0", "sha256": NEW},
                        {"name": "model/digits@4/1", "sha256": KEPT},
                    ],
                    "destroyed": [OLD],
                    "evidence": [],
                }
            ],
            "commitments": [],
            "not_covered": [],
            "not_guaranteed": list(not_guaranteed(facts())),
            "revision": 1,
            "supersedes": None,
        },
    }


def test_evidence_and_commitments_keep_their_figures() -> None:
    predicate: Any = statement(facts(actions=(SISA, ASCENT), commitments=(PROMISE,)))["predicate"]
    assert predicate["done"][1]["evidence"] == [dataclasses.asdict(EVIDENCE)]
    assert predicate["done"][1]["accepted_at"] == "2026-11-20T10:00:00Z"
    assert predicate["commitments"] == [
        {
            "artifact": "model/notes@1",
            "promise": "exact_retraining",
            "due_at": "2026-12-01T23:59:59Z",
            "fulfilled_at": None,
        }
    ]


def test_a_person_who_is_in_no_dataset_gets_a_statement_about_the_request() -> None:
    empty = facts(**NOTHING_FOUND)
    digest = hashlib.sha256(REQUEST.encode()).hexdigest()
    assert statement(empty)["subject"] == [
        {"name": f"erasure-request/{REQUEST}", "digest": {"sha256": digest}}
    ]
    assert not_guaranteed(empty)[0].startswith("No record was found under the identifiers given")
    assert not any("No record was found" in limit for limit in not_guaranteed(facts()))


def test_a_late_and_partial_erasure_is_called_so() -> None:
    late = facts(actions=(SISA, VENDOR), closed_at=datetime(2026, 12, 2, tzinfo=UTC))
    predicate: Any = statement(late)["predicate"]
    assert predicate["request"]["within_clock"] is False
    assert predicate["request"]["outcome"] == "partially_completed"
    assert not_covered(late) == (
        "cache/vendor@1 was not reached: no connector; ask the vendor to delete it.",
    )


def test_a_model_of_unknown_lineage_is_not_called_unaffected() -> None:
    (sentence,) = not_covered(facts(unknown_lineage=("model/legacy@9",)))
    assert sentence.startswith("model/legacy@9 is registered without its training data")


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (SISA, "model/digits@3: exact means that the new version is bit for bit"),
        (change(SISA, guarantee="certified"), "model/digits@3: certified means that the remaining"),
        (ASCENT, "model/notes@1: gradient_ascent is approximate."),
        (ASCENT, "accepted this on 2026-11-20; it is not evidence of forgetting."),
    ],
)
def test_each_guarantee_names_its_limit(action: ActionTaken, sentence: str) -> None:
    assert any(sentence in limit for limit in not_guaranteed(facts(actions=(action,))))


@pytest.mark.parametrize("action", [ROWS, VENDOR])
def test_no_limit_of_a_model_is_told_of_what_is_none(action: ActionTaken) -> None:
    told = not_guaranteed(facts(found=(), actions=(action,)))
    assert not any(action.artifact in limit for limit in told)


def test_only_open_promises_are_called_open() -> None:
    kept = dataclasses.replace(PROMISE, fulfilled_at=CLOSED)
    promised = "model/notes@1: exact_retraining is promised by 2026-12-01"
    assert any(promised in limit for limit in not_guaranteed(facts(commitments=(PROMISE,))))
    assert not any(promised in limit for limit in not_guaranteed(facts(commitments=(kept,))))


def test_backups_are_named_where_something_was_destroyed() -> None:
    def tells(*actions: ActionTaken) -> bool:
        return any("backup" in limit for limit in not_guaranteed(facts(actions=actions)))

    assert tells(SISA)
    assert not tells(ROWS)


@pytest.mark.parametrize("state", sorted(set(ActionState) - {"done", "committed", "not_reachable"}))
def test_an_action_that_has_not_ended_allows_no_certificate(state: str) -> None:
    refused = refusal(facts(actions=(change(SISA, state=ActionState(state)),)))
    assert refused == "the action on model/digits@3 has not ended"


def refusal(of: CertificateFacts) -> str:
    with pytest.raises(CertificateRefused) as refused:
        statement(of)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"actions": ()}, "model/digits@3 held records and has no action"),
        (
            {"actions": (change(SISA, verdict="fail"),)},
            "the verification of model/digits@3 failed",
        ),
        (
            {"actions": (change(SISA, destroyed=()),)},
            "superseded objects of model/digits@3 were not destroyed",
        ),
        (
            {"actions": (SISA, change(ASCENT, accepted_at=None)), "commitments": (PROMISE,)},
            "nobody accepted the inconclusive verdict on model/notes@1",
        ),
        ({"actions": (SISA, ASCENT)}, "model/notes@1 needs a dated commitment and has none"),
        (
            {"actions": (SISA, change(ASCENT, state=ActionState.DONE, verdict="pass"))},
            "model/notes@1 needs a dated commitment and has none",
        ),
        (
            {"actions": (SISA, change(ASCENT, state=ActionState.DONE, guarantee="exact"))},
            "model/notes@1 needs a dated commitment and has none",
        ),
        (
            {"actions": (SISA, change(ASCENT, verdict=None, guarantee=None))},
            "model/notes@1 needs a dated commitment and has none",
        ),
        ({"revision": 2}, "a revision, and only a revision, supersedes a statement"),
        ({"supersedes": OLD}, "a revision, and only a revision, supersedes a statement"),
    ],
    ids=range(10),
)
def test_facts_that_would_say_too_much_are_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(facts(**changes)) == reason


def test_a_revision_names_what_it_replaces() -> None:
    predicate: Any = statement(facts(revision=2, supersedes=OLD))["predicate"]
    assert (predicate["revision"], predicate["supersedes"]) == (2, OLD)


@pytest.mark.parametrize("digest", ["", "0A" * 32, "0a" * 31, "0a" * 32 + "\n"])
def test_a_digest_is_a_sha256_in_hex(digest: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        ArtifactDigest("model/digits@3", digest)


@pytest.mark.parametrize(
    "certified",
    [
        facts(actions=(SISA, ASCENT, ROWS, VENDOR), commitments=(PROMISE,)),
        facts(**NOTHING_FOUND),
    ],
    ids=["everything", "nothing found"],
)
def test_what_the_rules_write_the_offline_verifier_reads(certified: CertificateFacts) -> None:
    log = Signer("log.example/lethe", Ed25519PrivateKey.from_private_bytes(b"l" * 32))
    key = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
    payload = rfc8785.dumps(statement(certified))  # type: ignore[arg-type]
    entry = entry_payload(
        CERTIFICATE_ISSUED,
        {"request": REQUEST, "digest": hashlib.sha256(payload).hexdigest(), "revision": 1},
        CLOSED,
    )
    entries = [*(b"%d" % number for number in range(9)), entry, b"later"]
    tree = append((), 0, [leaf_hash(each) for each in entries])
    nodes = {(node.level, node.index): node.hash for node in tree.nodes}
    proof = TlogProof(
        9,
        inclusion_proof(9, tree.size, lambda level, index: nodes[level, index]),
        log.sign(Checkpoint(log.verifier_key.name, tree.size, tree.root).format()),
    )
    bundle = format_bundle(sign_statement(payload, key), entry, proof)
    verified = verify_bundle(bundle.encode(), PublicKeys(log.verifier_key, key.public_key()))
    assert verified.request_id == REQUEST
    assert verified.statement == json.loads(payload)
