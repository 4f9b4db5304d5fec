"""A customer leaves an insurer: erased this month approximately, later exactly, certified twice."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from app.supervisor.local import LocalLethe
from demo import evidence as demo_evidence
from demo import offline
from demo import screens as demo_screens
from demo.job import (
    RETRAINING_FROZEN,
    Callers,
    JobFailed,
    accept_verdict,
    await_closed,
    await_runs,
    await_state,
    await_verdicts,
    submit_request,
    undecided,
)
from examples.insurance import job, screens
from examples.insurance.attack import Attack, weights_of
from examples.insurance.customers import Customer, claim_notes, customers, write_claims
from examples.insurance.screens import Stage
from lethe.certificate import verify_bundle
from lethe.client import JsonObject
from lethe.keys import parse_public_keys
from lethe.verify import HOLDS, verify_command

ACCEPTANCE = (
    "One customer is too few to measure forgetting. Retraining is frozen until the year's tariffs "
    "are filed; the exact retraining is in the calendar for the week after."
)


@dataclass
class Story:
    """The story from the first claim to the second certificate.

    Attributes:
        console: Where it is told.
        shown: A console that only records the last screens.
        local: The running service.
        callers: The service, as each role calls it.
        folder: Where the files go, a folder that exists.
        stages: What was served, and what was measured on it.
    """

    console: Console
    shown: Console
    local: LocalLethe
    callers: Callers
    folder: Path
    stages: list[Stage] = field(default_factory=list)

    def tell(self, now: datetime) -> None:
        """Play and tell all of it.

        Raises:
            JobFailed: The service could not do a step, or a certificate did not hold.
            LetheError, httpx.HTTPError: It refused a call, or did not answer.
            TimeoutError: A step took longer than five minutes.
        """
        run, customer = self._learn(now)
        attack = Attack(self.folder / "artifacts", self.callers.engineer.model(job.MODEL), customer)
        self._measure(attack, "as trained", run)
        request = self._ask(customer, now)
        self._erase(request["id"], attack)
        first = self._certify(request["id"], 1)
        self._keep(request["id"], attack)
        second = self._certify(request["id"], 2)
        self._end([first, second], job.commitment_of(self.callers.dpo, request["id"]))

    def _learn(self, now: datetime) -> tuple[JsonObject, Customer]:
        self._begin("A claims model learns from several hundred customers")
        everybody = customers()
        path = self.folder / "data" / "claims.jsonl"
        records = write_claims(path, everybody)
        engineer = self.callers.engineer
        with self._bars() as bars:
            index = job.register_claims(engineer, path.as_uri(), now)
            await_runs(engineer, {job.DATASET: index}, bars)
            begun = job.train_model(engineer, now + RETRAINING_FROZEN)
            run = await_runs(engineer, {job.MODEL: begun}, bars)[job.MODEL]
        engineer.add_deployment({"name": job.DEPLOYMENT, "model": job.MODEL})
        customer = job.choose_courier(engineer, everybody)
        self._say(
            f"{records} claims of {len(everybody)} made-up customers; those of three in ten are "
            f"never trained on. {customer.name}, a courier with many vans, has {customer.claims} "
            f"of them. One reads:"
        )
        self._quote(claim_notes(customer)[0])
        return run, customer

    def _measure(self, attack: Attack, when: str, run: JsonObject) -> None:
        version = self.callers.engineer.model(job.MODEL)["versions"][-1]
        attacked = attack.on_weights(weights_of(run))
        self.stages.append(Stage(when, version["version"], attacked, version["metrics"]))
        self._show(screens.attack_table(self.stages))

    def _ask(self, customer: Customer, now: datetime) -> JsonObject:
        self._begin(f"{customer.name} withdraws consent")
        posted = submit_request(self.callers.portal, job.identifiers_of(customer), now)
        self._say(
            f"By the GDPR it is due on {demo_screens.day(posted['due_at'])}. The model's policy "
            f"has no exact retraining before {demo_screens.day(self._frozen(now))}, and names the "
            "approximate methods that may be used meanwhile:"
        )
        dpo = self.callers.dpo
        request = await_state(dpo, posted["id"], frozenset({"awaiting_approval"}))
        self._show(demo_screens.plan_table(dpo.plan(request["id"])))
        dpo.approve(request["id"], {})
        return request

    def _erase(self, request_id: str, attack: Attack) -> None:
        self._begin("This month: the approximate method")
        dpo = self.callers.dpo
        with self._bars() as bars:
            runs = await_verdicts(dpo, request_id, bars)
        (run,) = runs.values()
        for losses in demo_evidence.unlearned_losses(run):
            self._say(losses)
        answer = dpo.evidence(run["id"])
        self._note(demo_evidence.verdict_line(job.MODEL, answer))
        self._show(demo_evidence.evidence_table(answer))
        self._note(demo_evidence.attempts(answer, run))
        if undecided(run):
            due_at = accept_verdict(dpo, request_id, ACCEPTANCE)
            self._note("Too little evidence is never a pass. The officer accepts it, with a date:")
            self._quote(f"{ACCEPTANCE} Promised by {demo_screens.day(due_at)}.")
        with self._bars() as bars:
            await_closed(dpo, request_id, bars)
        self._note("The attack that the service could not make, on what is served now:")
        self._measure(attack, f"after {run['method']}", run)

    def _keep(self, request_id: str, attack: Attack) -> None:
        self._begin("Next month: the exact retraining that was promised")
        dpo = self.callers.dpo
        commitment = job.commitment_of(dpo, request_id)
        self._show(screens.promise_table(commitment))
        self._note(
            f"The service starts it by itself on {demo_screens.day(commitment['starts_at'])}. "
            "Nobody watches a terminal for a month, so here the engineer brings it forward, as "
            "an engineer may: POST /v1/commitments/{id}/start. From there on it is the same work."
        )
        self.callers.engineer.start_commitment(commitment["id"])
        with self._bars() as bars:
            job.await_kept(dpo, request_id, bars)
        run = job.run_of_model(dpo, request_id)
        self._note(demo_evidence.verdict_line(job.MODEL, dpo.evidence(run["id"])))
        self._measure(attack, "retrained", run)

    def _certify(self, request_id: str, revision: int) -> JsonObject:
        public_keys = self.local.public_keys.read_bytes()
        keys = parse_public_keys(public_keys)
        auditor = self.callers.auditor
        job.await_revision(auditor, request_id, keys, revision)
        papers = self.folder / f"certificate-{revision}"
        papers.mkdir()
        files = offline.collect(auditor, request_id, public_keys, papers)
        self._note(f"Certificate {revision}, checked offline with the public key and the log:")
        self.console.print()
        checked = verify_command(
            files.certificate, files.public_keys, files.tree_head, files.entries, self.console
        )
        if checked != HOLDS:
            raise JobFailed(f"Certificate {revision} does not hold.")
        return job.predicate_of(verify_bundle(files.certificate.read_bytes(), keys))

    def _end(self, predicates: Sequence[JsonObject], commitment: JsonObject) -> None:
        self._begin("What was shown, and what was not")
        for console in (self.console, self.shown):
            for table in (
                screens.attack_table(self.stages),
                screens.retained_table(self.stages),
                screens.certificates_table(predicates),
            ):
                console.print(Padding(table, (1, 2, 0, 2)))
        self._note(f"The promise is {commitment['state']}. Both certificates were verified.")
        self._note(
            "AUC: the chance that the model finds a claim that was written likelier than one on "
            "the same event that nobody wrote; 0.5 is what a model gives that saw neither. An "
            "interval around 0.5 shows that this attack, on these records, found nothing; it does "
            "not show that there is nothing. The retrained model never saw the claims: what it "
            "gives is what the approximate one was meant to give."
        )

    def _frozen(self, now: datetime) -> str:
        return (now + RETRAINING_FROZEN).isoformat()

    def _begin(self, title: str) -> None:
        self.console.print()
        self.console.print(Rule(Text(title, style="bold cyan"), align="left", style="dim"))

    def _say(self, text: str | Text) -> None:
        self.console.print(Padding(Text(text) if isinstance(text, str) else text, (0, 2)))

    def _note(self, text: str | Text) -> None:
        """Say something of what was just shown."""
        self.console.print()
        self._say(text)

    def _quote(self, text: str) -> None:
        self.console.print(Padding(Text(f"“{text}”", style="italic"), (1, 4, 0, 4)))

    def _show(self, table: Table) -> None:
        self.console.print(Padding(table, (1, 2, 0, 2)))

    def _bars(self) -> demo_screens.RunBars:
        self.console.print()
        return demo_screens.RunBars(self.console)
