import hashlib
import json
from typing import Any

import pytest

from lethe.manifest import ManifestInvalid, verify_manifest
from workers.evidence.process import absence_proofs

TRAINED = [hashlib.sha256(bytes([number])).digest() for number in range(20)]
FORGOTTEN = [hashlib.sha256(b"gone" + bytes([number])).digest() for number in range(3)]
LISTED = {"records": 20, "state": "ab" * 32, "manifest": "cd" * 32}
UNLISTED = LISTED | {"manifest": None}


def manifest(slices: list[dict[str, Any]] | None = None, **changed: Any) -> bytes:
    merkle = {**absence_proofs(TRAINED, FORGOTTEN).as_dict(), **changed}
    return json.dumps({"seed": "s", "merkle": merkle, "slices": slices or [LISTED]}).encode()


def statement(
    content: bytes,
    name: str = "model_version/1/manifest",
    forgotten: int = 3,
    check: str = "process",
    verdict: str = "pass",
) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    other: dict[str, Any] = {"after": [], "evidence": []}
    action = {
        "after": [{"name": name, "sha256": digest}],
        "evidence": [{"name": check, "verdict": verdict, "n": forgotten}],
    }
    return {
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicate": {"done": [other, action]},
    }


def test_a_signed_manifest_shows_what_was_left_out() -> None:
    assert verify_manifest(statement(manifest()), manifest()) == (3, 20)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (manifest(root="00" * 32), "does not hold"),
        (manifest(absent={one.hex(): {"before": None, "after": None} for one in TRAINED}), "hold"),
        (manifest(size="20"), "how many"),
        (manifest(absent=[]), "no absent"),
        (b'{"merkle": 3, "slices": []}', "no merkle"),
        (b'{"merkle": null, "slices": []}', "no merkle"),
        (b'{"merkle": {}}', "no slices"),
        (b'{"merkle": {}, "slices": [3]}', "malformed"),
        (b"\xff", "malformed"),
        (b'{"merkle": {"root": "zz", "size": 1, "absent": {}}, "slices": []}', "malformed"),
    ],
)
def test_what_does_not_hold_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ManifestInvalid, match=reason):
        verify_manifest(statement(content), content)


def test_only_a_signed_manifest_counts() -> None:
    with pytest.raises(ManifestInvalid, match="not signed"):
        verify_manifest(statement(manifest(), "model_version/1/shard-0/slice-0"), manifest())
    empties: list[dict[str, object]] = [{}, {"predicate": 3}, {"predicate": {"done": []}}]
    for empty in empties:
        with pytest.raises(ManifestInvalid, match="not signed"):
            verify_manifest(empty, manifest())
    with pytest.raises(ManifestInvalid, match="malformed"):
        verify_manifest({"predicate": {"done": [3]}}, manifest())


def test_a_version_that_an_approximate_method_made_proves_nothing() -> None:
    # Nothing is in the empty tree, whatever the weights were trained on.
    nothing: dict[str, Any] = absence_proofs([], FORGOTTEN).as_dict()
    content = manifest([UNLISTED], **nothing)
    with pytest.raises(ManifestInvalid, match="an approximate method"):
        verify_manifest(statement(content), content)
    for signed in (statement(manifest(), check="rmia"), statement(manifest(), verdict="fail")):
        with pytest.raises(ManifestInvalid, match="does not rest on how"):
            verify_manifest(signed, manifest())
    # A slice that was switched off serves nobody.
    off = manifest([LISTED, UNLISTED | {"state": None}])
    assert verify_manifest(statement(off), off) == (3, 20)


@pytest.mark.parametrize("trained_on", [1, 3])
def test_a_forgotten_record_that_was_trained_on_is_noticed(trained_on: int) -> None:
    # No proof of absence can be made of it, so one is missing.
    made: dict[str, Any] = absence_proofs([*TRAINED, *FORGOTTEN[:trained_on]], FORGOTTEN).as_dict()
    content = manifest(**made)
    with pytest.raises(ManifestInvalid, match=f"3 records were .* {3 - trained_on} are proven"):
        verify_manifest(statement(content), content)
