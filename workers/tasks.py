"""The doorbell's other end: each task opens the unit of work and calls one function."""

from functools import cache
from typing import Any
from uuid import UUID

import structlog
from celery.signals import worker_ready

from app import pipeline
from app.audit import service as audit
from app.core.clock import utc_now
from app.core.config import Settings, load_settings
from app.core.db import Database
from app.core.queue import COMPUTE, CONTROL, CeleryDoorbell
from app.core.signing import SigningKeys, load_signing_keys
from app.execution import service as execution
from app.sla import service as sla
from workers.celery_app import app
from workers.compute import ChildWork
from workers.control import ControlWork
from workers.runner import Runner

log = structlog.get_logger()


@cache
def _database() -> Database:
    return Database(load_settings().database_url.get_secret_value(), CeleryDoorbell(app))


@cache
def _keys() -> SigningKeys:
    settings: Settings = load_settings()
    return load_signing_keys(settings.signing_keys, settings.log_origin)


@cache
def _compute() -> Runner:
    child = _child_work()
    return Runner(_database(), load_settings(), COMPUTE, child, child.device)


@cache
def _child_work() -> ChildWork:
    return ChildWork(load_settings().artifacts_url)


@cache
def _control() -> Runner:
    settings = load_settings()
    return Runner(_database(), settings, CONTROL, ControlWork(settings.artifacts_url))


@worker_ready.connect
def _warm_up(sender: Any, **_: object) -> None:
    """Start the child before the first step comes; beat from now on, also with nothing to do."""
    runner = _control()
    if COMPUTE in sender.app.amqp.queues.consume_from:
        _child_work().start()
        runner = _compute()
    runner.beat()
    # While a step keeps a compute worker's only thread busy, its lease beats instead.
    sender.timer.call_repeatedly(load_settings().heartbeat_seconds, runner.beat)


@app.task(name="lethe.advance")
def advance(request_id: str) -> None:
    """Move one request."""
    with _database().transaction() as session:
        pipeline.advance(session, load_settings(), _keys(), UUID(request_id), utc_now())


@app.task(name="lethe.advance_run")
def advance_run(run_id: str) -> None:
    """Move one run."""
    with _database().transaction() as session:
        pipeline.advance_run(session, load_settings(), UUID(run_id), utc_now())


@app.task(name="lethe.keep_promises")
def keep_promises(run_id: str) -> None:
    """Close the promises that a finished run has kept."""
    with _database().transaction() as session:
        pipeline.keep_promises(session, _keys(), UUID(run_id), utc_now())


@app.task(name="lethe.run_step")
def run_step(step_id: str) -> None:
    """Carry out a step that needs torch or reads records."""
    _compute().run_step(UUID(step_id))


@app.task(name="lethe.control_step")
def control_step(step_id: str) -> None:
    """Carry out a step that needs neither."""
    _control().run_step(UUID(step_id))


@app.task(name="lethe.sequence_log")
def sequence_log() -> None:
    """Number what waits for the log and sign the tree head."""
    settings = load_settings()
    with _database().transaction() as session:
        head = audit.sequence(session, _keys().log, utc_now())
    if head is not None and settings.tree_head_export is not None:
        audit.export_head(head, settings.tree_head_export)


@app.task(name="lethe.sweep")
def sweep() -> None:
    """Ring again for whatever is due."""
    with _database().transaction() as session:
        execution.sweep(session, utc_now())


@app.task(name="lethe.watch_clocks")
def watch_clocks() -> None:
    """Mark requests at risk or breached, and start the retrainings that were promised."""
    with _database().transaction() as session:
        sla.watch(session, load_settings(), utc_now())
        pipeline.start_promised(session, utc_now())
