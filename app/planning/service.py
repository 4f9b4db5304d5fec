"""From a trace to one action per artifact, each with its candidates and the reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core.errors import NotFoundError
from app.core.lifecycle import ActionState
from app.lineage.rules import FoundModel, FoundRecords, Trace
from app.models import (
    Action,
    Artifact,
    DatasetVersion,
    ErasureRequest,
    Model,
    ModelVersion,
    Run,
)
from app.planning import repository
from app.planning.rules import (
    DatasetFacts,
    ModelFacts,
    ModelPolicy,
    PlannedAction,
    plan_dataset,
    plan_derived,
    plan_model,
    predicted_seconds,
    stronger,
)
from app.runs.rules import predicted_rate, start_policy
from lethe.methods.spec import ShardHit
from lethe.recipes import offered

DEFAULT_EPOCHS = 10
SOURCE = "dataset_version"


def plan(session: Session, request: ErasureRequest, trace: Trace, now: datetime) -> int:
    """Add an action for each artifact of the trace that has none; return how many were added."""
    known = repository.planned_artifacts(session, request.id)
    added = [
        *(_model_action(session, request, one, now) for one in trace.models),
        *(_dataset_action(session, request, one, now) for one in trace.datasets),
        *(
            _action(request, one.artifact_id, one.kind, plan_derived(one.kind, one.name), {}, now)
            for one in trace.derived
        ),
    ]
    fresh = [one for one in added if one.artifact_id not in known]
    repository.add_actions(session, fresh)
    for one in fresh:
        audit.record(
            session,
            "action_planned",
            now,
            request_id=request.id,
            action=one.id,
            artifact=one.artifact_id,
            method=one.method,
            guarantee=one.guarantee,
        )
    return len(fresh)


def planned(
    session: Session, request_id: UUID, portal_id: UUID | None
) -> tuple[ErasureRequest, Sequence[tuple[Action, Artifact]]]:
    """Return a request and its actions with their artifacts; a portal sees only its own.

    Raises:
        NotFoundError: there is no such request for this caller.
    """
    request = session.get(ErasureRequest, request_id)
    if request is None or portal_id not in {None, request.portal_id}:
        raise NotFoundError("No erasure request has this id, or another portal submitted it.")
    return request, repository.actions(session, request_id)


def plan_stronger(
    session: Session, action: Action, due_at: datetime, now: datetime
) -> PlannedAction | None:
    """Return the next method on the ladder after the action's did not pass, if one is in time."""
    failed = [one["method"] for one in action.plan.get("tried", []) if one.get("verdict")]
    tried = [*failed, action.method]
    return stronger(_facts_of(session, action, now), tried, due_at=due_at, now=now)


def plan_again(session: Session, action: Action, due_at: datetime, now: datetime) -> None:
    """Plan a failed action anew, since the policy or the clock may have changed meanwhile."""
    if action.kind == "model_version":
        planned = plan_model(_facts_of(session, action, now), due_at=due_at, now=now)
        failed = None if action.run_id is None else session.get_one(Run, action.run_id)
        if planned.state == "planned":
            replan(action, planned, None if failed is None else failed.verdict)


def replan(action: Action, planned: PlannedAction, verdict: Mapping[str, Any] | None) -> None:
    """Put another method in an action's place, keeping what was tried, why, and its verdict."""
    judged = verdict or {}
    tried = {
        "method": action.method,
        "guarantee": action.guarantee,
        "reason": action.reason,
        "run": str(action.run_id),
        "verdict": judged.get("verdict"),
        "summary": judged.get("summary"),
    }
    action.plan = {**_plan_json(planned), "tried": [*action.plan.get("tried", []), tried]}
    action.method, action.guarantee = planned.method, planned.guarantee
    action.reason, action.commitment_due_at = planned.reason, planned.commitment_due_at


def give_up(action: Action) -> None:
    """Say that an action's version was never finished, and what is stored of it is destroyed."""
    tried = {"method": action.method, "reason": action.reason}
    action.plan = {**action.plan, "tried": [*action.plan.get("tried", []), tried]}
    action.method, action.guarantee, action.commitment_due_at = "destroy", "exact", None
    action.reason = "Its training failed; what was stored of it is destroyed."


def retrain_at_once(action: Action, run: Run) -> None:
    """Say that a run trains again what was to be switched off."""
    tried = {"method": action.method, "reason": action.reason}
    action.plan = {**action.plan, "tried": [*action.plan.get("tried", []), tried]}
    action.method = run.method or ""
    action.reason = "Switched off, nothing would be left to serve: it is trained again at once."


def run_seconds(session: Session, run: Run, base: ModelVersion, now: datetime) -> float:
    """Predict a run on a version, with all the actions that it carries out.

    A run without one keeps a promise, and is allowed the time of training everything.
    """
    found = repository.found_by(session, run.id)
    hits = tuple(hit for one in found for hit in _hits(one["shards"]))
    facts = _model_facts(session, base.id, hits, now)
    return predicted_seconds(facts, (run.method or "") if found else "retrain")


