"""An auditor sees from files alone that the forgotten records were not trained on."""

import io
import json
from hashlib import sha256
from pathlib import Path

import pytest
from rich.console import Console

from app.core.artifacts import StoredObjectChangedError, read_object
from app.core.security import Role
from lethe.manifest import ManifestInvalid, verify_manifest
from lethe.verify import DOES_NOT_HOLD, HOLDS, verify_command
from tests.integration.town import Town
from tests.integration.worlds import CLASSIFIER, points
from workers.artifacts import ArtifactStore


def manifests(town: Town) -> list[bytes]:
    folder = Path(town.settings.artifacts_url.removeprefix("file://"))
    stored = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return [one for one in stored if b'"merkle"' in one]


def test_the_signed_manifest_proves_that_the_records_are_absent(town: Town, tmp_path: Path) -> None:
    town.dataset("d", points(9, 4))
    town.model("m", "d", "classifier", CLASSIFIER, shards=2, slices=2, holdout_share=0)
    request = town.erase(("customer_id", "C002"))
    statement = town.verified(request["id"])

    # The base's manifest is stored as well, and the certificate was not signed for it.
    signed = {one["digest"]["sha256"] for one in statement["subject"]}
    (manifest,) = (one for one in manifests(town) if sha256(one).hexdigest() in signed)
    assert verify_manifest(statement, manifest) == (4, 32)

    # The service gives the very bytes to whoever may read them.
    address = "/v1/models/m/versions/{}/manifest"
    given = town.call(Role.AUDITOR, "GET", address.format(2))
    assert (given.content, given.headers["content-type"]) == (manifest, "application/json")
    # The base's went with it.
    for missing in (address.format(1), address.format(3), "/v1/models/o/versions/1/manifest"):
        town.refused(Role.AUDITOR, 404, "GET", missing)

    # One digit of the root, wherever it is changed, is noticed.
    place = manifest.index(b'"root":"') + 8
    forged = manifest[:place] + (b"1" if manifest[place : place + 1] == b"0" else b"0")
    forged += manifest[place + 1 :]
    with pytest.raises(ManifestInvalid, match="not signed for"):
        verify_manifest(statement, forged)

    # And so an auditor sees it, who has files and no service.
    def told(stored: bytes) -> tuple[int, str]:
        paths = [tmp_path / name for name in ("certificate", "lethe.pub", "manifest")]
        contents = [town.certificate(request["id"]), town.keys.public.format().encode(), stored]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        screen = io.StringIO()
        console = Console(file=screen, width=200)
        code = verify_command(paths[0], paths[1], None, None, console, paths[2])
        return code, screen.getvalue()

    code, screen = told(manifest)
    assert code == HOLDS
    assert "Trained on 32 records; 4 forgotten ones are proven not to be of them" in screen
    code, screen = told(forged)
    assert code == DOES_NOT_HOLD
    assert "not signed for" in screen


def test_a_manifest_that_was_changed_or_lost_in_the_store_is_not_given(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    digest = ArtifactStore(url).put("models/m", b"{}")
    assert read_object(url, "models/m", digest) == b"{}"
    (stored,) = (path for path in tmp_path.rglob("*") if path.is_file())
    stored.write_bytes(b"[]")
    with pytest.raises(StoredObjectChangedError):
        read_object(url, "models/m", digest)
    stored.unlink()
    assert read_object(url, "models/m", digest) is None


def test_a_version_that_an_approximate_method_made_proves_nothing(town: Town) -> None:
    town.dataset("d", points(40, 1))
    policy = {"allowed_methods": ["gradient_ascent"], "retraining_every_days": 20}
    town.model("m", "d", "classifier", CLASSIFIER, policy=policy, holdout_share=0.5)
    town.erase(town.trained_on("m", 40)[0].email)
    made = [json.loads(one) for one in manifests(town)]
    approximate = [one for one in made if one["method"] == "gradient_ascent"]
    assert approximate
    assert all(one["merkle"] is None for one in approximate)
    assert all(one["merkle"]["size"] > 0 for one in made if one["method"] == "train")
