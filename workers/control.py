"""The control role: steps that need no torch and no child."""

from app.core.errors import AppError
from app.manifest.rules import DestroyJob, Job
from workers.artifacts import ArtifactStore
from workers.messages import Done, Failed
from workers.runner import Lease
from workers.steps import Desk
from workers.steps.destroy import destroy


class WrongQueue(AppError):
    """A control worker was given a step of the compute queue."""

    slug = "wrong-queue"
    advice = "Start each worker for one role: `lethe worker control`, `lethe worker compute`."


class StoreRefused(AppError):
    """The artifact store or a file system did not delete."""

    slug = "store-refused"
    advice = "Give the control worker the right to delete there; it tries again by itself."


class ControlWork:
    """Destroys superseded objects and files in this process."""

    def __init__(self, artifacts_url: str) -> None:
        self._artifacts_url = artifacts_url

    def __call__(self, job: Job, lease: Lease) -> Done | Failed:
        """Do a job of this role."""
        if not isinstance(job, DestroyJob):
            return Failed(WrongQueue().problem, permanent=True)
        desk = Desk(ArtifactStore(self._artifacts_url), lease.renew, lease.save_checkpoint)
        try:
            return Done(destroy(job, desk))
        except AppError as error:
            return Failed(error.problem, permanent=False)
        except OSError as error:
            return Failed(StoreRefused(type(error).__name__).problem, permanent=False)