def commitment_dates(session: Session, action: Action, now: datetime) -> tuple[datetime, datetime]:
    """Return when an action's promised exact retraining may start, and by when it is due."""
    if action.model_version_id is None or action.commitment_due_at is None:
        message = "only an approximate action on a model version comes with a commitment"
        raise ValueError(message)
    _, model = repository.version_and_model(session, action.model_version_id)
    allowed_at = start_policy(model.policy).exact_not_before or now
    return max(now, allowed_at), action.commitment_due_at


def exact_method(session: Session, action: Action) -> str:
    """Return the exact method of the model that an action is about."""
    if action.model_version_id is None:
        message = "only a model version's action has a method to choose"
        raise ValueError(message)
    version, _ = repository.version_and_model(session, action.model_version_id)
    return "sisa" if version.shards * version.slices > 1 else "retrain"


def fulfil(action: Action, run: Run) -> None:
    """Say that an exact run has done what a committed action promised."""
    tried = {"method": action.method, "reason": action.reason, "run": str(action.run_id)}
    action.plan = {**action.plan, "tried": [*action.plan.get("tried", []), tried]}
    action.method, action.guarantee = run.method or "", run.guarantee or ""
    action.reason = "The promised exact retraining has left the records out."
    action.run_id = run.id


def _model_action(
    session: Session, request: ErasureRequest, found: FoundModel, now: datetime
) -> Action:
    hits = [asdict(one) for one in found.shards]
    facts = _model_facts(session, found.model_version_id, _hits(hits), now)
    planned = plan_model(facts, due_at=request.due_at, now=now)
    where = {"records": found.records, "shards": hits}
    action = _action(request, found.artifact_id, "model_version", planned, where, now)
    action.model_version_id = found.model_version_id
    return action


def _dataset_action(
    session: Session, request: ErasureRequest, found: FoundRecords, now: datetime
) -> Action:
    version = session.get_one(DatasetVersion, found.dataset_version_id)
    facts = DatasetFacts(
        found.name, found.version, found.records, version.rewritable, version.format
    )
    planned = plan_dataset(facts)
    action = _action(request, found.artifact_id, SOURCE, planned, {"records": found.records}, now)
    action.dataset_version_id = found.dataset_version_id
    return action


def _action(
    request: ErasureRequest,
    artifact_id: int,
    kind: str,
    planned: PlannedAction,
    found: dict[str, Any],
    now: datetime,
) -> Action:
    return Action(
        request_id=request.id,
        artifact_id=artifact_id,
        kind=kind,
        state=ActionState(planned.state),
        method=planned.method,
        guarantee=planned.guarantee,
        reason=planned.reason,
        plan=_plan_json(planned),
        found=found,
        commitment_due_at=planned.commitment_due_at,
        created_at=now,
    )


def _plan_json(planned: PlannedAction) -> dict[str, Any]:
    return {
        "candidates": [
            {
                **asdict(one),
                "shards": list(one.shards),
                "starts_at": one.starts_at and one.starts_at.isoformat(),
                "finishes_at": one.finishes_at and one.finishes_at.isoformat(),
            }
            for one in planned.candidates
        ]
    }


def _facts_of(session: Session, action: Action, now: datetime) -> ModelFacts:
    if action.model_version_id is None:
        message = "only a model version's action has a method to choose"
        raise ValueError(message)
    return _model_facts(session, action.model_version_id, _hits(action.found["shards"]), now)


def _model_facts(
    session: Session, version_id: UUID, hits: tuple[ShardHit, ...], now: datetime
) -> ModelFacts:
    version, model = repository.version_and_model(session, version_id)
    metrics = version.metrics or {}
    records = repository.slice_records(session, version.id)
    return ModelFacts(
        name=model.name,
        version=version.version,
        recipe=model.recipe,
        weights_present=bool(records),
        source_present=repository.sources_present(session, version.id),
        shards=version.shards,
        slices=version.slices,
        slice_records=tuple(
            tuple(records.get((shard, piece), 0) for piece in range(version.slices))
            for shard in range(version.shards)
        ),
        hits=hits,
        epochs=int(metrics.get("epochs", DEFAULT_EPOCHS)),
        seconds_per_record_pass=predicted_rate(
            repository.rates(session, model), repository.devices(session, now)
        ),
        weights=metrics.get("weights"),
        predictions=metrics.get("predictions"),
        offered=frozenset() if model.recipe is None else offered(model.recipe, model.parameters),
        policy=_policy(model),
        queue_seconds=repository.queue_seconds(session, now),
        served=repository.is_served(session, version.id),
    )


def _policy(model: Model) -> ModelPolicy:
    said = model.policy
    allowed = said.get("allowed_methods")
    return ModelPolicy(
        minimum_guarantee=said.get("minimum_guarantee", "approximate"),
        allowed_methods=None if allowed is None else frozenset(allowed),
        start=start_policy(said),
        retraining_every_days=said.get("retraining_every_days"),
        budget_seconds=said.get("budget_seconds"),
    )


def _hits(shards: list[dict[str, Any]]) -> tuple[ShardHit, ...]:
    return tuple(ShardHit(one["shard"], one["first_slice"], one["records"]) for one in shards)
