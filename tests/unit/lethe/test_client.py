"""The client against a real HTTP server on the loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import http_sf
import pytest
from typing_extensions import override

from lethe.client import Lethe, LetheError, wait_for


@dataclass
class Seen:
    method: str
    target: str
    headers: dict[str, str]
    body: Any


@dataclass
class Service:
    """Answers every call alike and remembers what was asked."""

    status: int = 200
    content_type: str = "application/json"
    answer: bytes = b'{"id": "1"}'
    seen: list[Seen] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def service() -> Iterator[Service]:
    with serve(Service()) as running:
        yield running


@contextmanager
def serve(service: Service) -> Iterator[Service]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            service.seen.append(Seen(self.command, self.path, headers, body))
            self.send_response(service.status)
            self.send_header("Content-Type", service.content_type)
            self.send_header("Content-Length", str(len(service.answer)))
            self.end_headers()
            self.wfile.write(service.answer)

        # The names that http.server looks for.
        do_GET = do_POST = answer  # noqa: N815

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Keep the terminal quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield service
        server.shutdown()
        thread.join()


CALLS: dict[str, tuple[Callable[[Lethe], object], str, str, object]] = {
    "post_erasure_request": (
        lambda lethe: lethe.post_erasure_request({"regime": "gdpr"}),
        "POST",
        "/v1/erasure-requests",
        {"regime": "gdpr"},
    ),
    "erasure_requests": (
        lambda lethe: lethe.erasure_requests(),
        "GET",
        "/v1/erasure-requests?limit=50",
        None,
    ),
    "erasure_request": (
        lambda lethe: lethe.erasure_request("7"),
        "GET",
        "/v1/erasure-requests/7",
        None,
    ),
    "plan": (lambda lethe: lethe.plan("7"), "GET", "/v1/erasure-requests/7/plan", None),
    "timeline": (lambda lethe: lethe.timeline("7"), "GET", "/v1/erasure-requests/7/timeline", None),
    "approve": (
        lambda lethe: lethe.approve("7", {"note": "ok"}),
        "POST",
        "/v1/erasure-requests/7/approve",
        {"note": "ok"},
    ),
    "accept": (
        lambda lethe: lethe.accept("7", {"reason": "few records"}),
        "POST",
        "/v1/erasure-requests/7/accept",
        {"reason": "few records"},
    ),
    "certificate": (
        lambda lethe: lethe.certificate("7"),
        "GET",
        "/v1/erasure-requests/7/certificate",
        None,
    ),
    "register_dataset": (
        lambda lethe: lethe.register_dataset({"name": "a"}),
        "POST",
        "/v1/datasets",
        {"name": "a"},
    ),
    "dataset": (lambda lethe: lethe.dataset("a/b"), "GET", "/v1/datasets/a%2Fb", None),
    "add_dataset_version": (
        lambda lethe: lethe.add_dataset_version("a/b", {"uri": "file:///x"}),
        "POST",
        "/v1/datasets/a%2Fb/versions",
        {"uri": "file:///x"},
    ),
    "dataset_version": (
        lambda lethe: lethe.dataset_version("a", "1/2"),
        "GET",
        "/v1/datasets/a/versions/1%2F2",
        None,
    ),
    "index": (
        lambda lethe: lethe.index("a", "1/2"),
        "POST",
        "/v1/datasets/a/versions/1%2F2/index",
        {},
    ),
    "register_model": (
        lambda lethe: lethe.register_model({"name": "m"}),
        "POST",
        "/v1/models",
        {"name": "m"},
    ),
    "model": (lambda lethe: lethe.model("m/n"), "GET", "/v1/models/m%2Fn", None),
    "train": (
        lambda lethe: lethe.train("m", {"dataset": "a"}),
        "POST",
        "/v1/models/m/train",
        {"dataset": "a"},
    ),
    "add_deployment": (
        lambda lethe: lethe.add_deployment({"model": "m"}),
        "POST",
        "/v1/deployments",
        {"model": "m"},
    ),
    "trace": (
        lambda lethe: lethe.trace([{"type": "email", "value": "ana@example.org"}]),
        "POST",
        "/v1/lineage/trace",
        {"identifiers": [{"type": "email", "value": "ana@example.org"}]},
    ),
    "runs": (
        lambda lethe: lethe.runs(cursor="c", limit=5),
        "GET",
        "/v1/runs?limit=5&cursor=c",
        None,
    ),
    "run": (lambda lethe: lethe.run("9"), "GET", "/v1/runs/9", None),
    "evidence": (lambda lethe: lethe.evidence("9"), "GET", "/v1/runs/9/evidence", None),
    "report": (lambda lethe: lethe.report("9"), "GET", "/v1/runs/9/report.pdf", None),
    "suppressions": (lambda lethe: lethe.suppressions(), "GET", "/v1/suppressions?limit=50", None),
    "create_api_key": (
        lambda lethe: lethe.create_api_key({"name": "n", "role": "dpo"}),
        "POST",
        "/v1/api-keys",
        {"name": "n", "role": "dpo"},
    ),
    "public_keys": (lambda lethe: lethe.public_keys(), "GET", "/v1/keys", None),
    "tree_head": (lambda lethe: lethe.tree_head(), "GET", "/v1/audit/tree-head", None),
    "entries": (
        lambda lethe: lethe.entries(3, 9),
        "GET",
        "/v1/audit/entries?start=3&end=9",
        None,
    ),
    "inclusion_proof": (
        lambda lethe: lethe.inclusion_proof(3, 9),
        "GET",
        "/v1/audit/proofs/inclusion?index=3&size=9",
        None,
    ),
}
CREATING = {
    "post_erasure_request",
    "register_dataset",
    "add_dataset_version",
    "index",
    "register_model",
    "train",
    "add_deployment",
}


@pytest.mark.parametrize("name", CALLS)
def test_each_method_makes_the_call_of_the_contract(name: str, service: Service) -> None:
    call, method, target, body = CALLS[name]
    with Lethe(service.url, "key-1") as lethe:
        answer = call(lethe)
    (seen,) = service.seen
    assert (seen.method, seen.target, seen.body) == (method, target, body)
    assert seen.headers["authorization"] == "Bearer key-1"
    assert ("idempotency-key" in seen.headers) is (name in CREATING)
    assert answer in ({"id": "1"}, b'{"id": "1"}')


@pytest.mark.parametrize("name", ["deployments", "commitments", "methods", "recipes"])
def test_lists_come_as_lists_and_anything_else_is_refused(name: str, service: Service) -> None:
    service.answer = b'[{"id": "1"}]'
    with Lethe(service.url, "key-1") as lethe:
        assert getattr(lethe, name)() == [{"id": "1"}]
        assert service.seen[0].target == f"/v1/{name}"
        service.answer = b'{"id": "1"}'
        with pytest.raises(LetheError, match="Not a JSON list"):
            getattr(lethe, name)()
        service.answer = b'[{"id": "1"}]'
        with pytest.raises(LetheError, match="Not a JSON object"):
            lethe.run("9")


def read_item(header: str) -> object:
    value, parameters = cast(tuple[object, object], http_sf.parse(header.encode(), tltype="item"))
    assert parameters == {}
    return value


def test_the_idempotency_key_is_a_structured_field_string(service: Service) -> None:
    with Lethe(service.url, "key-1") as lethe:
        lethe.register_model({}, idempotency_key='a "b" \\ c')
        lethe.register_model({})
        lethe.register_model({})
    keys = [read_item(seen.headers["idempotency-key"]) for seen in service.seen]
    assert keys[0] == 'a "b" \\ c'
    assert len(set(keys)) == 3


@pytest.mark.parametrize("key", ["schlüssel", "a\nb"])
def test_an_idempotency_key_that_no_header_holds_is_refused(key: str, service: Service) -> None:
    with Lethe(service.url, "key-1") as lethe, pytest.raises(ValueError, match="printable ASCII"):
        lethe.register_model({}, idempotency_key=key)
    assert service.seen == []


def test_a_problem_becomes_an_error_that_says_what_to_do(service: Service) -> None:
    service.status, service.content_type = 409, "application/problem+json"
    problem = {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "An open request holds the same person.",
        "advice": "Follow the request named.",
        "request_id": "7",
    }
    service.answer = json.dumps(problem).encode()
    with Lethe(service.url, "key-1") as lethe, pytest.raises(LetheError) as refused:
        lethe.post_erasure_request({})
    error = refused.value
    assert (error.status, error.title, error.detail, error.advice) == (
        409,
        "Conflict",
        "An open request holds the same person.",
        "Follow the request named.",
    )
    assert error.problem["request_id"] == "7"
    assert str(error) == (
        "409 Conflict. An open request holds the same person. Follow the request named."
    )


@pytest.mark.parametrize("call", ["certificate", "plan", "report", "tree_head"])
def test_an_answer_of_someone_else_is_an_error_too(call: str, service: Service) -> None:
    service.status, service.content_type, service.answer = 502, "text/html", b"<html>"
    with Lethe(service.url, "key-1") as lethe, pytest.raises(LetheError) as refused:
        CALLS[call][0](lethe)
    assert (refused.value.status, refused.value.title) == (502, "Bad Gateway")
    assert "Lethe" in refused.value.advice


@pytest.mark.parametrize("answer", [b"", b"[]", b"<html>"])
def test_success_that_is_no_object_is_an_error(answer: bytes, service: Service) -> None:
    service.answer = answer
    with Lethe(service.url, "key-1") as lethe, pytest.raises(LetheError, match="Not a JSON object"):
        lethe.plan("7")


def test_the_api_key_is_in_no_repr_and_no_error(service: Service) -> None:
    service.status = 500
    with Lethe(service.url, "secret-key") as lethe:
        with pytest.raises(LetheError) as refused:
            lethe.plan("7")
        assert "secret-key" not in repr(lethe) + repr(vars(lethe)) + repr(refused.value)


def test_wait_for_reads_until_it_is_done() -> None:
    readings = iter(["received", "traced", "completed", "unread"])
    seen = wait_for(
        lambda: next(readings),
        lambda state: state == "completed",
        timeout_seconds=5,
        poll_seconds=0.001,
    )
    assert (seen, next(readings)) == ("completed", "unread")


def test_wait_for_gives_up_in_time() -> None:
    with pytest.raises(TimeoutError, match=r"within 0\.02 seconds"):
        wait_for(lambda: 1, lambda _: False, timeout_seconds=0.02, poll_seconds=0.005)
