"""Command line of the benchmarks.

A whole run uses two processes: one with PyTorch's allocator as installed, one with its huge pages turned on by
`THP_MEM_ALLOC_ENABLE=1`, which PyTorch reads only when a process starts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .harness import plots, report, runner
from .harness.machine import describe, describe_cuda, slug
from .harness.runner import Row
from .harness.timing import FULL, QUICK
from .harness.workload import load

RESULTS = Path(__file__).parent / "results"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--filter", default="", metavar="REGEX", help="only workloads whose title matches")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, comma-separated")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and only with PyTorch as installed")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--list", action="store_true", help="print the titles of the workloads and stop")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled peers")
    parser.add_argument("--json", type=Path, metavar="PATH", help="the JSON file; Markdown and SVG go next to it")
    parser.add_argument("--update", action="store_true", help="replace the measured rows in the stored results")
    parser.add_argument("--render", action="store_true", help="write the page and charts of --json again, and stop")
    parser.add_argument("--in-process", action="store_true", help="one table, measured in this process")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    if options.update and (options.quick or options.no_compile):
        parser.error("--update: expected rows measured in full, got --quick or --no-compile")
    if options.render and not options.json:
        parser.error("--render: expected --json PATH of stored results")
    options.threads = [int(count) for count in options.threads.split(",")]
    return options


def measure_here(options: argparse.Namespace) -> list[Row]:
    workloads = load(options.filter, options.device)
    effort = QUICK if options.quick else FULL
    threads = options.threads if options.device == "cpu" else options.threads[:1]
    print(report.HEADER, flush=True)
    rows = []
    for row in runner.run(
        workloads,
        device=options.device,
        threads=threads,
        effort=effort,
        compile_peers=not options.no_compile,
    ):
        print("\n".join(report.terminal_lines(row)), flush=True)
        rows.append(row)
    return rows


def _child_arguments(options: argparse.Namespace, path: Path) -> list[str]:
    arguments = ["--in-process", "--json", str(path), "--filter", options.filter]
    arguments += ["--threads", ",".join(map(str, options.threads))]
    arguments += [flag for flag in ("--quick", "--no-compile") if getattr(options, flag[2:].replace("-", "_"))]
    return arguments


def measure_in_child(options: argparse.Namespace, *, huge_pages: bool) -> list[Row]:
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    if huge_pages:
        environment["THP_MEM_ALLOC_ENABLE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", __package__, *_child_arguments(options, path)]
        subprocess.run(command, env=environment, check=True)
        return report.rows_from_json(path)


def measure_in_children(options: argparse.Namespace) -> list[Row]:
    print("PyTorch as installed\n", flush=True)
    rows = measure_in_child(options, huge_pages=False)
    if options.quick:
        return rows
    print("\nWith THP_MEM_ALLOC_ENABLE=1\n", flush=True)
    return rows + measure_in_child(options, huge_pages=True)


def machine_of(options: argparse.Namespace) -> dict[str, Any]:
    return {**describe(), **(describe_cuda() if options.device == "cuda" else {})}


def updated(rows: list[Row], path: Path, device: str) -> list[Row]:
    """The stored rows of existing workloads, with the measured rows in their places or at the end."""
    stored = report.rows_from_json(path) if path.exists() else []
    known = {workload.title for workload in load(device=device)}
    kept = {(row.title, row.threads, row.huge_pages): row for row in stored if row.title in known}
    kept |= {(row.title, row.threads, row.huge_pages): row for row in rows}
    return sorted(kept.values(), key=lambda row: row.huge_pages)


def write(options: argparse.Namespace, rows: list[Row], path: Path) -> None:
    machine = machine_of(options)
    if options.update:
        rows = updated(rows, path, options.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = {"quick": options.quick, "filter": options.filter, "threads": options.threads}
    effort = asdict(QUICK if options.quick else FULL)
    path.write_text(report.as_json(rows, machine, {**chosen, "effort": effort}))
    if options.in_process and not options.update:
        return
    render(path, rows, machine)


def render(path: Path, rows: list[Row], machine: dict[str, Any]) -> None:
    """Write the page and the charts next to the JSON file."""
    charts = {path.with_name(f"{path.stem}-{group}.svg"): chart for group, chart in plots.charts(rows, machine).items()}
    for picture, chart in charts.items():
        picture.write_text(chart)
    names = {picture.stem.removeprefix(f"{path.stem}-"): picture.name for picture in charts}
    path.with_suffix(".md").write_text(report.markdown(rows, machine, names))


def output_path(options: argparse.Namespace) -> Path | None:
    """The file for the results. By default only a whole run replaces the stored results of this processor or GPU."""
    partial = options.quick or options.no_compile or options.filter or options.in_process
    return options.json or (None if partial and not options.update else RESULTS / f"{slug(machine_of(options))}.json")


def main() -> int:
    options = parse()
    if options.list:
        print("\n".join(workload.title for workload in load(options.filter, options.device)))
        return 0
    if options.render:
        render(options.json, report.rows_from_json(options.json), report.machine_from_json(options.json))
        return 0
    one_process = options.in_process or options.device == "cuda"
    rows = measure_here(options) if one_process else measure_in_children(options)
    path = output_path(options)
    if path:
        write(options, rows, path)
    if not options.in_process:
        pairs = report.compare_with_huge_pages(rows)
        if pairs:
            print("\ntorchext as installed, peers with THP_MEM_ALLOC_ENABLE=1\n")
            print("\n".join(map(str, pairs)))
        print(f"\n{report.summary(rows)}" + (f"; written to {path.parent}" if path else ""))
    return int(any(row.error for row in rows))


if __name__ == "__main__":
    sys.exit(main())
