"""An auditor sees from files alone that the forgotten records were not trained on."""

from hashlib import sha256
from pathlib import Path

import pytest

from lethe.manifest import ManifestInvalid, verify_manifest
from tests.integration.town import Town
from tests.integration.worlds import CLASSIFIER, points


def manifests(town: Town) -> list[bytes]:
    folder = Path(town.settings.artifacts_url.removeprefix("file://"))
    stored = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return [one for one in stored if b'"merkle"' in one]


def test_the_signed_manifest_proves_that_the_records_are_absent(town: Town) -> None:
    town.dataset("d", points(9, 4))
    town.model("m", "d", "classifier", CLASSIFIER, shards=2, slices=2, holdout_share=0)
    request = town.erase(("customer_id", "C002"))
    statement = town.verified(request["id"])

    # The base's manifest is stored as well, and the certificate was not signed for it.
    signed = {one["digest"]["sha256"] for one in statement["subject"]}
    (manifest,) = (one for one in manifests(town) if sha256(one).hexdigest() in signed)
    assert verify_manifest(statement, manifest) == (4, 32)

    # One digit of the root, wherever it is changed, is noticed.
    place = manifest.index(b'"root":"') + 8
    forged = manifest[:place] + (b"1" if manifest[place : place + 1] == b"0" else b"0")
    with pytest.raises(ManifestInvalid, match="not signed for"):
        verify_manifest(statement, forged + manifest[place + 1 :])
