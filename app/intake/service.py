"""Taking a request in, deciding about it, and closing it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.core import identifiers, queue
from app.core.config import Settings
from app.core.errors import ConflictError, InvalidInputError, NotFoundError
from app.core.identifiers import Identifier, subject_set_digest
from app.core.lifecycle import END_REQUEST_STATES, RequestState, move
from app.core.security import (
    dump_identifiers,
    load_identifiers,
    new_wrapped_key,
    seal,
    unseal,
    unwrap_key,
)
from app.intake import repository
from app.intake.schemas import ActionOut, ErasureRequestOut, SlaOut, TimelineEntry
from app.models import ErasureRequest, new_id
from app.sla.rules import REGIMES, Clock, can_extend, clock, sla

CLOCK_SKEW = timedelta(minutes=5)
GDPR_APPLIES = datetime(2018, 5, 25, tzinfo=UTC)


class RequestNotFoundError(NotFoundError):
    """No erasure request has this id, or another portal submitted it."""


class OpenRequestExistsError(ConflictError):
    """An open request names exactly this person."""

    slug = "open-request-exists"
    advice = "Follow the request named in `request`; it covers this one."


@dataclass(frozen=True, slots=True)
class Submission:
    """What a portal submitted, checked for form only."""

    identifiers: Sequence[Identifier]
    regime: str
    received_at: datetime | None
    reference: str | None
    ground: str | None
    identity_verified: bool


def receive(
    session: Session, settings: Settings, portal_id: UUID, submission: Submission, now: datetime
) -> ErasureRequest:
    """Store a request and ring for it.

    Raises:
        InvalidIdentifier: an identifier is malformed.
        InvalidInputError: the regime is unknown, `received_at` lies in the future or before the
            GDPR applied, or the reference holds an identifier.
        OpenRequestExistsError: this portal has an open request for the same subject keys.
    """
    secret = settings.subject_secret.get_secret_value().encode()
    keys = identifiers.subject_keys(secret, submission.identifiers, settings.default_phone_region)
    received_at = submission.received_at or now
    _check(submission, received_at, settings.default_phone_region, now)
    subject_set = subject_set_digest(keys)
    existing = repository.open_request_of(session, portal_id, subject_set)
    if existing is not None:
        raise OpenRequestExistsError(request=str(existing))

    request_id = new_id()
    key, wrapped = new_wrapped_key(settings.vault_secret.get_secret_value(), str(request_id))
    due = clock_of(settings, submission.regime, received_at, extended=False).due_at
    state = (
        RequestState.RECEIVED if submission.identity_verified else RequestState.AWAITING_IDENTITY
    )
    request = ErasureRequest(
        id=request_id,
        portal_id=portal_id,
        state=state,
        regime=submission.regime,
        ground=submission.ground,
        reference=submission.reference,
        identity_verified=submission.identity_verified,
        identifier_types=sorted(one.type for one in submission.identifiers),
        subject_set=subject_set,
        sealed_identifiers=seal(key, dump_identifiers([*submission.identifiers]), str(request_id)),
        received_at=received_at,
        due_at=due,
        created_at=now,
    )
    try:
        with session.begin_nested():
            repository.add_request(session, request, wrapped, keys)
    except IntegrityError as error:  # the same submission, a moment earlier
        earlier = repository.open_request_of(session, portal_id, subject_set)
        raise OpenRequestExistsError(request=str(earlier)) from error
    audit.record(
        session,
        "request_received",
        now,
        request_id=request.id,
        regime=request.regime,
        state=str(state),
    )
    queue.ring(session, "advance", request.id)
    return request


def _check(
    submission: Submission, received_at: datetime, region: str | None, now: datetime
) -> None:
    if submission.regime not in REGIMES:
        raise InvalidInputError(
            "The regime is unknown.", advice="Use one of those that GET /v1/sla/summary lists."
        )
    if received_at > now + CLOCK_SKEW:
        raise InvalidInputError(
            "`received_at` lies in the future.", advice="Send the time of receipt, in UTC."
        )
    if received_at < GDPR_APPLIES:
        raise InvalidInputError(
            "`received_at` lies before 25 May 2018, when the GDPR began to apply (Art. 99(2)).",
            advice="Send the time of receipt, in UTC; no clock here counts from before that day.",
        )
    if identifiers.names_person(submission.reference or "", submission.identifiers, region):
        raise InvalidInputError(
            "`reference` holds an identifier of the person.",
            advice="Use the portal's own case number; the reference is kept for good.",
        )


def find(session: Session, request_id: UUID, portal_id: UUID | None) -> ErasureRequest:
    """Return a request; a portal sees only its own.

    Raises:
        RequestNotFoundError: there is none, or it is another portal's.
    """
    request = repository.find(session, request_id, portal_id)
    if request is None:
        raise RequestNotFoundError
    return request


def lock(session: Session, request_id: UUID) -> ErasureRequest:
    """Return the request, locked until the transaction ends.

    Raises:
        RequestNotFoundError: there is none.
    """
    request = repository.locked(session, request_id)
    if request is None:
        raise RequestNotFoundError
    return request


def subject_keys(session: Session, request: ErasureRequest) -> list[UUID]:
    """Return the subject keys that a request names."""
    return repository.subject_keys(session, request.id)


def set_state(
    session: Session,
    request: ErasureRequest,
    state: RequestState,
    now: datetime,
    reason: str | None = None,
) -> None:
    """Move a request, tell the log, and forget the person when it ends."""
    request.state = move(RequestState(request.state), state)
    if reason is not None:
        request.decision_reason = reason
    if state in END_REQUEST_STATES:
        repository.destroy_key(session, request, now)
    audit.record(session, f"request_{state}", now, request_id=request.id)
    queue.ring(session, "advance", request.id)


def identifiers_of(
    session: Session, settings: Settings, request: ErasureRequest
) -> list[Identifier] | None:
    """Return the person's identifiers while the request is open, else None."""
    wrapped = repository.request_key(session, request.id)
    if wrapped is None or request.sealed_identifiers is None:
        return None
    key = unwrap_key(settings.vault_secret.get_secret_value(), wrapped, str(request.id))
    return load_identifiers(unseal(key, request.sealed_identifiers, str(request.id)))


