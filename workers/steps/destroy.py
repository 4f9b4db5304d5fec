"""Destroying what is superseded: stored objects of a model, files that were replaced."""

from app.manifest.rules import DestroyJob
from workers.connectors.rewrite import remove
from workers.steps import Desk, Result

BEAT_EVERY = 100


def destroy(job: DestroyJob, desk: Desk) -> Result:
    """Delete stored objects and replaced files; those that are gone already count as destroyed.

    What lies in the model's folder and is not in use goes too: a worker that ended between storing
    and telling left it, and no row knows of it.
    """
    objects = set(job.objects)
    if job.prefix is not None:
        objects |= set(desk.store.list(job.prefix)) - job.in_use
    for done, digest in enumerate(sorted(objects)):
        if done % BEAT_EVERY == 0:
            desk.on_progress(done / len(objects))
        desk.store.delete(job.prefix or "", digest)
    for uri in job.uris:
        remove(uri)
    return {"destroyed": [*sorted(objects), *(f"file-{n}" for n, _ in enumerate(job.uris))]}
