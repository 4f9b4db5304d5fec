"""The C2SP proof that an entry is in the log: one text file, checked without the network.

Source: c2sp.org/tlog-proof.
"""

from dataclasses import dataclass

from lethe.encoding import decode_base64, encode_base64
from lethe.merkle import HASH_BYTES
from lethe.notes import NoteInvalid, parse_decimal

HEADER = "c2sp.org/tlog-proof@v1"
_EXTRA = "extra "
_INDEX = "index "
# A tree of fewer than 2^64 leaves has at most 64 rows above them.
_MAX_HASHES = 64


class TlogProofInvalid(ValueError):
    """The proof file is malformed.

    Attributes:
        reason: What is wrong with it, in one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TlogProof:
    """Where an entry is in the log, and the hashes that lead from it to the signed root.

    Attributes:
        index: The entry's index, from 0.
        hashes: The inclusion proof from the leaf's sibling upwards, 32 bytes each.
        checkpoint: The signed note of the tree head, verbatim.
        extra: Opaque data that nothing authenticates; empty where there is none.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes = b""

    def format(self) -> str:
        """Write the proof (tlog-proof, "Format")."""
        extra = [_EXTRA + encode_base64(self.extra)] if self.extra else []
        hashes = [encode_base64(value) for value in self.hashes]
        return "\n".join([HEADER, *extra, f"{_INDEX}{self.index}", *hashes, "", self.checkpoint])


def parse_tlog_proof(text: str) -> TlogProof:
    """Read a proof, verifying nothing but its form (tlog-proof, "Format").

    Raises:
        TlogProofInvalid: It is malformed.
    """
    head, separator, checkpoint = text.partition("\n\n")
    if not separator or not checkpoint:
        raise TlogProofInvalid("the proof has no checkpoint after an empty line")
    header, *lines = head.split("\n")
    if header != HEADER:
        raise TlogProofInvalid(f"the proof does not start with {HEADER}")
    extra = b""
    if lines and lines[0].startswith(_EXTRA):
        extra = _decode(lines.pop(0).removeprefix(_EXTRA), "the extra data")
        if not extra:
            raise TlogProofInvalid("the extra line of the proof is empty")
    if not lines or not lines[0].startswith(_INDEX):
        raise TlogProofInvalid("the proof has no index line")
    try:
        index = parse_decimal(lines.pop(0).removeprefix(_INDEX))
    except NoteInvalid as error:
        raise TlogProofInvalid("the index of the proof is not a decimal number") from error
    return TlogProof(index, _hashes(lines), checkpoint, extra)


def _hashes(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > _MAX_HASHES:
        raise TlogProofInvalid("the proof has more hashes than any tree has rows")
    hashes = tuple(_decode(line, "a hash") for line in lines)
    if any(len(value) != HASH_BYTES for value in hashes):
        raise TlogProofInvalid("a hash of the proof is not 32 bytes long")
    return hashes


def _decode(text: str, what: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as error:
        raise TlogProofInvalid(f"{what} of the proof is not base64") from error
