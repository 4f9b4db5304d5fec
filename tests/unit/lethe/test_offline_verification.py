"""A certificate, its log, its keys: sound ones hold, each tampering fails with its own reason."""

import base64
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from lethe.bundle import (
    MAX_BUNDLE_BYTES,
    PAYLOAD_TYPE,
    BundleInvalid,
    SignedStatement,
    format_bundle,
    parse_bundle,
    parse_envelope,
    sign_statement,
)
from lethe.certificate import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    STEPS,
    CertificateInvalid,
    verify_bundle,
)
from lethe.keys import KeyFileInvalid, PublicKeys, parse_public_keys
from lethe.log_export import LogInvalid, audit_log
from lethe.merkle import leaf_hash, node_hash, tree_root
from lethe.notes import Checkpoint, Signer
from lethe.tlogproof import TlogProof
from lethe.verify import DOES_NOT_HOLD, HOLDS, UNREADABLE, verify_command

REQUEST = "01934567-89ab-7cde-8f01-23456789abcd"
LOG = Signer("log.example/lethe", Ed25519PrivateKey.from_private_bytes(b"l" * 32))
CERTIFICATES = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
KEYS = PublicKeys(LOG.verifier_key, CERTIFICATES.public_key())
PLACE, SIZE = 4, 7


def statement(**changes: object) -> bytes:
    return json.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "model/digits@2", "digest": {"sha256": "ab" * 32}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {"request": {"id": REQUEST}, "not_guaranteed": ["Backups [bold]last[/]."]},
        }
        | changes
    ).encode()


def entry_for(payload: bytes, **changes: object) -> bytes:
    digest = hashlib.sha256(payload).hexdigest()
    content = {"event": "certificate_issued", "request": REQUEST, "digest": digest}
    return json.dumps(content | changes).encode()


def entries_with(entry: bytes) -> list[bytes]:
    entries = [f'{{"event": "entry_{index}"}}'.encode() for index in range(SIZE)]
    entries[PLACE] = entry
    return entries


def checkpoint_over(entries: list[bytes]) -> Checkpoint:
    return Checkpoint(LOG.verifier_key.name, len(entries), tree_root(map(leaf_hash, entries)))


