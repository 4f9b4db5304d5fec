"""Rows for tests, made by typed keyword functions; what a test does not name is ordinary.

A request is made as intake makes it: keyed subjects, identifiers sealed under its own key.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.access.service import create_api_key
from app.core.config import Settings
from app.core.identifiers import Identifier, subject_keys, subject_set_digest
from app.core.security import Role, dump_identifiers, new_wrapped_key, seal
from app.intake.service import clock_of
from app.models import (
    Action,
    Artifact,
    Commitment,
    Dataset,
    DatasetVersion,
    ErasureRequest,
    Evidence,
    Model,
    ModelVersion,
    RequestKey,
    RequestSubject,
    Run,
    Step,
    new_id,
)

Json = dict[str, Any]
_numbers = count(1)


def make_api_key(session: Session, *, role: Role, now: datetime) -> tuple[UUID, str]:
    """Make an API key; return its id and its token."""
    caller, token = create_api_key(session, f"{role} {next(_numbers)}", role, now)
    return caller.id, token


def make_request(
    session: Session,
    *,
    settings: Settings,
    portal_id: UUID,
    now: datetime,
    identifiers: Sequence[Identifier] = (),
    state: str = "received",
    regime: str = "gdpr",
    received_at: datetime | None = None,
    reference: str | None = None,
    ground: str | None = "consent_withdrawn",
    trace: Json | None = None,
    failure: Json | None = None,
    closed_at: datetime | None = None,
) -> ErasureRequest:
    """Make a request; a closed one has forgotten the person."""
    named = [*identifiers] or [Identifier("email", f"person{next(_numbers)}@example.org")]
    secret = settings.subject_secret.get_secret_value().encode()
    keys = subject_keys(secret, named, settings.default_phone_region)
    request_id, received = new_id(), received_at or now
    key, wrapped = new_wrapped_key(settings.vault_secret.get_secret_value(), str(request_id))
    sealed = seal(key, dump_identifiers(named), str(request_id))
    request = ErasureRequest(
        id=request_id,
        portal_id=portal_id,
        state=state,
        regime=regime,
        ground=ground,
        reference=reference,
        identity_verified=state != "awaiting_identity",
        identifier_types=sorted(one.type for one in named),
        subject_set=subject_set_digest(keys),
        sealed_identifiers=sealed if closed_at is None else None,
        received_at=received,
        due_at=clock_of(settings, regime, received, extended=False).due_at,
        created_at=received,
        closed_at=closed_at,
        **_given(trace=trace, failure=failure),
    )
    session.add(request)
    session.flush()
    if closed_at is None:
        session.add(RequestKey(request_id=request.id, wrapped_key=wrapped))
    session.add_all(RequestSubject(request_id=request.id, subject_key=one) for one in set(keys))
    session.flush()
    return request


def make_dataset_version(
    session: Session, *, now: datetime, name: str | None = None, version: str = "1"
) -> DatasetVersion:
    """Make a dataset with one indexed version."""
    called = name or f"dataset-{next(_numbers)}"
    dataset = Dataset(
        name=called,
        owner={"column": "person_id", "type": "customer_id"},
        aliases=[],
        mentions=[],
        wrapped_key=b"wrapped",
        created_at=now,
    )
    artifact = _artifact("dataset_version", called, version, now)
    session.add_all([dataset, artifact])
    session.flush()
    row = DatasetVersion(
        dataset_id=dataset.id,
        version=version,
        artifact_id=artifact.id,
        uri=f"file:///data/{called}.parquet",
        format="parquet",
        rewritable=True,
        state="indexed",
        record_count=1000,
        collected_at=now,
        created_at=now,
        indexed_at=now,
    )
    session.add(row)
    session.flush()
    return row


def make_model(
    session: Session,
    *,
    now: datetime,
    name: str | None = None,
    shards: int = 1,
    slices: int = 1,
    policy: Json | None = None,
) -> Model:
    """Make a model trained by the classifier recipe."""
    model = Model(
        name=name or f"model-{next(_numbers)}",
        recipe="classifier",
        parameters={},
        seed="1",
        shards=shards,
        slices=slices,
        holdout_from=52429,
        policy=policy or {},
        created_at=now,
    )
    session.add(model)
    session.flush()
    return model


def make_model_version(
    session: Session, *, model: Model, now: datetime, version: int = 1, state: str = "live"
) -> ModelVersion:
    """Make a version of a model."""
    artifact = _artifact("model_version", model.name, str(version), now)
    session.add(artifact)
    session.flush()
    row = ModelVersion(
        model_id=model.id,
        version=version,
        artifact_id=artifact.id,
        state=state,
        method="train",
        shards=model.shards,
        slices=model.slices,
        holdout_from=model.holdout_from,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def make_candidate(
    *,
    method: str,
    chosen: bool = False,
    guarantee: str = "exact",
    reason: str = "It would be in time, at no lower cost.",
    predicted_seconds: float | None = None,
    finishes_at: datetime | None = None,
) -> Json:
    """Make a candidate as an action's plan keeps it."""
    return {
        "method": method,
        "guarantee": guarantee,
        "chosen": chosen,
        "predicted_seconds": predicted_seconds,
        "starts_at": None,
        "finishes_at": finishes_at and finishes_at.isoformat(),
        "reason": reason,
        "shards": [],
    }


