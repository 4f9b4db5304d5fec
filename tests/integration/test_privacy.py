"""No table, log line, broker message, file or HTTP answer holds the person once it is over.

The search also finds what is only dressed up: other cases, hex, base64 at any offset, percent
encoding, and plain hashes that anyone can compute from a guess. A canary in each place shows that
it would.
"""

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import psycopg
import pytest
import redis
import structlog
from celery import Celery
from psycopg import sql
from sqlalchemy import select
from typing_extensions import override

from app.core.config import Settings
from app.core.db import Database
from app.core.queue import Bell, CeleryDoorbell, celery_app
from app.core.security import Role, load_identifiers, unseal, unwrap_key
from app.core.testing import RecordingDoorbell
from app.models import ErasureRequest, RequestKey
from tests.conftest import DatabaseUrls
from tests.integration.town import Town, logged
from tests.integration.worlds import CLASSIFIER, LANGUAGE, Row, notes, points

REQUESTS = "/v1/erasure-requests"
# As the portal sends them, and as the datasets spell them.
SENT = (
    ("email", "Margarethe.Quandt@Example.ORG"),
    ("phone", "+49 (1512) 345-6789"),
    ("customer_id", "PAT-77120-QX"),
)
EMAIL, PHONE, CUSTOMER = "margarethe.quandt@example.org", "+4915123456789", "PAT-77120-QX"
NEEDLES = (EMAIL, "margarethe.quandt", "15123456789", "345-6789", CUSTOMER)


def disguises(needle: str) -> Iterator[tuple[str, bytes]]:
    """Every dress of a text: what it is called, and the bytes to look for."""
    plain = needle.encode()
    yield "plain", plain.lower()
    yield "hex", plain.hex().encode()
    yield "percent", quote(needle, safe="").lower().encode()
    for spelling in {needle, needle.lower()}:
        data = spelling.encode()
        for offset in range(3):
            coded = base64.b64encode(b"\0" * offset + data)
            # Without the characters that depend on the neighbours.
            yield "base64", coded[(offset * 4 + 2) // 3 : -4]
        for name in ("md5", "sha1", "sha256", "sha512"):
            digest = hashlib.new(name, data, usedforsecurity=False)
            yield name, digest.digest()
            yield name, digest.hexdigest().encode()
            yield name, base64.b64encode(digest.digest()).rstrip(b"=")


CASELESS = {"plain", "hex", "percent"}
LOOKED_FOR = [(needle, *dress) for needle in NEEDLES for dress in disguises(needle)]


def finds(data: bytes) -> list[str]:
    """Say what of the person is in some bytes, and in which dress; empty if nothing is."""
    folded = data.lower()
    return [
        f"{dress} of needle {NEEDLES.index(needle)}"
        for needle, dress, wanted in LOOKED_FOR
        if wanted in (folded if dress in CASELESS else data)
    ]


def in_tables(owner_url: str) -> dict[str, list[str]]:
    """Search every column of every row of every table; name the tables that hold something."""
    found = {}
    with psycopg.connect(owner_url.replace("+psycopg", "")) as connection:
        names = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        ).fetchall()
        assert len(names) > 50  # tables and partitions
        for (name,) in names:
            table = sql.Identifier(name)
            texts = connection.execute(sql.SQL("SELECT t::text FROM {} t").format(table))
            data = [text.encode() for (text,) in texts]
            rows = connection.execute(sql.SQL("SELECT * FROM {}").format(table))
            data += [cell for row in rows for cell in row if isinstance(cell, bytes)]
            if hits := [hit for one in data for hit in finds(one)]:
                found[name] = hits
    return found


def in_files(folder: Path) -> dict[str, list[str]]:
    """Search names and contents of every file."""
    found = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if hits := finds(str(path.relative_to(folder)).encode() + b"\n" + content):
            found[path.suffix] = hits
    return found


def in_broker(client: redis.Redis) -> list[str]:
    """Search every key and value of the broker as it holds them."""
    return [hit for one in broker_contents(client) for hit in finds(one)]


def broker_contents(client: redis.Redis) -> list[bytes]:
    contents: list[bytes] = []
    for key in client.scan_iter():
        found: Any = key
        contents.append(found)
        match client.type(key):
            case b"list":
                found = client.lrange(key, 0, -1)
            case b"set":
                found = list(client.smembers(key))
            case b"zset":
                found = client.zrange(key, 0, -1)
            case b"hash":
                found = [part for pair in client.hgetall(key).items() for part in pair]
            case _:
                found = [client.get(key) or b""]
        contents += found
    # A message's body is base64 in JSON; the search knows that dress, and here it is undressed.
    for one in list(contents):
        with suppress(ValueError, KeyError, TypeError):
            contents.append(base64.b64decode(json.loads(one)["body"]))
    return contents


