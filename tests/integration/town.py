"""The whole service in one process: HTTP through a test client, doorbells answered in turn.

Real PostgreSQL, real files, real training; only the broker and the worker's child are left out, so
that a test can stop between any two wake-ups.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
from fastapi.testclient import TestClient
from sqlalchemy import select

from app import pipeline
from app.access.service import create_api_key
from app.audit import service as audit
from app.core.clock import utc_now
from app.core.config import Settings
from app.core.db import Database
from app.core.identifiers import normalise, owner_bucket
from app.core.logging import configure_logging
from app.core.queue import Bell
from app.core.security import Role, unwrap_key
from app.core.signing import SigningKeys, create_signing_keys
from app.core.testing import RecordingDoorbell
from app.execution import service as execution
from app.main import create_app
from app.manifest.rules import Job, shard_of, slice_of
from app.models import Dataset
from lethe.certificate import verify_bundle
from workers.artifacts import ArtifactStore
from workers.child import do
from workers.control import ControlWork
from workers.messages import Done, Failed
from workers.runner import Lease, Runner
from workers.steps import Desk

Json = dict[str, Any]
MOST_BELLS = 2_000


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Keep what is logged meanwhile, also by applications built meanwhile."""
    with redirect_stderr(io.StringIO()) as said:
        configure_logging()
        yield said
    configure_logging()


