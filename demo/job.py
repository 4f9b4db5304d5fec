"""The main job, step by step, as a client of any Lethe: the demo tells it, tests/e2e asserts it.

Each function makes the calls of one step and returns what the service answered. Nothing here knows
more of the service than its public HTTP API.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from demo.data import DemoDataset
from demo.models import DemoModel
from demo.people import Person
from lethe.client import JsonObject, Lethe, wait_for

ROLES = ("portal", "dpo", "engineer", "auditor")
COLLECTED_BEFORE = timedelta(days=60)
RECEIVED_BEFORE = timedelta(days=1)
# Longer than GDPR's month with its weekend and holidays, so that exact retraining comes too late.
RETRAINING_FROZEN = timedelta(days=40)
LONGEST_SECONDS = 300.0
POLL_SECONDS = 0.2

Runs = dict[str, JsonObject]
"""Runs by the name of what each is about."""

Seen = Callable[[Runs], None]
"""Called with the runs as they stand, at every look."""


class JobFailed(Exception):
    """The service could not do a step of the job; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Callers:
    """The service as each role sees it."""

    portal: Lethe
    dpo: Lethe
    engineer: Lethe
    auditor: Lethe


@contextmanager
def callers(url: str, api_keys: Mapping[str, str]) -> Iterator[Callers]:
    """Open one client for each of `ROLES`, with its API key."""
    with ExitStack() as stack:
        yield Callers(
            **{role: stack.enter_context(Lethe(url, api_keys[role])) for role in ROLES},
        )


def create_api_keys(admin: Lethe) -> dict[str, str]:
    """Have an API key made for each of `ROLES`; return the tokens."""
    return {
        role: str(admin.create_api_key({"name": f"demo {role}", "role": role})["token"])
        for role in ROLES
    }


def register_datasets(
    engineer: Lethe, datasets: Sequence[DemoDataset], folder_uri: str, now: datetime
) -> None:
    """Register each dataset and its one version, found by the workers in `folder_uri`."""
    for dataset in datasets:
        engineer.register_dataset(
            {
                "name": dataset.name,
                "owner": {"column": "person_id", "type": "customer_id"},
                "aliases": [{"column": "email", "type": "email"}],
            }
        )
        engineer.add_dataset_version(
            dataset.name,
            {
                "version": dataset.version,
                "uri": f"{folder_uri}/{dataset.file_name}",
                "format": dataset.format,
                "collected_at": (now - COLLECTED_BEFORE).isoformat(),
            },
        )


def index_datasets(engineer: Lethe, datasets: Sequence[DemoDataset]) -> Runs:
    """Have each dataset indexed; return the runs that do it."""
    return {one.name: engineer.index(one.name, one.version) for one in datasets}


def register_models(engineer: Lethe, models: Sequence[DemoModel]) -> None:
    """Register the models with their recipes and policies."""
    for model in models:
        engineer.register_model(model.registration)


def train_models(
    engineer: Lethe, models: Sequence[DemoModel], datasets: Sequence[DemoDataset]
) -> Runs:
    """Have each model trained on its dataset; return the runs that do it."""
    inputs = {one.name: {"dataset": one.name, "version": one.version} for one in datasets}
    return {
        model.name: engineer.train(model.name, {"inputs": [inputs[model.dataset]]})
        for model in models
    }


def deploy_models(engineer: Lethe, models: Sequence[DemoModel]) -> None:
    """Say that each model's newest version is served."""
    for model in models:
        engineer.add_deployment({"name": model.deployment, "model": model.name})


def await_runs(reader: Lethe, begun: Runs, seen: Seen) -> Runs:
    """Wait until all runs are done; return them as they are then.

    Raises:
        JobFailed: A run failed.
        TimeoutError: They were not done within five minutes.
    """

    def read() -> Runs:
        runs = {name: reader.run(run["id"]) for name, run in begun.items()}
        seen(runs)
        for name, run in runs.items():
            _refuse_failure(f"The run on {name} failed.", run)
        return runs

    return wait_for(
        read,
        lambda runs: all(run["state"] == "done" for run in runs.values()),
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )


def identifiers_of(person: Person) -> list[dict[str, str]]:
    """Return what the portal knows of a person: the address, which is no record's owner column."""
    return [{"type": "email", "value": person.email}]


