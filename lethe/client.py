"""A small HTTP client for Lethe, for portals, pipelines and scripts.

It adds nothing to the API: no retries, no cache. Answers are the JSON objects of the OpenAPI
document.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

# What a member holds is the OpenAPI document's to say, not this client's.
JsonObject = dict[str, Any]
Body = Mapping[str, object]
T = TypeVar("T")


class LetheError(Exception):
    """The service refused a call or failed (RFC 9457 problem details).

    Attributes:
        status: The HTTP status.
        title: What went wrong, in general.
        detail: What went wrong this time.
        advice: What to do next.
        problem: All members of the answer, where it was JSON.
    """

    def __init__(
        self, status: int, title: str, detail: str, advice: str, problem: JsonObject
    ) -> None:
        super().__init__(" ".join(part for part in (f"{status} {title}.", detail, advice) if part))
        self.status = status
        self.title = title
        self.detail = detail
        self.advice = advice
        self.problem = problem


class Lethe:
    """One service, called with one API key. A context manager; its methods raise `LetheError`.

    Network failures and timeouts surface as `httpx.HTTPError`.
    """

    def __init__(self, base_url: str, api_key: str, *, timeout_seconds: float = 30.0) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=timeout_seconds,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def post_erasure_request(self, body: Body, *, idempotency_key: str | None = None) -> JsonObject:
        """Submit an erasure request; the same key and body again give the same request."""
        return self._create("/v1/erasure-requests", body, idempotency_key)

    def erasure_requests(self, *, cursor: str | None = None, limit: int = 50) -> JsonObject:
        """Return one page of the requests this API key may see."""
        return self._page("/v1/erasure-requests", cursor, limit)

    def erasure_request(self, request_id: str) -> JsonObject:
        """Return one request with its state, clock and actions."""
        return self._get(f"/v1/erasure-requests/{_segment(request_id)}")

    def plan(self, request_id: str) -> JsonObject:
        """Return the plan of a request: methods, costs and reasons."""
        return self._get(f"/v1/erasure-requests/{_segment(request_id)}/plan")

    def timeline(self, request_id: str) -> JsonObject:
        """Return what happened to a request, in order."""
        return self._get(f"/v1/erasure-requests/{_segment(request_id)}/timeline")

    def approve(self, request_id: str, body: Body) -> JsonObject:
        """Approve the plan of a request."""
        return self._post(f"/v1/erasure-requests/{_segment(request_id)}/approve", body)

    def accept(self, request_id: str, body: Body) -> JsonObject:
        """Accept an inconclusive verdict, with a reason and a dated commitment."""
        return self._post(f"/v1/erasure-requests/{_segment(request_id)}/accept", body)

    def certificate(self, request_id: str) -> bytes:
        """Return the certificate bundle, byte for byte, as `lethe.certificate` verifies it."""
        path = f"/v1/erasure-requests/{_segment(request_id)}/certificate"
        return _checked(self._http.get(path, headers={"Accept": "application/json"})).content

    def register_dataset(self, body: Body, *, idempotency_key: str | None = None) -> JsonObject:
        """Register a dataset."""
        return self._create("/v1/datasets", body, idempotency_key)

    def dataset(self, name: str) -> JsonObject:
        """Return a dataset and the columns that name people."""
        return self._get(f"/v1/datasets/{_segment(name)}")

    def add_dataset_version(
        self, name: str, body: Body, *, idempotency_key: str | None = None
    ) -> JsonObject:
        """Register an immutable version of a dataset at a URI."""
        return self._create(f"/v1/datasets/{_segment(name)}/versions", body, idempotency_key)

    def dataset_version(self, name: str, version: str) -> JsonObject:
        """Return a dataset version and how far its index is."""
        return self._get(f"/v1/datasets/{_segment(name)}/versions/{_segment(version)}")

    def index(self, name: str, version: str, *, idempotency_key: str | None = None) -> JsonObject:
        """Have a dataset version read and indexed."""
        path = f"/v1/datasets/{_segment(name)}/versions/{_segment(version)}/index"
        return self._create(path, {}, idempotency_key)

    def register_model(self, body: Body, *, idempotency_key: str | None = None) -> JsonObject:
        """Register a model family with its recipe and policy."""
        return self._create("/v1/models", body, idempotency_key)

    def model(self, name: str) -> JsonObject:
        """Return a model family and its versions."""
        return self._get(f"/v1/models/{_segment(name)}")

    def train(self, name: str, body: Body, *, idempotency_key: str | None = None) -> JsonObject:
        """Have a new version of a model trained."""
        return self._create(f"/v1/models/{_segment(name)}/train", body, idempotency_key)

    def methods(self) -> list[JsonObject]:
        """Return every unlearning method that the service knows."""
        return self._list("/v1/methods")

    def recipes(self) -> list[JsonObject]:
        """Return every recipe that the service knows."""
        return self._list("/v1/recipes")

    def add_deployment(self, body: Body, *, idempotency_key: str | None = None) -> JsonObject:
        """Register where a model version is served."""
        return self._create("/v1/deployments", body, idempotency_key)

    def deployments(self) -> list[JsonObject]:
        """Return every deployment and what it serves."""
        return self._list("/v1/deployments")

    def trace(self, identifiers: Sequence[Mapping[str, str]]) -> JsonObject:
        """Return what an erasure of these identifiers would touch; nothing is changed or kept."""
        return self._post("/v1/lineage/trace", {"identifiers": list(identifiers)})

    def runs(self, *, cursor: str | None = None, limit: int = 50) -> JsonObject:
        """Return one page of runs."""
        return self._page("/v1/runs", cursor, limit)

    def run(self, run_id: str) -> JsonObject:
        """Return one run with its steps."""
        return self._get(f"/v1/runs/{_segment(run_id)}")

    def evidence(self, run_id: str) -> JsonObject:
        """Return the measured checks of a run and their verdicts."""
        return self._get(f"/v1/runs/{_segment(run_id)}/evidence")

    def report(self, run_id: str) -> bytes:
        """Return the report of a run's evidence as a PDF."""
        return _checked(self._http.get(f"/v1/runs/{_segment(run_id)}/report.pdf")).content

    def commitments(self) -> list[JsonObject]:
        """Return every dated promise: open, overdue or kept."""
        return self._list("/v1/commitments")

    def start_commitment(self, commitment_id: str) -> JsonObject:
        """Have a promised retraining start now, or as soon as the model's window opens."""
        return self._post(f"/v1/commitments/{_segment(commitment_id)}/start", {})

    def suppressions(self, *, cursor: str | None = None, limit: int = 50) -> JsonObject:
        """Return one page of what the next training run must leave out."""
        return self._page("/v1/suppressions", cursor, limit)

    def create_api_key(self, body: Body) -> JsonObject:
        """Make an API key; its token is in this answer and nowhere else."""
        return self._post("/v1/api-keys", body)

    def public_keys(self) -> bytes:
        """Return `lethe.pub`; an auditor who trusts nobody gets it by another way than this."""
        return _checked(self._http.get("/v1/keys")).content

    def tree_head(self) -> bytes:
        """Return the log's newest tree head, a C2SP signed note."""
        return _checked(self._http.get("/v1/audit/tree-head")).content

    def entries(self, start: int, end: int) -> JsonObject:
        """Return log entries from `start` up to, not including, `end`."""
        return self._get("/v1/audit/entries", {"start": start, "end": end})

    def inclusion_proof(self, index: int, size: int) -> JsonObject:
        """Return the proof that the entry at `index` is in the tree of `size` entries."""
        return self._get("/v1/audit/proofs/inclusion", {"index": index, "size": size})

    def _page(self, path: str, cursor: str | None, limit: int) -> JsonObject:
        return self._get(path, {"limit": limit} | ({"cursor": cursor} if cursor else {}))

    def _get(self, path: str, query: Mapping[str, str | int] | None = None) -> JsonObject:
        return _object(self._http.get(path, params=query))

    def _list(self, path: str) -> list[JsonObject]:
        response = _checked(self._http.get(path))
        content = _json(response)
        if not isinstance(content, list):
            raise LetheError(response.status_code, "Not a JSON list", "", _NOT_LETHE, {})
        return content

    def _post(self, path: str, body: Body) -> JsonObject:
        return _object(self._http.post(path, json=dict(body)))

    def _create(self, path: str, body: Body, idempotency_key: str | None) -> JsonObject:
        key = _quoted(idempotency_key or str(uuid.uuid4()))
        return _object(self._http.post(path, json=dict(body), headers={"Idempotency-Key": key}))


