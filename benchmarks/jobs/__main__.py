"""Command line of the jobs.

The calls of a job take turns in one process, after their results have been compared. Then each runs in a process of
its own, which measures its peak memory. `make bench-jobs` uses the environment of `make peers`, which has the other
libraries.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import torchext

from ..harness import report, runner
from ..harness.machine import describe, slug
from ..harness.runner import Row
from ..harness.timing import QUICK, Effort
from ..harness.workload import Workload
from .workloads import jobs

RESULTS = Path(__file__).parents[1] / "results" / "jobs"
FULL = Effort(budget=2.0, min_samples=3, max_samples=30, slow_call=math.inf)
LONG_CALL = 1.0
STATUS = Path("/proc/self/status")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny inputs: checks that the jobs run and agree")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled job")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only jobs whose name matches")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="number of threads; all by default"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="the JSON file; a whole run has a default")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def mebibytes(field: str) -> float:
    """A field of the process's status. Unlike `ru_maxrss`, its peak is not that of the parent process."""
    match = re.search(rf"^{field}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


def memory_here(workload: Workload, contender: str) -> dict[str, float]:
    """The peak of three calls (one if it is long) in addition to what the process has before, and what is kept after.

    Imports, inputs, models and compiled code are what the process has: a first call has loaded everything, and the
    memory that it kept is released.
    """
    torch.manual_seed(0)
    thunk = runner.contenders(workload, workload.setup(torch.device("cpu")), compile_peers=True)[contender]
    thunk()
    gc.collect()
    torchext.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = mebibytes("VmRSS")
    start = time.perf_counter()
    thunk()
    if time.perf_counter() - start < LONG_CALL:
        thunk()
        thunk()
    return {"peak": mebibytes("VmHWM") - before, "kept": torchext.memory_stats()["unused_bytes"] / 2**20}


def memory(options: argparse.Namespace, row: Row) -> dict[str, dict[str, float]]:
    """The memory of each call of a job, in MiB; none on systems that do not tell it."""

    def measured(contender: str) -> dict[str, float]:
        command = [sys.executable, "-m", __package__, "--threads", str(options.threads)]
        command += ["--quick"] * options.quick + ["--memory-of", row.name, contender]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return values

    contenders = (runner.OURS, *row.peers) if sys.platform == "linux" else ()
    with ThreadPoolExecutor(2) as executor:
        return dict(zip(contenders, executor.map(measured, contenders), strict=True))


def measure(options: argparse.Namespace, workloads: list[Workload]) -> list[dict[str, Any]]:
    """The rows of the jobs, each with the memory of its calls."""
    print(report.HEADER, flush=True)
    effort = QUICK if options.quick else FULL
    found = []
    for row in runner.run(
        workloads, device="cpu", threads=[options.threads], effort=effort, compile_peers=not options.no_compile
    ):
        print("\n".join(report.terminal_lines(row)), flush=True)
        used = {} if row.error else memory(options, row)
        print("    MiB: " + ", ".join(f"{name} {one['peak']:.0f}" for name, one in used.items()), flush=True)
        found.append({**row.as_dict(), "memory": used})
    return found


def main() -> int:
    options = parse()
    workloads = jobs(quick=options.quick)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, contender = options.memory_of
        print(json.dumps(memory_here(next(one for one in workloads if one.name == name), contender)))
        return 0
    rows = measure(options, [one for one in workloads if re.search(options.filter, one.name)])
    machine = describe()
    whole = not (options.quick or options.no_compile or options.filter)
    path = options.json or (RESULTS / f"{slug(machine)}.json" if whole else None)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine, "effort": asdict(FULL) | {"slow_call": None}, "rows": rows}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(row["error"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
