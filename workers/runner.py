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
from app.execution.service import CONTROL_KINDS
from app.manifest.rules import EraseJob, Job, uris_read
from app.models import Run
from workers.connectors.rewrite import remove
from workers.jobs import job_of
from workers.messages import Done, Failed
from workers.steps import Result

log = structlog.get_logger()


class WorkersLost(AppError):
    """Each worker that took this step ended, or lost it, without an answer."""

    slug = "workers-lost"
    advice = "See the workers' logs and their machines' memory, then retry."


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

    def __init__(
        self,
        database: Database,
        settings: Settings,
        role: str,
        work: Work,
        device: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._database, self._settings, self._work = database, settings, work
        self._device = device
        self.role, self.name = role, f"{role}@{socket.gethostname()}-{os.getpid()}"

    def beat(self) -> None:
        """Write this worker's heartbeat."""
        with self._database.transaction() as session:
            execution.beat(session, self.name, self.role, utc_now(), self._device())

    def run_step(self, step_id: UUID) -> bool:
        """Carry a step out if it is due and free; False when there was nothing to do."""
        # Committed before anything else: a claim that ends its worker must still count.
        with self._database.transaction() as session:
            claimed = execution.claim(
                session, step_id, self.name, self._settings.lease_seconds, utc_now()
            )
        if claimed is None:
            return False
        log.info("step_claimed", step=str(step_id), kind=claimed.kind, epoch=claimed.epoch)
        try:
            self._carry_out(claimed)
        except execution.LeaseLostError:
            log.warning("lease_lost", step=str(step_id), epoch=claimed.epoch)
        return True

    def _carry_out(self, claimed: Claim) -> None:
        if claimed.attempts > self._settings.step_attempts and claimed.kind not in CONTROL_KINDS:
            self._fail(claimed, Failed(WorkersLost().problem, permanent=True))
            return
        try:
            job = self._job(claimed)
        except AppError as error:
            self._fail(claimed, Failed(error.problem, permanent=error.status < 500))
            return
        lease = Lease(self._database, self._settings, self.name, claimed)
        try:
            self._publish(claimed, job, self._work(job, lease))
        except execution.LeaseLostError:
            if isinstance(job, EraseJob):
                remove(job.target_uri)
            raise

    def _job(self, claimed: Claim) -> Job:
        with self._database.transaction() as session:
            return job_of(session, self._settings, claimed)

    def _publish(self, claimed: Claim, job: Job, outcome: Done | Failed) -> None:
        if isinstance(outcome, Done):
            outcome = self._finish(claimed, job, outcome)
        if isinstance(outcome, Done):
            log.info("step_done", step=str(claimed.step_id), kind=claimed.kind)
            return
        if outcome.permanent and self._moved(claimed, job):
            outcome = Failed(outcome.problem, permanent=False)
        self._fail(claimed, outcome)

    def _moved(self, claimed: Claim, job: Job) -> bool:
        """Whether an erasure moved the records while they were read: they are read where they are.

        What cannot be asked again is no longer there.
        """
        try:
            return uris_read(self._job(claimed)) != uris_read(job)
        except AppError:
            return False

    def _fail(self, claimed: Claim, outcome: Failed) -> None:
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
        try:
            with self._database.transaction() as session:
                pipeline.finish_step(session, claimed, done.result, utc_now())
        except execution.LeaseLostError:
            raise
        except AppError as error:
            # Only what surely was not published goes: after any other error the commit may hold.
            if isinstance(job, EraseJob):
                remove(job.target_uri)
            return Failed(error.problem, permanent=False)
        finally:
            if "rows" in done.result:
                Path(done.result["rows"]).unlink(missing_ok=True)
        return done
