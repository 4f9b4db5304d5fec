"""The public keys of one Lethe, in the one file that an auditor needs: `lethe.pub`.

    {"log": "<vkey of the log>",
     "certificates": {"keyid": "<hex>", "scheme": "ed25519", "public": "<base64, 32 bytes>"}}

Two keys, since they sign different things: the log's key signs tree heads, whatever the entries
say; the certificates' key signs what Lethe states about one request. The file must reach the
auditor by another way than the certificate itself, or it proves nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from lethe.encoding import decode_base64, decode_json, encode_base64
from lethe.notes import NoteInvalid, VerifierKey

_SCHEME = "ed25519"


class KeyFileInvalid(ValueError):
    """The file of public keys cannot be used.

    Attributes:
        reason: What is wrong with it, in one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What a verifier trusts.

    Attributes:
        log: The key that signs tree heads; its name is the origin of the log.
        certificates: The key that signs certificates (DSSE).
    """

    log: VerifierKey
    certificates: Ed25519PublicKey

    def format(self) -> str:
        """Write `lethe.pub`."""
        certificates = {
            "keyid": certificate_key_id(self.certificates),
            "scheme": _SCHEME,
            "public": encode_base64(self.certificates.public_bytes_raw()),
        }
        return json.dumps({"log": self.log.format(), "certificates": certificates}, indent=2) + "\n"


def certificate_key_id(key: Ed25519PublicKey) -> str:
    """Return the key id under which securesystemslib files the key, in hex."""
    keyid: str = SSlibKey.from_crypto(key).keyid
    return keyid


def parse_public_keys(data: bytes) -> PublicKeys:
    """Read `lethe.pub`.

    Raises:
        KeyFileInvalid: It is malformed, or a key id does not belong to its key.
    """
    try:
        content = decode_json(data)
    except ValueError as error:
        raise KeyFileInvalid(f"the key file cannot be read: {error}") from error
    match content:
        case {"log": str(vkey), "certificates": dict(certificates)}:
            return PublicKeys(_log_key(vkey), _certificate_key(certificates))
        case _:
            raise KeyFileInvalid("the key file must hold `log` and `certificates`")


def _log_key(vkey: str) -> VerifierKey:
    try:
        return VerifierKey.parse(vkey)
    except NoteInvalid as error:
        raise KeyFileInvalid(f"the log's key cannot be used: {error.reason}") from error


def _certificate_key(entry: Mapping[str, object]) -> Ed25519PublicKey:
    match entry:
        case {"keyid": str(keyid), "scheme": str(scheme), "public": str(public)}:
            pass
        case _:
            raise KeyFileInvalid("`certificates` must hold `keyid`, `scheme` and `public`")
    if scheme != _SCHEME:
        raise KeyFileInvalid("the certificates' key is not an Ed25519 key")
    try:
        key = Ed25519PublicKey.from_public_bytes(decode_base64(public))
    except ValueError as error:
        raise KeyFileInvalid("the certificates' key is not 32 bytes of base64") from error
    if certificate_key_id(key) != keyid:
        raise KeyFileInvalid("the key id does not belong to the certificates' key")
    return key
