"""Times the rows of docs/speed.md under other allocators: `python -m benchmarks.allocators`.

Large results take most of their time to obtain new memory. jemalloc and tcmalloc are told to keep freed memory, which
saves this time for all alternatives. Each allocator is preloaded into a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .harness.machine import describe, slug
from .harness.workload import load

RESULTS = Path(__file__).parent / "results" / "allocators"


@dataclass(frozen=True)
class Allocator:
    """A library, the package of Debian with it, and the variables for which it keeps freed memory."""

    library: str = ""
    package: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The variables of a process that uses it."""
        if not self.library:
            return {}
        found = find_library(self.library)
        if found is None:
            raise SystemExit(f"lib{self.library} is not installed: apt-get install {self.package}")
        return {"LD_PRELOAD": found, **self.variables}


ALLOCATORS = {
    "glibc": Allocator(),
    "jemalloc": Allocator(
        "jemalloc", "libjemalloc2", {"MALLOC_CONF": "retain:true,dirty_decay_ms:-1,muzzy_decay_ms:-1"}
    ),
    "tcmalloc": Allocator("tcmalloc_minimal", "libtcmalloc-minimal4", {"TCMALLOC_RELEASE_RATE": "0"}),
}


def measure(environment: Mapping[str, str], arguments: list[str]) -> list[dict[str, Any]]:
    """The rows, timed in a process with these variables."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", __package__, "--in-process", "--no-compile", "--json", str(path), *arguments]
        done = subprocess.run(command, env={**os.environ, **environment}, check=False)
        if not path.exists():
            raise SystemExit(f"the process ended with {done.returncode}")
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return rows


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.allocators", description=__doc__)
    parser.add_argument("--filter", metavar="REGEX", help="rows whose title matches; by default those of docs/speed.md")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, comma-separated")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="PATH", help="the JSON file; a whole run has a default")
    options = parser.parse_args()
    environments = {name: allocator.environment() for name, allocator in ALLOCATORS.items()}
    shown = [re.escape(workload.title) for workload in load() if workload.replaces]
    arguments = ["--filter", options.filter or f"^({'|'.join(shown)})$", "--threads", options.threads]
    arguments += ["--quick"] * options.quick
    rows = {}
    for name, environment in environments.items():
        print(f"\nWith {name}", *(f"{variable}={value}" for variable, value in environment.items()), flush=True)
        rows[name] = measure(environment, arguments)
    machine = describe()
    path = options.json or (None if options.quick or options.filter else RESULTS / f"{slug(machine)}.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine, "rows": rows}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(row["error"] for measured in rows.values() for row in measured))


if __name__ == "__main__":
    sys.exit(main())