def clock_of(settings: Settings, regime: str, received_at: datetime, *, extended: bool) -> Clock:
    """Return a request's clock, counted in the controller's country and time zone."""
    return clock(
        regime,
        received_at,
        country=settings.controller_country,
        extended=extended,
        time_zone=ZoneInfo(settings.controller_time_zone),
    )


def extend(
    session: Session, settings: Settings, request_id: UUID, reason: str, now: datetime
) -> ErasureRequest:
    """Take the extension that the request's law allows, once, in time.

    Raises:
        ConflictError: it was taken, the request is closed, or the time to say so has passed.
        InvalidInputError: the reason names the person.
    """
    request = lock(session, request_id)
    check_reason(session, settings, request, reason)
    in_time = can_extend(
        request.regime,
        request.received_at,
        now,
        country=settings.controller_country,
        time_zone=ZoneInfo(settings.controller_time_zone),
    )
    if request.extended or request.closed_at is not None or not in_time:
        raise ConflictError(
            "The clock cannot be extended: once only, and only before the first deadline.",
            advice="See the request's `due_at`; a refusal or completion is due by then.",
        )
    request.extended, request.decision_reason = True, reason
    request.due_at = clock_of(settings, request.regime, request.received_at, extended=True).due_at
    audit.record(session, "clock_extended", now, request_id=request.id)
    return request


def reject(
    session: Session, settings: Settings, request_id: UUID, reason: str, now: datetime
) -> ErasureRequest:
    """Refuse a request.

    Raises:
        IllegalMove: the work has begun, or the request has ended.
        InvalidInputError: the reason names the person.
    """
    return _call_off(session, settings, request_id, RequestState.REJECTED, reason, now)


def cancel(
    session: Session, settings: Settings, request_id: UUID, reason: str, now: datetime
) -> ErasureRequest:
    """Call a request off; raises as `reject` does."""
    return _call_off(session, settings, request_id, RequestState.CANCELLED, reason, now)


def _call_off(
    session: Session,
    settings: Settings,
    request_id: UUID,
    state: RequestState,
    reason: str,
    now: datetime,
) -> ErasureRequest:
    request = lock(session, request_id)
    check_reason(session, settings, request, reason)
    if repository.has_begun(session, request.id):
        raise ConflictError(
            "The erasure has begun; the request cannot be called off.",
            advice="Resume or retry it, so that it ends by its actions.",
        )
    set_state(session, request, state, now, reason)
    repository.lift_suppressions(session, request.id, now)
    return request


