"""The offline check of a certificate, at the terminal.

    python -m lethe.verify FILE --key lethe.pub [--tree-head FILE] [--log entries.ndjson]
        [--manifest FILE]

It opens no connection and needs no part of the service. Exit codes: 0 everything holds, 1 something
does not, 2 a file cannot be read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lethe.certificate import STEPS, CertificateInvalid, VerifiedCertificate, verify_bundle
from lethe.keys import KeyFileInvalid, PublicKeys, parse_public_keys
from lethe.log_export import AuditedLog, LogInvalid, audit_log
from lethe.manifest import ManifestInvalid, verify_manifest
from lethe.notes import Checkpoint, NoteInvalid, VerifierKey, open_checkpoint

HOLDS, DOES_NOT_HOLD, UNREADABLE = 0, 1, 2


def verify_command(
    file: Path,
    key_file: Path,
    tree_head_file: Path | None,
    entries_file: Path | None,
    console: Console,
    manifest_file: Path | None = None,
) -> int:
    """Verify a certificate, and on request the whole log behind it, telling each step.

    Args:
        file: The certificate bundle (`lethe.bundle`).
        key_file: The issuer's public keys, `lethe.pub` (`lethe.keys`).
        tree_head_file: A tree head kept elsewhere, as a C2SP signed note.
        entries_file: The exported log, NDJSON (`lethe.log_export`).
        console: Where the steps are told.
        manifest_file: The manifest of a model version that the certificate is about.

    Returns:
        0 where everything holds, 1 where something does not, 2 where a file cannot be read.
    """
    try:
        keys = parse_public_keys(key_file.read_bytes())
        certificate = _verify_certificate(file.read_bytes(), keys, console)
        checkpoints = [certificate.checkpoint]
        if tree_head_file is not None:
            checkpoints.append(_open_tree_head(tree_head_file.read_bytes(), keys.log))
            _compare_heads(checkpoints, entries_file, console)
        if entries_file is not None:
            _audit(entries_file, checkpoints, console)
        if manifest_file is not None:
            absent, size = verify_manifest(certificate.statement, manifest_file.read_bytes())
            told = (
                f"Trained on {size} records; {absent} forgotten ones are proven not to be of them"
            )
            _tell(console, "✓", "green", told)
    except OSError as error:
        _tell_failure(console, f"a file cannot be read: {error.strerror}", "Check the paths.")
        return UNREADABLE
    except KeyFileInvalid as error:
        _tell_failure(console, error.reason, "Take `lethe.pub` as the issuer published it.")
        return UNREADABLE
    except (CertificateInvalid, LogInvalid, ManifestInvalid) as error:
        _tell_failure(console, error.reason, error.advice)
        return DOES_NOT_HOLD
    _tell_certificate(console, certificate)
    return HOLDS


def _verify_certificate(bundle: bytes, keys: PublicKeys, console: Console) -> VerifiedCertificate:
    try:
        certificate = verify_bundle(bundle, keys)
    except CertificateInvalid as error:
        _tell_steps(console, error.step)
        raise
    _tell_steps(console, len(STEPS) + 1)
    return certificate


def _open_tree_head(note: bytes, key: VerifierKey) -> Checkpoint:
    try:
        return open_checkpoint(note, key)
    except NoteInvalid as error:
        advice = "Check that the tree head is of this log and arrived whole."
        raise LogInvalid(None, f"the tree head given: {error.reason}", advice) from error


def _compare_heads(
    checkpoints: Sequence[Checkpoint], entries_file: Path | None, console: Console
) -> None:
    signed, kept = checkpoints
    if signed.size == kept.size and signed.root != kept.root:
        raise LogInvalid(
            None,
            f"the log signed two different trees of {kept.size} entries",
            "Keep both files: together they prove that the log was rewritten.",
        )
    if signed.size != kept.size and entries_file is None:
        _tell(console, "?", "yellow", "The tree head is of another size; add --log to compare")
    else:
        _tell(console, "✓", "green", "The tree head given is signed by the log's key")


def _audit(entries_file: Path, checkpoints: Sequence[Checkpoint], console: Console) -> None:
    with entries_file.open("rb") as lines:
        audited = audit_log(lines, checkpoints)
    _tell(console, "✓", "green", _covered(audited))


def _covered(audited: AuditedLog) -> str:
    told = f"All {audited.covered} entries under the tree head are as they were signed"
    newer = audited.entries - audited.covered
    return f"{told}; {newer} newer ones are under no tree head given" if newer else told


def _tell_steps(console: Console, failed: int) -> None:
    for number, title in enumerate(STEPS, start=1):
        if number < failed:
            _tell(console, "✓", "green", f"{number}. {title}")
        elif number == failed:
            _tell(console, "✗", "red", f"{number}. {title}")
        else:
            _tell(console, "·", "dim", f"{number}. {title} (not reached)")


def _tell_failure(console: Console, reason: str, advice: str) -> None:
    _tell(console, "✗", "bold red", f"Does not hold: {reason}")
    _tell(console, "→", "default", advice)


def _tell_certificate(console: Console, certificate: VerifiedCertificate) -> None:
    checkpoint = certificate.checkpoint
    _tell(console, "✓", "bold green", f"The certificate of request {certificate.request_id} holds")
    place = f"Entry {certificate.index} of {checkpoint.size} in the log {checkpoint.origin}"
    _tell(console, " ", "default", place)
    predicate = certificate.statement["predicate"]
    limits = predicate.get("not_guaranteed") if isinstance(predicate, Mapping) else None
    if isinstance(limits, list) and limits:
        _tell(console, " ", "default", "Not guaranteed:")
        for limit in limits:
            _tell(console, "-", "default", str(limit))


def _tell(console: Console, mark: str, style: str, text: str) -> None:
    # Text, not markup: brackets in a stranger's file must not become styles.
    if not console.is_terminal:
        console.print(Text(f"{mark} {text}"), soft_wrap=True)
        return
    line = Table.grid(padding=(0, 1))
    line.add_row(Text(mark, style=style), Text(text, style=style))
    console.print(line)


def main(
    file: Annotated[Path, typer.Argument(help="The certificate file.")],
    key: Annotated[Path, typer.Option(help="The issuer's public keys, lethe.pub.")],
    tree_head: Annotated[Path | None, typer.Option(help="A tree head kept elsewhere.")] = None,
    log: Annotated[Path | None, typer.Option(help="The exported log, NDJSON.")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="The manifest of a model version, as stored.")
    ] = None,
) -> None:
    """Verify a certificate offline, with the issuer's public keys alone."""
    raise typer.Exit(verify_command(file, key, tree_head, log, Console(), manifest))


if __name__ == "__main__":
    typer.run(main)
