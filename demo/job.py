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

Seen = Callable[[list[JsonObject]], None]
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


def index_datasets(engineer: Lethe, datasets: Sequence[DemoDataset]) -> list[str]:
    """Have each dataset indexed; return the ids of the runs."""
    return [str(engineer.index(one.name, one.version)["id"]) for one in datasets]


def register_models(engineer: Lethe, models: Sequence[DemoModel]) -> None:
    """Register the models with their recipes and policies."""
    for model in models:
        engineer.register_model(model.registration)


def train_models(
    engineer: Lethe, models: Sequence[DemoModel], datasets: Sequence[DemoDataset]
) -> list[str]:
    """Have each model trained on its dataset; return the ids of the runs."""
    versions = {dataset.name: dataset.version for dataset in datasets}
    return [
        str(
            engineer.train(
                model.name,
                {"inputs": [{"dataset": model.dataset, "version": versions[model.dataset]}]},
            )["id"]
        )
        for model in models
    ]


def deploy_models(engineer: Lethe, models: Sequence[DemoModel]) -> None:
    """Say that each model's newest version is served."""
    for model in models:
        engineer.add_deployment({"name": model.deployment, "model": model.name})


def await_runs(reader: Lethe, run_ids: Sequence[str], seen: Seen) -> list[JsonObject]:
    """Wait until all runs are done; return them in the order given.

    Raises:
        JobFailed: A run failed.
        TimeoutError: They were not done within five minutes.
    """

    def read() -> list[JsonObject]:
        runs = [reader.run(one) for one in run_ids]
        seen(runs)
        for run in runs:
            _refuse_failure(f"The run {run['kind']} {run['state']}", run)
        return runs

    return wait_for(
        read,
        lambda runs: all(run["state"] == "done" for run in runs),
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )


def identifiers_of(person: Person) -> list[dict[str, str]]:
    """Return what the portal knows of a person: the address alone, which names no record's owner."""
    return [{"type": "email", "value": person.email}]


def choose_person(
    engineer: Lethe, everybody: Sequence[Person], models: Sequence[DemoModel]
) -> tuple[Person, JsonObject]:
    """Return the first person on whose records every model was trained, with the dry-run trace.

    Raises:
        JobFailed: There is nobody.
    """
    wanted = {model.name for model in models}
    for person in everybody:
        trace = engineer.trace(identifiers_of(person))
        if wanted <= {found["model"] for found in trace["models"]}:
            return person, trace
    raise JobFailed("Nobody's records are in every model: they are all in a holdout.")


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
        _refuse_failure("The request failed", request)
        return request

    return wait_for(
        read,
        lambda request: request["state"] in states,
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )


def await_verdicts(dpo: Lethe, request_id: str, seen: Seen) -> list[JsonObject]:
    """Wait until every model's run is done or waits for a decision of the DPO; return the runs.

    Raises:
        JobFailed: The request failed.
        TimeoutError: It took longer than five minutes.
    """

    def read() -> list[JsonObject]:
        request = dpo.erasure_request(request_id)
        _refuse_failure("The request failed", request)
        return _runs_of(dpo, request, "model_version", seen)

    return wait_for(
        read,
        lambda runs: bool(runs) and all(run["state"] == "done" or undecided(run) for run in runs),
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
    """Accept what is inconclusive and promise the exact retraining for the plan's date; return it."""
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


def await_completed(dpo: Lethe, request_id: str, seen: Seen) -> JsonObject:
    """Wait until the request has closed with its certificate in the log; return it.

    Raises:
        JobFailed: It failed.
        TimeoutError: It took longer than five minutes.
    """

    def read() -> JsonObject:
        request = dpo.erasure_request(request_id)
        _refuse_failure("The request failed", request)
        _runs_of(dpo, request, None, seen)
        return request

    return wait_for(
        read,
        lambda request: request["closed_at"] is not None,
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )


def _runs_of(dpo: Lethe, request: JsonObject, kind: str | None, seen: Seen) -> list[JsonObject]:
    runs = [
        dpo.run(action["run"])
        for action in request["actions"]
        if action["run"] is not None and kind in {None, action["kind"]}
    ]
    seen(runs)
    return runs


def _refuse_failure(what: str, answer: JsonObject) -> None:
    if answer["state"] != "failed":
        return
    failure = answer["failure"] or {}
    told = " ".join(failure[part] for part in ("detail", "advice") if failure.get(part))
    raise JobFailed(f"{what}. {told}".strip())
