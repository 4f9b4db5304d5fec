r"""The certificate as one file: the signed statement, its log entry and the proof of that entry.

    {"mediaType": "application/vnd.lethe.certificate+json;version=1",
     "envelope": {"payload": …, "payloadType": …, "signatures": [{"keyid": …, "sig": …}]},
     "entry": "<base64 of the log entry>",
     "proof": "c2sp.org/tlog-proof@v1\n…"}

The envelope is DSSE 1.0. Reading a bundle checks its form only; `lethe.certificate` verifies it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from lethe.encoding import decode_base64, decode_either_base64, decode_json, encode_base64
from lethe.tlogproof import TlogProof, TlogProofInvalid, parse_tlog_proof

MEDIA_TYPE = "application/vnd.lethe.certificate+json;version=1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BUNDLE_BYTES = 32 * 1024 * 1024
_MAX_SIGNATURES = 16
_MEMBERS = {"mediaType", "envelope", "entry", "proof"}


class BundleInvalid(ValueError):
    """The file is not a well-formed certificate bundle.

    Attributes:
        reason: What is wrong with it, in one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A DSSE envelope taken apart; nothing in it is verified.

    Attributes:
        payload: The statement's exact bytes, over which the signatures are made.
        payload_type: What the payload is, by media type.
        signatures: The raw signatures. Key ids are left out: DSSE lets nobody trust them.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[bytes, ...]

    def pae(self) -> bytes:
        """Return the bytes that were signed (DSSE protocol.md, PAE)."""
        return Envelope(self.payload, self.payload_type, {}).pae()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A certificate bundle taken apart; nothing in it is verified."""

    statement: SignedStatement
    entry: bytes
    proof: TlogProof


def sign_statement(payload: bytes, private_key: Ed25519PrivateKey) -> dict[str, object]:
    """Sign the bytes of an in-toto statement and return the DSSE envelope as JSON members."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(private_key))
    members: dict[str, object] = envelope.to_dict()
    return members


def format_bundle(envelope: Mapping[str, object], entry: bytes, proof: TlogProof) -> str:
    """Write the bundle file of an envelope, its log entry and the proof of the entry."""
    members = {
        "mediaType": MEDIA_TYPE,
        "envelope": dict(envelope),
        "entry": encode_base64(entry),
        "proof": proof.format(),
    }
    return json.dumps(members, indent=2, ensure_ascii=False) + "\n"


def parse_bundle(data: bytes) -> Bundle:
    """Take a bundle file apart.

    Raises:
        BundleInvalid: It is too large, malformed or has members of its own.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleInvalid("the file is larger than any certificate")
    try:
        content = decode_json(data)
    except ValueError as error:
        raise BundleInvalid(f"the file cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("mediaType") != MEDIA_TYPE:
        raise BundleInvalid(f"the file is not of the type {MEDIA_TYPE}")
    if content.keys() != _MEMBERS:
        raise BundleInvalid("the file must hold mediaType, envelope, entry and proof, nothing else")
    match content:
        case {"envelope": dict(envelope), "entry": str(entry), "proof": str(proof)}:
            return Bundle(parse_envelope(envelope), _decode_entry(entry), _parse_proof(proof))
        case _:
            raise BundleInvalid("envelope, entry or proof is of the wrong JSON type")


def parse_envelope(envelope: Mapping[str, object]) -> SignedStatement:
    """Take a DSSE envelope apart (DSSE envelope.md).

    Raises:
        BundleInvalid: It is malformed or holds no signature or too many.
    """
    match envelope:
        case {"payload": str(payload), "payloadType": str(payload_type), "signatures": list(lines)}:
            pass
        case _:
            raise BundleInvalid("the envelope must hold payload, payloadType and signatures")
    if not 0 < len(lines) <= _MAX_SIGNATURES:
        raise BundleInvalid(f"the envelope must hold 1 to {_MAX_SIGNATURES} signatures")
    try:
        return SignedStatement(
            decode_either_base64(payload),
            payload_type,
            tuple(decode_either_base64(_signature(line)) for line in lines),
        )
    except ValueError as error:
        raise BundleInvalid("the payload or a signature of the envelope is not base64") from error


def _signature(line: object) -> str:
    match line:
        case {"sig": str(signature)}:
            return signature
        case _:
            raise BundleInvalid("a signature of the envelope has no sig")


def _decode_entry(entry: str) -> bytes:
    try:
        return decode_base64(entry)
    except ValueError as error:
        raise BundleInvalid("the log entry is not base64") from error


def _parse_proof(proof: str) -> TlogProof:
    try:
        return parse_tlog_proof(proof)
    except TlogProofInvalid as error:
        raise BundleInvalid(error.reason) from error