def problem_of(response: httpx2.Response, status: int) -> Json:
    """Return the RFC 9457 problem that a response must be, whole and with advice."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Json = response.json()
    assert {"type", "title", "status", "detail", "advice"} <= set(problem)
    assert problem["status"] == status
    assert all(problem[part] for part in ("type", "title", "detail", "advice"))
    return problem


@dataclass
class HereWork:
    """Does compute jobs in this process, through the same `do` as the child."""

    artifacts_url: str
    jobs: list[Job] = field(default_factory=list)

    def __call__(self, job: Job, lease: Lease) -> Done | Failed:
        self.jobs.append(job)
        desk = Desk(ArtifactStore(self.artifacts_url), lambda _: None, lease.save_checkpoint)
        message = do(job, desk)
        assert isinstance(message, Done | Failed)
        return message


@dataclass(frozen=True)
class TrainedOn:
    """Somebody whom a model was trained on, by number, and where their records begin."""

    number: int
    shard: int
    slice: int

    @property
    def email(self) -> tuple[str, str]:
        """Their e-mail address, as an identifier."""
        return "email", f"person{self.number}@example.org"

    @property
    def customer(self) -> tuple[str, str]:
        """Their customer number, as an identifier."""
        return "customer_id", f"C{self.number:03d}"


class Town:
    """Portal, DPO, engineer and auditor, and the workers behind the service."""

    def __init__(
        self, database: Database, doorbell: RecordingDoorbell, settings: Settings, folder: Path
    ) -> None:
        self.database, self.doorbell, self.settings, self.folder = (
            database,
            doorbell,
            settings,
            folder,
        )
        self.keys: SigningKeys = create_signing_keys(settings.signing_keys, settings.log_origin)
        self.work = HereWork(settings.artifacts_url)
        self.compute = Runner(database, settings, "compute", self.work)
        self.control = Runner(database, settings, "control", ControlWork(settings.artifacts_url))
        self.http = TestClient(
            create_app(settings, database=database, signing_keys=self.keys),
            raise_server_exceptions=False,
        )
        self._tokens: dict[Role, str] = {}

    def token(self, role: Role) -> str:
        """Return an API key of a role, made on first use."""
        if role not in self._tokens:
            self._tokens[role] = self.new_token(role)
        return self._tokens[role]

    def new_token(self, role: Role) -> str:
        """Return a further API key of a role: another portal, say."""
        with self.database.transaction() as session:
            _, token = create_api_key(session, f"the {role}", role, utc_now())
        return token

    def call(
        self, role: Role, method: str, path: str, body: object = None, **headers: str
    ) -> httpx2.Response:
        """Call the service as a role."""
        return self.call_with(self.token(role), method, path, body, **headers)

    def call_with(
        self, token: str, method: str, path: str, body: object = None, **headers: str
    ) -> httpx2.Response:
        """Call the service with an API key."""
        own = {"Authorization": f"Bearer {token}", **headers}
        return self.http.request(method, path, json=body, headers=own)

    def post_bytes(self, role: Role, path: str, content: bytes) -> httpx2.Response:
        """Post a body as it stands, said to be JSON."""
        own = {"Authorization": f"Bearer {self.token(role)}", "Content-Type": "application/json"}
        return self.http.post(path, content=content, headers=own)

    def refused(
        self, role: Role, status: int, method: str, path: str, body: object = None, **headers: str
    ) -> Json:
        """Call the service and expect a problem with this status; return it."""
        return problem_of(self.call(role, method, path, body, **headers), status)

    def ok(self, role: Role, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Call the service and expect success."""
        response = self.call(role, method, path, body, **headers)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def ok_text(self, role: Role, path: str) -> str:
        """Read an address and expect success; return the body as text."""
        response = self.call(role, "GET", path)
        assert response.is_success, response.text
        return response.text

    # The doorbell's other end.

    def settle(self, at_most: int = MOST_BELLS) -> int:
        """Answer bells until none is left; return how many were answered."""
        for answered in range(at_most):
            if not self.doorbell.bells:
                return answered
            self.answer(self.doorbell.bells.pop(0))
        raise AssertionError(f"still ringing after {at_most} bells")

    def answer(self, bell: Bell, now: datetime | None = None) -> None:
        """Do what the Celery task of one bell does."""
        moment = now or utc_now()
        if bell.task == "run_step" and bell.row is not None:
            self.compute.run_step(bell.row)
            return
        if bell.task == "control_step" and bell.row is not None:
            self.control.run_step(bell.row)
            return
        with self.database.transaction() as session:
            match bell.task, bell.row:
                case "advance", UUID() as row:
                    pipeline.advance(session, self.settings, self.keys, row, moment)
                case "advance_run", UUID() as row:
                    pipeline.advance_run(session, self.settings, row, moment)
                case "keep_promises", UUID() as row:
                    pipeline.keep_promises(session, self.keys, row, moment)
                case "sequence_log", None:
                    audit.sequence(session, self.keys.log, moment)
                case _:
                    raise AssertionError(bell)

    def sweep(self) -> None:
        """Ring for all that is due, as the beat does."""
        with self.database.transaction() as session:
            execution.sweep(session, utc_now())

    # What people do.

    def write_jsonl(self, name: str, rows: Sequence[Mapping[str, object]]) -> str:
        """Write rows to a file that the workers can read; return its URI."""
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"file://{path}"

    def dataset(
        self,
        name: str,
        rows: Sequence[Mapping[str, object]],
        *,
        owner: tuple[str, str] = ("person", "customer_id"),
        aliases: Sequence[tuple[str, str]] = (("email", "email"),),
        mentions: Sequence[tuple[str, str]] = (),
        rewritable: bool = True,
    ) -> None:
        """Register, index and wait."""

        def column(one: tuple[str, str]) -> Json:
            return {"column": one[0], "type": one[1]}

        self.ok(
            Role.ENGINEER,
            "POST",
            "/v1/datasets",
            {
                "name": name,
                "owner": column(owner),
                "aliases": [column(one) for one in aliases],
                "mentions": [column(one) for one in mentions],
            },
        )
        self.ok(
            Role.ENGINEER,
            "POST",
            f"/v1/datasets/{name}/versions",
            {
                "version": "1",
                "uri": self.write_jsonl(name, rows),
                "format": "jsonl",
                "rewritable": rewritable,
            },
        )
        self.ok(Role.ENGINEER, "POST", f"/v1/datasets/{name}/versions/1/index")
        self.settle()

    def model(
        self,
        name: str,
        dataset: str,
        recipe: str,
        parameters: Json,
        *,
        shards: int = 1,
        slices: int = 1,
        holdout_share: float = 0.2,
        policy: Json | None = None,
        deployed: bool = True,
    ) -> Json:
        """Register, train, deploy; return the training run."""
        self.ok(
            Role.ENGINEER,
            "POST",
            "/v1/models",
            {
                "name": name,
                "recipe": recipe,
                "parameters": parameters,
                "shards": shards,
                "slices": slices,
                "holdout_share": holdout_share,
                "policy": policy or {},
            },
        )
        run = self.train(name, dataset)
        if deployed:
            body = {"name": f"{name}-live", "model": name}
            self.ok(Role.ENGINEER, "POST", "/v1/deployments", body)
        return run

    def train(self, name: str, dataset: str) -> Json:
        """Train a model's next version and wait."""
        body = {"inputs": [{"dataset": dataset, "version": "1"}]}
        run = self.ok(Role.ENGINEER, "POST", f"/v1/models/{name}/train", body)
        self.settle()
        return self.run(run["id"])

    def run(self, run_id: str) -> Json:
        """Return a run."""
        shown: Json = self.ok(Role.AUDITOR, "GET", f"/v1/runs/{run_id}")
        return shown

    def ask(self, *identifiers: tuple[str, str], **more: object) -> Json:
        """Submit a request for a person and let it move on its own as far as it does."""
        body: Json = {
            "subject": {"identifiers": [{"type": t, "value": v} for t, v in identifiers]},
            "regime": "gdpr",
            "identity_verified": True,
        }
        key = {"Idempotency-Key": f'"{uuid4()}"'}
        request = self.ok(Role.PORTAL, "POST", "/v1/erasure-requests", body | more, **key)
        self.settle()
        return self.request(request["id"])

    def request(self, request_id: str) -> Json:
        """Return a request as its portal sees it."""
        shown: Json = self.ok(Role.PORTAL, "GET", f"/v1/erasure-requests/{request_id}")
        return shown

    def approve(self, request_id: str) -> Json:
        """Approve as the DPO and let it move on."""
        self.ok(Role.DPO, "POST", f"/v1/erasure-requests/{request_id}/approve", {})
        self.settle()
        return self.request(request_id)

    def erase(self, *identifiers: tuple[str, str]) -> Json:
        """Ask, approve, and let it move on."""
        return self.approve(self.ask(*identifiers)["id"])

    def certificate(self, request_id: str) -> bytes:
        """Return the certificate bundle."""
        response = self.call(Role.PORTAL, "GET", f"/v1/erasure-requests/{request_id}/certificate")
        assert response.is_success, response.text
        return response.content

    def verified(self, request_id: str) -> Json:
        """Return the statement of a certificate that verifies with the public keys alone."""
        return dict(verify_bundle(self.certificate(request_id), self.keys.public).statement)

    # Who is where depends on a dataset's key, which is another one in every test.

    def trace(self, *identifiers: tuple[str, str]) -> Json:
        """Say where a person's records are, as a dry run of an erasure does."""
        body = {"identifiers": [{"type": t, "value": v} for t, v in identifiers]}
        found: Json = self.ok(Role.DPO, "POST", "/v1/lineage/trace", body)
        return found

    def trained_on(self, model: str, people: int) -> list[TrainedOn]:
        """Return whom of that many people a model was trained on: nobody who is held out."""
        found = []
        for number in range(people):
            models = self.trace(("email", f"person{number}@example.org"))["models"]
            hits = [hit for one in models if one["model"] == model for hit in one["shards"]]
            found += [TrainedOn(number, hit["shard"], hit["first_slice"]) for hit in hits[:1]]
        assert found, f"{model} was trained on nobody of {people} people"
        return found

    def place_of(self, dataset: str, person: str, shards: int, slices: int) -> tuple[int, int]:
        """Return the shard and slice of a person, computed from the dataset's key alone."""
        with self.database.transaction() as session:
            row = session.scalars(select(Dataset).where(Dataset.name == dataset)).one()
            secret = self.settings.vault_secret.get_secret_value()
            key = unwrap_key(secret, row.wrapped_key, f"dataset:{dataset}")
        bucket = owner_bucket(key, normalise("customer_id", person))
        return shard_of(bucket, shards), slice_of(bucket, shards, slices)

    def alone_in_a_shard(self, dataset: str, people: int) -> tuple[str, int]:
        """Return somebody, and a number of shards with which nobody else is in theirs."""
        for shards in range(2, 65):
            places = {
                f"C{number:03d}": self.place_of(dataset, f"C{number:03d}", shards, 1)[0]
                for number in range(people)
            }
            inhabitants = Counter(places.values())
            for person, shard in places.items():
                if inhabitants[shard] == 1:
                    return person, shards
        raise AssertionError("nobody is alone with any number of shards")

    def version(self, model: str, number: int) -> Json:
        """Return a model version as the API shows it."""
        shown = self.ok(Role.ENGINEER, "GET", f"/v1/models/{model}")
        return next(one for one in shown["versions"] if one["version"] == number)
