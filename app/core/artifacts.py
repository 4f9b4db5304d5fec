"""Reading single objects of the artifact store; only workers write, list and delete there."""

import hashlib

import fsspec

from app.core.errors import AppError


class StoredObjectChangedError(AppError):
    """A stored object is not what was put there: its bytes hash to something else."""

    slug = "artifact-corrupt"
    advice = "Check the storage for damage or tampering, and restore the object from a copy."


def read_object(url: str, prefix: str, digest: str) -> bytes | None:
    """Return the bytes stored under their SHA-256 (lower-case hex), None where there are none.

    Raises:
        StoredObjectChangedError: they hash to something else.
    """
    store, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    try:
        data: bytes = store.cat_file(f"{root.rstrip('/')}/{prefix}/{digest[:2]}/{digest}")
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoredObjectChangedError
    return data
