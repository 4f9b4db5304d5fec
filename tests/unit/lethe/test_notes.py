"""Signed notes and checkpoints against the specifications' own examples and malformed input."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from lethe.encoding import encode_base64
from lethe.merkle import EMPTY_ROOT
from lethe.notes import (
    MAX_NOTE_BYTES,
    Checkpoint,
    NoteInvalid,
    Signer,
    VerifierKey,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_note,
)

# The example of c2sp.org/signed-note.
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_SIGNATURE = (
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuw"
    "HjG1Yu72IneyaQM=\n"
)
SPEC_TEXT = "This is an example message.\n"
SPEC_NOTE = f"{SPEC_TEXT}\n{SPEC_SIGNATURE}".encode()

SEED = bytes(range(32))
SIGNER = Signer("log.example/audit", Ed25519PrivateKey.from_private_bytes(SEED))
KEY = SIGNER.verifier_key
OTHER = Signer("witness.example", Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_the_example_of_the_specification_opens() -> None:
    assert open_note(SPEC_NOTE, VerifierKey.parse(SPEC_VKEY)) == SPEC_TEXT


# A key and a note of golang.org/x/mod/sumdb/note's documentation.
PETER_PRIVATE = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("810a1402d5146c8d84f2443330f54080ebf98ee17d9c74f6252fc5d5c7283173")
)
PETER = Signer("PeterNeumann", PETER_PRIVATE)


def test_a_key_known_from_go_is_formatted_alike() -> None:
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert PETER.verifier_key.format() == vkey
    assert VerifierKey.parse(vkey) == PETER.verifier_key


def test_a_note_known_from_go_is_signed_to_the_same_bytes() -> None:
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    first = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFY"
    second = "C2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    assert PETER.sign(text) == f"{text}\n— PeterNeumann {first}{second}\n"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/bar+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+!ekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        # Wrong length and unknown algorithm, with the key id adjusted (golang.org/x/mod).
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_a_malformed_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(NoteInvalid):
        VerifierKey.parse(vkey)


@pytest.mark.parametrize("name", ["", "two words", "no\u00a0break", "a+b"])
def test_a_key_name_without_spaces_or_plus(name: str) -> None:
    with pytest.raises(NoteInvalid):
        VerifierKey(name, bytes(32))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_an_ed25519_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(NoteInvalid, match="32 bytes"):
        VerifierKey("log.example", bytes(length))


@given(
    text=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]) | st.just("\n")),
)
def test_what_is_signed_opens_to_the_same_text(text: str) -> None:
    note = SIGNER.sign(text + "\n").encode()
    assert open_note(note, KEY) == text + "\n"


@given(data=st.data())
def test_no_changed_byte_goes_unseen(data: st.DataObject) -> None:
    note = bytearray(SIGNER.sign("one\n\ntwo\n").encode())
    place = data.draw(st.integers(0, len(note) - 1))
    note[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NoteInvalid):
        open_note(bytes(note), KEY)


def test_signatures_of_others_are_skipped() -> None:
    text = "text\n"
    cosigned = SIGNER.sign(text) + OTHER.sign(text).removeprefix(f"{text}\n")
    assert open_note(cosigned.encode(), KEY) == text
    assert open_note(cosigned.encode(), OTHER.verifier_key) == text


def test_the_last_empty_line_parts_text_and_signatures() -> None:
    text = f"quoted:\n\n{SPEC_NOTE.decode()}"
    note = parse_note(SIGNER.sign(text).encode())
    assert note.text == text
    assert [signature.name for signature in note.signatures] == [KEY.name]


def test_a_note_by_another_key_is_not_opened() -> None:
    with pytest.raises(NoteInvalid, match="not signed by the key given"):
        open_note(OTHER.sign("text\n").encode(), KEY)


def test_a_second_bad_signature_of_the_known_key_rejects_the_note() -> None:
    good, bad = SIGNER.sign("text\n"), SIGNER.sign("other\n")
    note = good + bad.removeprefix("other\n\n")
    with pytest.raises(NoteInvalid, match="does not hold"):
        open_note(note.encode(), KEY)


SIXTEEN = SPEC_SIGNATURE * 16


def test_sixteen_signatures_are_accepted() -> None:
    note = f"{SPEC_TEXT}\n{SIXTEEN}".encode()
    assert open_note(note, VerifierKey.parse(SPEC_VKEY)) == SPEC_TEXT


@pytest.mark.parametrize(
    "note",
    [
        b"",
        SPEC_TEXT.encode(),
        f"{SPEC_TEXT}\n".encode(),
        SPEC_NOTE[:-1],
        b"\x01" + SPEC_NOTE,
        b"\xff" + SPEC_NOTE,
        SPEC_NOTE.replace(b"an example", b"an\texample"),
        SPEC_NOTE.replace(b"\n", b"\r\n"),
        SPEC_NOTE.replace(b"example.com/foo ", b"Bad Name "),
        SPEC_NOTE.replace(b"example.com/foo ", b"a+b "),
        SPEC_NOTE.replace("— ".encode(), b"- "),
        SPEC_NOTE + b"Unexpected line.\n",
        SPEC_NOTE.replace(b"yaQM=", b"yaQM"),
        SPEC_NOTE.replace(b"yaQM=", b"yaQN="),
        f"{SPEC_TEXT}\n— example.com/foo Uw2QOg==\n".encode(),
        f"{SPEC_TEXT}\n— example.com/foo \n".encode(),
        f"{SPEC_TEXT}\n— example.com/foo\n".encode(),
        f"{SPEC_TEXT}\n{SPEC_SIGNATURE * 101}".encode(),
        b"a" * MAX_NOTE_BYTES + SPEC_NOTE,
    ],
)
def test_a_malformed_note_is_refused(note: bytes) -> None:
    with pytest.raises(NoteInvalid):
        open_note(note, VerifierKey.parse(SPEC_VKEY))


@pytest.mark.parametrize("character", ["\x00", "\t", "\r", "\x1f"])
def test_control_characters_are_refused_whoever_signed_them(character: str) -> None:
    text = f"a{character}b\n"
    signature = PETER.verifier_key.key_id + PETER_PRIVATE.sign(text.encode())
    note = f"{text}\n— PeterNeumann {encode_base64(signature)}\n".encode()
    with pytest.raises(NoteInvalid, match="control characters"):
        open_note(note, PETER.verifier_key)


@pytest.mark.parametrize("text", ["no newline", "bell\x07\n", "tab\t\n", "return\r\n"])
def test_a_text_that_no_note_may_hold_is_not_signed(text: str) -> None:
    with pytest.raises(NoteInvalid):
        SIGNER.sign(text)


@given(size=st.integers(0, 2**64 - 1), root=st.binary(min_size=32, max_size=32))
def test_a_signed_checkpoint_reads_back(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(KEY.name, size, root)
    assert open_checkpoint(SIGNER.sign(checkpoint.format()).encode(), KEY) == checkpoint


def test_the_checkpoint_text_is_the_specified_one() -> None:
    text = Checkpoint("example.com/log", 0, EMPTY_ROOT).format()
    assert text == "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


def test_extension_lines_are_skipped() -> None:
    text = Checkpoint("example.com/log", 7, EMPTY_ROOT).format()
    assert parse_checkpoint(text + "extension\n") == parse_checkpoint(text)


ROOT = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"origin\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"origin\n1\n{ROOT}\n\nextension\n",
        "origin\n1\n",
        f"origin\n01\n{ROOT}\n",
        f"origin\n-1\n{ROOT}\n",
        f"origin\n+1\n{ROOT}\n",
        f"origin\n1_0\n{ROOT}\n",
        f"origin\n 1\n{ROOT}\n",
        f"origin\n\u0661\n{ROOT}\n",
        f"origin\n{2**64}\n{ROOT}\n",
        f"origin\n{'9' * 5000}\n{ROOT}\n",
        f"origin\n1\n{ROOT[:-1]}\n",
        "origin\n1\nAAAA\n",
        f"origin\n1\n {ROOT}\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_checkpoint(text)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    note = SIGNER.sign(Checkpoint("log.example/other", 1, EMPTY_ROOT).format())
    with pytest.raises(NoteInvalid, match="another log"):
        open_checkpoint(note.encode(), KEY)


def test_the_private_key_is_not_in_the_signers_repr() -> None:
    assert SEED.hex() not in repr(SIGNER) + repr(vars(SIGNER))
