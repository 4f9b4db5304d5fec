import hashlib
import json
from typing import Any

import pytest

from lethe.manifest import ManifestInvalid, verify_manifest
from workers.evidence.process import absence_proofs

TRAINED = [hashlib.sha256(bytes([number])).digest() for number in range(20)]
FORGOTTEN = [hashlib.sha256(b"gone" + bytes([number])).digest() for number in range(3)]


def manifest(**changed: Any) -> bytes:
    merkle = {**absence_proofs(TRAINED, FORGOTTEN).as_dict(), **changed}
    return json.dumps({"seed": "s", "merkle": merkle}).encode()


def statement(content: bytes, name: str = "model_version/1/manifest") -> dict[str, object]:
    return {"subject": [{"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}]}


def test_a_signed_manifest_shows_what_was_left_out() -> None:
    assert verify_manifest(statement(manifest()), manifest()) == (3, 20)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (manifest(root="00" * 32), "does not hold"),
        (manifest(absent={one.hex(): {"before": None, "after": None} for one in TRAINED}), "hold"),
        (manifest(size="20"), "how many"),
        (manifest(absent=[]), "no absent"),
        (b'{"merkle": 3}', "no merkle"),
        (b"\xff", "malformed"),
        (b'{"merkle": {"root": "zz", "size": 1, "absent": {}}}', "malformed"),
    ],
)
def test_what_does_not_hold_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ManifestInvalid, match=reason):
        verify_manifest(statement(content), content)


def test_only_a_signed_manifest_counts() -> None:
    with pytest.raises(ManifestInvalid, match="not signed"):
        verify_manifest(statement(manifest(), "model_version/1/shard-0/slice-0"), manifest())
    with pytest.raises(ManifestInvalid, match="not signed"):
        verify_manifest({}, manifest())
