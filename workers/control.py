"""The control role: steps that need no torch and no child."""

from app.core.errors import AppError
from app.execution.rules import DestroyJob, Job
from workers.artifacts import ArtifactStore
from workers.messages import Done, Failed
from workers.runner import Lease
from workers.steps import Desk
from workers.steps.destroy import destroy


class ControlWork:
    """Destroys superseded objects and files in this process."""

    def __init__(self, artifacts_url: str) -> None:
        self._artifacts_url = artifacts_url

    def __call__(self, job: Job, lease: Lease) -> Done | Failed:
        """Do a job of this role."""
        if not isinstance(job, DestroyJob):
            return Failed("A control worker was given a step of the compute queue.", permanent=True)
        desk = Desk(ArtifactStore(self._artifacts_url), lease.renew, lease.save_checkpoint)
        try:
            return Done(destroy(job, desk))
        except AppError as error:
            return Failed(f"{error.detail} {error.next_step}", permanent=False)
        except OSError as error:
            return Failed(f"The store did not delete: {type(error).__name__}.", permanent=False)
