"""Builds the CUDA sources as a Python module for tensors of the CPU, and prints the environment that loads it.

    env $(python tests/on_host/build.py) python -m pytest tests/on_host

The harness of this folder takes the place of the CUDA runtime and of the launcher.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from torch.utils.cpp_extension import include_paths, library_paths

import torchext
from torchext._native import build as _build

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAME = "torchext_on_host"
FOLDER = ROOT / "build" / "on_host"
COMPILER = os.environ.get("CXX", "g++")
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"


def ninja_file() -> str:
    """What ninja is told: one object a source, which depends on the headers that the compiler read."""
    python = sysconfig.get_paths()["include"]
    headers = [*include_paths(), pybind11.get_include(), python]
    flags = [
        *torchext.compile_flags(), "-fPIC", "-O1", "-g1", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
        "-Wno-unknown-pragmas",  # nvcc's own
        f"-I{HERE / 'include'}", f"-I{ROOT / 'csrc'}", *(f"-isystem {path}" for path in headers),
        "-include", str(HERE / "cuda_on_host.h"), SANITIZERS,
    ]  # fmt: skip
    libraries = [*(f"-L{path} -Wl,-rpath,{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"]
    sources = [*_build.sources(ROOT / "csrc", cuda=True), str(HERE / "module.cpp")]
    objects = {source: Path(source).name + ".o" for source in sources}
    return "\n".join(
        [
            "rule compile",
            f"  command = {COMPILER} -MMD -MF $out.d {' '.join(flags)} -x c++ -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = {COMPILER} -shared {SANITIZERS} $in {' '.join(libraries)} -o $out",
            *(f"build {target}: compile {source}" for source, target in objects.items()),
            f"build {NAME}.so: link {' '.join(objects.values())}",
            "",
        ]
    )


def build() -> None:
    """Compile what has changed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "build.ninja").write_text(ninja_file())
    subprocess.run(["ninja", "-C", str(FOLDER), "--quiet"], check=True, stdout=sys.stderr)


def environment() -> dict[str, str]:
    """What a Python that loads the module needs: the sanitizers, before all other libraries."""

    def library(name: str) -> str:
        command = [COMPILER, f"-print-file-name={name}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    preloaded = ":".join(map(library, ("libasan.so", "libubsan.so", "libstdc++.so")))
    return {
        "TORCHEXT_DISABLE_NATIVE": "1",
        "TORCHEXT_ON_HOST": str(FOLDER),
        "LD_PRELOAD": preloaded,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and PyTorch free little when they end
    }


if __name__ == "__main__":
    build()
    print(*(f"{name}={value}" for name, value in environment().items()))