def wait_for(
    read: Callable[[], T],
    done: Callable[[T], bool],
    *,
    timeout_seconds: float,
    poll_seconds: float = 0.5,
) -> T:
    """Read again and again until what was read is done, and return it.

    Raises:
        TimeoutError: It was not done within `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while not done(seen := read()):
        if time.monotonic() + poll_seconds > deadline:
            raise TimeoutError(f"not done within {timeout_seconds:g} seconds")
        time.sleep(poll_seconds)
    return seen


def _object(response: httpx.Response) -> JsonObject:
    content = _json(_checked(response))
    if not isinstance(content, dict):
        raise LetheError(response.status_code, "Not a JSON object", "", _NOT_LETHE, {})
    return content


_NOT_LETHE = "Check that the address is Lethe's and no proxy answers for it."


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    problem = _json(response)
    if not isinstance(problem, dict):
        raise LetheError(response.status_code, response.reason_phrase, "", _NOT_LETHE, {})
    title, detail, advice = (
        str(problem.get(member, "")) for member in ("title", "detail", "advice")
    )
    raise LetheError(response.status_code, title or response.reason_phrase, detail, advice, problem)


def _json(response: httpx.Response) -> JsonObject | list[JsonObject] | None:
    try:
        content: JsonObject | list[JsonObject] | None = response.json()
    except ValueError:
        return None
    return content


def _segment(value: str) -> str:
    return quote(value, safe="")


def _quoted(key: str) -> str:
    # A structured-field string (RFC 9651 §3.3.3) is printable ASCII in quotes.
    if not (key.isascii() and key.isprintable()):
        raise ValueError("an idempotency key is printable ASCII")
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
