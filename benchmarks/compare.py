"""Times the same rows with the package of two checkouts: `python -m benchmarks.compare OLD NEW`.

Each checkout runs its own rows in its own processes. The checkouts take turns, and the best time of all rounds is used,
because other work on the machine makes a call slower but never faster. No ratio changes the exit status: times from a
machine with other users are information, not a test.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .harness.workload import load

Times = dict[tuple[str, int], float]
"""Seconds, by title and number of threads."""


def run(checkout: Path, *command: str) -> str:
    """The output of Python for a command, with the package of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, *command], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    return done.stdout


def measure(checkout: Path, pattern: str, threads: str) -> Times:
    """The times of a checkout's rows, without those that fail."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        chosen = ["--filter", pattern, "--threads", threads, "--json", str(path)]
        run(checkout, "-m", "benchmarks", "--in-process", "--quick", "--no-compile", *chosen)
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {(f"{row['family']}: {row['name']}", row["threads"]): row["ours"]["min"] for row in rows if row["ours"]}


def merged(rounds: list[Times]) -> Times:
    """The best time of each row."""
    keys = dict.fromkeys(key for times in rounds for key in times)
    return {key: min(times[key] for times in rounds if key in times) for key in keys}


def table(old: Times, new: Times) -> str:
    """The rows as a Markdown table, with a dash where a checkout has no such row."""

    def cell(times: Times, key: tuple[str, int]) -> str:
        return f"{times[key] * 1e6:.1f}" if key in times else "–"

    lines = ["| row | threads | old, µs | new, µs | new / old |", "|---|--:|--:|--:|--:|"]
    for key in dict.fromkeys([*new, *old]):
        ratio = f"{new[key] / old[key]:.2f}" if key in new and key in old else "–"
        lines.append(f"| {key[0]} | {key[1]} | {cell(old, key)} | {cell(new, key)} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout with its libraries built in place")
    parser.add_argument("new", type=Path, help="another such checkout")
    parser.add_argument(
        "--filter", metavar="REGEX", help="rows whose title matches; by default those of torchext bench"
    )
    parser.add_argument("--threads", default="1", help="numbers of threads, comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="number of processes for each checkout")
    options = parser.parse_args()
    short_run = [re.escape(workload.title) for workload in load() if workload.in_short_run]
    pattern = options.filter or f"^({'|'.join(short_run)})$"
    checkouts = {"old": options.old.resolve(), "new": options.new.resolve()}

    print(f"Best times of {options.rounds} quick runs each. Small differences are noise.\n")
    for name, checkout in checkouts.items():
        kernels = run(checkout, "-c", "import torchext; print(torchext.doctor().libraries[0].problem or 'compiled')")
        print(f"- {name}: kernels: {kernels.strip()}", flush=True)
    rounds: dict[str, list[Times]] = {name: [] for name in checkouts}
    for number in range(options.rounds):
        for name in ("old", "new") if number % 2 == 0 else ("new", "old"):
            rounds[name].append(measure(checkouts[name], pattern, options.threads))
    print(f"\n{table(merged(rounds['old']), merged(rounds['new']))}")


if __name__ == "__main__":
    main()
