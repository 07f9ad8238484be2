"""The programs that `jit_build` uses: compiler, ninja and CUDA toolkit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch

from torchext._native import build as _build
from torchext._native import load
from torchext._native.faults import Fault

_LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")


class Tool(NamedTuple):
    """A program and its version; `version` is None if it has a problem."""

    name: str
    version: str | None
    problem: str | None = None

    def __str__(self) -> str:
        """The version, or "no" and the name."""
        return self.version or f"no {self.name}"


class Tools(NamedTuple):
    """The programs of this machine; `toolkit` is the version of nvcc, see `toolkit_version`."""

    compiler: Tool
    ninja: Tool
    toolkit: int | None


def tools() -> Tools:
    """Run all programs to find their versions, which takes up to half a minute if they do not end."""
    return Tools(compiler(), ninja(), toolkit_version())


def compiler() -> Tool:
    """The C++ compiler of CXX, or the system's."""
    return _tool(*compiler_command(), "--version")


def compiler_command() -> list[str]:
    """The C++ compiler and its options from CXX.

    A launcher such as ccache is left out: PyTorch uses the whole of CXX as the name of one program, and adds a launcher
    by itself.
    """
    words = os.environ.get("CXX", "").split() or ["c++"]
    return words[1:] if len(words) > 1 and Path(words[0]).name in _LAUNCHERS else words


def ninja() -> Tool:
    """The build tool with which PyTorch runs the compiler."""
    found = _tool("ninja", "--version")
    return found._replace(version=f"ninja {found.version}") if found.version else found


def _tool(name: str, *arguments: str) -> Tool:
    path = shutil.which(name)
    if path is None:
        return Tool(name, None, "is not on the path")
    try:
        done = _build.run(path, *arguments)
    except subprocess.TimeoutExpired:
        return Tool(name, None, f"does not print its version within {_build.SECONDS:g} seconds")
    except OSError:
        return Tool(name, None, "does not run")
    version = done.stdout.partition("\n")[0].strip()
    return Tool(name, version) if version and done.returncode == 0 else Tool(name, None, "does not run")


def toolkit_version() -> int | None:
    """The version of the CUDA toolkit, as 1000·major + 10·minor; None without one."""
    try:
        toolkit = _build.cuda_toolkit()
        return _build.toolkit_version(toolkit) if toolkit else None
    except (OSError, subprocess.SubprocessError, IndexError):  # it has no nvcc, or one that prints no version
        return None


def faults(tools: Tools) -> list[Fault]:
    """The faults that prevent `jit_build` from compiling the CPU kernels, or the CUDA kernels if PyTorch has CUDA."""
    cuda, cpu = _cuda_fault(tools.toolkit), missing(tools.compiler, tools.ninja)
    return cpu if cuda is None else [*cpu, cuda]


def missing(cxx: Tool, ninja: Tool) -> list[Fault]:
    """The faults of programs that `jit_build` always requires."""
    found = []
    if cxx.version is None:
        found.append(
            Fault(
                f"no C++ compiler: {cxx.name} {cxx.problem}, so jit_build() cannot compile",
                "install one (apt-get install g++), set CXX to one, or install a wheel, which requires none",
            )
        )
    if ninja.version is None:
        found.append(Fault("no ninja, which jit_build() compiles with", "install it: pip install ninja"))
    return found


def _cuda_fault(version: int | None) -> Fault | None:
    if torch.version.cuda is None:
        return None
    major = torch.version.cuda.partition(".")[0]
    if version is None:
        return Fault(
            "no nvcc, so jit_build() cannot compile the CUDA kernels",
            f"install the CUDA toolkit {torch.version.cuda} and set CUDA_HOME to its folder",
        )
    if version // 1000 != int(major):
        return Fault(
            f"nvcc is of CUDA {load.version_text(version)}, PyTorch of CUDA {torch.version.cuda}: "
            f"what jit_build() compiles requires a driver for CUDA {version // 1000}",
            f"set CUDA_HOME to the folder of a toolkit for CUDA {major}",
        )
    return None
