"""THE STORY: how one erasure request, and one run, get from each state to the next.

    request   received → traced → planned → approved → executing → verifying → promoting → completed
    run       queued → running → verifying → promoting → done

Each call moves one row by one state inside its caller's transaction and rings for the next; called
again for nothing, it does nothing. What a state means lives in the slices named below.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.certificate import service as certificate
from app.certificate.rules import CertificateRefused
from app.core import queue
from app.core.config import Settings
from app.core.errors import ConflictError, Problem, problem
from app.core.lifecycle import (
    ActionState,
    IllegalMove,
    RequestState,
    RunState,
    move,
    request_state_for,
)
from app.core.signing import SigningKeys
from app.execution import service as execution
from app.execution.rules import Claim
from app.intake import service as intake
from app.inventory import service as inventory
from app.lineage import service as lineage
from app.lineage.rules import Trace
from app.manifest import service as manifest
from app.models import Action, ErasureRequest, Run
from app.planning import service as planning
from app.planning.rules import PlannedAction
from app.promotion import service as promotion
from app.runs import service as runs
from app.sla import service as sla
from app.verification import service as verification
from app.verification.rules import after
from app.verification.stored import files_verdict
from lethe.methods import EXACT, METHODS, guarantee_of
from lethe.methods.spec import Guarantee

ENDED = frozenset({ActionState.DONE, ActionState.COMMITTED, ActionState.NOT_REACHABLE})


def advance(
    session: Session, settings: Settings, keys: SigningKeys, request_id: UUID, now: datetime
) -> None:
    """Move one request as far as its state allows."""
    request = intake.lock(session, request_id)
    match RequestState(request.state):
        case RequestState.RECEIVED:
            _trace(session, request, now)
        case RequestState.TRACED:
            _plan(session, request, now)
        case RequestState.PLANNED:
            _ask_for_approval(session, settings, request, now)
        case RequestState.APPROVED:
            _execute(session, request, now)
        case RequestState.EXECUTING | RequestState.VERIFYING | RequestState.PROMOTING:
            _follow_actions(session, keys, request, now)
        case _:
            return


def advance_run(session: Session, settings: Settings, run_id: UUID, now: datetime) -> None:
    """Move one run as far as its state allows."""
    run = runs.lock_run(session, run_id)
    match RunState(run.state):
        case RunState.QUEUED:
            runs.schedule(session, run, sla.promised_by(session, run.model_id))
            if runs.may_start(session, run, now):
                _start(session, run, now)
        case RunState.RUNNING if run.failure is not None:
            _fail_run(session, run, now)
        case RunState.RUNNING if execution.steps_done(session, run):
            _end_of_work(session, run, now)
        case RunState.VERIFYING:
            _verify(session, settings, run, now)
        case RunState.PROMOTING if execution.steps_done(session, run):
            _end_of_promotion(session, run, now)
        case _:
            return


# The request's states.


def _trace(session: Session, request: ErasureRequest, now: datetime) -> None:
    request.trace = _trace_json(_traced(session, request))
    intake.set_state(session, request, RequestState.TRACED, now)


def _plan(session: Session, request: ErasureRequest, now: datetime) -> None:
    planning.plan(session, request, _traced(session, request), now)
    intake.set_state(session, request, RequestState.PLANNED, now)


def _ask_for_approval(
    session: Session, settings: Settings, request: ErasureRequest, now: datetime
) -> None:
    nothing_to_decide = _traced(session, request).empty
    if settings.approval == "automatic" or nothing_to_decide:
        approve(session, request, None, now)
    else:
        intake.set_state(session, request, RequestState.AWAITING_APPROVAL, now)


def approve(session: Session, request: ErasureRequest, reason: str | None, now: datetime) -> None:
    """Approve a plan: from here on no training takes the person's records in.

    What was indexed or trained since the plan was made is traced again and planned for as well.

    Raises:
        IllegalMove: the request does not wait for approval.
    """
    if request.state not in {RequestState.PLANNED, RequestState.AWAITING_APPROVAL}:
        raise IllegalMove(RequestState(request.state), RequestState.APPROVED)
    keys = intake.subject_keys(session, request)
    lineage.suppress(session, request.id, keys, request.received_at, now)
    trace = lineage.trace_subject(session, keys)
    request.trace = _trace_json(trace)
    planning.plan(session, request, trace, now)
    intake.set_state(session, request, RequestState.APPROVED, now, reason)


def _execute(session: Session, request: ErasureRequest, now: datetime) -> None:
    for action in runs.actions_of_request(session, request.id):
        if action.state != ActionState.PLANNED:
            continue
        if action.kind == planning.SOURCE:
            action.state = move(ActionState.PLANNED, ActionState.QUEUED)
        else:
            _queue(session, action, now)
    intake.set_state(session, request, RequestState.EXECUTING, now)


def _queue(session: Session, action: Action, now: datetime) -> None:
    version_id = action.model_version_id
    base = None if version_id is None else manifest.successor(session, version_id)
    run = runs.queue_action(session, action, base, now)
    if base is not None:
        run.predicted_seconds = planning.run_seconds(session, run, base, now)


def _follow_actions(
    session: Session, keys: SigningKeys, request: ErasureRequest, now: datetime
) -> None:
    actions = runs.actions_of_request(session, request.id)
    sources = [one for one in actions if one.kind == planning.SOURCE]
    others = [one for one in actions if one.kind != planning.SOURCE]
    standing = others
    if all(one.state in ENDED for one in others):
        # Source records go last: methods and checks needed them until now.
        for action in sources:
            if action.state == ActionState.QUEUED and action.run_id is None:
                _queue(session, action, now)
        standing = [*actions]
    state = request_state_for(ActionState(one.state) for one in standing)
    if all(one.state in ENDED for one in actions):
        if certificate.is_issued(session, request.id) or not _plan_late(session, request, now):
            _close(session, keys, request, state, now)
    elif state != request.state:
        request.failure = runs.failure_of(session, actions)
        intake.set_state(session, request, state, now)


def _plan_late(session: Session, request: ErasureRequest, now: datetime) -> bool:
    """Plan for what was indexed or declared since the approval; False if there is nothing."""
    keys = intake.subject_keys(session, request)
    lineage.suppress(session, request.id, keys, request.received_at, now)
    trace = lineage.trace_subject(session, keys)
    request.trace = (request.trace or {}) | {
        "unknown_lineage": _trace_json(trace)["unknown_lineage"]
    }
    acted_on = {
        manifest.successor(session, one.model_version_id).id
        for one in runs.actions_of_request(session, request.id)
        if one.model_version_id is not None
    }
    # A version that an approximate method made still counts as holding the records.
    models = tuple(one for one in trace.models if one.model_version_id not in acted_on)
    if not planning.plan(session, request, replace(trace, models=models), now):
        return False
    intake.set_state(session, request, RequestState.APPROVED, now)
    return True


def _close(
    session: Session,
    keys: SigningKeys,
    request: ErasureRequest,
    state: RequestState,
    now: datetime,
) -> None:
    if not certificate.is_issued(session, request.id):
        try:
            certificate.issue(session, keys, request, now)
        except CertificateRefused as refused:
            request.failure = problem(
                "certificate-refused",
                409,
                f"The certificate would say more than is true: {refused}.",
                "See the runs' steps; what is missing must be done before the request can close.",
            )
            intake.set_state(session, request, RequestState.FAILED, now)
    elif certificate.is_logged(session, request.id):
        intake.set_state(session, request, state, now)


# The run's states.


def _start(session: Session, run: Run, now: datetime) -> None:
    if run.kind == "unlearn" and manifest.is_given_up(session, run):
        run.kind, run.method, run.guarantee = "destroy", "destroy", "exact"
        for action in runs.actions_of_run(session, run.id):
            planning.give_up(action)
    # First, so that a run that was queued on the version it goes on from is not in its way.
    runs.start(session, run, now)
    steps = (
        promotion.lay_out_destruction(session, run)
        if run.kind == "destroy"
        else manifest.lay_out(session, run, now)
    )
    for action in runs.actions_of_run(session, run.id):
        if run.kind == "unlearn" and action.method != run.method:
            planning.retrain_at_once(action, run)
    if run.kind == "unlearn" and METHODS[run.method or ""].way == "switch_off":
        # What is switched off cannot show more of the person than before: it is served at once.
        promotion.promote_version(session, run, now)
        inventory.switch_deployments(session, run, now)
    execution.lay_out(session, run, 0, steps, now)
    if run.kind in {"train", "unlearn"}:
        execution.lay_out(session, run, 1, [("evaluate", "all", {})], now)
        # With nothing to train (an earlier run has left the records out) it is measured at once.
        run.stage = 0 if steps else 1
    execution.ring_stage(session, run)


def _end_of_work(session: Session, run: Run, now: datetime) -> None:
    match run.kind:
        case "unlearn":
            _set_run(session, run, RunState.VERIFYING, ActionState.VERIFYING, now)
            queue.ring(session, "advance_run", run.id)
        case "train":
            promotion.publish_version(session, run, now)
            runs.set_run_state(session, run, RunState.DONE, now)
        case "erase_records":
            _set_run(session, run, RunState.VERIFYING, ActionState.VERIFYING, now)
            _set_run(session, run, RunState.PROMOTING, ActionState.PROMOTING, now)
            uris = runs.replaced_files(session, run)
            execution.add_stage(session, run, [("destroy", "all", {"uris": uris})], now)
        case "destroy":
            _set_run(session, run, RunState.VERIFYING, ActionState.VERIFYING, now)
            _set_run(session, run, RunState.PROMOTING, ActionState.PROMOTING, now)
            _end_of_promotion(session, run, now)
        case _:
            runs.set_run_state(session, run, RunState.DONE, now)


def _verify(session: Session, settings: Settings, run: Run, now: datetime) -> None:
    verdict = verification.verdict_of(session, settings, run, now)
    actions = runs.actions_of_run(session, run.id)
    stronger = [planning.plan_stronger(session, one, _due(session, one), now) for one in actions]
    possible = bool(stronger) and None not in stronger
    step = "promote" if run.accepted else after(verdict, _guarantee(run), possible)
    match step:
        case "promote":
            _promote(session, run, now)
        case "escalate":
            _escalate(session, run, zip(actions, stronger, strict=True), now)
        case "await_acceptance":
            return
        case "fail":
            run.failure = problem(
                "not-forgotten",
                409,
                "The verdict is fail, and no stronger method is possible in time.",
                "See the evidence; change the policy or extend the clock, then retry.",
            )
            _fail_run(session, run, now)
    _ring_requests(session, actions)


def _escalate(
    session: Session,
    run: Run,
    actions: Iterable[tuple[Action, PlannedAction | None]],
    now: datetime,
) -> None:
    promotion.discard_version(session, run, now)
    runs.set_run_state(session, run, RunState.FAILED, now)
    for action, stronger in actions:
        if stronger is not None:
            planning.replan(action, stronger, run.verdict)
            _queue(session, action, now)


def accept(
    session: Session, request: ErasureRequest, reason: str, due_at: datetime, now: datetime
) -> int:
    """Accept a request's inconclusive verdicts, with a dated promise to retrain exactly.

    Returns how many runs were accepted.

    Raises:
        ConflictError: no run of the request waits with an inconclusive verdict, or the date has
            passed; a `fail` is never accepted (DESIGN decision 9).
    """
    if due_at <= now:
        raise ConflictError("The promised date has passed.", advice="Name a date to come.")
    accepted = 0
    carried_out = {run.id: run for run in runs.runs_of_request(session, request.id)}
    for action in runs.actions_of_request(session, request.id):
        if action.run_id is None or action.state != ActionState.VERIFYING:
            continue
        run = carried_out.get(action.run_id)
        if run is None or (run.verdict or {}).get("verdict") != "inconclusive":
            continue
        run.accepted = {"reason": reason, "at": now.isoformat(), "due_at": due_at.isoformat()}
        action.commitment_due_at = due_at
        audit.record(
            session,
            "inconclusive_accepted",
            now,
            request_id=request.id,
            action=action.id,
            run=run.id,
        )
        queue.ring(session, "advance_run", run.id)
        accepted += 1
    if not accepted:
        raise ConflictError(
            "No run of this request waits with an inconclusive verdict.",
            advice="See its plan and the runs' evidence.",
        )
    return accepted


def _promote(session: Session, run: Run, now: datetime) -> None:
    _set_run(session, run, RunState.PROMOTING, ActionState.PROMOTING, now)
    objects = promotion.promote_version(session, run, now)
    inventory.switch_deployments(session, run, now)
    execution.add_stage(session, run, [("destroy", "all", {"objects": objects})], now)
    _ring_requests(session, runs.actions_of_run(session, run.id))


def _end_of_promotion(session: Session, run: Run, now: datetime) -> None:
    actions = runs.actions_of_run(session, run.id)
    for action in actions:
        end = ActionState.DONE if _guarantee(run) == "exact" else ActionState.COMMITTED
        action.state = move(ActionState(action.state), end)
        audit.record(
            session,
            f"action_{end}",
            now,
            request_id=action.request_id,
            action=action.id,
            run=run.id,
        )
        if end == ActionState.COMMITTED:
            starts_at, due_at = planning.commitment_dates(session, action, now)
            sla.promise(
                session,
                action,
                reason=run.accepted["reason"] if run.accepted else action.reason,
                starts_at=starts_at,
                due_at=due_at,
                now=now,
            )
    runs.set_run_state(session, run, RunState.DONE, now)
    _ring_requests(session, actions)
    if run.kind == "unlearn" and run.method in EXACT:
        queue.ring(session, "keep_promises", run.id)
    if run.kind == "unlearn" and METHODS[run.method or ""].way == "switch_off":
        # Exact already; the others whose slices were switched off as well are trained on again.
        base = manifest.incomplete(session, run)
        if base is not None:
            runs.queue_unlearning(session, base, "sisa", now)


def _fail_run(session: Session, run: Run, now: datetime) -> None:
    """A run that cannot end: the served model is untouched, and a person must look."""
    promotion.discard_version(session, run, now)
    if run.kind == "index":
        inventory.index_failed(session, run)
    actions = runs.actions_of_run(session, run.id)
    for action in actions:
        action.state = move(ActionState(action.state), ActionState.FAILED)
        audit.record(
            session,
            "action_failed",
            now,
            request_id=action.request_id,
            action=action.id,
            run=run.id,
        )
    runs.set_run_state(session, run, RunState.FAILED, now)
    runs.queue_destruction(session, run, now)
    if run.kind == "unlearn" and not actions:
        sla.postpone(session, run.model_id, now)
    _ring_requests(session, actions)


def retry(session: Session, request: ErasureRequest, now: datetime) -> None:
    """Queue a failed request's failed actions again, by the method that is best now.

    Raises:
        IllegalMove: the request has not failed.
    """
    if request.state != RequestState.FAILED:
        raise IllegalMove(RequestState(request.state), RequestState.EXECUTING)
    for action in runs.actions_of_request(session, request.id):
        if action.state == ActionState.FAILED:
            planning.plan_again(session, action, request.due_at, now)
            _queue(session, action, now)
    intake.set_state(session, request, RequestState.EXECUTING, now)
    request.failure = None


# Promises: the scheduled exact retraining, and what it closes.


def start_promised(session: Session, now: datetime) -> int:
    """Queue the exact retraining of every model that has a promise whose time has come.

    A promise that a finished run has kept already, its bell lost, is rung for again.
    """
    started = 0
    for commitment in sla.unkept(session):
        action = session.get_one(Action, commitment.action_id)
        if action.model_version_id is None:
            continue
        base = manifest.successor(session, action.model_version_id)
        made_by = None if base.run_id is None else runs.get_run(session, base.run_id)
        if made_by is not None and _has_kept(session, made_by, action):
            queue.ring(session, "keep_promises", made_by.id)
            continue
        if commitment.starts_at > now or runs.is_retraining(session, base.model_id):
            continue
        run = runs.queue_unlearning(session, base, planning.exact_method(session, action), now)
        if run.predicted_seconds is None:
            run.predicted_seconds = planning.run_seconds(session, run, base, now)
        started += run.created_at == now
    return started


def keep_promises(session: Session, keys: SigningKeys, run_id: UUID, now: datetime) -> None:
    """Close the promises that a finished exact run has kept; each gives a revised certificate."""
    run = runs.get_run(session, run_id)
    for commitment in sla.open_commitments(session, run.model_id):
        action = session.get_one(Action, commitment.action_id)
        if not _has_kept(session, run, action):
            continue
        # The request before its action, as everywhere.
        request = intake.lock(session, action.request_id)
        sla.keep(session, commitment, run.new_version_id, now)
        planning.fulfil(action, run)
        action.state = move(ActionState(action.state), ActionState.DONE)
        if certificate.is_issued(session, request.id):
            certificate.issue(session, keys, request, now)


def _has_kept(session: Session, run: Run, action: Action) -> bool:
    exact = run.state == RunState.DONE and run.method in EXACT
    return exact and manifest.leaves_out(session, run, action)


# Steps: what a worker reports becomes rows, under the step's epoch.


def finish_step(session: Session, claimed: Claim, result: dict[str, Any], now: datetime) -> None:
    """Store what a step brought, once.

    Raises:
        LeaseLostError: the step is no longer this worker's; nothing is stored.
    """
    step = execution.finish(session, claimed, result, now)
    run = runs.get_run(session, claimed.run_id)
    match step.kind:
        case "index":
            inventory.store_index(session, run, result, now)
        case "train_shard":
            manifest.save_shard(session, run, result)
        case "unlearn":
            manifest.save_unlearned(session, run, result)
        case "remove":
            manifest.save_removed(session, run, result)
        case "evaluate":
            runs.store_rates(session, run, now)
            promotion.describe_trained(session, run, result)
            verification.store(session, run, result["checks"], now)
        case "erase_records":
            verification.store(session, run, result["checks"], now)
            action = runs.actions_of_run(session, run.id)[0]
            inventory.store_erasure(session, run, action.request_id, result, now)
            # Last: a row that is changed twice locks what it refers to, and the file comes first.
            run.verdict = files_verdict(result["checks"])
        case _:
            promotion.store_destruction(session, run, result, now)


def fail_step(
    session: Session,
    settings: Settings,
    claimed: Claim,
    failure: Problem,
    now: datetime,
    *,
    permanent: bool,
) -> None:
    """Store that a step failed; see `execution.fail`."""
    execution.fail(session, claimed, failure, settings.step_attempts, now, permanent=permanent)


def _traced(session: Session, request: ErasureRequest) -> Trace:
    return lineage.trace_subject(session, intake.subject_keys(session, request))


def _trace_json(trace: Trace) -> dict[str, Any]:
    """Return a trace as the request keeps it: counts and places, no record and no key."""
    return {
        "datasets": [
            {"dataset": one.name, "version": one.version, "records": one.records}
            for one in trace.datasets
        ],
        "models": [
            {
                "model": one.name,
                "version": one.version,
                "records": one.records,
                "shards": [asdict(hit) for hit in one.shards],
            }
            for one in trace.models
        ],
        "derived": [asdict(one) for one in trace.derived],
        "unknown_lineage": [
            f"{one.name}@{one.version}" if one.version else one.name for one in trace.unknown
        ],
    }


def _set_run(
    session: Session, run: Run, state: RunState, action_state: ActionState, now: datetime
) -> None:
    runs.set_run_state(session, run, state, now)
    actions = runs.actions_of_run(session, run.id)
    for action in actions:
        action.state = move(ActionState(action.state), action_state)
    _ring_requests(session, actions)


def _guarantee(run: Run) -> Guarantee:
    return guarantee_of(run.method or "")


def _due(session: Session, action: Action) -> datetime:
    return session.get_one(ErasureRequest, action.request_id).due_at


def _ring_requests(session: Session, actions: Sequence[Action]) -> None:
    for action in actions:
        queue.ring(session, "advance", action.request_id)
