"""All tests and measurements that need a GPU, with one command and one folder: `python -m benchmarks.harness.gpu`.

It requires a GPU, PyTorch with CUDA, pytest with xdist, compute-sanitizer and ncu, but no network; and nvcc if the
libraries were not compiled by `make gpu-libraries` beforehand. Every stage runs in a process of its own with a time
limit. If it fails, hangs or loses its CUDA context, that is recorded, and the next stage starts in a new process. The
process that starts the stages does not import PyTorch, so that no fault of a GPU can end it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOTAL_SECONDS, SECOND_SECONDS = 570, 200
SMALLEST_LIMIT = 4
"""A stage is not started with less time than this left (seconds)."""
GRACE = 15.0
"""Seconds between interrupting and killing a stage. xdist waits 10 for workers that hang before pytest reports."""
CORES = os.cpu_count() or 1
MOST_LOG_BYTES = 15 << 20

# Eight files in all, each smaller than 16 MiB, so that they are easy to copy. A log contains all stages of its step.
DOCUMENT, KERNELS = "gpu.json", "ncu.csv"
LOGS = ("start", "untimed", "rows", "calls", "peers", "ncu")

# Names of tests that take seconds each. Tests of values, strides, CUDA graphs and vmap come first.
SECOND_TIER = "compil or inductor or export or opcheck or derivatives or transforms"
TEST_STARTED = re.compile(r"^(tests/\S.*::.*?) *$", re.MULTILINE)
TEST_ENDED = re.compile(r"^\[gw\d+\].*? (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S.*?) *$", re.MULTILINE)

SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SANITIZER_FAILED = 86
# PyTorch's allocator returns parts of large blocks. Without its cache every tensor has an allocation of its own, so
# that the sanitizer detects accesses beyond its end.
SANITIZER_ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
START_SECONDS, CASE_SECONDS, SANITIZED_CASE_SECONDS = 40.0, 8.0, 40.0
"""A small case that makes no progress for so long hangs."""
SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats")

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The environment of processes that share the cores, and of a process whose tensors are small."""


@dataclass(frozen=True)
class Stage:
    name: str
    limit: float
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    """The reason why the stage cannot start on this machine."""


Step = tuple[str, list[Stage]]
"""The name of a log, and stages that run at the same time. A stage that measures time has a step of its own."""


