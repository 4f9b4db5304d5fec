"""What a run came to, in the sentences that its report begins with."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.dashboard.report_checks import told
from app.dashboard.report_words import JUDGED, KINDS, ONE_IS_TOO_FEW, VERDICTS
from app.runs.schemas import RunOut


def meaning(run: RunOut, checks: Sequence[Mapping[str, Any]]) -> str:
    """Return what a run came to: by its verdict, or by what one that forgets nothing does."""
    said: Mapping[str, Any] = run.verdict or {}
    if run.kind != JUDGED:
        return " ".join([KINDS[run.kind].plain, *(one["reason"] for one in said.get("checks", []))])
    match said:
        case {"verdict": "pass", "by": "statistics"}:
            return VERDICTS["pass by statistics"]
        case {"verdict": "pass"} if run.guarantee == "certified":
            return VERDICTS["pass within a bound"]
        case {"verdict": "pass"}:
            return VERDICTS["pass by process"]
        case {"verdict": verdict}:
            return VERDICTS[verdict] + _too_few(said, checks)
        case _:
            return KINDS[JUDGED].plain


def _too_few(said: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> str:
    """Return how little one data subject can show, where nothing could be decided about one."""
    led = [one for one in checks if one.get("details", {}).get("leading")]
    alone = said.get("by") == "statistics" and said.get("verdict") == "inconclusive"
    alpha = said.get("margins", {}).get("alpha")
    if not alone or not led or led[0]["n"] != 1 or not alpha:
        return ""
    m = led[0]["m"]
    return ONE_IS_TOO_FEW.format(m=told(m), of=told(m + 1), asked=told(round(1 / alpha)))
