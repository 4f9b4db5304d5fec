"""The two signing keys of a deployment: files outside the database, owner-readable only."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.errors import SecretMissingError
from lethe.keys import PublicKeys
from lethe.notes import Signer

LOG_KEY, CERTIFICATE_KEY, PUBLIC_KEYS = "log.pem", "certificates.pem", "lethe.pub"


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The log's signer, whose name is the log's origin, and the key of certificates."""

    log: Signer
    certificates: Ed25519PrivateKey

    @property
    def public(self) -> PublicKeys:
        """What a verifier needs."""
        return PublicKeys(self.log.verifier_key, self.certificates.public_key())


def create_signing_keys(folder: Path, origin: str) -> SigningKeys:
    """Make the keys that `folder` lacks, and write `lethe.pub` beside them; keeps existing ones."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (LOG_KEY, CERTIFICATE_KEY):
        if not (folder / name).exists():
            _create(folder / name)
    keys = load_signing_keys(folder, origin)
    (folder / PUBLIC_KEYS).write_text(keys.public.format(), encoding="utf-8")
    return keys


def _create(path: Path) -> None:
    """Write a fresh key whole or not at all: an empty file would never be replaced."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(pem)
    unfinished.replace(path)


def load_signing_keys(folder: Path, origin: str) -> SigningKeys:
    """Read the keys that `create_signing_keys` made.

    Raises:
        SecretMissingError: a key is missing or is no Ed25519 key.
    """
    return SigningKeys(Signer(origin, _load(folder / LOG_KEY)), _load(folder / CERTIFICATE_KEY))


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise SecretMissingError(f"The signing key {path.name} cannot be read.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SecretMissingError(f"The signing key {path.name} is no Ed25519 key.")
    return key
