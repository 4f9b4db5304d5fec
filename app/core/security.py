"""Keys at rest: API keys hashed, data keys wrapped, identifiers sealed under a request's key."""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from uuid_utils.compat import uuid7

from app.core.errors import AppError
from app.core.identifiers import Identifier

NONCE_BYTES = 12


class Role(StrEnum):
    """Who may do what (DESIGN, Roles); one role per API key."""

    PORTAL = "portal"
    DPO = "dpo"
    ENGINEER = "engineer"
    AUDITOR = "auditor"
    ADMIN = "admin"


class SealBrokenError(AppError):
    """A sealed value does not open with this vault secret."""

    slug = "seal-broken"
    advice = "LETHE_VAULT_SECRET differs from the one in use when the value was sealed."


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A fresh API key: its row id, the secret's hash to store, the token to show once."""

    id: UUID
    secret_hash: bytes
    token: str


def new_api_key() -> NewApiKey:
    """Make an API key `lethe_<id>_<secret>` with 256 bits of randomness."""
    key_id, secret = UUID(str(uuid7())), secrets.token_urlsafe(32)
    return NewApiKey(key_id, hash_secret(secret), f"lethe_{key_id.hex}_{secret}")


def parse_token(token: str) -> tuple[UUID, str] | None:
    """Split a bearer token into key id and secret, or None if it has another form."""
    parts = token.split("_", 2)
    if len(parts) != 3 or parts[0] != "lethe":
        return None
    try:
        return UUID(hex=parts[1]), parts[2]
    except ValueError:
        return None


def hash_secret(secret: str) -> bytes:
    """Hash an API key's secret; it is 256 random bits, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).digest()


def secret_matches(secret: str, stored: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(hash_secret(secret), stored)


def _key_of(vault_secret: str, purpose: str) -> bytes:
    return hmac.new(vault_secret.encode(), purpose.encode(), hashlib.sha256).digest()


def seal(key: bytes, plain: bytes, bound_to: str) -> bytes:
    """Encrypt with AES-256-GCM under `key` (32 bytes), bound to the row it belongs to."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound_to.encode())


def unseal(key: bytes, sealed: bytes, bound_to: str) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        SealBrokenError: the key or the row is another one, or the bytes were changed.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to.encode())
    except InvalidTag as error:
        raise SealBrokenError from error


def new_wrapped_key(vault_secret: str, bound_to: str) -> tuple[bytes, bytes]:
    """Make a random 32-byte data key; return (key, key wrapped under the vault secret)."""
    key = secrets.token_bytes(32)
    return key, seal(_key_of(vault_secret, "wrap"), key, bound_to)


def unwrap_key(vault_secret: str, wrapped: bytes, bound_to: str) -> bytes:
    """Return the data key that `new_wrapped_key` wrapped."""
    return unseal(_key_of(vault_secret, "wrap"), wrapped, bound_to)


def message_code(vault_secret: str, purpose: str, message: bytes) -> bytes:
    """Return the HMAC-SHA256 of a message, under the vault secret's key for that one purpose."""
    return hmac.digest(_key_of(vault_secret, purpose), message, "sha256")


def keyed_digest(vault_secret: str, data: bytes) -> bytes:
    """Digest a body that may hold identifiers so that the digest alone tells nothing."""
    return hmac.new(_key_of(vault_secret, "digest"), data, hashlib.sha256).digest()


def dump_identifiers(identifiers: list[Identifier]) -> bytes:
    """Serialise identifiers for sealing."""
    return json.dumps([[one.type, one.value] for one in identifiers]).encode()


def load_identifiers(plain: bytes) -> list[Identifier]:
    """Read back what `dump_identifiers` wrote."""
    return [Identifier(type=kind, value=value) for kind, value in json.loads(plain)]