class RealDoorbell(RecordingDoorbell):
    """Sends each bell through Celery to a real broker, where nobody takes it, and keeps it."""

    def __init__(self, celery: Celery) -> None:
        super().__init__()
        self._celery = CeleryDoorbell(celery)

    @override
    def send(self, bell: Bell) -> None:
        super().send(bell)
        self._celery.send(bell)


@dataclass
class Watched:
    """A town whose broker, answers and log lines are kept for the search."""

    town: Town
    broker: redis.Redis
    answers: list[bytes]
    owner_url: str
    log: Callable[[], str]


@pytest.fixture
def watched(
    database_urls: DatabaseUrls,
    settings: Settings,
    redis_url: str,
    tmp_path: Path,
) -> Iterator[Watched]:
    url = f"{redis_url.rsplit('/', 1)[0]}/9"
    broker = redis.Redis.from_url(url)
    broker.flushdb()
    celery = celery_app(url)
    doorbell = RealDoorbell(celery)
    database = Database(database_urls.app_url, doorbell)
    folder = tmp_path / "data"
    folder.mkdir()
    answers: list[bytes] = []

    def keep(response: httpx2.Response) -> None:
        head = "".join(f"{name}: {value}\n" for name, value in response.headers.items())
        answers.append(head.encode() + response.read())

    with logged() as lines:
        town = Town(database, doorbell, settings, folder)
        town.http.event_hooks["response"].append(keep)
        yield Watched(town, broker, answers, database_urls.owner_url, lines.getvalue)
    broker.flushdb()
    broker.close()
    celery.close()
    database.dispose()


def rows_with_her(rows: list[Row]) -> list[Row]:
    """Everybody's rows with a phone and a doctor, and some that are hers."""
    everyone = [row | {"phone": f"+49301234{row['person'][1:]}", "doctor": None} for row in rows]
    hers = [row | {"person": CUSTOMER, "email": EMAIL, "phone": PHONE} for row in everyone[:3]]
    # Somebody else's record names her as well.
    return [everyone[0] | {"doctor": EMAIL}, *everyone[1:], *hers]


def build(town: Town) -> None:
    """Two datasets that know her, and a model of each."""
    visits = rows_with_her(points(6))
    aliases, mentions = (("email", "email"), ("phone", "phone")), (("doctor", "email"),)
    town.dataset("visits", visits, aliases=aliases, mentions=mentions)
    town.model("risk", "visits", "classifier", CLASSIFIER, shards=2, slices=2, holdout_share=0)
    letters = rows_with_her(notes(6))
    for row in letters:
        del row["doctor"]  # an undeclared column is not searched
        if row["person"] == CUSTOMER:
            row["text"] = f"Dear {EMAIL}, we called {PHONE} about {CUSTOMER}"
    town.dataset("letters", letters, owner=("email", "email"), aliases=(("phone", "phone"),))
    brief = LANGUAGE | {"training": {"epochs": 1, "batch_size": 8}}
    town.model("scribe", "letters", "causal_lm", brief, holdout_share=0)


def provoke(town: Town, request_id: str) -> None:
    """Make every error that has the person in what was sent."""
    person = [{"type": kind, "value": value} for kind, value in SENT]
    body: dict[str, Any] = {
        "subject": {"identifiers": person},
        "regime": "gdpr",
        "identity_verified": True,
    }
    town.refused(Role.PORTAL, 409, "POST", REQUESTS, body)
    for change in (
        {EMAIL: 1},
        {CUSTOMER.replace("-", "_"): 1},
        {"regime": EMAIL},
        {"ground": EMAIL},
        {"received_at": EMAIL},
        {"reference": f"about {EMAIL}"},
        {"reference": "call 015123456789 or +49 1512 3456789"},
        {"reference": f"{EMAIL}\0"},
        {"subject": {"identifiers": [{"type": EMAIL, "value": PHONE}]}},
        {"subject": {"identifiers": [{"type": "phone", "value": EMAIL}]}},
        {"subject": {"identifiers": [{"type": "email", "value": PHONE}]}},
        {"subject": {"identifiers": EMAIL}},
        {"subject": EMAIL},
    ):
        town.refused(Role.PORTAL, 422, "POST", REQUESTS, body | change)
    town.refused(Role.PORTAL, 422, "POST", REQUESTS, body, **{"Idempotency-Key": EMAIL})
    town.refused(Role.DPO, 422, "GET", f"{REQUESTS}?cursor={EMAIL}")
    town.refused(Role.DPO, 404, "GET", f"/v1/models/{EMAIL}")
    own = f"{REQUESTS}/{request_id}"
    for verb in ("reject", "cancel", "extend", "approve"):
        town.refused(Role.DPO, 422, "POST", f"{own}/{verb}", {"reason": f"told {EMAIL} so"})


