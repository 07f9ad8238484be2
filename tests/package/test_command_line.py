"""Tests of ``torchext demo`` and ``torchext bench``."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import torchext
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


def test_bench_prints_a_row_for_each_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main(["bench", "--filter", "one_hot: 256×1000$", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["workload", "thr", "floor"]
    assert lines[1].startswith("one_hot: 256×1000 ")


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
