"""Tests of ``torchext demo`` and ``torchext bench``."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import torchext
import torchext._cli.doctor
from tests import ROOT
from torchext import _cli
from torchext._cli import demo
from torchext._native import folders, load


def test_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        _cli.main(["--version"])
    assert capsys.readouterr().out == f"torchext {torchext.__version__}\n"


@pytest.mark.parametrize("command", ["bench", "demo"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _cli.main([command, "--help"])
    assert f"  torchext {command}" in capsys.readouterr().out.partition("example")[2]


def test_bench_compares_each_workload_with_its_peers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert _cli.main(["bench", "--filter", "^one_hot: 256×1000$", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    text = " ".join(line.strip() for line in lines)
    assert text.startswith(f"Median times of a call, PyTorch {torch.__version__}, cpu, 1 thread. one_hot: 256×1000: ")
    assert re.search(r"(× faster than|× slower than|as fast as) F.one_hot", text)
    assert "Of 1 rows, torchext is faster than the fastest alternative in" in text
    assert "MISSED" not in text


def test_a_row_for_users() -> None:
    report = importlib.import_module(f"{folders.package('benchmarks')}.harness.report")
    row = report.Row("one_hot", "4×5", "cpu", 1, False)
    row.ours = SimpleNamespace(median=2e-3)
    row.peers = {name: SimpleNamespace(median=time) for name, time in (("a", 6.4e-3), ("b", 2e-3), ("c", 1e-3))}
    row.broken_peers = {"d": "no d"}
    assert report.comparison(row) == (
        "one_hot: 4×5: 2 ms; 2.0× slower than c, as fast as b, 3.2× faster than a, d does not run here (no d)"
    )
    failed = report.Row("one_hot", "5", "cpu", 1, False, error="no memory")
    assert report.comparison(failed) == "one_hot: 5: failed: no memory"
    summary = report.comparison_summary([row, failed])
    assert summary.startswith("Of 1 rows, torchext is faster than the fastest alternative in 0, as fast in 0, slower")
    assert summary.endswith("in 1. 1 failed.")


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("utf-8", "4M → 21 ≤ 3.2× é"), ("cp1252", "4M -> 21 <= 3.2× é"), ("ascii", "4M -> 21 <= 3.2x ?")],
)
def test_characters_that_the_terminal_lacks_are_replaced(
    monkeypatch: pytest.MonkeyPatch, encoding: str, printed: str
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    _cli._print_in_any_encoding()
    print("4M → 21 ≤ 3.2× é", end="", flush=True)
    assert output.getvalue().decode(encoding) == printed


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli.doctor, "run", run)
    assert _cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "torchext: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("command", "status"), [(["-m", "torchext"], -signal.SIGINT), (["-c", "import torchext"], 1)])
def test_ctrl_c_while_pytorch_is_imported(tmp_path: Path, command: list[str], status: int) -> None:
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also if pytest ignores it
    )
    if status == 1:  # other programs handle Ctrl-C themselves
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_help_is_wrapped_to_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    with pytest.raises(SystemExit):
        _cli.main(["bench", "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.partition("examples:")[0].splitlines())) <= 50
    assert "\n  torchext bench --filter 'unfold|fold' --threads 4\n" in text


def test_bench_measures_at_most_two_rows_of_each_function_by_default() -> None:
    workload = importlib.import_module(f"{folders.package('benchmarks')}.harness.workload")
    short = [one for one in workload.load() if one.in_short_run]
    assert max(Counter(one.family for one in short).values()) <= 2
    assert not any(one.compile_ours or one.measures_call for one in short)
    folders_of = {one.setup.__module__.split(".")[-2] for one in short}
    assert folders_of == set(workload.FAMILIES)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--filter=zebra", "--filter: expected a match for the title of a workload, got 'zebra'"),
        ("--filter=[", "--filter: expected a regular expression, got '[' (unterminated character set at position 0)"),
        ("--threads=0", "--threads: expected at least 1, got 0"),
    ],
)
def test_bench_reports_wrong_options(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main(["bench", option]) == 2
    assert message in capsys.readouterr().err


def test_demo_names_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert _cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "the demo requires more packages: pip install efficientnet-lite-pytorch" in error
    assert "scikit-image" in error


def test_packages_that_demo_imports_are_listed() -> None:
    source = (folders.folder("examples") / "demo.py").read_text(encoding="utf-8")
    imported = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
    }
    standard = {"__future__", "collections", "pathlib", "statistics", "time", "torch", "torchext"}
    assert imported - standard | {"numpy"} == set(demo._REQUIRED)


def test_a_folder_inside_the_package_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torchext"
    (package / "_benchmarks").mkdir(parents=True)
    monkeypatch.setattr(folders, "PACKAGE", package)
    assert folders.folder("benchmarks") == package / "_benchmarks"
    assert folders.folder("examples") == tmp_path / "examples"


def test_importing_a_broken_package_fails_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import no_such_module")
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "torchext")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            folders.package("broken")


@pytest.mark.parametrize(("problem", "status"), [(None, 0), ("it is damaged", 1)])
def test_doctor_checks_that_kernels_are_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: str | None, status: int
) -> None:
    unused = [] if problem is None else [load.Library("_C", None, problem)]
    monkeypatch.setattr(load, "unused", lambda: unused)
    assert _cli.main(["doctor", "--check"]) == status
    assert capsys.readouterr().err == ("" if problem is None else "torchext: _C is not loaded: it is damaged\n")
    assert _cli.main(["doctor"]) == 0


def test_a_closed_pipe_is_not_an_error() -> None:
    command = f"{sys.executable} -m torchext doctor | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("torchext: ")
