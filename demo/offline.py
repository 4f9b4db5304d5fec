"""What an auditor takes away from a closed request, to check it with no service at hand."""

import json
from dataclasses import dataclass
from pathlib import Path

from lethe.client import Lethe
from lethe.keys import parse_public_keys
from lethe.notes import open_checkpoint

ENTRIES_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class AuditFiles:
    """The files of one request and of the whole log.

    Attributes:
        certificate: The certificate bundle.
        public_keys: The issuer's `lethe.pub`.
        tree_head: The log's newest signed tree head.
        entries: The log's entries up to it, NDJSON.
    """

    certificate: Path
    public_keys: Path
    tree_head: Path
    entries: Path


def collect(auditor: Lethe, request_id: str, public_keys: bytes, folder: Path) -> AuditFiles:
    """Fetch the files as an auditor may, into `folder`, which exists.

    `public_keys` is the content of `lethe.pub`, which an auditor has from elsewhere.
    """
    files = AuditFiles(
        certificate=folder / "certificate.json",
        public_keys=folder / "lethe.pub",
        tree_head=folder / "tree-head.txt",
        entries=folder / "log.ndjson",
    )
    head = auditor.tree_head()
    size = open_checkpoint(head, parse_public_keys(public_keys).log).size
    files.certificate.write_bytes(auditor.certificate(request_id))
    files.public_keys.write_bytes(public_keys)
    files.tree_head.write_bytes(head)
    with files.entries.open("w") as lines:
        for start in range(0, size, ENTRIES_AT_ONCE):
            page = auditor.entries(start, min(start + ENTRIES_AT_ONCE, size))
            lines.writelines(f"{json.dumps(entry)}\n" for entry in page["items"])
    return files


def collect_report(auditor: Lethe, run_id: str, model: str, folder: Path) -> Path:
    """Fetch the report of a run on a model into `folder`, which exists; return the PDF's path."""
    report = folder / f"report-{model}.pdf"
    report.write_bytes(auditor.report(run_id))
    return report


def forge(bundle: bytes) -> bytes:
    """Return a certificate bundle with one character of its signed statement changed."""
    payload = str(json.loads(bundle)["envelope"]["payload"])
    place = len(payload) // 2
    other = "A" if payload[place] != "A" else "B"
    forged = payload[:place] + other + payload[place + 1 :]
    return bundle.replace(payload.encode(), forged.encode())
