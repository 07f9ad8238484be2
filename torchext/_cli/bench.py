"""``torchext bench``."""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import time
from textwrap import fill

import torch

from torchext._cli import CommandError
from torchext._native import folders

HELP = "compare the speed of operations with that of other functions on this machine"
DESCRIPTION = """\
Compare the speed of operations with the functions that they replace, in less than two minutes.
"""
EXAMPLES = """\
examples:
  torchext bench
  torchext bench --filter 'unfold|fold' --threads 4
"""

_SECONDS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--filter", metavar="REGEX", help="only workloads whose title matches, however long they take")
    parser.add_argument("--threads", type=int, metavar="N", help="number of threads; default: PyTorch's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def run(options: argparse.Namespace) -> int:
    """Run the workloads and print a row for each; the status is 1 if one of them failed."""
    try:
        re.compile(options.filter or "")
    except re.error as error:
        raise CommandError(f"--filter: expected a regular expression, got {options.filter!r} ({error})") from error
    if options.threads is not None and options.threads < 1:
        raise CommandError(f"--threads: expected at least 1, got {options.threads}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device: expected an available device, got cuda: PyTorch finds no CUDA device")
    benchmarks = folders.package("benchmarks")
    runner, report, timing, workload = (
        importlib.import_module(f"{benchmarks}.harness.{name}") for name in ("runner", "report", "timing", "workload")
    )
    workloads = workload.load(options.filter or "", options.device)
    if not options.filter:
        workloads = [selected for selected in workloads if selected.in_short_run]
    if not workloads:
        raise CommandError(f"--filter: expected a match for the title of a workload, got {options.filter!r}")
    threads = [options.threads or torch.get_num_threads()]
    start, rows = time.monotonic(), []
    width = shutil.get_terminal_size().columns
    where = f"PyTorch {torch.__version__}, {options.device}, {threads[0]} thread{'s' if threads[0] > 1 else ''}"
    print(fill(f"Median times of a call, {where}.", width))
    for row in runner.run(workloads, device=options.device, threads=threads, effort=timing.QUICK, compile_peers=False):
        print(fill(report.comparison(row), width, subsequent_indent="    "), flush=True)
        rows.append(row)
        if not options.filter and time.monotonic() - start > _SECONDS:
            print(fill(f"{len(workloads) - len(rows)} workloads are left out: --filter selects them.", width))
            break
    print("\n" + fill(f"{report.comparison_summary(rows)} It took {time.monotonic() - start:.0f} s.", width))
    return int(any(row.error for row in rows))