def pause(
    session: Session, settings: Settings, request_id: UUID, reason: str, now: datetime
) -> ErasureRequest:
    """Hold a request where it stands; runs that have begun end, and the clock runs on.

    Raises:
        IllegalMove: the request is being promoted, waits for its identity check, or has ended.
        InvalidInputError: the reason names the person.
    """
    request = lock(session, request_id)
    check_reason(session, settings, request, reason)
    request.resume_state = request.state
    set_state(session, request, RequestState.PAUSED, now, reason)
    return request


def resume(session: Session, request_id: UUID, now: datetime) -> ErasureRequest:
    """Let a paused request go on from where it stood.

    Raises:
        ConflictError: it is not paused.
    """
    request = lock(session, request_id)
    if request.state != RequestState.PAUSED or request.resume_state is None:
        raise ConflictError("The request is not paused.")
    set_state(session, request, RequestState(request.resume_state), now)
    request.resume_state = None
    return request


def check_identity(
    session: Session,
    settings: Settings,
    request_id: UUID,
    verified: bool,
    reason: str | None,
    now: datetime,
) -> ErasureRequest:
    """Record the outcome of the identity check.

    Raises:
        ConflictError: the request does not wait for it.
        InvalidInputError: the reason names the person.
    """
    request = lock(session, request_id)
    if request.state != RequestState.AWAITING_IDENTITY:
        raise ConflictError("The request does not wait for an identity check.")
    check_reason(session, settings, request, reason)
    request.identity_verified = verified
    set_state(
        session, request, RequestState.RECEIVED if verified else RequestState.REJECTED, now, reason
    )
    return request


def check_reason(
    session: Session, settings: Settings, request: ErasureRequest, reason: str | None
) -> None:
    """Refuse a reason that names the person: it is kept after the request closes.

    Raises:
        InvalidInputError: it holds one of the request's identifiers.
    """
    known = identifiers_of(session, settings, request) or []
    if identifiers.names_person(reason or "", known, settings.default_phone_region):
        raise InvalidInputError(
            "The reason holds an identifier of the person.",
            advice="Say it without naming the person; the reason is kept after the request closes.",
        )


def page(
    session: Session, portal_id: UUID | None, after: UUID | None, limit: int
) -> Sequence[ErasureRequest]:
    """Return requests by id, a portal's own only."""
    return repository.page(session, portal_id, after, limit)


def timeline(session: Session, request_id: UUID) -> list[TimelineEntry]:
    """Return a request's log entries, numbered or not yet, oldest first."""
    return [
        TimelineEntry(event=event, at=at, index=index, facts=_facts(payload))
        for event, at, payload, index in audit.timeline(session, request_id)
    ]


def _facts(payload: bytes) -> dict[str, object]:
    entry = json.loads(payload)
    return {name: fact for name, fact in entry.items() if name not in {"event", "at", "request"}}


def describe(
    session: Session, settings: Settings, request: ErasureRequest, now: datetime
) -> ErasureRequestOut:
    """Return a request as the API shows it: never the person."""
    terms = clock_of(settings, request.regime, request.received_at, extended=request.extended)
    standing = sla(terms, now, closed_at=request.closed_at)
    own = f"/v1/erasure-requests/{request.id}"
    return ErasureRequestOut(
        id=request.id,
        state=request.state,
        regime=request.regime,
        ground=request.ground,
        reference=request.reference,
        received_at=request.received_at,
        due_at=request.due_at,
        closed_at=request.closed_at,
        sla=SlaOut(status=standing.status, days_left=standing.days_left),
        failure=request.failure,
        linked=repository.linked(session, request.id),
        actions=[
            ActionOut(
                id=action.id,
                artifact=f"{artifact.name}@{artifact.version}"
                if artifact.version
                else artifact.name,
                kind=artifact.kind,
                method=action.method,
                guarantee=action.guarantee,
                state=action.state,
                reason=action.reason,
                run=action.run_id,
                found=action.found,
                commitment_due_at=action.commitment_due_at,
            )
            for action, artifact in repository.actions(session, request.id)
        ],
        links={
            "self": own,
            "plan": f"{own}/plan",
            "timeline": f"{own}/timeline",
            "certificate": f"{own}/certificate",
        },
    )
