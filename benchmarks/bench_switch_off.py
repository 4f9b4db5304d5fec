"""Adapter sharding: from the officer's approval to the person's adapter off, and served so.

    python benchmarks/bench_switch_off.py [--people 10]

The whole service runs here: HTTP, PostgreSQL, Valkey, a control worker and a compute worker. Two
equal language models with an adapter per shard; the one is erased from by switching off, the other
by training the shard again (sisa), each by the same people's requests in the same run.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.supervisor.local import ending_on_signals, local_lethe
from lethe.client import Lethe, wait_for

SHARDS = 10
SLICES = 2
RECIPE: dict[str, Any] = {
    "text": "text",
    "config": {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64},
    "max_tokens": 48,
    "lora": {"r": 4, "alpha": 8, "target_modules": ["c_attn", "c_fc"]},
    "training": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3},
}
POLL_SECONDS = 0.005
LONGEST_SECONDS = 300.0


def main() -> None:
    """Print the times of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two people")
    options = parser.parse_args()
    people = 2 if options.quick else options.people
    os.environ["no_proxy"] = "127.0.0.1"
    with (
        ending_on_signals(),
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        _passable(Path(folder)),
        local_lethe(Path(folder) / "var", port=8000, compute_workers=1, tell=lambda _: None) as on,
        Lethe(on.url, on.admin_key.read_text().strip()) as admin,
        Lethe(on.url, _key(admin, "engineer")) as engineer,
        Lethe(on.url, _key(admin, "portal")) as portal,
        Lethe(on.url, _key(admin, "dpo")) as dpo,
    ):
        _train(engineer, Path(folder))
        times = [_erase(engineer, portal, dpo, f"C{number:03d}") for number in range(people)]
    _report({name: [one[name] for one in times if name in one] for name in ("off", "again")})


@contextmanager
def _passable(folder: Path) -> Iterator[None]:
    """Let PostgreSQL's own account through: it does not run as root."""
    folder.chmod(0o755)
    yield


def _report(times: Mapping[str, list[float]]) -> None:
    table = Table(title="From approval to the new version served, in seconds")
    for column in ("model", "requests", "median", "slowest"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, words in (("off", "adapters switched off"), ("again", "shard trained again")):
        row = times[name]
        table.add_row(words, str(len(row)), f"{statistics.median(row):.2f}", f"{max(row):.2f}")
    console = Console()
    console.print(table)
    ratio = statistics.median(times["again"]) / statistics.median(times["off"])
    console.print(f"switching off is served {ratio:.1f} times as soon")


def _key(admin: Lethe, role: str) -> str:
    return str(admin.create_api_key({"name": role, "role": role})["token"])


def _train(engineer: Lethe, folder: Path) -> None:
    source = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = [
        {"person": f"C{person:03d}", "text": "".join(source.choice(letters) for _ in range(30))}
        for person in range(200)
        for _ in range(3)
    ]
    file = folder / "notes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file.chmod(0o644)
    owner = {"column": "person", "type": "customer_id"}
    engineer.register_dataset({"name": "notes", "owner": owner})
    version = {"version": "1", "uri": f"file://{file}", "format": "jsonl"}
    engineer.add_dataset_version("notes", version)
    _done(engineer, engineer.index("notes", "1")["id"])
    for name, policy in (("off", {}), ("again", {"allowed_methods": ["sisa"]})):
        model = {"name": name, "recipe": "causal_lm", "parameters": RECIPE, "policy": policy}
        engineer.register_model(model | {"shards": SHARDS, "slices": SLICES})
        wanted = {"inputs": [{"dataset": "notes", "version": "1"}]}
        _done(engineer, engineer.train(name, wanted)["id"])
        engineer.add_deployment({"name": name, "model": name})


def _erase(engineer: Lethe, portal: Lethe, dpo: Lethe, person: str) -> dict[str, float]:
    """Return model → seconds from approval to another version served; nothing where not hit."""
    identifier = {"type": "customer_id", "value": person}
    request = portal.post_erasure_request(
        {"subject": {"identifiers": [identifier]}, "regime": "gdpr", "identity_verified": True}
    )
    path = str(request["id"])
    wait_for(
        lambda: portal.erasure_request(path),
        lambda one: one["state"] == "awaiting_approval",
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=POLL_SECONDS,
    )
    before = _served(engineer)
    dpo.approve(path, {})
    approved = time.monotonic()
    times: dict[str, float] = {}
    while time.monotonic() - approved < LONGEST_SECONDS:
        for name, version in _served(engineer).items():
            if version != before[name] and name not in times:
                times[name] = time.monotonic() - approved
        state = portal.erasure_request(path)["state"]
        if state in {"completed", "partially_completed", "failed"}:
            break
        time.sleep(POLL_SECONDS)
    # The next person waits until what was switched off has been trained again.
    for run in engineer.runs()["items"]:
        if run["state"] not in {"done", "failed"}:
            _done(engineer, run["id"])
    return times


def _served(engineer: Lethe) -> dict[str, int]:
    return {one["name"]: one["version"] for one in engineer.deployments()}


def _done(engineer: Lethe, run_id: object) -> None:
    wait_for(
        lambda: engineer.run(str(run_id)),
        lambda one: one["state"] in {"done", "failed"},
        timeout_seconds=LONGEST_SECONDS,
        poll_seconds=0.1,
    )


if __name__ == "__main__":
    main()