def choose_person(
    engineer: Lethe, everybody: Sequence[Person], models: Sequence[DemoModel]
) -> tuple[Person, JsonObject]:
    """Return the first person whom every model was trained on, and the dry-run trace.

    In the sharded model the person is in a later slice than the first, so that a checkpoint from
    before them is there to go on from.

    Raises:
        JobFailed: There is nobody.
    """
    wanted = {model.name for model in models}
    for person in everybody:
        trace = engineer.trace(identifiers_of(person))
        late = any(hit["first_slice"] for found in trace["models"] for hit in found["shards"])
        if late and wanted <= {found["model"] for found in trace["models"]}:
            return person, trace
    raise JobFailed("Nobody's records are in every model and in a late slice.")


def submit_request(
    portal: Lethe, identifiers: Sequence[Mapping[str, str]], now: datetime
) -> JsonObject:
    """Post an erasure request of a day ago whose identity the portal has checked."""
    return portal.post_erasure_request(
        {
            "subject": {"identifiers": list(identifiers)},
            "regime": "gdpr",
            "received_at": (now - RECEIVED_BEFORE).isoformat(),
            "ground": "consent_withdrawn",
            "identity_verified": True,
        }
    )


def await_state(reader: Lethe, request_id: str, states: frozenset[str]) -> JsonObject:
    """Wait until a request stands in one of `states`; return it.

    Raises:
        JobFailed: The request failed.
        TimeoutError: It did not come there within five minutes.
    """

    def read() -> JsonObject:
        request = reader.erasure_request(request_id)
        _refuse_failure("The request failed.", request)
        return request

    return wait_for(
        read,
        lambda request: request["state"] in states,
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )


def await_verdicts(dpo: Lethe, request_id: str, seen: Seen) -> Runs:
    """Wait until every model's run is done or waits for a decision of the DPO; return the runs.

    Raises:
        JobFailed: The request failed.
        TimeoutError: It took longer than five minutes.
    """

    def read() -> Runs:
        request = dpo.erasure_request(request_id)
        _refuse_failure("The request failed.", request)
        runs = _runs_of(dpo, request, "model_version")
        seen(runs)
        return runs

    return wait_for(
        read,
        lambda runs: (
            bool(runs) and all(run["state"] == "done" or undecided(run) for run in runs.values())
        ),
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )


def undecided(run: JsonObject) -> bool:
    """Tell whether a run waits with an inconclusive verdict."""
    verdict = run["verdict"] or {}
    return (
        run["state"] == "verifying"
        and verdict.get("verdict") == "inconclusive"
        and run["accepted"] is None
    )


def accept_verdict(dpo: Lethe, request_id: str, reason: str) -> str:
    """Accept what is inconclusive, promising exact retraining by the plan's date; return that."""
    dates = [
        str(action["commitment_due_at"])
        for action in dpo.plan(request_id)["actions"]
        if action["commitment_due_at"] is not None
    ]
    if not dates:
        raise JobFailed("The plan holds no commitment, so there is nothing to accept.")
    due_at = min(dates)
    dpo.accept(request_id, {"reason": reason, "commitment_due_at": due_at})
    return due_at


def await_closed(dpo: Lethe, request_id: str, seen: Seen) -> JsonObject:
    """Wait until a request has closed, its certificate in the log; return it.

    Raises:
        JobFailed: It failed.
        TimeoutError: It took longer than five minutes.
    """

    def read() -> JsonObject:
        request = dpo.erasure_request(request_id)
        _refuse_failure("The request failed.", request)
        seen(_runs_of(dpo, request, "model_version") | _runs_of(dpo, request, "dataset_version"))
        return request

    return wait_for(
        read,
        lambda request: request["closed_at"] is not None,
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )


def _runs_of(dpo: Lethe, request: JsonObject, kind: str) -> Runs:
    return {
        action["artifact"]: dpo.run(action["run"])
        for action in request["actions"]
        if action["run"] is not None and action["kind"] == kind
    }


def _refuse_failure(what: str, answer: JsonObject) -> None:
    if answer["state"] == "failed":
        failure = answer["failure"] or {}
        raise JobFailed(
            " ".join([what, *(failure[part] for part in ("detail", "advice") if part in failure)])
        )