def toolkit_program(name: str) -> str | None:
    """The path of a program of the CUDA toolkit, which is often not on the search path."""
    homes = (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    places = os.pathsep.join(str(Path(home) / "bin") for home in homes if home)
    return shutil.which(name) or shutil.which(name, path=places)


def architecture() -> str | None:
    """The compute capability of the first GPU, from the driver, because importing torch takes long and can fail."""
    gpus = runpy.run_path(str(ROOT / "torchext" / "_native" / "gpus.py"))["found"]()
    return f"{gpus[0].capability // 10}.{gpus[0].capability % 10}" if gpus else None


def _inner(name: str, out: Path, device: str, *more: str) -> list[str]:
    this = "benchmarks.harness.gpu"
    return [sys.executable, "-m", this, "--stage", name, "--out", str(out), "--device", device, *more]


def _loaded(device: str, folder: Path) -> Stage:
    return Stage("loaded", 60, _inner("loaded", folder / "loaded.json", device))


def _build(libraries: Sequence[str]) -> Stage:
    """Compile the missing libraries, only for the architecture of this machine."""
    which = {("_C",): "0", ("_C_cuda",): "only"}.get(tuple(libraries), "1")
    found = architecture()
    environment = {"MAX_JOBS": str(CORES), "TORCHEXT_CUDA": which, "TORCH_CUDA_ARCH_LIST": found or ""}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return Stage("build", 300, command, environment, missing=None if found else "the driver names no GPU")


def _tests(name: str, limit: float, select: str, processes: int) -> Stage:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [str(path.relative_to(ROOT)) for path in paths if "mark.cuda" in path.read_text()]
    # Print a line for each test as soon as it has ended. There is no cache, since the checkout may be read-only.
    # Workers that end are replaced, and one that hangs delays only a few tests.
    options = ["-v", "-m", "cuda", "-k", select, "-p", "no:cacheprovider", "-n", str(processes)]
    options += ["--max-worker-restart", "100", "--maxschedchunk", "4"]
    missing = None if importlib.util.find_spec("xdist") else "pytest-xdist is not installed"
    command = [sys.executable, "-m", "pytest", *files, *options]
    return Stage(name, limit, command, ONE_THREAD, missing)


def _sanitizer(tool: str, folder: Path, device: str) -> Stage:
    missing = None if device == "cpu" or toolkit_program("compute-sanitizer") else "compute-sanitizer was not found"
    command = _inner("small", folder / f"{tool}.json", device, "--tool", tool)
    return Stage(tool, 110, command, {**SANITIZER_ENVIRONMENT, **ONE_THREAD}, missing)


def _ncu(folder: Path, out: Path, device: str) -> Stage:
    program = toolkit_program("ncu")
    options = ["--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
    options += [word for section in SECTIONS for word in ("--section", section)]
    tool = [program or "", *options, "--log-file", str(out / KERNELS)] if device == "cuda" else []
    command = [*tool, *_inner("kernels", folder / "ncu.json", device)]
    return Stage("ncu", 90, command, missing=None if program or device == "cpu" else "ncu was not found")


def steps(device: str, folder: Path, out: Path, caches: str) -> list[Step]:
    """The steps, the most important ones first, since the time may not be enough for all."""

    def inner(name: str, limit: float, *more: str, **environment: str) -> Stage:
        return Stage(name, limit, _inner(name.partition(" ")[0], folder / f"{name}.json", device, *more), environment)

    # Compile with one thread, because a pool of workers in each process would take more time and memory.
    compiling = {"TORCHINDUCTOR_CACHE_DIR": caches, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    parts = max(1, CORES * 3 // 8)
    untimed = [
        _tests("tests", 110, f"not ({SECOND_TIER})", max(1, CORES // 4)),
        *(_sanitizer(tool, folder, device) for tool in SANITIZERS),
        *(inner(f"caches {i}", 110, "--part", str(i), str(parts), **ONE_THREAD, **compiling) for i in range(parts)),
    ]
    return [
        ("start", [inner("small", 30, **ONE_THREAD)]),
        ("untimed", untimed),
        ("rows", [inner("rows", 145)]),
        ("calls", [inner("calls", 40)]),
        ("calls", [inner("host", 15)]),
        ("peers", [inner("peers", 125, **compiling)]),
        ("ncu", [_ncu(folder, out, device)]),
    ]


def second_steps() -> list[Step]:
    return [("untimed", [_tests("second-tests", SECOND_SECONDS - 20, SECOND_TIER, max(1, CORES * 3 // 4))])]


def without_paths(text: str) -> str:
    """Remove folders of the machine from the text, because it is published with the results."""
    for path, name in ((str(ROOT), "."), (sys.prefix, "<python>"), (sys.base_prefix, "<python>")):
        text = text.replace(path, name)
    return text.replace(str(Path.home()), "~")


class Results(dict[str, Any]):
    """The results so far. Their file is complete at any time, so that nothing is lost if the process ends."""

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.update(json.loads(path.read_text()))
        self.path = path

    def save(self) -> None:
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self, indent=1, ensure_ascii=False) + "\n")
        unfinished.replace(self.path)


class Running:
    """The process of a stage: interrupted at its limit, and killed with its process group after a grace period."""

    def __init__(self, stage: Stage, limit: float, log: Path) -> None:
        self.stage, self.limit, self.log, self.start = stage, limit, log, time.monotonic()
        self.interrupted = self.killed = False
        self.seconds = 0.0
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                stage.command,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A background job of a shell ignores SIGINT, and so would the processes that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def ended(self) -> bool:
        if self.killed or self.process.poll() is not None:
            self.seconds = self.seconds or time.monotonic() - self.start
            return True
        late = time.monotonic() - self.start - self.limit
        if late > GRACE:
            self.kill()
        elif late > 0 and not self.interrupted:
            self.interrupted = True
            self.process.send_signal(signal.SIGINT)  # only to the first process, which ends its workers in order
        return False

    def kill(self) -> None:
        """Kill the rest of the process group, including workers and compilers."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(5)  # a process that hangs inside a driver does not even end then

    def outcome(self) -> dict[str, Any]:
        code = self.process.poll()
        status = f"stopped after {self.limit:.0f} s" if self.interrupted or code is None else ended_with(code)
        outcome: dict[str, Any] = {"status": status, "seconds": round(self.seconds, 1)}
        result = Results(self.log.with_suffix(".json"))
        if self.stage.name.endswith("tests"):
            result.update(tests_of(self.log.read_text(errors="replace")))
        return {**outcome, "result": dict(result)} if result else outcome


def ended_with(code: int) -> str:
    return "ok" if code == 0 else f"exit status {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"


def tests_of(log: str) -> dict[str, Any]:
    """The number of tests for each outcome, the names of failed tests, and of tests that were running at the end."""
    lines = TEST_ENDED.findall(log)
    kinds = [kind for kind, _ in lines]
    failed = {name for kind, name in lines if kind in ("FAILED", "ERROR")}
    unfinished = set(TEST_STARTED.findall(log)) - {name for _, name in lines}
    counts = {kind.lower(): kinds.count(kind) for kind in sorted(set(kinds))}
    return {**counts, "failures": sorted(failed), "unfinished": sorted(unfinished)}


def run_together(stages: Iterable[Stage], seconds: float, folder: Path, outcomes: dict[str, dict[str, Any]]) -> None:
    """Run stages at the same time, and record the outcome of each, also if this is interrupted."""
    running: list[Running] = []
    try:
        for stage in stages:
            limit = min(stage.limit, seconds - GRACE)
            if stage.missing or limit < SMALLEST_LIMIT:
                outcomes[stage.name] = {"status": "skipped", "reason": stage.missing or "no time left"}
                continue
            try:
                running.append(Running(stage, limit, folder / f"{stage.name}.log"))
            except OSError as error:
                outcomes[stage.name] = {"status": f"not started: {type(error).__name__}"}
        while [one for one in running if not one.ended()]:
            time.sleep(0.05)
    finally:
        for one in running:
            one.kill()
            outcomes[one.stage.name] = one.outcome()


def join_logs(target: Path, logs: Sequence[Path]) -> None:
    """Append the logs of stages to the log of their step; the middle of a log that is too large is left out."""
    with target.open("ab") as joined:
        for log in logs:
            text = without_paths(log.read_text(errors="replace")).encode()
            share = max(0, MOST_LOG_BYTES - joined.tell()) // 2  # leaves space for later logs
            if len(text) > share:
                text = text[: share // 2] + b"\n[...]\n" + text[len(text) - share // 2 :]
            joined.write(f"=== {log.stem}\n".encode() + text + b"\n")


class Session:
    """One run, with its folder of results and its time limit."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.only, self.out = options.device, options.only, options.out
        self.deadline = time.monotonic() + options.seconds
        self.folder = self.out / "unfinished"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # A run of some stages adds to existing results.
        for name in () if self.only or options.second else (DOCUMENT, KERNELS, *(f"{log}.log" for log in LOGS)):
            (self.out / name).unlink(missing_ok=True)
        self.document = Results(self.out / DOCUMENT)
        self.document.update({"device": self.device, "stages": self.document.get("stages", {}), "stopped": ""})

    def run(self, step: Step) -> None:
        log, stages = step
        outcomes: dict[str, dict[str, Any]] = {}
        try:
            run_together(stages, self.deadline - time.monotonic(), self.folder, outcomes)
        finally:
            # Save after every step, so that the results survive the next one.
            self.document["stages"].update(outcomes)
            self.document.save()
            join_logs(self.out / f"{log}.log", sorted(self.folder.glob("*.log")))
            for path in self.folder.iterdir():
                path.unlink()
        for name, outcome in outcomes.items():
            print(f"{name:<12} {outcome['status']:<24} {outcome.get('seconds', outcome.get('reason'))}", flush=True)

    def problems(self) -> dict[str, str]:
        """The libraries that are not in use, each with the reason."""
        self.run(("start", [_loaded(self.device, self.folder)]))
        outcome = self.document["stages"]["loaded"]
        libraries = outcome.get("result", {}).get("libraries", {"_C_cuda": f"importing torchext: {outcome['status']}"})
        return {name: problem for name, problem in libraries.items() if problem}

    def load(self) -> bool:
        """Whether the CUDA kernels are in use, after compiling missing libraries. If not, the run stops."""
        problems = self.problems()
        if self.device == "cpu":
            return True
        if problems and "result" in self.document["stages"]["loaded"]:
            self.run(("start", [_build(sorted(problems))]))
            problems = self.problems()
        if problem := problems.get("_C_cuda"):
            self.document["stopped"] = f"the CUDA kernels are not in use: {problem}; see start.log"
            self.document.save()
        return not problem

    def run_all(self, plan: Iterable[Step]) -> None:
        for log, stages in plan:
            chosen = [stage for stage in stages if not self.only or stage.name.partition(" ")[0] in self.only]
            if chosen:
                self.run((log, chosen))


def run_cases(options: argparse.Namespace) -> int:
    """Run the small cases in a process that is started again, with the next case, if a case ends it or hangs."""
    tool: list[str] = []
    if options.tool and options.device == "cuda":
        tool = [toolkit_program("compute-sanitizer") or "", "--tool", options.tool, "--print-limit", "1000"]
        tool += ["--error-exitcode", str(SANITIZER_FAILED)]
    patience = SANITIZED_CASE_SECONDS if tool else CASE_SECONDS
    worst, waiting = 0, -1
    while True:
        code = _run_while_it_advances([*tool, *_inner("cases", options.out, options.device)], options.out, patience)
        results = Results(options.out)
        for name in [name for name, text in results.items() if text == "started"]:
            results[name] = f"the process {'hung' if code is None else ended_with(code)}"
        results.save()
        worst = max(worst, abs(code or 0))
        before, waiting = waiting, list(results.values()).count("waiting")
        if waiting in (0, before) or not results:
            return int(bool(worst) or not results or any(text != "ok" for text in results.values()))


def _run_while_it_advances(command: Sequence[str], out: Path, patience: float) -> int | None:
    """The exit status of a process; None if it was killed because it made no progress for too long."""
    start = time.time()
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        while process.poll() is None:
            written = out.stat().st_mtime if out.exists() else 0.0
            heard = written if written > start else start + START_SECONDS
            if time.time() - heard > patience:
                return None
            time.sleep(0.02)
        return process.returncode
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _row_line(row: dict[str, Any]) -> str:
    title = f"{row['family']}: {row['name']}"
    if row.get("error"):
        return f"{title:<46} FAILED: {row['error']}"
    share = f"{row['GB/s']:6.0f} GB/s {row['share']:5.0%} of {row['of']}" if "GB/s" in row else ""
    peer = f"{row['to_peer']:.2f} of {row['fastest_peer']}" if row["to_peer"] else ""
    return f"{title:<46} {row['ours']['median'] * 1e6:8.1f} µs {share}  {peer}  {'' if row['met'] else 'MISSED'}"


def summary(document: dict[str, Any]) -> str:
    results = {name: stage.get("result") or {} for name, stage in document["stages"].items()}
    lines = [_row_line(row) for name in ("rows", "host", "peers") for row in results.get(name, {}).get("rows", [])]
    calls = results.get("calls", {})
    lines += [f"{name}: {json.dumps(found)}" for name, found in calls.items() if found["met"] is False]
    lines += [f"{name}: the profiler saw no launch" for name, found in calls.items() if found["met"] is None]
    for name in ("small", *SANITIZERS):
        found = results.get(name, {})
        lines += [f"{name}: {case}: {text}" for case, text in found.items() if text not in ("ok", "waiting")][:20]
        if waiting := list(found.values()).count("waiting"):
            lines.append(f"{name}: {waiting} of {len(found)} cases were not reached")
    for kind in ("failures", "unfinished"):
        lines += [f"{kind}: {test}" for result in results.values() for test in result.get(kind, ())][:50]
    lines += [
        f"{name}: {outcome['status']}" for name, outcome in document["stages"].items() if outcome["status"] != "ok"
    ]
    return "\n".join([*lines, document["stopped"]])


def run_inner(options: argparse.Namespace) -> int:
    """Run one stage in this process."""
    if options.stage == "small":
        return run_cases(options)
    import torch

    from . import gpu_stages

    device, results = torch.device(options.device), Results(options.out)
    gpu_stages.STAGES[options.stage](device, results, *options.part)
    results.save()
    # A fault of a kernel is reported at the next synchronisation, so synchronise before the process ends.
    gpu_stages.synchronize(device)
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.harness.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-results", metavar="FOLDER")
    parser.add_argument("--seconds", type=float, help="time limit for all stages together")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="STAGES", help="comma-separated")
    parser.add_argument("--second", action="store_true", help="the slow tests: compilation, export, derivatives")
    parser.add_argument("--dry-run", action="store_true", help="run every stage on the CPU, to test the script")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, nargs=2, default=(), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (SECOND_SECONDS if options.second else TOTAL_SECONDS)
    options.out = options.out.resolve()
    if options.dry_run:
        options.device = "cpu"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.stage:
        return run_inner(options)
    session = Session(options)
    with tempfile.TemporaryDirectory(prefix="torchext-caches-") as caches:
        if session.load():
            plan = second_steps() if options.second else steps(options.device, session.folder, session.out, caches)
            session.run_all(plan)
    shutil.rmtree(session.folder)
    print(summary(session.document))
    statuses = {stage["status"] for stage in session.document["stages"].values()}
    return int(bool(session.document["stopped"] or statuses - {"ok", "skipped"}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the logs are written if the run is stopped
    sys.exit(main())
