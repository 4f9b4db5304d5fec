"""The log: numbered once, provable by strangers, and nobody's to rewrite."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import psycopg
import pytest
from sqlalchemy import func, select

from app.audit import service as audit
from app.core.clock import utc_now
from app.core.security import Role
from app.core.signing import create_signing_keys
from app.models import AuditLeaf, AuditPending, TreeHead
from lethe.log_export import LogInvalid, audit_log
from lethe.merkle import leaf_hash, verify_consistency, verify_inclusion
from lethe.notes import Checkpoint, open_checkpoint
from tests.conftest import DatabaseUrls
from tests.integration.town import Town
from tests.integration.worlds import points

REPOSITORY = Path(__file__).parents[2]


def write_entries(town: Town, number: int) -> None:
    """Commit entries as the changes they tell of would, one transaction each ten."""
    for start in range(0, number, 10):
        with town.database.transaction() as session:
            for _ in range(min(10, number - start)):
                audit.record(session, "dataset_registered", utc_now(), dataset=1)


def sequence(town: Town) -> int:
    """Number what waits as one sequencer does; return the size it signed, or 0."""
    with town.database.transaction() as session:
        head = audit.sequence(session, town.keys.log, utc_now())
        return 0 if head is None else head.size


def count(town: Town, table: type[AuditLeaf | AuditPending | TreeHead]) -> int:
    with town.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def tree_head(town: Town) -> Checkpoint:
    """The newest tree head, its signature checked with the public key."""
    response = town.call(Role.AUDITOR, "GET", "/v1/audit/tree-head")
    assert response.headers["content-type"].startswith("text/plain")
    return open_checkpoint(response.content, town.keys.public.log)


def export(town: Town, size: int) -> list[bytes]:
    """The log as an auditor reads it, page by page."""
    lines: list[bytes] = []
    for start in range(0, size, 100):
        path = f"/v1/audit/entries?start={start}&end={min(start + 100, size)}"
        items = town.ok(Role.AUDITOR, "GET", path)["items"]
        lines += [json.dumps(item).encode() + b"\n" for item in items]
    return lines


def changed(line: bytes, *, keep_hash: bool) -> bytes:
    """A line whose entry says something else."""
    item = json.loads(line)
    entry = json.loads(base64.b64decode(item["entry"]))
    entry["at"] = "2020-01-01T00:00:00.000000Z"
    item["entry"] = base64.b64encode(json.dumps(entry).encode()).decode()
    if not keep_hash:
        item["leaf_hash"] = leaf_hash(base64.b64decode(item["entry"])).hex()
    return json.dumps(item).encode() + b"\n"


def renumbered(lines: Sequence[bytes]) -> list[bytes]:
    return [
        json.dumps(json.loads(line) | {"index": number}).encode() + b"\n"
        for number, line in enumerate(lines)
    ]


TAMPERING: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "changed": lambda log: [*log[:5], changed(log[5], keep_hash=True), *log[6:]],
    "changed with its hash": lambda log: [*log[:5], changed(log[5], keep_hash=False), *log[6:]],
    "missing": lambda log: log[:5] + log[6:],
    "missing and renumbered": lambda log: renumbered(log[:5] + log[6:]),
    "missing at the end": lambda log: log[:-1],
    "reordered": lambda log: [*log[:5], log[6], log[5], *log[7:]],
    "reordered and renumbered": lambda log: renumbered([*log[:5], log[6], log[5], *log[7:]]),
    "one put in": lambda log: renumbered([*log[:5], log[3], *log[5:]]),
    "garbage": lambda log: [*log[:5], b"garbage\n", *log[6:]],
}


def test_the_exported_log_is_what_the_tree_head_signs_and_no_other_log_is(
    town: Town, subtests: pytest.Subtests
) -> None:
    town.dataset("d", points(4))
    town.erase(("email", "person1@example.org"))
    head = tree_head(town)
    log = export(town, head.size)
    assert len(log) == head.size > 20
    audited = audit_log(log, [head])
    assert (audited.entries, audited.covered) == (head.size, head.size)
    for name, tamper in TAMPERING.items():
        with subtests.test(name), pytest.raises(LogInvalid) as caught:
            audit_log(tamper(log), [head])
        assert caught.value.reason
        assert caught.value.advice


def test_the_whole_log_comes_as_the_file_that_an_audit_reads(town: Town) -> None:
    write_entries(town, 1003)
    town.settle()
    head = tree_head(town)
    assert head.size > audit.MAX_ENTRIES
    answer = town.call(Role.AUDITOR, "GET", "/v1/audit/entries", Accept="application/x-ndjson")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = answer.content.splitlines(keepends=True)
    assert audit_log(lines, [head]).covered == len(lines) == head.size
    assert [json.loads(one) for one in lines] == [
        json.loads(one) for one in export(town, head.size)
    ]
    # Without a range, JSON begins at the first entry and ends where a page does.
    first = town.ok(Role.AUDITOR, "GET", "/v1/audit/entries")["items"]
    assert (first[0]["index"], len(first)) == (0, audit.MAX_ENTRIES)


def test_inclusion_and_consistency_are_proved_for_every_entry_and_signed_size(town: Town) -> None:
    signed = []
    for number in (1, 2, 4, 7):
        write_entries(town, number)
        town.settle()
        signed.append(tree_head(town))
    newest = signed[-1]
    assert signed[0].size < newest.size
    for head in signed:
        for line in export(town, head.size):
            index = json.loads(line)["index"]
            entry = base64.b64decode(json.loads(line)["entry"])
            path = f"/v1/audit/proofs/inclusion?index={index}&size={head.size}"
            answer = town.ok(Role.AUDITOR, "GET", path)
            proof = [bytes.fromhex(one) for one in answer["proof"]]
            verify_inclusion(leaf_hash(entry), index, head.size, proof, head.root)
        path = f"/v1/audit/proofs/consistency?from={head.size}&to={newest.size}"
        answer = town.ok(Role.AUDITOR, "GET", path)
        proof = [bytes.fromhex(one) for one in answer["proof"]]
        verify_consistency(head.size, newest.size, head.root, newest.root, proof)
        assert answer["root"] == newest.root.hex()


def test_more_entries_than_one_batch_are_numbered_by_the_next_ones(town: Town) -> None:
    write_entries(town, 600)
    assert [sequence(town) for _ in range(4)] == [256, 512, 600, 0]
    assert count(town, AuditPending) == 0
    head = tree_head(town)  # the auditor's key adds an entry that is not numbered yet
    assert audit_log(export(town, 600), [head]).covered == 600
    assert [bell.task for bell in town.doorbell.bells].count("sequence_log") >= 1


def test_sequencers_at_once_number_each_entry_once(town: Town) -> None:
    write_entries(town, 900)
    start = Barrier(4)

    def work() -> None:
        start.wait(10)
        while count(town, AuditPending):
            sequence(town)

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(work) for _ in range(4)]:
            one.result()

    with town.database.transaction() as session:
        rows = list(
            session.execute(select(AuditLeaf.index, AuditLeaf.pending_id).order_by(AuditLeaf.index))
        )
    assert [index for index, _ in rows] == list(range(900))
    assert len({pending_id for _, pending_id in rows}) == 900
    head = tree_head(town)
    assert audit_log(export(town, head.size), [head]).covered == 900


def test_writers_and_sequencers_at_once_lose_nothing(town: Town) -> None:
    start = Barrier(5)

    def write() -> None:
        start.wait(10)
        write_entries(town, 80)

    def number() -> None:
        start.wait(10)
        for _ in range(20):
            sequence(town)

    with ThreadPoolExecutor(5) as pool:
        for one in [pool.submit(work) for work in (write, write, write, number, number)]:
            one.result()
    while sequence(town):
        pass
    assert (count(town, AuditLeaf), count(town, AuditPending)) == (240, 0)


class Crash(Exception):
    """A worker that ends in the middle."""


def test_a_crash_before_the_sequencer_commits_loses_and_doubles_nothing(town: Town) -> None:
    write_entries(town, 30)
    town.doorbell.bells.clear()  # and the message is lost as well

    def crash() -> None:
        with town.database.transaction() as session:
            assert audit.sequence(session, town.keys.log, utc_now()) is not None
            raise Crash

    with pytest.raises(Crash):
        crash()
    assert (count(town, AuditPending), count(town, AuditLeaf), count(town, TreeHead)) == (30, 0, 0)
    # The beat rings the sequencer by itself.
    assert sequence(town) == 30
    assert audit_log(export(town, 30), [tree_head(town)]).covered == 30


def test_a_change_that_is_rolled_back_leaves_no_entry(town: Town) -> None:
    def crash() -> None:
        with town.database.transaction() as session:
            audit.record(session, "dataset_registered", utc_now(), dataset=1)
            raise Crash

    with pytest.raises(Crash):
        crash()
    assert count(town, AuditPending) == 0
    assert town.doorbell.bells == []


REWRITES = (
    "UPDATE audit_leaf SET payload = 'x'",
    "UPDATE audit_leaf SET index = index + 1000",
    "UPDATE audit_node SET hash = 'x'",
    "UPDATE tree_head SET note = 'x'",
    "DELETE FROM audit_leaf",
    "DELETE FROM audit_node",
    "DELETE FROM tree_head",
    "TRUNCATE audit_leaf",
    "TRUNCATE audit_node",
    "TRUNCATE tree_head",
)


def test_the_serving_role_and_the_owner_can_rewrite_no_row_of_the_log(
    town: Town, database_urls: DatabaseUrls, subtests: pytest.Subtests
) -> None:
    write_entries(town, 20)
    town.settle()
    before = export(town, 20)
    roles = (
        (database_urls.app_url, psycopg.errors.InsufficientPrivilege, "permission denied"),
        (database_urls.owner_url, psycopg.errors.RaiseException, "append-only"),
    )
    for url, refusal, reason in roles:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in REWRITES:
                with subtests.test(statement), pytest.raises(refusal, match=reason):
                    connection.execute(statement)
    with psycopg.connect(database_urls.app_url.replace("+psycopg", ""), autocommit=True) as serving:
        for statement in (
            "UPDATE audit_pending SET payload = 'x'",
            "TRUNCATE audit_pending",
            "DROP TABLE audit_leaf",
            "DROP TRIGGER append_only ON audit_leaf",
            "ALTER TABLE audit_leaf DISABLE TRIGGER ALL",
            "CREATE TABLE mine (x int)",
        ):
            with subtests.test(statement), pytest.raises(psycopg.errors.InsufficientPrivilege):
                serving.execute(statement)
    assert export(town, 20) == before


def test_what_a_rewrite_behind_the_services_back_shows(
    town: Town, database_urls: DatabaseUrls
) -> None:
    """Whoever holds the owner's role can drop the triggers; the tree head then gives it away."""
    write_entries(town, 20)
    town.settle()
    head = tree_head(town)
    audit_log(export(town, head.size), [head])
    owner = database_urls.owner_url.replace("+psycopg", "")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("ALTER TABLE audit_leaf DISABLE TRIGGER append_only")
        connection.execute("UPDATE audit_leaf SET payload = payload || ' ' WHERE index = 7")
    with pytest.raises(LogInvalid) as caught:
        audit_log(export(town, head.size), [head])
    assert caught.value.index == 7


