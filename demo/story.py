"""The main job told on a terminal: what is asked, what the service answers, and why it matters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from demo import evidence, job, offline, screens
from demo.data import DemoDataset, write_datasets
from demo.models import DemoModel, demo_models
from demo.people import Person, notes, people
from lethe.certificate import verify_bundle
from lethe.client import JsonObject
from lethe.keys import parse_public_keys
from lethe.verify import verify_command

ACCEPTANCE = (
    "One person is too few to measure forgetting. The exact retraining is in the calendar, for "
    "when the freeze ends."
)


@dataclass
class Story:
    """The demo from the first dataset to the certificate.

    Attributes:
        console: Where it is told.
        url: Where the service is, for the reader.
        callers: The service, as each role calls it.
        data: Folder for the datasets, which the workers read.
        papers: Folder for what an auditor takes away.
        public_keys: The content of the issuer's `lethe.pub`.
        chapter: The number of the last chapter told.
    """

    console: Console
    url: str
    callers: job.Callers
    data: Path
    papers: Path
    public_keys: bytes
    chapter: int = 0

    def tell(self, now: datetime) -> None:
        """Play and tell the whole job.

        Raises:
            JobFailed: The service could not do a step.
            LetheError: It refused a call.
            TimeoutError: A step took longer than five minutes.
        """
        everybody = people()
        datasets = self._register(everybody, now)
        models = self._train(datasets, now)
        person = self._meet(everybody, models)
        request = self._submit(person, now)
        self._approve(request["id"])
        self._run(request["id"])
        self._accept(request["id"])
        self._close(request["id"], person)
        self._certify(request["id"])

    def _register(self, everybody: Sequence[Person], now: datetime) -> list[DemoDataset]:
        self._begin("An engineer registers the data")
        self._say(
            f"{len(everybody)} made-up people own all of it. Indexing reads each file once and "
            "keeps keyed hashes of who is in which record: no name, no address."
        )
        datasets = write_datasets(self.data, everybody)
        engineer = self.callers.engineer
        job.register_datasets(engineer, datasets, self.data.as_uri(), now)
        with self._bars() as bars:
            job.await_runs(engineer, job.index_datasets(engineer, datasets), bars)
        self._show(screens.datasets_table(datasets))
        return datasets

    def _train(self, datasets: Sequence[DemoDataset], now: datetime) -> list[DemoModel]:
        self._begin("Three models are trained and deployed")
        self._say(
            "Every person's records share one shard. A checkpoint is stored after each slice, so "
            "that erasing repeats only what came after it."
        )
        models = demo_models(now + job.RETRAINING_FROZEN)
        engineer = self.callers.engineer
        job.register_models(engineer, models)
        with self._bars() as bars:
            job.await_runs(engineer, job.train_models(engineer, models, datasets), bars)
        job.deploy_models(engineer, models)
        self._show(screens.models_table(models, [engineer.model(one.name) for one in models]))
        self._note("Accuracy is that on the holdout: people whom no version is ever trained on.")
        return models

    def _meet(self, everybody: Sequence[Person], models: Sequence[DemoModel]) -> Person:
        person, trace = job.choose_person(self.callers.engineer, everybody, models)
        self._begin(f"{person.name} wants to be forgotten")
        self._say(
            f"{person.email} is all that the portal knows. A trace, here as a dry run, finds "
            "every record filed under that person and every model that learned from one. The "
            "first of the written ones reads:"
        )
        self._quote(notes(person)[0])
        self._show(screens.trace_table(trace))
        return person

    def _submit(self, person: Person, now: datetime) -> JsonObject:
        self._begin("The portal posts the request")
        portal, dpo = self.callers.portal, self.callers.dpo
        posted = job.submit_request(portal, job.identifiers_of(person), now)
        self._say(
            f"POST /v1/erasure-requests → 202, {posted['id']}. By the GDPR it is due on "
            f"{screens.day(posted['due_at'])}: {posted['sla']['days_left']} days left. For each "
            "artifact Lethe plans the strongest guarantee that is in time:"
        )
        request = job.await_state(dpo, posted["id"], frozenset({"awaiting_approval"}))
        self._show(screens.plan_table(dpo.plan(request["id"])))
        return request

    def _approve(self, request_id: str) -> None:
        self._begin("The data protection officer approves")
        self.callers.dpo.approve(request_id, {})
        self._say(
            "From now on the person is on the suppression list: no training takes the records in "
            "again. One run starts for each model."
        )

    def _run(self, request_id: str) -> None:
        dpo = self.callers.dpo
        with self._bars() as bars:
            runs = job.await_verdicts(dpo, request_id, bars)
        self._begin("What was measured, and what it is worth")
        self._say(
            "An exact method passes by its process: whoever operates Lethe can replay the "
            "training. An approximate one must convince by measurement, and one person cannot."
        )
        for artifact, run in runs.items():
            self._measured(request_id, artifact, run)
        self._note(
            "What an attacker has: T0 what is stored, T1 the model's scores, T2 prompts, T3 its "
            "weights. n people or records to forget are compared with m others, before and after; "
            "an AUC of 0.5 is as good as tossing a coin. What stands in brackets is shown and "
            "decides nothing."
        )

    def _measured(self, request_id: str, artifact: str, run: JsonObject) -> None:
        answer = self.callers.dpo.evidence(run["id"])
        self._note(evidence.verdict_line(artifact, answer))
        for unlearned in evidence.unlearned_losses(run):
            self._say(unlearned)
        self._show(evidence.evidence_table(answer))
        self._note(evidence.attempts(answer, run))
        own = evidence.own_verdict(answer, request_id)
        if own is not None:
            self._say(own)
        report = offline.collect_report(self.callers.auditor, run["id"], run["model"], self.papers)
        self._say("All of it, with plots, is in this file and at this address:")
        self.show_whole(str(report))
        self.show_whole(f"{self.url}/dashboard/runs/{run['id']}")

    def _accept(self, request_id: str) -> None:
        self._begin("The officer decides on what stayed open")
        self._say(
            "Too little evidence is never a pass. No stronger method fits the deadline, so the "
            "officer accepts it, with a reason and a dated commitment:"
        )
        due_at = job.accept_verdict(self.callers.dpo, request_id, ACCEPTANCE)
        self._quote(f"{ACCEPTANCE} Promised by {screens.day(due_at)}.")

    def _close(self, request_id: str, person: Person) -> None:
        self._begin("New versions are served, old ones destroyed, records erased")
        dpo = self.callers.dpo
        with self._bars() as bars:
            request = job.await_closed(dpo, request_id, bars)
        self._show(screens.outcome_table(request, dpo.deployments()))
        trace = dpo.trace(job.identifiers_of(person))
        left = ", ".join(f"{one['model']} v{one['version']}" for one in trace["models"])
        self._note(
            f"Traced again, {person.name} is in {len(trace['datasets'])} files and "
            f"{len(trace['models'])} model: {left}, which owes its exact retraining."
        )

    def _certify(self, request_id: str) -> None:
        self._begin("The certificate, checked by someone who trusts nobody")
        files = offline.collect(self.callers.auditor, request_id, self.public_keys, self.papers)
        bundle = files.certificate.read_bytes()
        verified = verify_bundle(bundle, parse_public_keys(self.public_keys))
        self._show(screens.certificate_table(cast(JsonObject, verified.statement)))
        self._note("With the public key, the tree head and the log's entries, offline:")
        self._verify(files.certificate, files)
        self._note("And with one character of the signed statement changed:")
        forged = self.papers / "forged.json"
        forged.write_bytes(offline.forge(bundle))
        self._verify(forged, files)

    def _verify(self, certificate: Path, files: offline.AuditFiles) -> None:
        command = (
            f"$ lethe verify {certificate.name} --key {files.public_keys.name} "
            f"--tree-head {files.tree_head.name} --log {files.entries.name}"
        )
        self.console.print()
        self.show_whole(Text(command, style="bold"))
        self.console.print()
        verify_command(certificate, files.public_keys, files.tree_head, files.entries, self.console)

    def show_whole(self, text: str | Text) -> None:
        """Show a path, an address or a command on one line, so that it can be copied."""
        self.console.print(Text.assemble("  ", text), soft_wrap=True)

    def _begin(self, title: str) -> None:
        self.chapter += 1
        self.console.print()
        heading = Text(f"{self.chapter}. {title}", style="bold cyan")
        self.console.print(Rule(heading, align="left", style="dim"))

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

    def _bars(self) -> screens.RunBars:
        self.console.print()
        return screens.RunBars(self.console)
