"""Base64 and JSON that mean one thing only."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.encoding import decode_base64, decode_either_base64, decode_json, encode_base64


@given(data=st.binary())
def test_base64_reads_back_in_either_alphabet(data: bytes) -> None:
    assert decode_base64(encode_base64(data)) == data
    assert decode_either_base64(encode_base64(data)) == data
    assert decode_either_base64(base64.urlsafe_b64encode(data).decode()) == data


@pytest.mark.parametrize(
    "text", ["AB==", "AA=", "AA", "A A=", "AA==\n", "A-A=", "ÄA==", "AA==AA=="]
)
def test_loose_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_base64(text)


def test_one_alphabet_at_a_time() -> None:
    with pytest.raises(ValueError, match="mixed"):
        decode_either_base64("+-AA")


def test_json_is_decoded() -> None:
    assert decode_json('{"a": [1, null, "ä"]}'.encode()) == {"a": [1, None, "ä"]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"b": {"a": 1, "a": 2}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[-Infinity]", "NaN"),
        (b"{", "not UTF-8 JSON"),
        (b"\xff", "not UTF-8 JSON"),
        (b'"\\ud800"', "not UTF-8 JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "not UTF-8 JSON"),
    ],
)
def test_json_that_may_be_read_in_two_ways_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_json(data)