def verify(certificate: bytes, key: Path, folder: Path, *more: str) -> tuple[int, str]:
    """Run `python -m lethe.verify` as an auditor does, with files alone."""
    file = folder / "certificate.json"
    file.write_bytes(certificate)
    run = subprocess.run(
        [sys.executable, "-m", "lethe.verify", str(file), "--key", str(key), *more],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout + run.stderr


def test_a_tampered_certificate_a_wrong_key_and_a_changed_log_do_not_verify(
    town: Town, tmp_path: Path
) -> None:
    town.dataset("d", points(4))
    request = town.erase(("email", "person1@example.org"))
    certificate = town.certificate(request["id"])
    key = tmp_path / "lethe.pub"
    key.write_text(town.call(Role.AUDITOR, "GET", "/v1/keys").text)
    head = town.call(Role.AUDITOR, "GET", "/v1/audit/tree-head").content
    (tmp_path / "head").write_bytes(head)
    log = export(town, tree_head(town).size)
    entries = tmp_path / "log.ndjson"
    entries.write_bytes(b"".join(log))
    whole = ("--tree-head", str(tmp_path / "head"), "--log", str(entries))

    code, said = verify(certificate, key, tmp_path, *whole)
    assert code == 0, said
    assert request["id"] in said

    bundle = json.loads(certificate)
    payload = base64.b64decode(find(bundle, "payload"))
    assert b'"completed"' in payload
    forged = certificate.replace(
        find(bundle, "payload").encode(),
        base64.b64encode(payload.replace(b'"gdpr"', b'"ccpa"')),
    )
    assert forged != certificate
    code, said = verify(forged, key, tmp_path)
    assert (code, "the statement was changed" in said) == (1, True), said

    stranger = create_signing_keys(tmp_path / "stranger", town.settings.log_origin)
    other = tmp_path / "stranger" / "lethe.pub"
    assert other.read_text() == stranger.public.format()
    code, said = verify(certificate, other, tmp_path)
    assert (code, "another key" in said) == (1, True), said

    for name in ("changed with its hash", "missing"):
        entries.write_bytes(b"".join(TAMPERING[name](log)))
        code, said = verify(certificate, key, tmp_path, *whole)
        assert code == 1, said
        assert "Does not hold" in said
        assert ("missing" if name == "missing" else "the tree head signs") in said

    code, said = verify(certificate, tmp_path / "no-such.pub", tmp_path)
    assert (code, "cannot be read" in said) == (2, True), said


def find(value: object, name: str) -> str:
    """The first member of this name, wherever in the JSON it is."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if isinstance(one.get(name), str):
                return str(one[name])
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
    raise AssertionError(f"no {name}")
