"""What `jit_build` compiles with: compiler, ninja, CUDA toolkit."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NamedTuple

import torch

from torchext import _build, _native
from torchext._faults import Fault


class Tool(NamedTuple):
    """A program and what it says of its version; no path where it is missing."""

    name: str
    path: str | None
    version: str | None

    def __str__(self) -> str:
        return self.version or f"no {self.name}"


def compiler() -> Tool:
    """The C++ compiler that PyTorch would call."""
    name = os.environ.get("CXX", "c++").split()[-1]
    return _tool(name, "--version")


def ninja() -> Tool:
    """The build tool that PyTorch runs the compiler with."""
    found = _tool("ninja", "--version")
    return found._replace(version=f"ninja {found.version}") if found.version else found


def _tool(name: str, *arguments: str) -> Tool:
    path = shutil.which(name)
    if path is None:
        return Tool(name, None, None)
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
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
    if compiler().version is None:
        found.append(
            Fault(
                f"no C++ compiler: {compiler().name} is not on the path, so jit_build() cannot compile",
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
                f"nvcc is of CUDA {_native.version_text(version)}, PyTorch of CUDA {torch.version.cuda}: "
                f"what jit_build() compiles needs a driver for CUDA {version // 1000}",
                f"let CUDA_HOME name a toolkit for CUDA {torch.version.cuda.partition('.')[0]}",
            )
        ]
    return []
