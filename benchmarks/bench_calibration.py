"""How often the verdict is wrong, beside the usual rule: `lethe calibrate` on two made-up worlds.

    python -m benchmarks.bench_calibration [--draws 400] [--worlds 8] [--out FOLDER]

A classifier over numbers and a small language model, both of which know their people by heart.
About half an hour and two hours on one core. docs/verification.md has the tables.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console


def main() -> None:
    """Make the people, then calibrate for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--out", type=Path, help="where the tables go as Markdown")
    options = parser.parse_args()
    for kind in ("numbers", "texts"):
        with tempfile.TemporaryDirectory() as folder:
            Console().rule(kind)
            made = Path(folder)
            _run("-m", "benchmarks.made_people", kind, folder)
            _run(
                *("-m", "app.cli", "calibrate"),
                *(str(made / "recipe.json"), str(made / "people.jsonl"), "--subject", "person"),
                *("--draws", str(options.draws), "--worlds", str(options.worlds)),
                *(("--out", str(options.out / f"{kind}.md")) if options.out else ()),
            )


def _run(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
