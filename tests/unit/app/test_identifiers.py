import hashlib
import hmac
import traceback
import unicodedata
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.identifiers import (
    Identifier,
    InvalidIdentifier,
    names_person,
    normalise,
    owner_bucket,
    subject_key,
    subject_keys,
    subject_set_digest,
)


@pytest.mark.parametrize(
    ("identifier_type", "value", "region", "expected"),
    [
        ("email", "  Ana@Example.ORG\n", None, "ana@example.org"),
        ("email", "ana+shop@example.org", None, "ana+shop@example.org"),
        ("email", "a.na@example.org", None, "a.na@example.org"),
        ("email", "ana@bücher.example", None, "ana@xn--bcher-kva.example"),
        ("email", "ana@BU\u0308CHER.example", None, "ana@xn--bcher-kva.example"),
        ("email", "JOSE\u0301@example.org", None, "jos\u00e9@example.org"),
        ("phone", "+49 (0)30 123456", None, "+4930123456"),
        ("phone", "030 123456", "DE", "+4930123456"),
        ("phone", "001 212 555 0100", "DE", "+12125550100"),
        ("phone", "+39 06 1234 5678", None, "+390612345678"),
        ("phone", "\u202a+49 30 123456\u202c", None, "+4930123456"),
        ("customer_id", "  C-0047 ", None, "C-0047"),
        ("customer_id", "c-0047", None, "c-0047"),
        ("patient_id", "A\u030a 1", None, "\u00c5 1"),
        ("x" * 32, "x" * 256, None, "x" * 256),
    ],
)
def test_one_spelling(identifier_type: str, value: str, region: str | None, expected: str) -> None:
    assert normalise(identifier_type, value, region) == expected
    assert normalise(identifier_type, expected) == expected


@pytest.mark.parametrize(
    ("identifier_type", "value", "region"),
    [
        ("email", "nobody-at-home", None),
        ("email", "ana@", None),
        ("email", "ana@intranet.local", None),
        ("email", "ana@example.org, bob@example.org", None),
        ("email", "Ana <ana@example.org>", None),
        ("email", "ana@exa\u200bmple.org", None),
        ("phone", "030 123456", None),
        ("phone", "030 123456", "no such region"),
        ("phone", "+49 1", None),
        ("phone", "+1 212 555 0100 ext. 7731", None),
        ("phone", "not a number", "DE"),
        ("customer_id", "", None),
        ("customer_id", " \t ", None),
        ("customer_id", "y" * 257, None),
        ("customer_id", "C-00\x0047", None),
        ("customer_id", "C-00\u202e47", None),
        ("customer_id", "C-00\ud80047", None),
        ("customer_id", "C-00\u202847", None),
        ("Customer", "C-0047", None),
        ("1d", "C-0047", None),
        ("", "C-0047", None),
        ("x" * 33, "C-0047", None),
        ("customer_id\n", "C-0047", None),
    ],
)
def test_refusals_give_advice_and_never_the_value(
    identifier_type: str, value: str, region: str | None
) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        normalise(identifier_type, value, region)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.advice in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    printed = str(error) + repr(error) + repr(error.args)
    printed += "".join(traceback.format_exception_only(error))
    assert not value.strip() or value not in printed


def test_a_value_pasted_as_the_type_is_not_repeated() -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        normalise("ana@example.org", "email")
    assert "ana" not in repr(caught.value) + str(caught.value) + caught.value.type


def test_a_good_type_is_named_in_the_refusal() -> None:
    with pytest.raises(InvalidIdentifier, match="customer_id") as caught:
        normalise("customer_id", "")
    assert caught.value.type == "customer_id"


@given(st.text(max_size=300))
@example("\u0130" * 3)
@example(" \u0301x")
def test_free_form_is_its_own_normal_form(value: str) -> None:
    try:
        once = normalise("customer_id", value)
    except InvalidIdentifier:
        return
    assert normalise("customer_id", once) == once
    assert normalise("customer_id", unicodedata.normalize("NFD", value)) == once
    assert 1 <= len(once) <= 256


@given(st.emails())
def test_email_is_its_own_normal_form_and_ignores_case(value: str) -> None:
    try:
        once = normalise("email", value)
    except InvalidIdentifier:
        return
    assert normalise("email", once) == once == normalise("email", value.upper())


@given(st.text(alphabet="\u0130I\u0131i\u017fs\u00df\u212ak\u0307", min_size=1, max_size=8))
def test_email_with_awkward_case_is_its_own_normal_form(local_part: str) -> None:
    try:
        once = normalise("email", f"{local_part}@example.org")
    except InvalidIdentifier:
        return
    assert normalise("email", once) == once


def test_repr_hides_the_value() -> None:
    identifier = Identifier("email", "ana@example.org")
    assert repr(identifier) == "Identifier(type='email')"
    assert identifier == Identifier("email", "ana@example.org") != Identifier("email", "b@c.org")


def test_subject_key_is_the_hmac() -> None:
    digest = hmac.new(b"secret", b"email\x00jos\xc3\xa9@example.org", hashlib.sha256).digest()
    key = subject_key(b"secret", "email", "jos\u00e9@example.org")
    assert key == UUID(bytes=digest[:16])
    assert key != subject_key(b"other", "email", "jos\u00e9@example.org")
    assert key != subject_key(b"secret", "customer_id", "jos\u00e9@example.org")


def test_subject_keys_normalise_first_and_keep_the_order() -> None:
    identifiers = [Identifier("phone", "030 123456"), Identifier("email", " Ana@example.org")]
    assert subject_keys(b"secret", identifiers, "DE") == [
        subject_key(b"secret", "phone", "+4930123456"),
        subject_key(b"secret", "email", "ana@example.org"),
    ]
    with pytest.raises(InvalidIdentifier, match="country code"):
        subject_keys(b"secret", identifiers, None)


@given(st.text(max_size=20), st.binary(min_size=1, max_size=64))
def test_owner_bucket_is_two_bytes_of_the_hmac(owner: str, dataset_key: bytes) -> None:
    digest = hmac.new(dataset_key, b"bucket\x00" + owner.encode(), hashlib.sha256).digest()
    bucket = owner_bucket(dataset_key, owner)
    assert bucket == digest[0] * 256 + digest[1]
    assert 0 <= bucket < 65_536


@given(st.lists(st.uuids(), max_size=6))
def test_subject_set_digest_names_a_set(keys: list[UUID]) -> None:
    expected = hashlib.sha256()
    for key in sorted(set(keys), key=lambda key: key.bytes):
        expected.update(key.bytes)
    assert subject_set_digest(keys) == expected.digest()
    assert subject_set_digest([*reversed(keys), *keys]) == expected.digest()


def test_a_short_identifier_is_named_as_a_word_only() -> None:
    short = [Identifier("customer_id", "1")]
    assert names_person("the account is 1, as said", short, None)
    assert not names_person("told in 2021", short, None)
    assert names_person("seen as xC0031y", [Identifier("customer_id", "C0031")], None)
