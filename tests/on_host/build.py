"""Builds the CUDA sources as a Python module for tensors of the CPU, and prints the environment that loads it.

    env $(python tests/on_host/build.py) python -m pytest tests/on_host

The harness of this folder takes the place of the CUDA runtime and of the launcher.
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
    """Compile what has changed."""
    flags = [
        "-Wno-unknown-pragmas",  # nvcc's own
        f"-I{HERE / 'include'}", f"-I{ROOT / 'csrc'}",
        *(f"-isystem {path}" for path in (pybind11.get_include(), sysconfig.get_paths()["include"])),
        "-include", str(HERE / "cuda_on_host.h"),
    ]  # fmt: skip
    sources = [*_build.sources(ROOT / "csrc", cuda=True), str(HERE / "module.cpp")]
    sanitizers.build(FOLDER / f"{NAME}.so", sources, "address,undefined", flags)


def environment() -> dict[str, str]:
    """What a Python that loads the module needs."""
    return {
        "TORCHEXT_DISABLE_NATIVE": "1",
        "TORCHEXT_ON_HOST": str(FOLDER),
        "LD_PRELOAD": sanitizers.preloaded("libasan.so", "libubsan.so"),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and PyTorch free little when they end
    }


if __name__ == "__main__":
    build()
    print(*(f"{name}={value}" for name, value in environment().items()))
