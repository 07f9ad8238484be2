"""What `jit_build` compiles with: compiler, ninja, CUDA toolkit."""

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
    """A program and what it says of its version; no path where it is missing."""

    name: str
    path: str | None
    version: str | None

    def __str__(self) -> str:
        """Its version, or that it is missing."""
        return self.version or f"no {self.name}"


def compiler() -> Tool:
    """The C++ compiler that CXX names, or the system's."""
    return _tool(*compiler_command(), "--version")


def compiler_command() -> list[str]:
    """The C++ compiler and the options that CXX gives it.

    A launcher is left out: PyTorch takes all of CXX for the name of one program, and looks for a launcher by itself.
    """
    words = os.environ.get("CXX", "").split() or ["c++"]
    return words[1:] if len(words) > 1 and Path(words[0]).name in _LAUNCHERS else words


def ninja() -> Tool:
    """The build tool that PyTorch runs the compiler with."""
    found = _tool("ninja", "--version")
    return found._replace(version=f"ninja {found.version}") if found.version else found


def _tool(name: str, *arguments: str) -> Tool:
    path = shutil.which(name)
    if path is None:
        return Tool(name, None, None)
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return Tool(name, path, None)
    return Tool(name, path, done.stdout.partition("\n")[0].strip() or None)


def toolkit_version() -> int | None:
    """The version of the CUDA toolkit, as 1000·major + 10·minor; None without one."""
    try:
        toolkit = _build.cuda_toolkit()
        return _build.toolkit_version(toolkit) if toolkit else None
    except (OSError, subprocess.CalledProcessError, IndexError):  # no nvcc in it, or none that tells its version
        return None


def faults() -> list[Fault]:
    """What keeps `jit_build` from compiling the CPU kernels, and the CUDA kernels where PyTorch is built for CUDA."""
    return missing() + _cuda_faults()


def missing() -> list[Fault]:
    """What `jit_build` cannot do without."""
    found = []
    cxx = compiler()
    if cxx.version is None:
        why = "is not on the path" if cxx.path is None else "does not run"
        found.append(
            Fault(
                f"no C++ compiler: {cxx.name} {why}, so jit_build() cannot compile",
                "install one (apt-get install g++), name one by CXX=, or install a wheel, which needs none",
            )
        )
    if ninja().version is None:
        found.append(Fault("no ninja, which jit_build() compiles with", "install it: pip install ninja"))
    return found


def _cuda_faults() -> list[Fault]:
    if torch.version.cuda is None:
        return []
    version = toolkit_version()
    if version is None:
        return [
            Fault(
                "no nvcc, so jit_build() cannot compile the CUDA kernels",
                f"install the CUDA toolkit {torch.version.cuda} and let CUDA_HOME name it",
            )
        ]
    if version // 1000 != int(torch.version.cuda.partition(".")[0]):
        return [
            Fault(
                f"nvcc is of CUDA {load.version_text(version)}, PyTorch of CUDA {torch.version.cuda}: "
                f"what jit_build() compiles needs a driver for CUDA {version // 1000}",
                f"let CUDA_HOME name a toolkit for CUDA {torch.version.cuda.partition('.')[0]}",
            )
        ]
    return []
