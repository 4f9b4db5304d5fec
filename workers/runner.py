"""The parent's half of a worker: claims a step, has it done, publishes what came of it, once."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import structlog

from app import pipeline
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import AppError
from app.execution import service as execution
from app.execution.rules import Claim
from app.manifest.rules import EraseJob, Job
from app.models import Run
from workers.connectors.rewrite import remove
from workers.jobs import job_of
from workers.messages import Done, Failed
from workers.steps import Result

log = structlog.get_logger()


class Lease:
    """The hold on one claimed step, as whoever does the work keeps it."""

    def __init__(self, database: Database, settings: Settings, worker: str, claimed: Claim) -> None:
        self._database, self._settings = database, settings
        self._worker, self._claimed = worker, claimed
        self.beat_seconds = settings.heartbeat_seconds

    def renew(self, progress: float) -> None:
        """Extend the lease and tell how far the work is (0 to 1).

        Raises:
            LeaseLostError: the step is carried out elsewhere now, or was cancelled.
        """
        with self._database.transaction() as session:
            held = execution.heartbeat(
                session, self._claimed, progress, self._settings.lease_seconds, utc_now()
            )
            execution.beat(session, self._worker, "compute", utc_now())
        if not held:
            raise execution.LeaseLostError

    def save_checkpoint(self, values: Result) -> None:
        """Remember a stored checkpoint.

        Raises:
            LeaseLostError: as for `renew`.
        """
        with self._database.transaction() as session:
            run = session.get_one(Run, self._claimed.run_id)
            if run.model_id is not None:
                execution.save_checkpoint(session, self._claimed, run.model_id, values, utc_now())


Work = Callable[[Job, Lease], Done | Failed]


class Runner:
    """Carries steps out for one worker."""

    def __init__(self, database: Database, settings: Settings, role: str, work: Work) -> None:
        self._database, self._settings, self._work = database, settings, work
        self.role, self.name = role, f"{role}@{socket.gethostname()}-{os.getpid()}"

    def beat(self) -> None:
        """Write this worker's heartbeat."""
        with self._database.transaction() as session:
            execution.beat(session, self.name, self.role, utc_now())

    def run_step(self, step_id: UUID) -> bool:
        """Carry a step out if it is due and free; False when there was nothing to do."""
        with self._database.transaction() as session:
            claimed = execution.claim(
                session, step_id, self.name, self._settings.lease_seconds, utc_now()
            )
            job = None if claimed is None else job_of(session, self._settings, claimed)
        if claimed is None or job is None:
            return False
        log.info("step_claimed", step=str(step_id), kind=claimed.kind, epoch=claimed.epoch)
        try:
            outcome = self._work(job, Lease(self._database, self._settings, self.name, claimed))
            self._publish(claimed, job, outcome)
        except execution.LeaseLostError:
            log.warning("lease_lost", step=str(step_id), epoch=claimed.epoch)
        return True

    def _publish(self, claimed: Claim, job: Job, outcome: Done | Failed) -> None:
        if isinstance(outcome, Done):
            outcome = self._finish(claimed, job, outcome)
        if isinstance(outcome, Done):
            log.info("step_done", step=str(claimed.step_id), kind=claimed.kind)
            return
        log.warning("step_failed", step=str(claimed.step_id), permanent=outcome.permanent)
        with self._database.transaction() as session:
            pipeline.fail_step(
                session,
                self._settings,
                claimed,
                outcome.problem,
                utc_now(),
                permanent=outcome.permanent,
            )

    def _finish(self, claimed: Claim, job: Job, done: Done) -> Done | Failed:
        """Publish under the step's epoch; what cannot be published leaves no copy behind."""
        published = False
        try:
            with self._database.transaction() as session:
                pipeline.finish_step(session, claimed, done.result, utc_now())
            published = True
        except execution.LeaseLostError:
            raise
        except AppError as error:
            return Failed(error.problem, permanent=False)
        finally:
            if "rows" in done.result:
                Path(done.result["rows"]).unlink(missing_ok=True)
            if isinstance(job, EraseJob) and not published and done.result["uri"] != job.uri:
                remove(job.target_uri)
        return done
