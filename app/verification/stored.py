"""What a look into stored files says: clean only where it could have found something."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from app.verification.checks import Check, CheckVerdict


def files_verdict(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns what the look into rewritten files says, as a run keeps its verdict.

    The erasure as a whole is not judged by it: with bytes found, its step fails before this, and
    what could not be looked for (`inconclusive`) is said in the certificate. None where nothing was
    looked for.
    """
    names = [one.name for one in fields(Check)]
    judged = [judge_stored(Check(**{name: one[name] for name in names})) for one in measured]
    if not judged:
        return None
    return {
        "verdict": None,
        "by": "process",
        "checks": [asdict(one) for one in judged],
        "summary": "",
        "margins": {},
        "subjects": [],
    }


def judge_stored(check: Check) -> CheckVerdict:
    """Returns what `stored_bytes` says by itself.

    `fail` where bytes of the erased were found. `pass` where none were, every file could be looked
    into, and everything looked for of records that are kept was found there by the same search.
    Else `inconclusive`: a search that would have found nothing in any case shows nothing.
    """
    details = check.details
    unreadable, controls = details.get("unreadable", 0), details.get("controls", 0)
    missing = controls - details.get("controls_found", 0)
    if check.estimate:
        return CheckVerdict(
            check.name, "fail", f"Of {check.n} erased records, {check.estimate:g} were found."
        )
    finding = f"Of {check.n} erased records none was found"
    if unreadable:
        reason = f"{finding}, but {unreadable:g} of {check.m} files could not be looked into."
    elif not controls:
        reason = f"{finding}, but no kept record was there to show that the search finds any."
    elif missing > 0:
        reason = (
            f"{finding}, but {missing:g} of {controls:g} kept records were not found either: the "
            "files write them in another form."
        )
    else:
        reason = f"{finding}; all {controls:g} kept records looked for were."
        return CheckVerdict(check.name, "pass", reason)
    return CheckVerdict(check.name, "inconclusive", reason)
