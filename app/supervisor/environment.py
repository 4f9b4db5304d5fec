"""The settings of a Lethe on one machine, under production's rules: no secret is a default."""

import json
import os
import secrets
from pathlib import Path

SECRETS = ("LETHE_SUBJECT_SECRET", "LETHE_VAULT_SECRET")


def development_environment(var: Path) -> dict[str, str]:
    """Return the LETHE_* variables for `var`, the servers' URLs left out.

    The secrets are drawn once and kept in `var/keys/secrets.json`, mode 0600: whoever loses them
    loses the inventory, whoever has them can tell who is in it.
    """
    keys = key_folder(var)
    stored = keys / "secrets.json"
    if not stored.exists():
        write_secret(stored, json.dumps({name: secrets.token_urlsafe(48) for name in SECRETS}))
    values: dict[str, str] = json.loads(stored.read_text())
    full = var.resolve()
    return {
        **values,
        "LETHE_ENVIRONMENT": "production",
        "LETHE_VAR": str(full),
        "LETHE_ARTIFACTS_URL": f"file://{full}/artifacts",
        "LETHE_SIGNING_KEYS": str(keys),
        "LETHE_TREE_HEAD_EXPORT": str(full / "tree-heads"),
    }


def key_folder(var: Path) -> Path:
    """Return the folder `var/keys`, made when missing, which only its owner can enter."""
    keys = var.resolve() / "keys"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    return keys


def write_secret(path: Path, content: str) -> None:
    """Write a file of mode 0600, whole or not at all, over an older one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
