"""Every route by every role: what DESIGN's table allows, and nothing else."""

from collections.abc import Iterable, Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from app.core.security import Role, new_api_key
from tests.integration.town import Town, problem_of

P, D, E, U, A = Role.PORTAL, Role.DPO, Role.ENGINEER, Role.AUDITOR, Role.ADMIN
REQUEST: Final = "/v1/erasure-requests/{request_id}"
ALLOWED: Final[dict[tuple[str, str], set[Role]]] = {
    ("POST", "/v1/erasure-requests"): {P},
    ("GET", "/v1/erasure-requests"): {P, D},
    ("GET", REQUEST): {P, D},
    ("GET", f"{REQUEST}/timeline"): {P, D},
    ("GET", f"{REQUEST}/plan"): {P, D},
    ("GET", f"{REQUEST}/certificate"): {P, D, U},
    ("POST", f"{REQUEST}/approve"): {D},
    ("POST", f"{REQUEST}/reject"): {D},
    ("POST", f"{REQUEST}/cancel"): {D},
    ("POST", f"{REQUEST}/extend"): {D},
    ("POST", f"{REQUEST}/pause"): {D},
    ("POST", f"{REQUEST}/resume"): {D},
    ("POST", f"{REQUEST}/identity"): {D},
    ("POST", f"{REQUEST}/retry"): {D},
    ("POST", f"{REQUEST}/accept"): {D},
    ("GET", "/v1/commitments"): {D, E, U},
    ("POST", "/v1/commitments/{commitment_id}/start"): {D, E},
    ("GET", "/v1/keys"): {P, D, E, U},
    ("POST", "/v1/datasets"): {E},
    ("GET", "/v1/datasets"): {D, E, U},
    ("GET", "/v1/datasets/{name}"): {D, E, U},
    ("POST", "/v1/datasets/{name}/versions"): {E},
    ("GET", "/v1/datasets/{name}/versions/{version}"): {D, E, U},
    ("POST", "/v1/datasets/{name}/versions/{version}/index"): {E},
    ("POST", "/v1/models"): {E},
    ("GET", "/v1/models"): {D, E, U},
    ("GET", "/v1/models/{name}"): {D, E, U},
    ("GET", "/v1/models/{name}/versions/{version}/manifest"): {D, E, U},
    ("PUT", "/v1/models/{name}/policy"): {E},
    ("POST", "/v1/models/{name}/versions"): {E},
    ("POST", "/v1/models/{name}/train"): {E},
    ("GET", "/v1/methods"): {D, E, U},
    ("GET", "/v1/recipes"): {D, E, U},
    ("POST", "/v1/lineage/edges"): {E},
    ("POST", "/v1/lineage/trace"): {D, E},
    ("POST", "/v1/deployments"): {E},
    ("GET", "/v1/deployments"): {D, E, U},
    ("GET", "/v1/runs"): {D, E, U},
    ("GET", "/v1/runs/{run_id}"): {D, E, U},
    ("GET", "/v1/runs/{run_id}/evidence"): {D, E, U},
    ("GET", "/v1/runs/{run_id}/report.pdf"): {D, E, U},
    ("GET", "/v1/suppressions"): {D, E, U},
    ("DELETE", "/v1/suppressions/{suppression_id}"): {D},
    ("GET", "/v1/sla/summary"): {D},
    ("GET", "/v1/audit/tree-head"): {D, U},
    ("GET", "/v1/audit/entries"): {D, U},
    ("GET", "/v1/audit/proofs/inclusion"): {D, U},
    ("GET", "/v1/audit/proofs/consistency"): {D, U},
    ("POST", "/v1/api-keys"): {A},
    ("GET", "/v1/api-keys"): {A},
    ("DELETE", "/v1/api-keys/{key_id}"): {A},
}
OPEN: Final = {
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/oauth2-redirect"),
    ("GET", "/redoc"),
}
DASHBOARD: Final = "/dashboard"
DASHBOARD_OPEN: Final = ("/dashboard/sign-in", "/dashboard/sign-out", "/dashboard/static/")


