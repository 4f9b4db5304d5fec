"""A model version's manifest, checked offline: signed for, and without the forgotten records.

The manifest is the object of the artifact store that a certificate names by its SHA-256 as
`model_version/<id>/manifest`. Under `merkle` it has the root and size of the tree over the digests
of all records trained on, and for each record to forget a proof that it is not among them.
"""

import hashlib
from collections.abc import Iterator, Mapping

from lethe.absence import parse_absence_proof, verify_absence
from lethe.encoding import decode_json
from lethe.merkle import ProofInvalid


class ManifestInvalid(Exception):
    """The manifest is not what the certificate says, or does not show what it must."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = (
            "Ask the issuer for the manifest again; if it stays so, rely on nothing in it."
        )


def verify_manifest(statement: Mapping[str, object], manifest: bytes) -> tuple[int, int]:
    """Check a manifest against a verified certificate's statement.

    Returns:
        How many digests are proven absent, and how many records were trained on.

    Raises:
        ManifestInvalid: no subject of the statement is this manifest, it is malformed, or a proof
            does not hold.
    """
    digest = hashlib.sha256(manifest).hexdigest()
    if digest not in _signed(statement):
        raise ManifestInvalid("the certificate was not signed for this manifest")
    try:
        merkle = _part(decode_json(manifest), "merkle")
        root, size = bytes.fromhex(str(merkle["root"])), merkle["size"]
        absent = _part(merkle, "absent")
        if type(size) is not int:
            raise ManifestInvalid("the manifest does not say how many records there are")
        for hexed, proof in absent.items():
            verify_absence(bytes.fromhex(hexed), parse_absence_proof(proof), size=size, root=root)
    except ProofInvalid as error:
        raise ManifestInvalid(f"a proof of absence does not hold: {error}") from error
    except (KeyError, ValueError) as error:
        raise ManifestInvalid("the manifest is malformed") from error
    return len(absent), size


def _signed(statement: Mapping[str, object]) -> Iterator[str]:
    """Yield the SHA-256 of each manifest among a statement's subjects."""
    subjects = statement.get("subject")
    for one in subjects if isinstance(subjects, list) else []:
        if str(one["name"]).endswith("/manifest"):
            yield str(one["digest"]["sha256"])


def _part(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not isinstance(value.get(name), Mapping):
        raise ManifestInvalid(f"the manifest has no {name}")
    part: Mapping[str, object] = value[name]
    return part
