"""The proof file: reads back what was written, refuses what the specification does not allow."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.encoding import encode_base64
from lethe.tlogproof import TlogProof, TlogProofInvalid, parse_tlog_proof

HASH_1 = hashlib.sha256(b"hash1").digest()
HASH_2 = hashlib.sha256(b"hash2").digest()
HEADER = "c2sp.org/tlog-proof@v1\n"


@given(
    index=st.integers(0, 2**64 - 1),
    hashes=st.lists(st.binary(min_size=32, max_size=32), max_size=64),
    extra=st.binary(max_size=40),
)
def test_a_proof_reads_back(index: int, hashes: list[bytes], extra: bytes) -> None:
    checkpoint = "log.example\n1\nroot\n\n— log.example signature\n"
    proof = TlogProof(index, tuple(hashes), checkpoint, extra)
    assert parse_tlog_proof(proof.format()) == proof


@pytest.mark.parametrize(
    ("proof", "text"),
    [
        (
            TlogProof(5, (HASH_1, HASH_2), "test checkpoint\n"),
            f"{HEADER}index 5\n{encode_base64(HASH_1)}\n{encode_base64(HASH_2)}\n\n"
            "test checkpoint\n",
        ),
        (
            TlogProof(10, (HASH_1,), "checkpoint data\n", b"extra information"),
            f"{HEADER}extra ZXh0cmEgaW5mb3JtYXRpb24=\nindex 10\n{encode_base64(HASH_1)}\n\n"
            "checkpoint data\n",
        ),
        (TlogProof(0, (), "checkpoint\n"), f"{HEADER}index 0\n\ncheckpoint\n"),
    ],
)
def test_the_text_is_the_one_other_implementations_write(proof: TlogProof, text: str) -> None:
    assert proof.format() == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("wrong-header\nindex 0\n\ncheckpoint\n", "does not start with"),
        ("", "no checkpoint"),
        (f"{HEADER}index 0\n", "no checkpoint"),
        (f"{HEADER}index 0\n\n", "no checkpoint"),
        (f"{HEADER}extra !!notbase64!!\nindex 0\n\ncheckpoint\n", "extra data of the proof"),
        (f"{HEADER}extra \nindex 0\n\ncheckpoint\n", "extra line of the proof is empty"),
        (f"{HEADER}\n\ncheckpoint\n", "no index line"),
        (f"{HEADER}index notanumber\n\ncheckpoint\n", "not a decimal number"),
        (f"{HEADER}index -5\n\ncheckpoint\n", "not a decimal number"),
        (f"{HEADER}index 05\n\ncheckpoint\n", "not a decimal number"),
        (f"{HEADER}index {2**64}\n\ncheckpoint\n", "not a decimal number"),
        (f"{HEADER}index 0\n!!notbase64!!\n\ncheckpoint\n", "a hash of the proof is not base64"),
        (f"{HEADER}index 0\n{encode_base64(bytes(64))}\n\ncheckpoint\n", "32 bytes"),
        (f"{HEADER}index 0\n{(encode_base64(HASH_1) + chr(10)) * 65}\ncheckpoint\n", "more hashes"),
    ],
)
def test_a_malformed_proof_is_refused(text: str, reason: str) -> None:
    with pytest.raises(TlogProofInvalid) as refused:
        parse_tlog_proof(text)
    assert reason in refused.value.reason
