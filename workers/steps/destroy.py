"""Destroying what is superseded: stored objects of a model, files that were replaced."""

from app.manifest.rules import DestroyJob
from workers.connectors.rewrite import remove
from workers.steps import Desk, Result

BEAT_EVERY = 100


def destroy(job: DestroyJob, desk: Desk) -> Result:
    """Delete stored objects and replaced files; those that are gone already count as destroyed."""
    for done, digest in enumerate(job.objects):
        if done % BEAT_EVERY == 0:
            desk.on_progress(done / len(job.objects))
        desk.store.delete(job.prefix or "", digest)
    for uri in job.uris:
        remove(uri)
    return {"destroyed": [*job.objects, *(f"file-{n}" for n, _ in enumerate(job.uris))]}
