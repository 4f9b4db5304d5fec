"""The offline verification of a certificate, with the public keys alone.

The steps, each of which must hold:

1. The file is a certificate bundle, read strictly.
2. The statement is signed by the certificates' key (DSSE 1.0, signature over the PAE).
3. The statement is an in-toto Statement v1 about an erasure, for one request.
4. The log entry names this very statement, by SHA-256, and this request.
5. The entry is in the log under the checkpoint's root (RFC 9162 §2.1.3.2).
6. The checkpoint is signed by the log's key (C2SP signed-note, tlog-checkpoint).

What they do not show: that the checkpoint is the log that others see. Compare it with a tree head
kept elsewhere (`lethe.log_export`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lethe.bundle import PAYLOAD_TYPE, Bundle, BundleInvalid, SignedStatement, parse_bundle
from lethe.encoding import decode_json
from lethe.keys import PublicKeys
from lethe.merkle import ProofInvalid, leaf_hash, verify_inclusion
from lethe.notes import (
    Checkpoint,
    NoteInvalid,
    VerifierKey,
    open_checkpoint,
    parse_checkpoint,
    parse_note,
)

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://lethe.dev/erasure/v1"
CERTIFICATE_ISSUED = "certificate_issued"
STEPS = (
    "The file is a certificate bundle",
    "The statement is signed by the certificates' key",
    "The statement is about the erasure of one request",
    "The log entry names this statement and this request",
    "The entry is in the log under the checkpoint's root",
    "The checkpoint is signed by the log's key",
)


class CertificateInvalid(ValueError):
    """A step of the verification does not hold; the certificate must not be relied on.

    Attributes:
        step: The number of the step, from 1, as in `STEPS`.
        reason: What does not hold, in one sentence.
        advice: What the reader can do now.
    """

    def __init__(self, step: int, reason: str, advice: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step
        self.reason = reason
        self.advice = advice


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """A certificate for which all six steps hold.

    Attributes:
        request_id: The erasure request it closes.
        statement: The in-toto statement.
        index: The index of its entry in the log, from 0.
        checkpoint: The state of the log that includes it.
    """

    request_id: str
    statement: Mapping[str, object]
    index: int
    checkpoint: Checkpoint


def verify_bundle(bundle: bytes, keys: PublicKeys) -> VerifiedCertificate:
    """Verify a certificate bundle by the six steps of this module, in their order.

    Raises:
        CertificateInvalid: The first step that does not hold.
    """
    # 1. The file is a certificate bundle, read strictly.
    parsed = _parse(bundle)
    # 2. The statement is signed by the certificates' key.
    _verify_signature(parsed.statement, keys.certificates)
    # 3. The statement is an in-toto Statement v1 about an erasure, for one request.
    statement, request_id = _read_statement(parsed.statement)
    # 4. The log entry names this very statement and this request.
    _verify_entry(parsed.entry, parsed.statement.payload, request_id)
    # 5. The entry is in the log under the checkpoint's root.
    _verify_inclusion(parsed)
    # 6. The checkpoint is signed by the log's key.
    checkpoint = _verify_checkpoint(parsed.proof.checkpoint, keys.log)
    return VerifiedCertificate(request_id, statement, parsed.proof.index, checkpoint)


def _parse(bundle: bytes) -> Bundle:
    try:
        return parse_bundle(bundle)
    except BundleInvalid as error:
        advice = "Fetch the certificate again from the service that issued it."
        raise CertificateInvalid(1, error.reason, advice) from error


def _verify_signature(statement: SignedStatement, key: Ed25519PublicKey) -> None:
    signed = statement.pae()
    if not any(_holds(key, signature, signed) for signature in statement.signatures):
        raise CertificateInvalid(
            2,
            "the statement was changed, or it was signed by another key than the one given",
            "Check that the key file is the issuer's; if it is, do not rely on this certificate.",
        )


def _holds(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _read_statement(signed: SignedStatement) -> tuple[Mapping[str, object], str]:
    advice = "The issuer signed something else here; ask it for the certificate of the request."
    if signed.payload_type != PAYLOAD_TYPE:
        raise CertificateInvalid(3, f"the payload is not {PAYLOAD_TYPE}", advice)
    try:
        statement = decode_json(signed.payload)
    except ValueError as error:
        raise CertificateInvalid(3, f"the statement cannot be read: {error}", advice) from error
    match statement:
        case {
            "_type": str(statement_type),
            "predicateType": str(predicate_type),
            "subject": list(),
            "predicate": {"request": {"id": str(request_id)}},
        } if (statement_type, predicate_type) == (STATEMENT_TYPE, PREDICATE_TYPE):
            return cast(Mapping[str, object], statement), request_id
        case _:
            reason = "the statement is not an in-toto Statement v1 about an erasure request"
            raise CertificateInvalid(3, reason, advice)


def _verify_entry(entry: bytes, payload: bytes, request_id: str) -> None:
    advice = "The log entry belongs to another certificate; ask the issuer for the right bundle."
    try:
        content = decode_json(entry)
    except ValueError as error:
        raise CertificateInvalid(4, f"the log entry cannot be read: {error}", advice) from error
    match content:
        case {"event": str(event), "digest": str(digest), "request": str(request)}:
            pass
        case _:
            raise CertificateInvalid(4, "the log entry is not about a certificate", advice)
    if event != CERTIFICATE_ISSUED:
        raise CertificateInvalid(4, "the log entry is not about a certificate", advice)
    if digest != hashlib.sha256(payload).hexdigest():
        raise CertificateInvalid(4, "the log entry names another statement than this one", advice)
    if request != request_id:
        raise CertificateInvalid(4, "the log entry names another request", advice)


def _verify_inclusion(bundle: Bundle) -> None:
    proof = bundle.proof
    try:
        # Whether the log signed this root is step 6; here it is only the root to arrive at.
        claimed = parse_checkpoint(parse_note(proof.checkpoint.encode()).text)
        verify_inclusion(
            leaf_hash(bundle.entry), proof.index, claimed.size, proof.hashes, claimed.root
        )
    except (NoteInvalid, ProofInvalid) as error:
        advice = "The entry is not shown to be in the log: do not rely on this certificate."
        raise CertificateInvalid(5, error.reason, advice) from error


def _verify_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    try:
        return open_checkpoint(note.encode(), key)
    except NoteInvalid as error:
        advice = "Check that the key file is of this log; if it is, do not rely on the certificate."
        raise CertificateInvalid(6, error.reason, advice) from error
