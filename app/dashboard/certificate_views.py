"""A certificate's page: nothing but what its signed statement says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from app.core.errors import AppError
from app.dashboard.check_views import CheckView, check_view
from app.dashboard.words import GUARANTEES, method_words
from lethe.certificate import CertificateInvalid, verify_bundle
from lethe.keys import PublicKeys


class CertificateBrokenError(AppError):
    """The stored certificate does not verify with this service's own keys."""

    slug = "certificate-broken"
    advice = "Do not hand it out. Compare the signing keys and the log with their backups."


@dataclass(frozen=True, slots=True)
class FoundView:
    """An artifact that held records of the person."""

    artifact: str
    kind: str
    records: int
    places: str


@dataclass(frozen=True, slots=True)
class DoneView:
    """What was done to one artifact."""

    artifact: str
    kind: str
    state: str
    method: str | None
    meaning: str
    guarantee: str | None
    guarantee_meaning: str
    reason: str
    verdict: str | None
    accepted_at: datetime | None
    replaced: int
    kept: int
    destroyed: int
    checks: tuple[CheckView, ...]


@dataclass(frozen=True, slots=True)
class PromisedView:
    """A dated promise as the statement has it."""

    artifact: str
    promise: str
    due_at: datetime
    fulfilled_at: datetime | None


@dataclass(frozen=True, slots=True)
class CertificateView:
    """A verified certificate, and where it is in the log."""

    request_id: str
    regime: str
    ground: str | None
    received_at: datetime
    due_at: datetime
    closed_at: datetime
    within_clock: bool
    outcome: str
    identifiers: Mapping[str, int]
    found: tuple[FoundView, ...]
    done: tuple[DoneView, ...]
    promised: tuple[PromisedView, ...]
    not_covered: Sequence[str]
    not_guaranteed: Sequence[str]
    revision: int
    index: int
    log_origin: str
    log_size: int


def certificate_view(bundle: str, keys: PublicKeys) -> CertificateView:
    """Return the page of a certificate, verified first with the service's public keys.

    Raises:
        CertificateBrokenError: a step of the verification does not hold.
    """
    try:
        verified = verify_bundle(bundle.encode(), keys)
    except CertificateInvalid as error:
        raise CertificateBrokenError(f"Step {error.step} fails: {error.reason}.") from error
    said = cast("dict[str, Any]", verified.statement["predicate"])
    request = said["request"]
    return CertificateView(
        request_id=verified.request_id,
        regime=request["regime"],
        ground=request["ground"],
        received_at=datetime.fromisoformat(request["received_at"]),
        due_at=datetime.fromisoformat(request["due_at"]),
        closed_at=datetime.fromisoformat(request["closed_at"]),
        within_clock=request["within_clock"],
        outcome=request["outcome"],
        identifiers=request["identifiers"],
        found=tuple(_found(one) for one in said["found"]),
        done=tuple(_done(one) for one in said["done"]),
        promised=tuple(_promised(one) for one in said["commitments"]),
        not_covered=said["not_covered"],
        not_guaranteed=said["not_guaranteed"],
        revision=said["revision"],
        index=verified.index,
        log_origin=verified.checkpoint.origin,
        log_size=verified.checkpoint.size,
    )


def places(shards: Sequence[Mapping[str, Any]]) -> str:
    """Return where in a model records were, as "shard 3 (slices 0, 2)"."""
    return "; ".join(
        f"shard {one['shard']} (slice{'s' if len(one['slices']) > 1 else ''} "
        f"{', '.join(map(str, one['slices']))})"
        for one in shards
    )


def _found(one: Mapping[str, Any]) -> FoundView:
    return FoundView(one["artifact"], one["kind"], one["records"], places(one["shards"]))


def _done(one: Mapping[str, Any]) -> DoneView:
    before = {digest["sha256"] for digest in one["before"]}
    after = {digest["sha256"] for digest in one["after"]}
    accepted_at = one["accepted_at"]
    return DoneView(
        artifact=one["artifact"],
        kind=one["kind"],
        state=one["state"],
        method=one["method"],
        meaning=method_words(one["method"]),
        guarantee=one["guarantee"],
        # What a guarantee means is said of models; a file either holds the records or does not.
        guarantee_meaning=""
        if one["kind"] == "dataset_version"
        else GUARANTEES.get(one["guarantee"], ""),
        reason=one["reason"],
        verdict=one["verdict"],
        accepted_at=None if accepted_at is None else datetime.fromisoformat(accepted_at),
        replaced=len(before - after),
        kept=len(before & after),
        destroyed=len(one["destroyed"]),
        checks=tuple(signed_check(evidence, one["guarantee"]) for evidence in one["evidence"]),
    )


def signed_check(evidence: Mapping[str, Any], guarantee: str | None) -> CheckView:
    """Return a check as a statement has it; the guarantee tells what its verdict rests on."""
    verdict = {
        "by": "statistics" if guarantee == "approximate" else "process",
        "checks": [evidence],
        "margins": {"membership": evidence["margin"]},
    }
    return check_view(evidence, verdict)


def _promised(one: Mapping[str, Any]) -> PromisedView:
    fulfilled_at = one["fulfilled_at"]
    return PromisedView(
        artifact=one["artifact"],
        promise=one["promise"],
        due_at=datetime.fromisoformat(one["due_at"]),
        fulfilled_at=None if fulfilled_at is None else datetime.fromisoformat(fulfilled_at),
    )