def read_everything(town: Town, request_id: str) -> None:
    """Call whatever can be read, as each role that may."""
    for path in ("", "/timeline", "/plan", "/certificate"):
        for role in (Role.PORTAL, Role.DPO):
            town.call(role, "GET", f"{REQUESTS}/{request_id}{path}")
    for path in (
        REQUESTS,
        "/v1/commitments",
        "/v1/suppressions",
        "/v1/sla/summary",
        "/v1/runs",
        "/v1/datasets",
        "/v1/datasets/visits/versions/1",
        "/v1/models",
        "/v1/deployments",
        "/v1/audit/tree-head",
        "/v1/audit/entries?start=0&end=1000",
    ):
        town.ok_text(Role.DPO, path)
    for run in town.ok(Role.AUDITOR, "GET", "/v1/runs?limit=200")["items"]:
        town.ok(Role.AUDITOR, "GET", f"/v1/runs/{run['id']}/evidence")
    town.ok_text(Role.ADMIN, "/v1/api-keys")
    town.http.get("/metrics")


def sealed(watched: Watched, request_id: str) -> tuple[bytes | None, bytes | None]:
    """The request's sealed identifiers and its wrapped key."""
    with watched.town.database.transaction() as session:
        row = session.scalars(select(ErasureRequest).where(ErasureRequest.id == request_id)).one()
        key = session.get(RequestKey, row.id)
        return row.sealed_identifiers, None if key is None else key.wrapped_key


def test_an_erasure_leaves_the_person_nowhere(watched: Watched, tmp_path: Path) -> None:
    town = watched.town
    build(town)
    assert set(in_files(tmp_path)) == {".jsonl"}  # the datasets alone

    # The portal names its call after the person, which it should not.
    key = {"Idempotency-Key": f'"{EMAIL}"'}
    person = [{"type": kind, "value": value} for kind, value in SENT]
    body = {"subject": {"identifiers": person}, "regime": "gdpr", "identity_verified": True}
    request_id = town.ok(Role.PORTAL, "POST", REQUESTS, body, **key)["id"]
    town.settle()
    assert town.request(request_id)["state"] == "awaiting_approval"

    # While it is open the person is sealed, under a key of the request's own, and nowhere else.
    assert in_tables(watched.owner_url) == {}
    blob, wrapped = sealed(watched, request_id)
    assert blob is not None
    assert wrapped is not None
    secret = town.settings.vault_secret.get_secret_value()
    opened = unseal(unwrap_key(secret, wrapped, request_id), blob, request_id)
    assert [(one.type, one.value) for one in load_identifiers(opened)] == list(SENT)

    provoke(town, request_id)
    trace = town.ok(Role.DPO, "POST", "/v1/lineage/trace", {"identifiers": person})
    assert [one["records"] for one in trace["datasets"]] == [3, 4]  # one of them a mention
    assert [one["records"] for one in trace["models"]] == [4, 3]

    done = town.approve(request_id)

    assert done["state"] == "completed", done
    assert sealed(watched, request_id) == (None, None)
    read_everything(town, request_id)
    assert in_tables(watched.owner_url) == {}
    assert in_files(tmp_path) == {}
    assert in_broker(watched.broker) == []
    assert [hit for one in watched.answers for hit in finds(one)] == []
    assert finds(watched.log().encode()) == []

    # The search had something to search.
    assert len(watched.answers) > 60
    assert "step_done" in watched.log()
    messages = broker_contents(watched.broker)
    assert any(request_id.encode() in one for one in messages)
    assert (tmp_path / "artifacts").is_dir()
    verified = town.verified(request_id)
    assert verified["predicate"]["request"]["identifiers"] == {
        "customer_id": 1,
        "email": 1,
        "phone": 1,
    }