def make_action(
    session: Session,
    *,
    request: ErasureRequest,
    on: ModelVersion | DatasetVersion,
    now: datetime,
    state: str = "planned",
    method: str = "retrain",
    guarantee: str = "exact",
    reason: str = "The strongest guarantee that can be had in time.",
    candidates: Sequence[Json] = (),
    tried: Sequence[Json] = (),
    run: Run | None = None,
    records: int = 1,
    shards: Sequence[Json] = (),
    commitment_due_at: datetime | None = None,
) -> Action:
    """Make a request's action on a model version or dataset version."""
    is_model = isinstance(on, ModelVersion)
    action = Action(
        request_id=request.id,
        artifact_id=on.artifact_id,
        kind="model_version" if is_model else "dataset_version",
        model_version_id=on.id if isinstance(on, ModelVersion) else None,
        dataset_version_id=on.id if isinstance(on, DatasetVersion) else None,
        run_id=None if run is None else run.id,
        state=state,
        method=method,
        guarantee=guarantee,
        reason=reason,
        plan={"candidates": [*candidates], "tried": [*tried]},
        found={"records": records, "shards": [*shards]},
        commitment_due_at=commitment_due_at,
        created_at=now,
    )
    session.add(action)
    session.flush()
    return action


def make_run(
    session: Session,
    *,
    now: datetime,
    base: ModelVersion | None = None,
    new: ModelVersion | None = None,
    dataset_version: DatasetVersion | None = None,
    state: str = "queued",
    method: str = "retrain",
    guarantee: str = "exact",
    predicted_seconds: float | None = None,
    verdict: Json | None = None,
    accepted: Json | None = None,
    failure: Json | None = None,
    started_at: datetime | None = None,
    finished_at: datetime | None = None,
) -> Run:
    """Make a run that unlearns, or with a dataset version one that erases records."""
    run = Run(
        kind="unlearn" if dataset_version is None else "erase_records",
        state=state,
        method=method,
        guarantee=guarantee,
        model_id=None if base is None else base.model_id,
        base_version_id=None if base is None else base.id,
        new_version_id=None if new is None else new.id,
        dataset_version_id=None if dataset_version is None else dataset_version.id,
        predicted_seconds=predicted_seconds,
        created_at=now,
        started_at=started_at,
        finished_at=finished_at,
        **_given(verdict=verdict, accepted=accepted, failure=failure),
    )
    session.add(run)
    session.flush()
    return run


def make_step(
    session: Session,
    *,
    run: Run,
    now: datetime,
    kind: str = "train_shard",
    target: str = "shard-0000",
    stage: int = 0,
    state: str = "pending",
    progress: float = 0.0,
    attempts: int = 1,
    seconds: float | None = None,
    failure: Json | None = None,
    result: Json | None = None,
) -> Step:
    """Make a step; one with `seconds` has ended."""
    step = Step(
        run_id=run.id,
        kind=kind,
        target=target,
        stage=stage,
        queue="compute",
        state=state,
        parameters={},
        progress=progress,
        attempts=attempts,
        created_at=now,
        started_at=None if state == "pending" else now,
        finished_at=None if seconds is None else now + timedelta(seconds=seconds),
        **_given(failure=failure, result=result),
    )
    session.add(step)
    session.flush()
    return step


def make_check(
    *,
    name: str = "loss_membership",
    family: str = "membership",
    estimate: float = 0.5,
    low: float | None = 0.4,
    high: float | None = 0.6,
    level: float | None = 0.9,
    n: int = 40,
    m: int = 120,
    unit: str = "data_subject",
    p_value: float | None = 0.5,
    positive_control: float | None = 1e-4,
    threat_model: str = "T1",
    reference: str = "holdout records of data subjects that were never trained on",
    details: Mapping[str, float] | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
) -> Json:
    """Make a check as evidence keeps it; one of old has no curves."""
    kept = {} if curves is None else {"curves": {name: [*row] for name, row in curves.items()}}
    return kept | {
        "name": name,
        "family": family,
        "threat_model": threat_model,
        "reference": reference,
        "unit": unit,
        "n": n,
        "m": m,
        "estimate": estimate,
        "low": low,
        "high": high,
        "level": level,
        "p_value": p_value,
        "positive_control": positive_control,
        "details": dict(details or {}),
        "would_settle": "more data subjects",
    }


def make_evidence(session: Session, *, run: Run, check: Json, now: datetime) -> Evidence:
    """Make a measured check of a run."""
    row = Evidence(run_id=run.id, name=check["name"], body=check, created_at=now)
    session.add(row)
    session.flush()
    return row


def make_commitment(
    session: Session,
    *,
    action: Action,
    model: Model,
    now: datetime,
    due_at: datetime,
    kept_at: datetime | None = None,
) -> Commitment:
    """Make the promise of an action."""
    row = Commitment(
        request_id=action.request_id,
        action_id=action.id,
        model_id=model.id,
        kind="exact_retraining",
        reason=action.reason,
        starts_at=min(now, due_at),
        due_at=due_at,
        kept_at=kept_at,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def _artifact(kind: str, name: str, version: str, now: datetime) -> Artifact:
    return Artifact(kind=kind, name=name, version=version, lineage="complete", created_at=now)


def _given(**values: Json | None) -> Mapping[str, Json]:
    """Leave out what is None: JSONB would keep a given None as the JSON value null."""
    return {name: value for name, value in values.items() if value is not None}
