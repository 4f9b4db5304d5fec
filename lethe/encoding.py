"""Strict base64 and JSON, for input that comes from a stranger.

Python's own decoders forgive too much: base64 drops foreign characters, JSON keeps the last of two
equal keys. A file that two programs read differently can be signed in one reading and shown in the
other.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import NoReturn


def decode_base64(text: str) -> bytes:
    """Decode standard, padded, canonical base64 (RFC 4648 §4).

    Raises:
        ValueError: A foreign character, missing padding, or bits left over in the last character.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64") from error
    if encode_base64(data) != text:
        raise ValueError("not canonical base64")
    return data


def decode_either_base64(text: str) -> bytes:
    """Decode standard or URL-safe base64, never a mix; DSSE verifiers accept both.

    Source: DSSE 1.0 envelope.md, "Standard or URL-safe encoding".

    Raises:
        ValueError: As `decode_base64`.
    """
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise ValueError("two base64 alphabets mixed")
        text = text.replace("-", "+").replace("_", "/")
    return decode_base64(text)


def encode_base64(data: bytes) -> str:
    """Encode as standard, padded base64 (RFC 4648 §4)."""
    return base64.b64encode(data).decode("ascii")


def decode_json(data: bytes) -> object:
    """Decode I-JSON: UTF-8, no key twice, no NaN or Infinity, no lone surrogate (RFC 7493 §2).

    Raises:
        ValueError: The bytes are not such JSON. The text quotes nothing of the input.
    """
    try:
        value: object = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except _JsonRefused:
        raise
    except ValueError as error:
        raise ValueError("not UTF-8 JSON") from error
    return value


class _JsonRefused(ValueError):
    """JSON that parses, but that I-JSON forbids."""


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _JsonRefused("a JSON key appears twice in one object")
    return members


def _no_constant(_: str) -> NoReturn:
    raise _JsonRefused("NaN and Infinity are not JSON")