def prove(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162 §2.1.3.1, as written."""
    if len(leaves) == 1:
        return []
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < k:
        return [*prove(index, leaves[:k]), tree_root(leaves[k:])]
    return [*prove(index - k, leaves[k:]), tree_root(leaves[:k])]


def issue(
    payload: bytes | None = None,
    *,
    entry: bytes | None = None,
    key: Ed25519PrivateKey = CERTIFICATES,
    log: Signer = LOG,
    edit: Callable[[dict[str, object]], None] = lambda bundle: None,
) -> bytes:
    payload = statement() if payload is None else payload
    entry = entry_for(payload) if entry is None else entry
    entries = entries_with(entry)
    checkpoint = checkpoint_over(entries)
    proof = TlogProof(
        PLACE,
        tuple(prove(PLACE, [leaf_hash(each) for each in entries])),
        log.sign(checkpoint.format()),
    )
    bundle = json.loads(format_bundle(sign_statement(payload, key), entry, proof))
    edit(bundle)
    return json.dumps(bundle).encode()


def export(entries: list[bytes], *, with_hashes: bool = True) -> list[bytes]:
    rows: list[dict[str, object]] = [
        {"index": index, "entry": base64.b64encode(entry).decode()}
        for index, entry in enumerate(entries)
    ]
    if with_hashes:
        for row, entry in zip(rows, entries, strict=True):
            row["leaf_hash"] = leaf_hash(entry).hex()
    return [json.dumps(row).encode() + b"\n" for row in rows]


def refusal(bundle: bytes, keys: PublicKeys = KEYS) -> CertificateInvalid:
    with pytest.raises(CertificateInvalid) as refused:
        verify_bundle(bundle, keys)
    assert refused.value.advice
    return refused.value


# --- the certificate ---------------------------------------------------------------------------


def test_a_sound_certificate_holds() -> None:
    verified = verify_bundle(issue(), KEYS)
    assert verified.request_id == REQUEST
    assert verified.index == PLACE
    assert verified.checkpoint == checkpoint_over(entries_with(entry_for(statement())))
    assert verified.statement == json.loads(statement())


def test_the_envelope_is_one_that_securesystemslib_verifies() -> None:
    members = sign_statement(b"{}", CERTIFICATES)
    envelope = Envelope.from_dict(json.loads(json.dumps(members)))
    key = SSlibKey.from_crypto(CERTIFICATES.public_key())
    assert list(envelope.verify([key], 1)) == [key.keyid]


def test_the_signed_bytes_are_those_of_the_dsse_specification() -> None:
    signed = SignedStatement(b"hello world", "http://example.com/HelloWorld", ())
    assert signed.pae() == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_key_id_in_the_envelope_is_not_trusted() -> None:
    def rename(bundle: dict[str, object]) -> None:
        bundle["envelope"]["signatures"][0]["keyid"] = "another"  # type: ignore[index]

    assert verify_bundle(issue(edit=rename), KEYS).request_id == REQUEST


def test_a_signature_of_someone_else_beside_ours_does_no_harm() -> None:
    def add(bundle: dict[str, object]) -> None:
        foreign = sign_statement(statement(), STRANGER)["signatures"]
        bundle["envelope"]["signatures"] = foreign + bundle["envelope"]["signatures"]  # type: ignore[index]

    assert verify_bundle(issue(edit=add), KEYS).request_id == REQUEST


def test_step_1_a_file_that_is_no_bundle() -> None:
    assert refusal(b"not json").step == 1


def test_step_2_a_changed_statement() -> None:
    def change(bundle: dict[str, object]) -> None:
        payload = statement().replace(b"digits", b"digitz")
        bundle["envelope"]["payload"] = base64.b64encode(payload).decode()  # type: ignore[index]

    refused = refusal(issue(edit=change))
    assert (refused.step, refused.reason) == (
        2,
        "the statement was changed, or it was signed by another key than the one given",
    )


def test_step_2_a_changed_payload_type() -> None:
    def change(bundle: dict[str, object]) -> None:
        bundle["envelope"]["payloadType"] = "text/plain"  # type: ignore[index]

    assert refusal(issue(edit=change)).step == 2


def test_step_2_a_statement_signed_by_another_key() -> None:
    assert refusal(issue(key=STRANGER)).step == 2


def test_step_2_a_wrong_key_file() -> None:
    assert refusal(issue(), PublicKeys(LOG.verifier_key, STRANGER.public_key())).step == 2


@pytest.mark.parametrize(
    "payload",
    [
        statement(_type="https://in-toto.io/Statement/v0.1"),
        statement(predicateType="https://slsa.dev/provenance/v1"),
        statement(predicate={"request": {}}),
        statement(subject="model"),
        b"[]",
        b"not json",
        b'{"_type": 1, "_type": 2}',
    ],
)
def test_step_3_a_statement_about_something_else(payload: bytes) -> None:
    assert refusal(issue(payload)).step == 3


def test_step_3_another_payload_type_though_signed() -> None:
    def sign_other(bundle: dict[str, object]) -> None:
        signature = CERTIFICATES.sign(SignedStatement(statement(), "text/plain", ()).pae())
        envelope = bundle["envelope"]
        envelope["payloadType"] = "text/plain"  # type: ignore[index]
        envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()  # type: ignore[index]

    assert refusal(issue(edit=sign_other)).step == 3


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (entry_for(statement(), digest="00" * 32), "names another statement"),
        (entry_for(statement(), request=REQUEST.replace("0", "1")), "names another request"),
        (entry_for(statement(), event="plan_approved"), "not about a certificate"),
        (b'{"event": "certificate_issued"}', "not about a certificate"),
        (b"\xff", "cannot be read"),
    ],
)
def test_step_4_an_entry_about_something_else(entry: bytes, reason: str) -> None:
    refused = refusal(issue(entry=entry))
    assert refused.step == 4
    assert reason in refused.reason


def edit_proof(change: Callable[[str], str]) -> Callable[[dict[str, object]], None]:
    def edit(bundle: dict[str, object]) -> None:
        changed = change(str(bundle["proof"]))
        assert changed != bundle["proof"]
        bundle["proof"] = changed

    return edit


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda proof: proof.replace("index 4", "index 5"), id="index"),
        pytest.param(lambda proof: proof.replace("index 4", "index 9"), id="outside"),
        pytest.param(lambda proof: proof.replace("\n7\n", "\n9\n"), id="size"),
        pytest.param(lambda proof: proof.replace(proof.split("\n")[2], "A" * 43 + "="), id="hash"),
        pytest.param(lambda proof: proof.replace(proof.split("\n")[2] + "\n", ""), id="short"),
        pytest.param(lambda proof: proof.replace("\n7\n", "\n07\n"), id="malformed"),
    ],
)
def test_step_5_a_proof_of_something_else(change: Callable[[str], str]) -> None:
    assert refusal(issue(edit=edit_proof(change))).step == 5


def test_step_6_a_checkpoint_signed_by_another_log() -> None:
    other = Signer(LOG.verifier_key.name, STRANGER)
    assert refusal(issue(log=other)).step == 6


def test_step_6_a_forged_tree_for_a_statement_that_was_never_logged() -> None:
    # The forger holds a signed certificate and builds a log of his own around it.
    refused = refusal(
        issue(edit=edit_proof(lambda proof: proof.replace("\n\n— ", "\nextension\n\n— ")))
    )
    assert refused.step == 6
    assert "does not hold" in refused.reason


@given(data=st.data())
def test_no_changed_byte_of_the_signed_parts_goes_unseen(data: st.DataObject) -> None:
    bundle = json.loads(issue())
    part = data.draw(st.sampled_from(["payload", "entry"]))
    holder = bundle["envelope"] if part == "payload" else bundle
    content = bytearray(base64.b64decode(holder[part]))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    holder[part] = base64.b64encode(bytes(content)).decode()
    refusal(json.dumps(bundle).encode())


def without(member: str) -> Callable[[dict[str, object]], None]:
    return lambda bundle: bundle.__delitem__(member)


def having(member: str, value: object) -> Callable[[dict[str, object]], None]:
    return lambda bundle: bundle.__setitem__(member, value)


SIGNATURE = {"sig": "AA=="}
MALFORMED: dict[str, Callable[[dict[str, object]], None]] = {
    "no media type": without("mediaType"),
    "no proof": without("proof"),
    "another media type": having("mediaType", "application/json"),
    "a member of its own": having("note", "an unsigned remark"),
    "envelope is a list": having("envelope", []),
    "entry is a number": having("entry", 5),
    "entry is not base64": having("entry", "AA"),
    "another proof version": having("proof", "c2sp.org/tlog-proof@v2\nindex 0\n\ncheckpoint\n"),
    "no signatures": having("envelope", {"payload": "AA==", "payloadType": "t"}),
    "empty signatures": having(
        "envelope", {"payload": "AA==", "payloadType": "t", "signatures": []}
    ),
    "too many signatures": having(
        "envelope", {"payload": "AA==", "payloadType": "t", "signatures": [SIGNATURE] * 17}
    ),
    "payload is not base64": having(
        "envelope", {"payload": "A!==", "payloadType": "t", "signatures": [SIGNATURE]}
    ),
    "signature without sig": having(
        "envelope", {"payload": "AA==", "payloadType": "t", "signatures": [{"keyid": "a"}]}
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_bundle_is_refused(name: str) -> None:
    with pytest.raises(BundleInvalid):
        parse_bundle(issue(edit=MALFORMED[name]))


@pytest.mark.parametrize("data", [b"[]", b'{"mediaType": 1, "mediaType": 2}'])
def test_json_that_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleInvalid):
        parse_bundle(data)


def test_a_file_too_large_is_not_even_decoded() -> None:
    with pytest.raises(BundleInvalid, match="larger than any certificate"):
        parse_bundle(issue() + b" " * MAX_BUNDLE_BYTES)


def test_the_url_safe_alphabet_is_read_too() -> None:
    payload = b'{"a": "\xff\xfe\xfb"}'
    members = {
        "payload": base64.urlsafe_b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.urlsafe_b64encode(b"\xfb" * 64).decode()}],
    }
    assert parse_envelope(members) == SignedStatement(payload, PAYLOAD_TYPE, (b"\xfb" * 64,))


# --- the keys ----------------------------------------------------------------------------------


def test_the_key_file_reads_back() -> None:
    read = parse_public_keys(KEYS.format().encode())
    assert read.log == KEYS.log
    assert read.certificates.public_bytes_raw() == KEYS.certificates.public_bytes_raw()


def key_file(**changes: object) -> bytes:
    content = json.loads(KEYS.format())
    content["certificates"] |= changes.pop("certificates", {})
    return json.dumps(content | changes).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read"),
        (b"{}", "must hold `log` and `certificates`"),
        (key_file(log="log.example/lethe+00000000+AAAA"), "the log's key cannot be used"),
        (key_file(certificates={"keyid": "00" * 32}), "does not belong"),
        (key_file(certificates={"scheme": "rsa"}), "not an Ed25519 key"),
        (key_file(certificates={"public": "AAAA"}), "not 32 bytes"),
        (key_file(certificates={"public": 5}), "must hold `keyid`"),
    ],
)
def test_a_malformed_key_file_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(KeyFileInvalid, match=reason):
        parse_public_keys(data)


# --- the exported log --------------------------------------------------------------------------

ENTRIES = entries_with(entry_for(statement()))


@pytest.mark.parametrize("with_hashes", [True, False])
def test_a_whole_log_holds_at_every_tree_head(with_hashes: bool) -> None:
    heads = [checkpoint_over(ENTRIES[:size]) for size in range(SIZE + 1)]
    audited = audit_log(export(ENTRIES, with_hashes=with_hashes), heads)
    assert (audited.entries, audited.covered) == (SIZE, SIZE)


def test_entries_above_the_tree_head_are_counted_and_not_vouched_for() -> None:
    audited = audit_log(export(ENTRIES), [checkpoint_over(ENTRIES[:5])])
    assert (audited.entries, audited.covered) == (SIZE, 5)


def log_refusal(lines: list[bytes], head: Checkpoint | None = None) -> LogInvalid:
    with pytest.raises(LogInvalid) as refused:
        audit_log(lines, [head or checkpoint_over(ENTRIES)])
    assert refused.value.advice
    return refused.value


@pytest.mark.parametrize("index", range(SIZE))
def test_a_changed_row_is_named(index: int) -> None:
    lines = export(ENTRIES)
    row = json.loads(lines[index])
    row["entry"] = base64.b64encode(b'{"event": "nothing_happened"}').decode()
    lines[index] = json.dumps(row).encode()
    refused = log_refusal(lines)
    assert refused.index == index
    assert "is not what was logged" in refused.reason


def test_a_row_changed_together_with_its_hash_shows_in_the_root() -> None:
    refused = log_refusal(export([*ENTRIES[:2], b"changed", *ENTRIES[3:]]))
    assert refused.index is None
    assert "have the root" in refused.reason


@pytest.mark.parametrize("index", range(SIZE - 1))
def test_a_missing_row_is_named(index: int) -> None:
    lines = export(ENTRIES)
    refused = log_refusal(lines[:index] + lines[index + 1 :])
    assert (refused.index, "is missing" in refused.reason) == (index, True)


def test_a_cut_log_is_too_short_for_its_tree_head() -> None:
    refused = log_refusal(export(ENTRIES)[:-1])
    assert refused.reason == "the tree head signs 7 entries and the export ends after 6"


def test_rows_removed_and_renumbered_show_in_the_root() -> None:
    shorter = ENTRIES[:3] + ENTRIES[4:]
    assert "have the root" in log_refusal(export([*shorter, b"new"])).reason


def test_a_log_emptied_is_too_short() -> None:
    assert log_refusal([]).index == 0


def test_an_empty_log_under_a_false_root() -> None:
    head = Checkpoint(LOG.verifier_key.name, 0, bytes(32))
    assert "have the root" in log_refusal([], head).reason


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"index": 0, "entry": 5}',
        b'{"index": 0, "entry": "A"}',
        b'{"index": 0, "entry": "", "leaf_hash": "x"}',
        b"\xff",
    ],
)
def test_an_unreadable_line_is_named(line: bytes) -> None:
    refused = log_refusal([line])
    assert (refused.index, refused.reason) == (0, "line 1 of the export is not a log entry")


# --- the command -------------------------------------------------------------------------------


class Desk:
    """A folder with the files an auditor holds, and what the command told about them."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "certificate.json"
        self.key = folder / "lethe.pub"
        self.head = folder / "tree-head.txt"
        self.log = folder / "entries.ndjson"
        self.file.write_bytes(issue())
        self.key.write_text(KEYS.format())
        self.head.write_text(LOG.sign(checkpoint_over(ENTRIES).format()))
        self.log.write_bytes(b"".join(export(ENTRIES)))
        self.told = ""

    def verify(self, *, head: bool = False, log: bool = False) -> int:
        console = Console(file=io.StringIO(), width=200)
        code = verify_command(
            self.file, self.key, self.head if head else None, self.log if log else None, console
        )
        assert isinstance(console.file, io.StringIO)
        self.told = console.file.getvalue()
        return code


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_the_command_tells_every_step_and_what_is_not_guaranteed(
    desk: Desk, head: bool, log: bool
) -> None:
    assert desk.verify(head=head, log=log) == HOLDS
    for number, title in enumerate(STEPS, start=1):
        assert f"✓ {number}. {title}\n" in desk.told
    assert f"The certificate of request {REQUEST} holds" in desk.told
    assert "Entry 4 of 7 in the log log.example/lethe" in desk.told
    assert "- Backups [bold]last[/]." in desk.told
    assert ("All 7 entries under the tree head" in desk.told) is log
    assert ("The tree head given is signed" in desk.told) is head


def test_the_command_marks_the_step_that_fails(desk: Desk) -> None:
    desk.file.write_bytes(issue(entry=entry_for(statement(), digest="00" * 32)))
    assert desk.verify() == DOES_NOT_HOLD
    assert f"✓ 3. {STEPS[2]}\n✗ 4. {STEPS[3]}\n· 5. {STEPS[4]} (not reached)\n" in desk.told
    assert "Does not hold: the log entry names another statement than this one" in desk.told


def test_the_command_tells_a_changed_log_row(desk: Desk) -> None:
    lines = export(ENTRIES)
    lines[2] = lines[2].replace(b'"entry": "', b'"entry": "AAAA')
    desk.log.write_bytes(b"".join(lines))
    assert desk.verify(log=True) == DOES_NOT_HOLD
    assert "Does not hold: entry 2 is not what was logged" in desk.told


def test_the_command_tells_a_rewritten_log(desk: Desk) -> None:
    # Whoever holds database and key rewrote the log after this tree head was kept elsewhere.
    before = [b"what really happened", *ENTRIES[1:]]
    desk.head.write_text(LOG.sign(checkpoint_over(before).format()))
    assert desk.verify(head=True) == DOES_NOT_HOLD
    assert "the log signed two different trees of 7 entries" in desk.told


def test_a_smaller_tree_head_needs_the_log_to_compare(desk: Desk) -> None:
    desk.head.write_text(LOG.sign(checkpoint_over(ENTRIES[:3]).format()))
    assert desk.verify(head=True) == HOLDS
    assert "add --log to compare" in desk.told
    assert desk.verify(head=True, log=True) == HOLDS
    desk.head.write_text(LOG.sign(checkpoint_over([b"other", *ENTRIES[1:3]]).format()))
    assert desk.verify(head=True, log=True) == DOES_NOT_HOLD


def test_newer_entries_are_told_apart(desk: Desk) -> None:
    desk.log.write_bytes(b"".join(export([*ENTRIES, b"newer"])))
    assert desk.verify(log=True) == HOLDS
    assert "1 newer ones are under no tree head given" in desk.told


def test_a_tree_head_by_another_key(desk: Desk) -> None:
    stranger = Signer(LOG.verifier_key.name, STRANGER)
    desk.head.write_text(stranger.sign(checkpoint_over(ENTRIES).format()))
    assert desk.verify(head=True) == DOES_NOT_HOLD
    assert "the tree head given: the note is not signed by the key given" in desk.told


def test_files_that_cannot_be_read(desk: Desk) -> None:
    desk.key.write_text("{}")
    assert desk.verify() == UNREADABLE
    desk.key.unlink()
    assert desk.verify() == UNREADABLE
    assert "No such file" in desk.told


def test_a_certificate_without_stated_limits_is_told_without_them(desk: Desk) -> None:
    desk.file.write_bytes(issue(statement(predicate={"request": {"id": REQUEST}})))
    assert desk.verify() == HOLDS
    assert "Not guaranteed" not in desk.told


@pytest.mark.parametrize(("tampered", "code"), [(False, HOLDS), (True, DOES_NOT_HOLD)])
def test_it_runs_alone_from_the_command_line(desk: Desk, tampered: bool, code: int) -> None:
    if tampered:
        desk.file.write_bytes(issue(key=STRANGER))
    arguments = [str(desk.file), "--key", str(desk.key), "--tree-head", str(desk.head)]
    done = subprocess.run(
        [sys.executable, "-m", "lethe.verify", *arguments, "--log", str(desk.log)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert ("holds" in done.stdout) is not tampered


def test_the_proof_of_the_fixture_is_built_by_the_definition() -> None:
    leaves = [leaf_hash(entry) for entry in ENTRIES[:2]]
    assert prove(0, leaves) == [leaves[1]]
    assert tree_root(leaves) == node_hash(*leaves)
