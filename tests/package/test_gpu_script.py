"""Tests of `make gpu`: a stage or a case that fails, hangs or crashes does not affect the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.harness import gpu, gpu_stages
from benchmarks.harness.workload import FAMILIES, load
from tests.conformance.rooms import OPERATIONS

HANGS = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('hanging'); time.sleep(60)"


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *arguments]


def test_a_stage_that_fails_hangs_or_crashes_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "GRACE", 5)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background
    monkeypatch.setattr(gpu, "SMALLEST_LIMIT", 0)
    session = gpu.Session(gpu.parse(["--out", str(tmp_path), "--device", "cpu"]))
    found = json.dumps({"found": 1})
    stages = [
        gpu.Stage("fails", 20, python("print('a reason'); raise SystemExit(3)")),
        gpu.Stage("hangs", 6, python(HANGS)),
        gpu.Stage("slow", 6, python("import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('so far')")),
        gpu.Stage("crashes", 20, python("import os; os.kill(os.getpid(), 11)")),
        gpu.Stage("absent", 20, ["/no/such/program"]),
        gpu.Stage("has no tool", 20, [], missing="ncu was not found"),
        gpu.Stage("works", 20, python(f"open({str(session.folder / 'works.json')!r}, 'w').write('''{found}''')")),
    ]
    start = time.monotonic()
    try:
        session.run_all([("untimed", stages), ("rows", [gpu.Stage("next", 20, python("print('next')"))])])
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 40  # without limits the longest would sleep for 60 s
    written = json.loads((tmp_path / gpu.DOCUMENT).read_text())["stages"]
    assert {name: stage["status"] for name, stage in written.items()} == {
        "fails": "exit status 3",
        "hangs": "stopped after 6 s",
        "slow": "stopped after 6 s",
        "crashes": "ended by SIGSEGV",
        "absent": "not started: FileNotFoundError",
        "has no tool": "skipped",
        "works": "ok",
        "next": "ok",
    }
    assert written["works"]["result"] == {"found": 1}
    log = (tmp_path / "untimed.log").read_text()
    assert all(text in log for text in ("=== fails\na reason", "=== hangs\nhanging", "=== slow\nso far"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [gpu.DOCUMENT, "rows.log", "unfinished", "untimed.log"]
    gpu.Session(gpu.parse(["--out", str(tmp_path), "--only", "ncu"]))
    assert json.loads((tmp_path / gpu.DOCUMENT).read_text())["stages"] == written  # a later run adds to them


def test_a_case_that_fails_hangs_or_crashes_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = """
        import os, sys, time
        from pathlib import Path
        import torch
        from benchmarks.harness import gpu, gpu_stages

        context = []

        def lose_context():
            context.append("lost")

        def synchronize(device):
            if context:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

        gpu_stages.synchronize = synchronize
        gpu_stages.small_cases = lambda device: {
            "works": lambda: None,
            "fails": lambda: 1 // 0,
            "loses the context": lose_context,
            "works after it": lambda: None,
            "crashes": lambda: os.abort(),
            "hangs": lambda: time.sleep(60),
            "works, too": lambda: None,
        }
        gpu_stages.cases(torch.device("cpu"), gpu.Results(Path(sys.argv[1])))
    """
    out = tmp_path / "small.json"
    monkeypatch.setattr(gpu, "CASE_SECONDS", 1.0)
    monkeypatch.setattr(gpu, "_inner", lambda *_: python(code, str(out)))
    assert gpu.main(["--stage", "small", "--out", str(out), "--device", "cpu"]) == 1
    assert json.loads(out.read_text()) == {
        "works": "ok",
        "fails": "ZeroDivisionError: integer division or modulo by zero",
        "loses the context": "RuntimeError: CUDA error: an illegal memory access was encountered",
        "works after it": "ok",
        "crashes": "the process ended by SIGABRT",
        "hangs": "the process hung",
        "works, too": "ok",
    }


def test_a_process_that_never_reaches_a_case_is_not_restarted_forever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "small.json"
    monkeypatch.setattr(gpu, "_inner", lambda *_: python("raise SystemExit(1)"))
    assert gpu.main(["--stage", "small", "--out", str(out), "--device", "cpu"]) == 1
    out.write_text(json.dumps({"first": "ok", "second": "waiting"}))
    assert gpu.main(["--stage", "small", "--out", str(out), "--device", "cpu"]) == 1


def test_the_architecture_is_found_without_torch() -> None:
    code = """
        import ctypes, sys
        sys.modules["torch"] = None

        class Nvml:
            def __getattr__(self, name):
                values = {"nvmlDeviceGetCount_v2": [1], "nvmlDeviceGetCudaComputeCapability": [9, 0]}
                def function(*arguments):
                    for argument, value in zip(arguments[-len(values.get(name, [])):], values.get(name, [])):
                        argument._obj.value = value
                    return 0
                return function

        ctypes.CDLL = lambda name: Nvml()
        from benchmarks.harness import gpu
        print(gpu.architecture())
    """
    done = subprocess.run(python(code), cwd=gpu.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "9.0\n"


@pytest.mark.parametrize(
    ("missing", "choice"), [(["_C_cuda"], "only"), (["_C"], "0"), (["_C", "_C_cuda"], "1")], ids=" ".join
)
def test_only_missing_libraries_are_built(monkeypatch: pytest.MonkeyPatch, missing: list[str], choice: str) -> None:
    monkeypatch.setattr(gpu, "architecture", lambda: "9.0")
    environment = gpu._build(missing).environment
    assert (environment["TORCHEXT_CUDA"], environment["TORCH_CUDA_ARCH_LIST"]) == (choice, "9.0")
    monkeypatch.setattr(gpu, "architecture", lambda: None)
    assert gpu._build(missing).missing == "the driver names no GPU"


def test_a_library_that_does_not_load_stops_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = json.dumps({"libraries": {"_C": None, "_C_cuda": "it has no kernel image"}})
    built: list[list[str]] = []

    def loaded(_device: str, folder: Path) -> gpu.Stage:
        path = folder / "loaded.json"
        return gpu.Stage("loaded", 20, python(f"open({str(path)!r}, 'w').write('''{found}''')"))

    def build(libraries: list[str]) -> gpu.Stage:
        built.append(libraries)
        return gpu.Stage("build", 20, python(""))

    monkeypatch.setattr(gpu, "_loaded", loaded)
    monkeypatch.setattr(gpu, "_build", build)
    assert gpu.main(["--out", str(tmp_path)]) == 1
    document = json.loads((tmp_path / gpu.DOCUMENT).read_text())
    assert document["stopped"] == "the CUDA kernels are not in use: it has no kernel image; see start.log"
    assert built == [["_C_cuda"]]
    assert list(document["stages"]) == ["loaded", "build"]


def test_results_of_tests_are_read_line_by_line() -> None:
    log = """
