"""A body that is too large is refused before anything keeps it."""

from collections.abc import Iterator

from app.access.limits import MOST_BYTES
from app.core.security import Role
from tests.integration.town import Town


def test_an_announced_body_that_is_too_large_is_refused(town: Town) -> None:
    body = b"x" * (MOST_BYTES + 1)
    refused = town.post_bytes(Role.PORTAL, "/v1/erasure-requests", body)
    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"


def test_one_that_is_not_announced_is_refused_as_it_comes(town: Town) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(MOST_BYTES // 65_536 + 1):
            yield b"x" * 65_536

    headers = {"Authorization": f"Bearer {town.token(Role.PORTAL)}"}
    refused = town.http.post("/v1/erasure-requests", content=chunks(), headers=headers)
    assert refused.status_code == 413


def test_the_largest_that_fits_is_read(town: Town) -> None:
    body = b'{"x": "' + b"x" * (MOST_BYTES - 9) + b'"}'
    assert len(body) == MOST_BYTES
    assert town.post_bytes(Role.PORTAL, "/v1/erasure-requests", body).status_code == 422
