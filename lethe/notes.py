"""C2SP signed notes and checkpoints: how a tree head is written, signed and opened.

Ed25519 only. Cosignatures of witnesses are other keys' signatures and are skipped, as the note
specification demands of keys one does not know.

Sources: c2sp.org/signed-note, c2sp.org/tlog-checkpoint.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lethe.encoding import decode_base64, encode_base64
from lethe.merkle import HASH_BYTES, MAX_SIZE

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_SIGNATURE_START = "— "
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_KEY_ID_HEX = re.compile(r"[0-9a-f]{8}")


class NoteInvalid(ValueError):
    """A note, checkpoint or verifier key that is malformed, or a signature that does not hold.

    Attributes:
        reason: What does not hold, in one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that opens notes.

    Attributes:
        name: The signer's name; for a log, its origin.
        public_key: The Ed25519 public key, 32 bytes (RFC 8032).
    """

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not _is_key_name(self.name):
            raise NoteInvalid("a key name must not be empty nor hold spaces or a plus sign")
        if len(self.public_key) != 32:
            raise NoteInvalid("an Ed25519 public key is 32 bytes long")

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that name this key in a signature line (signed-note, "Signatures")."""
        identity = self.name.encode() + b"\n" + _ED25519 + self.public_key
        return hashlib.sha256(identity).digest()[:_KEY_ID_BYTES]

    def format(self) -> str:
        """Write the vkey: name, key id in hex, type and key in base64, joined by plus signs."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(_ED25519 + self.public_key)}"

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read a vkey (signed-note, "Verifier keys").

        Raises:
            NoteInvalid: It is malformed, of another algorithm, or its key id is not its own.
        """
        parts = vkey.split("+", 2)
        if len(parts) != 3 or not _KEY_ID_HEX.fullmatch(parts[1]):
            raise NoteInvalid("a verifier key reads name+key id+key")
        try:
            typed_key = decode_base64(parts[2])
        except ValueError as error:
            raise NoteInvalid("the verifier key is not base64") from error
        if typed_key[:1] != _ED25519:
            raise NoteInvalid("the verifier key is not an Ed25519 key")
        key = cls(parts[0], typed_key[1:])
        if key.key_id.hex() != parts[1]:
            raise NoteInvalid("the key id does not belong to this verifier key")
        return key


class Signer:
    """Signs notes with an Ed25519 private key under a name; for a log, its origin."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.verifier_key = VerifierKey(name, private_key.public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """Return the signed note over `text`.

        Raises:
            NoteInvalid: The text does not end in a newline or holds control characters.
        """
        if not text.endswith("\n"):
            raise NoteInvalid("the text of a note ends in a newline")
        _check_characters(text)
        signature = self.verifier_key.key_id + self._private_key.sign(text.encode())
        name = self.verifier_key.name
        return f"{text}\n{_SIGNATURE_START}{name} {encode_base64(signature)}\n"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who claims to have signed, and the signature, not yet verified."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart. Its text means nothing until `open_note` has verified it."""

    text: str
    signatures: tuple[NoteSignature, ...]


def parse_note(note: bytes) -> Note:
    """Take a note apart, verifying nothing (signed-note, "Format").

    Raises:
        NoteInvalid: The note is malformed.
    """
    if len(note) > MAX_NOTE_BYTES:
        raise NoteInvalid("the note is too long")
    try:
        content = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoteInvalid("the note is not UTF-8") from error
    _check_characters(content)
    # The text itself may hold empty lines: the last one parts text and signatures.
    text, separator, signature_lines = content.rpartition("\n\n")
    if not separator or not signature_lines.endswith("\n"):
        raise NoteInvalid("the note has no signature lines after an empty line")
    lines = signature_lines[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteInvalid("the note has too many signatures")
    return Note(text + "\n", tuple(_parse_signature(line) for line in lines))


def open_note(note: bytes, key: VerifierKey) -> str:
    """Return the text of a note that `key` signed.

    Signatures of other keys are skipped; each one that claims to be by `key` must hold
    (signed-note, "Signatures").

    Raises:
        NoteInvalid: The note is malformed, `key` did not sign it, or its signature does not hold.
    """
    parsed = parse_note(note)
    claimed = [
        line for line in parsed.signatures if (line.name, line.key_id) == (key.name, key.key_id)
    ]
    if not claimed:
        raise NoteInvalid("the note is not signed by the key given")
    public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
    for line in claimed:
        try:
            public_key.verify(line.signature, parsed.text.encode())
        except InvalidSignature as error:
            raise NoteInvalid("the signature on the note does not hold") from error
    return parsed.text


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log at one size: what a tree head says.

    Attributes:
        origin: The log's name.
        size: The number of entries.
        root: The Merkle tree hash over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def format(self) -> str:
        """Write the note text of this checkpoint (tlog-checkpoint, "Note text")."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the note text of a checkpoint (tlog-checkpoint, "Note text").

    Extension lines are allowed and skipped: no monitor could audit what they say.

    Raises:
        NoteInvalid: The text is malformed.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise NoteInvalid("a checkpoint has three lines: origin, size and root")
    try:
        root = decode_base64(lines[2])
    except ValueError as error:
        raise NoteInvalid("the root of the checkpoint is not base64") from error
    if len(root) != HASH_BYTES:
        raise NoteInvalid("the root of the checkpoint is not 32 bytes long")
    return Checkpoint(lines[0], parse_decimal(lines[1]), root)


def open_checkpoint(note: bytes, key: VerifierKey) -> Checkpoint:
    """Return the checkpoint that the log with this key signed.

    Raises:
        NoteInvalid: As `open_note` and `parse_checkpoint`, or it is another log's checkpoint.
    """
    checkpoint = parse_checkpoint(open_note(note, key))
    if checkpoint.origin != key.name:
        raise NoteInvalid("the checkpoint is of another log than its key")
    return checkpoint


def parse_decimal(text: str) -> int:
    """Read a size or index: ASCII decimal below 2⁶⁴, without leading zeros.

    Raises:
        NoteInvalid: It is written in another way or too large.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise NoteInvalid("a size or index is a plain decimal number below 2^64")
    return int(text)


def _parse_signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not line.startswith(_SIGNATURE_START) or not separator or not _is_key_name(name):
        raise NoteInvalid("a signature line of the note is malformed")
    try:
        data = decode_base64(encoded)
    except ValueError as error:
        raise NoteInvalid("a signature of the note is not base64") from error
    if len(data) <= _KEY_ID_BYTES:
        raise NoteInvalid("a signature of the note is empty")
    return NoteSignature(name, data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])


def _is_key_name(name: str) -> bool:
    return bool(name) and not any(letter.isspace() or letter == "+" for letter in name)


def _check_characters(text: str) -> None:
    if any(letter < " " and letter != "\n" for letter in text):
        raise NoteInvalid("the note holds control characters")