def routes(found: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every method and path below some routes, also those that the OpenAPI document leaves out."""
    for route in found:
        inner: Any = getattr(route, "original_router", None)
        if inner is not None:
            context: Any = getattr(route, "include_context", None)
            yield from routes(inner.routes, prefix + context.prefix)
            continue
        methods: set[str] = getattr(route, "methods", None) or {"GET"}
        path: str = getattr(route, "path", "")
        yield from ((method, prefix + path) for method in methods - {"HEAD"})


def app_of(town: Town) -> FastAPI:
    app = town.http.app
    assert isinstance(app, FastAPI)
    return app


def address(path: str) -> str:
    """A path with something in each gap that does not exist."""
    for gap in ("request_id", "commitment_id", "suppression_id", "key_id", "run_id"):
        path = path.replace(f"{{{gap}}}", str(uuid4()))
    return path.replace("{name}", "nothing").replace("{version}", "1")


def test_every_route_is_in_the_table_and_the_table_holds_no_other(town: Town) -> None:
    found = {
        (method, path)
        for method, path in routes(app_of(town).routes)
        if not path.startswith(DASHBOARD)
    }
    assert found == set(ALLOWED) | OPEN
    described = {
        (method.upper(), path)
        for path, operations in app_of(town).openapi()["paths"].items()
        for method in operations
    }
    assert described <= found


def test_each_role_may_call_what_the_table_says(town: Town) -> None:
    actual: dict[tuple[str, str], set[Role]] = {one: set() for one in ALLOWED}
    for (method, path), allowed in ALLOWED.items():
        for role in Role:
            response = town.call(role, method, address(path), {})
            if response.status_code == 403:
                assert all(str(one) in problem_of(response, 403)["detail"] for one in allowed)
                continue
            assert response.status_code not in {401, 405, 500}, response.text
            actual[method, path].add(role)
    assert actual == ALLOWED


def test_no_call_is_answered_without_a_valid_key(town: Town, subtests: pytest.Subtests) -> None:
    [admin, revoked] = [town.new_token(Role.ADMIN) for _ in range(2)]
    listed = town.ok(Role.ADMIN, "GET", "/v1/api-keys")["items"]
    own = next(one["id"] for one in listed if revoked.split("_")[1] == one["id"].replace("-", ""))
    assert town.call_with(revoked, "GET", "/v1/api-keys").status_code == 200
    town.ok(Role.ADMIN, "DELETE", f"/v1/api-keys/{own}")
    town.refused(Role.ADMIN, 404, "DELETE", f"/v1/api-keys/{own}")

    scheme, key_id, secret = admin.split("_", 2)
    unknown = new_api_key().token
    bearers = {
        "empty": b"",
        "garbage": b"garbage",
        "garbage in form": b"lethe_zz_zz",
        "bytes": b"lethe_\xff\xfe_\x80",
        "revoked": revoked.encode(),
        "unknown": unknown.encode(),
        "wrong secret": f"{scheme}_{key_id}_{secret[:-1]}".encode(),
        "another's secret": f"{scheme}_{key_id}_{unknown.split('_')[2]}".encode(),
        "no secret": f"{scheme}_{key_id}_".encode(),
    }
    credentials: dict[str, dict[bytes, bytes]] = {
        "none": {},
        "query": {},
        "cookie": {b"Cookie": f"session={admin}".encode()},
        "another scheme": {b"Authorization": f"Basic {admin}".encode()},
        **{name: {b"Authorization": b"Bearer " + one} for name, one in bearers.items()},
    }
    for name, headers in credentials.items():
        query = f"?token={admin}&access_token={admin}" if name == "query" else ""
        with subtests.test(name):
            for method, path in ALLOWED:
                response = town.http.request(method, address(path) + query, headers=headers)
                problem_of(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
                assert secret not in response.text


def test_what_is_open_tells_nothing_of_anyone(town: Town) -> None:
    town.ask(("email", "open@example.org"), reference="portal-4711")
    for method, path in sorted(OPEN):
        response = town.http.request(method, path)
        assert response.status_code in {200, 503}, path
        for word in ("open@example.org", "portal-4711"):
            assert word not in response.text
    # Counts by state and nothing else.
    metrics = town.http.get("/metrics").text
    lines = [line for line in metrics.splitlines() if line and not line.startswith("#")]
    assert 'lethe_requests{state="completed"} 1.0' in lines
    assert all('{state="' in line and line.count("=") == 1 for line in lines)


def test_the_dashboard_shows_nothing_to_a_stranger(town: Town, subtests: pytest.Subtests) -> None:
    request = town.ask(("email", "open@example.org"), reference="portal-4711")
    pages = [one for one in routes(app_of(town).routes) if one[1].startswith(DASHBOARD)]
    assert ("GET", DASHBOARD) in pages
    for method, path in pages:
        if path.startswith(DASHBOARD_OPEN):
            continue
        for headers in ({}, {"Authorization": f"Bearer {town.token(Role.DPO)}"}):
            with subtests.test(f"{method} {path}", key=bool(headers)):
                place = path.replace("{request_id}", request["id"])
                response = town.http.request(method, place, headers=headers, follow_redirects=False)
                assert response.status_code in {303, 307, 401, 403}, response.status_code
                assert "portal-4711" not in response.text
                assert request["id"] not in response.text.replace(place, "")


def test_the_document_asks_for_a_key_wherever_the_service_does(town: Town) -> None:
    for path, operations in app_of(town).openapi()["paths"].items():
        for method, operation in operations.items():
            assert bool(operation.get("security")) == ((method.upper(), path) not in OPEN), path


def test_no_route_is_hidden_but_the_dashboards(town: Town) -> None:
    def hidden(found: Iterable[BaseRoute], prefix: str = "") -> Iterator[str]:
        for route in found:
            inner: Any = getattr(route, "original_router", None)
            if inner is not None:
                context: Any = getattr(route, "include_context", None)
                yield from hidden(inner.routes, prefix + context.prefix)
            elif isinstance(route, APIRoute) and not route.include_in_schema:
                yield prefix + route.path

    assert all(path.startswith(DASHBOARD) for path in hidden(app_of(town).routes))
