"""What the demo shows of a run's evidence: the service's JSON as a table and sentences."""

from rich.table import Table
from rich.text import Text

from app.dashboard.words import PROVES_NOTHING, check_words, in_words
from demo.screens import coloured, plain_table
from lethe.client import JsonObject

ATTACKS = ("membership", "extraction", "recovery")
RANKS = ("tail", "sparse")
PROVEN = ("process", "storage")
"""Families that decide on an exact run."""
MEASURED = (*RANKS, "utility", "storage")
"""Families that, with the attacks, decide on an approximate one."""


def verdict_line(name: str, answer: JsonObject) -> Text:
    """Show a model's verdict and what it rests on, from a run's evidence."""
    verdict = answer["verdict"]
    summary = in_words(verdict["summary"], [check["name"] for check in answer["checks"]])
    return Text.assemble(
        (f"{name}: ", "bold"), coloured(verdict["verdict"], bold=True), f". {summary}"
    )


def evidence_table(answer: JsonObject) -> Table:
    """Show what a run's verdict rests on, and of each family of attacks the one that stands out.

    In brackets is what decides nothing.
    """
    shown = plain_table("Check", "Attacker", ">n:m", "Before → after", "Says")
    for column in shown.columns[1:]:
        column.no_wrap = True
    verdict = answer["verdict"]
    says = {one["name"]: one["verdict"] for one in verdict["checks"]}
    for check in telling(answer):
        decides = verdict["by"] == "statistics" or check["family"] in PROVEN
        said = says[check["name"]]
        if said == "reported":
            said = PROVES_NOTHING if decides else "shown"
        shown.add_row(
            Text(check_words(check["name"]).title),
            Text(check["threat_model"], "dim"),
            Text(_sizes(check), "dim"),
            Text(measured(check)),
            coloured(said) if decides else Text(f"({said})", "dim"),
        )
    return shown


def telling(answer: JsonObject) -> list[JsonObject]:
    """Return the checks that a run's verdict rests on, then one attack of each family.

    Of a family's attacks it is the one whose p-value is lowest, then whose AUC is farthest from
    0.5.
    """
    by_statistics = answer["verdict"]["by"] == "statistics"
    families = MEASURED if by_statistics else PROVEN
    leads = [one for one in answer["checks"] if by_statistics and one["details"].get("leading")]
    rest = [one for one in answer["checks"] if one["family"] in families]
    attacks = [one for one in answer["checks"] if one["family"] in ATTACKS and one not in leads]
    strongest = [
        min(mounted, key=lambda one: (one["p_value"], -abs(one["estimate"] - 1 / 2)))
        for family in ATTACKS
        if (mounted := [one for one in attacks if one["family"] == family])
    ]
    return leads + rest + strongest


def attempts(answer: JsonObject, run: JsonObject) -> str:
    """Say how many attacks were tried, and why the checks that were not made could not be."""
    tried = sum(check["family"] in ATTACKS for check in answer["checks"])
    told = f"{tried} {'attack was' if tried == 1 else 'attacks were'} tried."
    results = [step["result"] or {} for step in run["steps"]]
    missed = [one for result in results for one in result.get("not_run", [])]
    if not missed:
        return told
    reasons = "; ".join(dict.fromkeys(str(one["reason"]) for one in missed))
    checks = "check" if len(missed) == 1 else "checks"
    return f"{told} {len(missed)} more {checks} could not be: {reasons}."


def own_verdict(answer: JsonObject, request_id: str) -> Text | None:
    """Show the verdict on the one person of a request; none where it was not measured."""
    for own in answer["verdict"]["subjects"]:
        if own["request"] == request_id:
            said = coloured(own["verdict"], bold=True)
            return Text.assemble("On this person alone: ", said, f". {own['reason']}")
    return None


def unlearned_losses(run: JsonObject) -> list[str]:
    """Say what an approximate method did to the loss on the records to forget, shard by shard."""
    results = [step["result"] for step in run["steps"] if step["kind"] == "unlearn"]
    return [
        f"{one['steps']} steps raised the loss on the records to forget from "
        f"{one['forget_loss'][0]:.2f} to {one['forget_loss'][1]:.2f} nats; on records never seen "
        f"it is {one['holdout_loss']:.2f}."
        for one in results
    ]


def measured(check: JsonObject) -> str:
    """Write what a check measured, from before unlearning to after it where both are known."""
    family, details = check["family"], check["details"]
    if family in RANKS:
        return f"p {_from_to(check['positive_control'], check['p_value'], '.2g')}"
    if family in PROVEN:
        return f"{check['estimate']:.0f} left"
    if family == "utility":
        return f"{_from_to(details['accuracy_before'], details['accuracy_after'], '.1%')} right"
    return f"AUC {_from_to(details.get('auc_before'), check['estimate'], '.2f')}"


def _from_to(before: float | None, after: float, form: str) -> str:
    return f"{after:{form}}" if before is None else f"{before:{form}} → {after:{form}}"


def _sizes(check: JsonObject) -> str:
    # Accuracies are of the same records before and after.
    return str(check["n"]) if check["family"] == "utility" else f"{check['n']}:{check['m']}"
