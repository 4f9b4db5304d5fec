"""A model version's manifest, checked offline: signed for, and without the forgotten records.

The manifest is the object of the artifact store that a certificate names by its SHA-256 as
`model_version/<id>/manifest`. Under `merkle` it has the root and size of the tree over the digests
of all records trained on, and for each record to forget a proof that it is not among them; nothing
where an approximate method made part of the version. How many were to be forgotten is signed.
"""

import hashlib
from collections.abc import Mapping

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
        ManifestInvalid: no subject of the statement is this manifest; it is malformed; it does not
            list all that the version was trained on, as after an approximate method; fewer digests
            are proven absent than the statement says were to be forgotten; or a proof does not
            hold.
    """
    digest = hashlib.sha256(manifest).hexdigest()
    try:
        forgotten = _forgotten(statement, digest)
        content = decode_json(manifest)
        _refuse_unlisted(content)
        merkle = _part(content, "merkle")
        root, size = bytes.fromhex(str(merkle["root"])), merkle["size"]
        absent = _part(merkle, "absent")
        if type(size) is not int:
            raise ManifestInvalid("the manifest does not say how many records there are")
        for hexed, proof in absent.items():
            verify_absence(bytes.fromhex(hexed), parse_absence_proof(proof), size=size, root=root)
    except ProofInvalid as error:
        raise ManifestInvalid(f"a proof of absence does not hold: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestInvalid("the manifest or what was signed for it is malformed") from error
    if len(absent) != forgotten:
        raise ManifestInvalid(
            f"{forgotten} records were to be forgotten, and {len(absent)} are proven to be absent"
        )
    return len(absent), size


def _forgotten(statement: Mapping[str, object], manifest: str) -> int:
    """How many digests were to be left out of a manifest, by the statement that was signed for it.

    Raises:
        KeyError, TypeError: the statement is no certificate's.
        ManifestInvalid: it was signed for another manifest, or without evidence of the process.
    """
    predicate = statement.get("predicate")
    done = predicate["done"] if isinstance(predicate, Mapping) else []
    for action in done:
        signed = [
            one["sha256"] for one in action["after"] if str(one["name"]).endswith("/manifest")
        ]
        if manifest not in signed:
            continue
        for check in action["evidence"]:
            if check["name"] == "process" and check["verdict"] == "pass":
                return int(check["n"])
        raise ManifestInvalid(
            "the certificate does not rest on how this version was made, so that its manifest "
            "cannot show what it was trained on"
        )
    raise ManifestInvalid("the certificate was not signed for this manifest")


def _refuse_unlisted(content: object) -> None:
    slices = content.get("slices") if isinstance(content, Mapping) else None
    if not isinstance(slices, list):
        raise ManifestInvalid("the manifest has no slices")
    if any(one["records"] and one["state"] and one["manifest"] is None for one in slices):
        raise ManifestInvalid(
            "the manifest does not list all that the version was trained on: an approximate method "
            "made part of it"
        )


def _part(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not isinstance(value.get(name), Mapping):
        raise ManifestInvalid(f"the manifest has no {name}")
    part: Mapping[str, object] = value[name]
    return part
