"""Tests of what `make demo` and the other targets say if they cannot create their environment."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

SCRIPT = ROOT / "tools" / "environment.py"


def test_an_old_python_is_named_with_the_remedy() -> None:
    problem = runpy.run_path(str(SCRIPT))["version_problem"]
    assert problem((3, 11, 0), "python3") is None
    assert problem((3, 9, 2), "/usr/bin/python3") == (
        "/usr/bin/python3 is Python 3.9, and the pinned packages require 3.11 or later: "
        "install one and add PYTHON=python3.11 to the command"
    )


def test_a_python_without_builds_is_named() -> None:
    problem = runpy.run_path(str(SCRIPT))["pip_problem"]
    said = problem("ERROR: No matching distribution found for torch==2.13.0")
    assert said.startswith("the package index has no build for Python 3.")
    assert "PYTHON=python3.11" in said


@pytest.mark.parametrize(
    ("retries", "said"),
    [
        ("1", "cannot be reached: connect to a network, or set PIP_INDEX_URL to a mirror"),
        ("0", "cannot be reached, or has no version of a package for Python "),
    ],
)
def test_an_index_that_cannot_be_reached_is_named(retries: str, said: str, tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("numpy==2.4.6\n")
    environment = {
        **os.environ,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": retries,
        "PIP_CONFIG_FILE": os.devnull,
    }
    environment.pop("PIP_EXTRA_INDEX_URL", None)
    command = [sys.executable, str(SCRIPT), str(tmp_path / "environment"), str(pins)]
    done = subprocess.run([*command], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    problem = done.stderr.splitlines()[-1]
    assert problem.startswith(f"{pins} cannot be installed: the package index http://127.0.0.1:9/simple {said}")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_missing_compiler_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": "no-compiler -O2"}
    command = ["make", "demo", f"VENV={tmp_path / 'environment'}"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no C++ compiler: no-compiler is not on the path. Install one" in done.stderr
    assert not (tmp_path / "environment").exists()
