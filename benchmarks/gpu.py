"""Everything that only a GPU can show, in one command and one JSON: `python -m benchmarks.gpu`.

Needs a GPU, nvcc, PyTorch with CUDA and pytest, and no network. Every stage runs in a process of its own with
a time limit: one that fails, hangs or loses its CUDA context is recorded, and the next one starts afresh.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .machine import toolkit_program

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_JSON = Path(__file__).parent / "results" / "gpu.json"
TOTAL_SECONDS = 460
SMALLEST_LIMIT = 8
"""With less time than this left (seconds) a stage is not started."""

# Without a cache of results: the checkout may be read-only.
PYTEST_ARGUMENTS = ("tests", "-m", "cuda", "-q", "--maxfail=25", "-p", "no:cacheprovider")
# The allocator of PyTorch hands out parts of large blocks: without its cache every tensor has its own
# boundaries, which is what lets the sanitizer see a step over them.
SANITIZER_ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
SANITIZER_FAILED = 86
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
TAIL = 4000


@dataclass(frozen=True)
class Stage:
    name: str
    limit: float
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    """Why the stage cannot start on this machine."""


def _inner(name: str, out: Path, device: str) -> list[str]:
    return [sys.executable, "-m", __spec__.name, "--stage", name, "--out", str(out), "--device", device]


def _architecture() -> str:
    """Asked of a process of its own: this one shall hold no CUDA context that a stage could lose."""
    code = "import torch; print('%d.%d' % torch.cuda.get_device_capability())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    except (subprocess.SubprocessError, OSError):
        return ""
    return done.stdout.strip()


def _build(device: str) -> Stage:
    # Without nvcc the build shall fail, not leave the kernels out; the dry run has no use for them.
    environment = {"MAX_JOBS": str(os.cpu_count() or 1), "TORCHEXT_CUDA": "1" if device == "cuda" else "0"}
    if device == "cuda" and (architecture := _architecture()):
        environment["TORCH_CUDA_ARCH_LIST"] = architecture
    return Stage("build", 150, [sys.executable, "setup.py", "build_ext", "--inplace"], environment)


def _tests() -> Stage:
    return Stage("tests", 110, [sys.executable, "-m", "pytest", *PYTEST_ARGUMENTS])


def _sanitizer(tool: str, out: Path, device: str) -> Stage:
    program = toolkit_program("compute-sanitizer")
    options = ["--tool", tool, "--error-exitcode", str(SANITIZER_FAILED), "--print-limit", "20"]
    return Stage(
        tool,
        60,
        [program or "", *options, *_inner("small", out, device)],
        SANITIZER_ENVIRONMENT,
        missing=None if program else "compute-sanitizer was not found",
    )


def stages(device: str, folder: Path) -> list[Stage]:
    """In the order of what one wants to know first, since the time may not do for all."""

    def inner(name: str, limit: float) -> Stage:
        return Stage(name, limit, _inner(name, folder / f"{name}.json", device))

    return [
        _build(device),
        inner("environment", 45),
        inner("small", 45),
        inner("calls", 60),
        inner("rows", 150),
        inner("host", 40),
        _tests(),
        *(_sanitizer(tool, folder / f"{tool}.json", device) for tool in SANITIZERS),
    ]


def without_paths(text: str) -> str:
    """Output is kept in the results: where things lie on the machine is nobody's business."""
    for path, name in ((str(ROOT), "."), (sys.prefix, "<python>"), (sys.base_prefix, "<python>")):
        text = text.replace(path, name)
    return text.replace(str(Path.home()), "~")


def _stop(process: subprocess.Popen[str]) -> None:
    """End a stage that is still running, and with it the compilers and workers of its process group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_stage(stage: Stage, limit: float, log: Path) -> dict[str, Any]:
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env={**os.environ, **stage.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            status = "ok" if code == 0 else f"exit status {code}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
        finally:
            _stop(process)
    text = without_paths(log.read_text(errors="replace"))
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "output": text[-TAIL:]}


def _result(folder: Path, stage: Stage) -> Any:
    path = folder / f"{stage.name}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def guarded(stage: Stage, limit: float, folder: Path) -> dict[str, Any]:
    if stage.missing:
        return {"status": "skipped", "reason": stage.missing}
    if limit < SMALLEST_LIMIT:
        return {"status": "skipped", "reason": "no time left"}
    try:
        outcome = run_stage(stage, limit, folder / f"{stage.name}.log")
    except OSError as error:
        outcome = {"status": f"not started: {type(error).__name__}"}
    result = _result(folder, stage)
    return outcome if result is None else {**outcome, "result": result}


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    document: dict[str, Any] = {"device": options.device, "stages": {}}
    deadline = time.monotonic() + options.seconds
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage in stages(options.device, folder):
            if options.only and stage.name not in options.only:
                continue
            limit = min(stage.limit, deadline - time.monotonic())
            outcome = guarded(stage, limit, folder)
            document["stages"][stage.name] = outcome
            print(f"{stage.name:<12} {outcome['status']:<24} {outcome.get('seconds', '')}", flush=True)
            # After every stage: what was learned survives whatever the next one does to the machine.
            options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document


def _row_line(row: dict[str, Any]) -> str:
    title = f"{row['family']}: {row['name']}"
    if row.get("error"):
        return f"{title:<46} FAILED: {row['error']}"
    share = f"{row['GB/s']:8.0f} GB/s {row['share']:6.1%} of {row['of']}" if "GB/s" in row else ""
    peer = f"{row['to_peer']:.2f} of {row['fastest_peer']}" if row["to_peer"] else ""
    return f"{title:<46} {row['ours']['median'] * 1e6:9.1f} µs {share}  {peer}  {'' if row['met'] else 'MISSED'}"


def summary(document: dict[str, Any]) -> str:
    results = {name: stage.get("result") or {} for name, stage in document["stages"].items()}
    loaded = results.get("environment", {}).get("native CUDA kernels")
    lines = [f"native CUDA kernels: {loaded}"]
    lines += [_row_line(row) for name in ("rows", "host") for row in results.get(name, {}).get("rows", [])]
    for name, found in results.get("calls", {}).items():
        lines.append(f"{name:<24} {json.dumps(found, ensure_ascii=False)}")
    bad = {name: text for name, text in results.get("small", {}).items() if text != "ok"}
    lines += [f"small case {name}: {text}" for name, text in bad.items()]
    for name, stage in document["stages"].items():
        if stage["status"] not in ("ok", "skipped") or name in ("tests", *SANITIZERS):
            lines += [f"--- {name}: {stage['status']}", stage.get("output", stage.get("reason", ""))[-1500:]]
    return "\n".join(lines)


def run_inner(options: argparse.Namespace) -> int:
    """One stage, in this process."""
    import torch

    from . import gpu_stages

    def save(result: dict[str, Any]) -> None:
        options.out.write_text(json.dumps(result, ensure_ascii=False))

    result = gpu_stages.STAGES[options.stage](torch.device(options.device), save)
    save(result)
    # A fault of a kernel shows itself at the next synchronisation: none may be left behind.
    gpu_stages.synchronize(torch.device(options.device))
    wrong = options.stage == "small" and any(text != "ok" for text in result.values())
    return int(wrong)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, metavar="PATH")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="time for all stages together")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="STAGES", help="comma-separated")
    parser.add_argument("--dry-run", action="store_true", help="every stage on the CPU, to try the script")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.device = "cpu"
    return options


def main() -> int:
    options = parse()
    if options.stage:
        return run_inner(options)
    document = run_all(options)
    print(summary(document))
    return int(any(stage["status"] not in ("ok", "skipped") for stage in document["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
