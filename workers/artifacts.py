"""Content-addressed objects under an fsspec URL (DESIGN decision 12).

Weights, training checkpoints, manifests and evidence are kept as bytes under the SHA-256 of those
bytes, so a name can never come to mean something else. This module knows bytes and JSON only and
never imports torch: the control worker uses it too. It removes names, not disk blocks: versions,
snapshots and backups that the storage itself keeps are artifacts of their own.
"""

import hashlib
import json
import re
import uuid
from typing import Final, TypeAlias

import fsspec
import rfc8785
from fsspec.implementations.local import LocalFileSystem

from app.core.errors import AppError, NotFoundError

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


class ArtifactMissing(NotFoundError):
    """The artifact is not in the store."""

    slug = "artifact-missing"
    advice = (
        "Check that LETHE_ARTIFACTS_URL names the store that the artifact was written to, or "
        "restore it there; a model version without its weights has to be trained again."
    )


class ArtifactCorrupt(AppError):
    """The stored bytes are not the ones that were put there."""

    slug = "artifact-corrupt"
    advice = (
        "Check the storage for damage or tampering. Restore the artifact from a copy, or delete "
        "it: a checkpoint that is gone is trained again."
    )


class ArtifactStore:
    """Objects at `<url>/<prefix>/<first 2 hex digits>/<sha256 hex>`.

    A prefix groups what is destroyed together, such as `models/<uuid>`. Every method raises
    ValueError for a prefix or digest that is malformed.
    """

    def __init__(self, url: str) -> None:
        # Listings are not cached, since other workers write to the same store.
        self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)

    def put(self, prefix: str, data: bytes) -> str:
        """Stores `data` and returns its SHA-256 in lower-case hex (64 characters).

        Storing the same bytes again changes nothing. A process killed in the middle leaves no
        object under the final name; what it leaves under a temporary one is never listed and is
        removed by `delete`.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(prefix, digest)
        # An object of another size was cut short by the storage: it is written again.
        if not self._fs.isfile(path) or self._fs.size(path) != len(data):
            self._write(path, data)
        return digest

    def get(self, prefix: str, digest: str) -> bytes:
        """Returns the bytes stored under `digest`, after checking that they hash to it.

        Raises:
            ArtifactMissing: nothing is stored there.
            ArtifactCorrupt: the bytes hash to something else.
        """
        data: bytes
        try:
            data = self._fs.cat_file(self._path(prefix, digest))
        except FileNotFoundError as error:
            raise ArtifactMissing(f"Artifact {digest} is not in the store.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactCorrupt(f"The stored bytes of artifact {digest} hash to something else.")
        return data

    def put_json(self, prefix: str, value: Json) -> str:
        """Stores `value` as RFC 8785 canonical JSON and returns its SHA-256 in hex.

        Raises:
            ValueError: RFC 8785 cannot write a number in it (not finite, or beyond 2^53 - 1).
        """
        return self.put(prefix, rfc8785.dumps(value))

    def get_json(self, prefix: str, digest: str) -> Json:
        """Returns the value stored by `put_json`; raises as `get` does."""
        value: Json = json.loads(self.get(prefix, digest))
        return value

    def exists(self, prefix: str, digest: str) -> bool:
        """Says whether an object is stored under `digest`, without reading it."""
        return bool(self._fs.isfile(self._path(prefix, digest)))

    def delete(self, prefix: str, digest: str) -> bool:
        """Removes the object, and unfinished writes of it; True if the object was there."""
        path = self._path(prefix, digest)
        for unfinished in self._fs.glob(f"{path}.*.part"):
            self._fs.rm_file(unfinished)
        if not self._fs.isfile(path):
            return False
        self._fs.rm_file(path)
        return True

    def list(self, prefix: str) -> list[str]:
        """Returns the digests stored under `prefix`, in ascending order; [] for an unknown one.

        Objects of a longer prefix (`models/a/b` under `models/a`) are not listed.
        """
        folder = f"{self._folder(prefix)}/"
        listed = []
        for path in self._fs.find(folder):
            start, _, digest = str(path).removeprefix(folder).partition("/")
            if _DIGEST.fullmatch(digest) and digest.startswith(start) and len(start) == 2:
                listed.append(digest)
        return sorted(listed)

    def _folder(self, prefix: str) -> str:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"malformed artifact prefix: {prefix!r}")
        return f"{self._root.rstrip('/')}/{prefix}"

    def _path(self, prefix: str, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise ValueError("a digest is 64 lower-case hex digits (SHA-256)")
        return f"{self._folder(prefix)}/{digest[:2]}/{digest}"

    def _write(self, path: str, data: bytes) -> None:
        if not isinstance(self._fs, LocalFileSystem):
            # One upload becomes visible as a whole or not at all in an object store.
            self._fs.pipe_file(path, data)
            return
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        unfinished = f"{path}.{uuid.uuid4().hex}.part"
        self._fs.pipe_file(unfinished, data)
        self._fs.mv(unfinished, path)
