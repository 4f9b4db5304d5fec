"""Identifiers of a person, and the keyed hashes that stand for them everywhere else.

Intake and indexing must turn the same person into the same key, so there is one spelling for each
kind of identifier and it is decided here. This module holds no secret, asks no network and never
repeats an identifier in an error or a repr.
"""

import contextlib
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from uuid import UUID

import phonenumbers
from email_validator import EmailNotValidError, ValidatedEmail, validate_email

IdentifierType: TypeAlias = str
"""A slug: `email`, `phone`, or a word of the controller's own such as `customer_id`."""

EMAIL: Final = "email"
PHONE: Final = "phone"
IDENTIFIER_TYPE_PATTERN: Final = r"^[a-z][a-z0-9_]{0,31}$"
MAX_IDENTIFIER_CHARACTERS: Final = 256

_SHORT: Final = 3
_SLUG: Final = re.compile(IDENTIFIER_TYPE_PATTERN.removeprefix("^").removesuffix("$"))
# Control and format characters, lone surrogates, line and paragraph separators: two identifiers
# that look the same would get different keys, and the person would silently not be found.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class InvalidIdentifier(ValueError):
    """An identifier that cannot be normalised.

    Holds what to do about it, never the value; the type is kept only when it is a slug, since
    people also paste the identifier itself into the wrong field.
    """

    def __init__(self, identifier_type: str, advice: str) -> None:
        self.type = identifier_type if _SLUG.fullmatch(identifier_type) else "malformed type"
        self.advice = advice
        super().__init__(f"Invalid identifier ({self.type}): {advice}")


@dataclass(frozen=True, slots=True)
class Identifier:
    """One identifier as a person or portal gave it. The repr shows the type only."""

    type: IdentifierType
    value: str = field(repr=False)


def normalise(
    identifier_type: IdentifierType, value: str, default_region: str | None = None
) -> str:
    """Returns the one spelling of `value` that keys are made from.

    - `email`: syntax only, no DNS. Unicode NFC, the domain as IDNA A-labels in lower case, and the
      local part in lower case too: RFC 5321 §2.4 lets a host tell cases apart, but hardly one does,
      and a person missed because of a capital letter is the worse error. Tags (`ana+shop@`) and
      dots are kept, because they can be different people at another provider.
      Domains for private use (`.local`, `.test`) are no addresses; give them a type of their own.
    - `phone`: E.164. Needs a leading + and country code, or `default_region` (ISO 3166 alpha-2). A
      number need only be possible, not assigned: numbering plans age. Extensions are refused, since
      E.164 has none and everyone behind a switchboard would become one person.
    - any other type: NFC, without white space at the ends; the case is kept.

    The result is its own normal form.

    Raises:
        InvalidIdentifier: the type is no slug, or the value is empty, longer than 256 characters,
            holds invisible characters or is no address or number.
    """
    if not _SLUG.fullmatch(identifier_type):
        raise InvalidIdentifier(
            identifier_type,
            "name the type with 1 to 32 characters a-z, 0-9 and _, starting with a letter",
        )
    text = unicodedata.normalize("NFC", value).strip()
    if not 1 <= len(text) <= MAX_IDENTIFIER_CHARACTERS:
        raise InvalidIdentifier(
            identifier_type, f"give a value of 1 to {MAX_IDENTIFIER_CHARACTERS} characters"
        )
    if identifier_type == PHONE:
        return _e164(text, default_region)
    if holds_invisible(text):
        raise InvalidIdentifier(identifier_type, "remove control and other invisible characters")
    return _mailbox(text) if identifier_type == EMAIL else text


def holds_invisible(text: str, allowed: str = "") -> bool:
    """Says whether a text holds control, bidi or other invisible characters but for `allowed`."""
    return any(unicodedata.category(one) in _INVISIBLE and one not in allowed for one in text)


def _mailbox(text: str) -> str:
    # Raised outside the handler: the library's message quotes parts of the address, and a chained
    # exception would carry it into tracebacks.
    address: ValidatedEmail | None = None
    with contextlib.suppress(EmailNotValidError):
        address = validate_email(text, check_deliverability=False)
    if address is None:
        raise InvalidIdentifier(EMAIL, "give one address such as name@example.org")
    local_part = unicodedata.normalize("NFC", address.local_part.lower())
    return f"{local_part}@{address.ascii_domain.lower()}"


def _e164(text: str, default_region: str | None) -> str:
    number: phonenumbers.PhoneNumber | None = None
    with contextlib.suppress(phonenumbers.NumberParseException):
        number = phonenumbers.parse(text, default_region)
    if number is None or not phonenumbers.is_possible_number(number):
        raise InvalidIdentifier(PHONE, "give the number with + and country code, as in E.164")
    if number.extension:
        raise InvalidIdentifier(
            PHONE, "give the number without its extension, or use a type of your own for it"
        )
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def names_person(text: str, named: Iterable[Identifier], default_region: str | None) -> bool:
    """Says whether a text holds one of the identifiers, as given or in its normal form.

    A phone number is found with any separators, an identifier of up to three characters as a word
    of its own only: customer "1" is not named by every number.

    Raises:
        InvalidIdentifier: one cannot be normalised.
    """
    said = text.casefold()
    digits = re.sub(r"[\s()./-]", "", said)
    for one in named:
        normal = normalise(one.type, one.value, default_region).casefold()
        if _is_said(one.value.strip().casefold(), said) or _is_said(normal, said):
            return True
        if one.type == PHONE and normal.removeprefix("+") in digits:
            return True
    return False


def _is_said(identifier: str, said: str) -> bool:
    if len(identifier) > _SHORT:
        return identifier in said
    return re.search(rf"(?<!\w){re.escape(identifier)}(?!\w)", said) is not None


def subject_key(secret: bytes, identifier_type: IdentifierType, normalised: str) -> UUID:
    """Returns the subject key: the first 16 bytes of HMAC-SHA256(secret, type ‖ 0x00 ‖ value).

    The type is part of the message, so that a customer id cannot collide with a phone number; a
    slug holds no zero byte, so the message can be read in one way only. `normalised` is what
    `normalise` returned. The UUID is only a 16-byte container: its version bits mean nothing.
    """
    message = identifier_type.encode() + b"\x00" + normalised.encode()
    return UUID(bytes=hmac.digest(secret, message, "sha256")[:16])


def owner_bucket(dataset_key: bytes, normalised_owner: str) -> int:
    """Returns the owner's bucket, 0 to 65535, under the key of one dataset (never rotated).

    The first two bytes, big-endian, of HMAC-SHA256(dataset_key, "bucket" ‖ 0x00 ‖ owner). Stored
    with the record and carried into later versions, never computed again (DESIGN decision 6).
    """
    digest = hmac.digest(dataset_key, b"bucket\x00" + normalised_owner.encode(), "sha256")
    return int.from_bytes(digest[:2], "big")


def subject_set_digest(keys: Iterable[UUID]) -> bytes:
    """Returns 32 bytes that name a set of subject keys, whatever their order or repetition."""
    return hashlib.sha256(b"".join(sorted({key.bytes for key in keys}))).digest()


def subject_keys(
    secret: bytes, identifiers: Iterable[Identifier], default_region: str | None
) -> list[UUID]:
    """Returns the subject key of each identifier, normalised first, in the order given.

    Raises:
        InvalidIdentifier: one cannot be normalised.
    """
    return [
        subject_key(secret, one.type, normalise(one.type, one.value, default_region))
        for one in identifiers
    ]