CANARIES = (
    EMAIL,
    f"x{EMAIL.upper()}",
    PHONE,
    CUSTOMER.lower(),
    EMAIL.encode().hex(),
    base64.b64encode(b"a" + EMAIL.encode()).decode(),
    base64.b64encode(b'{"v":' + CUSTOMER.encode() + b"}").decode(),
    quote(EMAIL, safe=""),
    hashlib.sha256(EMAIL.encode()).hexdigest(),
)


def test_the_search_finds_a_canary_in_every_place(watched: Watched, tmp_path: Path) -> None:
    town = watched.town
    town.token(Role.PORTAL)
    assert in_tables(watched.owner_url) == {}
    with psycopg.connect(watched.owner_url.replace("+psycopg", ""), autocommit=True) as connection:
        for canary in CANARIES:
            connection.execute("UPDATE api_key SET name = %s", [canary])
            assert set(in_tables(watched.owner_url)) == {"api_key"}, canary
        connection.execute("UPDATE api_key SET name = 'x', secret_hash = %s", [EMAIL.encode()])
        assert set(in_tables(watched.owner_url)) == {"api_key"}
        connection.execute("UPDATE api_key SET secret_hash = 'x'")
        assert in_tables(watched.owner_url) == {}

    (tmp_path / f"{EMAIL}.txt").touch()
    (tmp_path / "weights.bin").write_bytes(b"\0\xff" + PHONE.encode() + b"\0")
    assert set(in_files(tmp_path)) == {".txt", ".bin"}
    watched.broker.rpush("control", json.dumps({"body": base64.b64encode(EMAIL.encode()).decode()}))
    assert in_broker(watched.broker)
    structlog.get_logger().warning("canary", value=CUSTOMER)
    assert finds(watched.log().encode())
    town.http.get("/health/live", headers={"X-Canary": EMAIL})
    assert not any(finds(one) for one in watched.answers)
    watched.answers.append(json.dumps({"detail": EMAIL}).encode())
    assert any(finds(one) for one in watched.answers)


def test_a_rejected_and_a_cancelled_request_forget_the_person_too(watched: Watched) -> None:
    town = watched.town
    for verb in ("reject", "cancel"):
        request = town.ask(*SENT, identity_verified=False)
        town.ok(Role.DPO, "POST", f"{REQUESTS}/{request['id']}/{verb}", {"reason": "withdrawn"})
        town.settle()
        assert sealed(watched, request["id"]) == (None, None)
    assert in_tables(watched.owner_url) == {}
    assert in_broker(watched.broker) == []
    assert finds(watched.log().encode()) == []


@pytest.mark.parametrize(
    ("recipe", "parameters", "column"),
    [
        ("classifier", CLASSIFIER, "x1"),
        ("classifier", CLASSIFIER, "y"),
        ("causal_lm", LANGUAGE, "text"),
    ],
)
def test_a_step_that_chokes_on_a_record_does_not_quote_it(
    watched: Watched, recipe: str, parameters: dict[str, Any], column: str
) -> None:
    town = watched.town
    rows = points(3) if recipe == "classifier" else notes(3)
    rows[2][column] = EMAIL if recipe == "classifier" else [EMAIL]
    town.dataset("d", rows)
    model = {"name": "m", "recipe": recipe, "parameters": parameters, "holdout_share": 0}
    town.ok(Role.ENGINEER, "POST", "/v1/models", model)
    run = town.train("m", "d")
    assert run["state"] == "failed"
    assert column in run["failure"]["detail"]
    assert in_tables(watched.owner_url) == {}
    assert [hit for one in watched.answers for hit in finds(one)] == []
    assert finds(watched.log().encode()) == []


def raised() -> Iterable[BaseException]:
    """Errors as others raise them, with the value in the text."""
    for text in (f"could not convert string to float: '{EMAIL}'", f"DETAIL: ({CUSTOMER})"):
        try:
            raise ValueError(text)
        except ValueError as error:
            chained = RuntimeError(f"about {PHONE}")
            chained.__cause__ = error
            yield error
            yield chained


def test_a_logged_exception_tells_where_and_not_what(watched: Watched) -> None:
    for error in raised():
        structlog.get_logger().error("unexpected", exc_info=error)
        for name in ("uvicorn.error", "celery.worker", "some.library"):
            logging.getLogger(name).error("Exception in application", exc_info=error)
    said = watched.log()
    assert finds(said.encode()) == []
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert len(lines) == 4 * 4
    assert all("raised" in json.dumps(line) for line in lines if "ValueError" in json.dumps(line))
    assert "ValueError" in said