tests/test_a.py::test_x[a b]
[gw0] [  1%] PASSED tests/test_a.py::test_x[a b]
tests/test_a.py::test_y
tests/test_a.py::test_z
[gw1] [  2%] FAILED tests/test_a.py::test_z
[gw0] node down: Not properly terminated
"""
    unfinished, failures = ["tests/test_a.py::test_y"], ["tests/test_a.py::test_z"]
    assert gpu.tests_of(log) == {"passed": 1, "failed": 1, "failures": failures, "unfinished": unfinished}


def test_size_of_logs_is_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "MOST_LOG_BYTES", 4000)
    for name in ("one", "two"):
        (tmp_path / name).write_text("begin" + "x" * 9000 + "end")
        gpu.join_logs(tmp_path / "joined", [tmp_path / name])
    joined = (tmp_path / "joined").read_text()
    assert len(joined) < 4000
    assert joined.count("=== ") == joined.count("begin") == joined.count("end\n") == 2


def test_families_take_turns_in_the_timed_rows() -> None:
    workloads = load("", "cuda")
    ordered = gpu_stages.in_turn(workloads)
    families = list(dict.fromkeys(workload.family for workload in workloads))
    assert [workload.family for workload in ordered[: len(families)]] == families
    assert sorted(workload.title for workload in ordered) == sorted(workload.title for workload in workloads)


def test_ncu_profiles_every_family_and_no_compiled_workload() -> None:
    profiled = [workload for workload in load("", "cuda") if workload.profiled]
    assert {workload.setup.__module__.split(".")[-2] for workload in profiled} == set(FAMILIES)
    assert not any(workload.compile_ours or workload.measures_call for workload in profiled)


def test_launches_of_every_operation_are_counted() -> None:
    for operation in OPERATIONS:
        assert operation.launches > 0
        assert list(gpu_stages._calls(operation, gpu_stages.torch.device("cpu"))) == [1, 4, 64]


def test_the_dry_run_passes_every_stage(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "benchmarks.harness.gpu", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=gpu.ROOT, env=environment, capture_output=True, text=True, check=False)
    stages = json.loads((tmp_path / gpu.DOCUMENT).read_text())["stages"]
    assert {name: stage["status"] for name, stage in stages.items() if stage["status"] != "ok"} == {}, done.stdout
    assert done.returncode == 0
    names = ["start", "untimed", "rows", "calls", "peers", "ncu"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([gpu.DOCUMENT, *(f"{n}.log" for n in names)])
