"""Builds the CUDA sources as a Python module for CPU tensors, and prints the environment variables that load it.

    env $(python tests/on_host/build.py) python -m pytest tests/on_host

The files of this folder replace the CUDA runtime and the launch of kernels.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pybind11

from tests import ROOT, sanitizers
from torchext._native import build as _build

HERE = Path(__file__).resolve().parent
NAME = "torchext_on_host"
FOLDER = ROOT / "build" / "on_host"


def build() -> None:
    """Compile sources that changed."""
    flags = [
        "-Wno-unknown-pragmas",  # pragmas of nvcc
        f"-I{HERE / 'include'}", f"-I{ROOT / 'csrc'}",
        *(f"-isystem {path}" for path in (pybind11.get_include(), sysconfig.get_paths()["include"])),
        "-include", str(HERE / "cuda_on_host.h"),
    ]  # fmt: skip
    sources = [*_build.sources(ROOT / "csrc", cuda=True), str(HERE / "module.cpp")]
    sanitizers.build(FOLDER / f"{NAME}.so", sources, "address,undefined", flags)


def environment() -> dict[str, str]:
    """The environment variables that a Python process needs to load the module."""
    return {
        "TORCHEXT_DISABLE_NATIVE": "1",
        "TORCHEXT_ON_HOST": str(FOLDER),
        "LD_PRELOAD": sanitizers.preloaded("libasan.so", "libubsan.so"),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and PyTorch do not free everything at exit
    }


if __name__ == "__main__":
    build()
    print(*(f"{name}={value}" for name, value in environment().items()))
