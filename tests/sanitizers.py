"""Compiles sources with sanitizers, and returns what a Python process that loads the library requires."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.utils.cpp_extension import include_paths, library_paths

import torchext
from torchext._core import library as _library
from torchext._native import load as _load

COMPILER = os.environ.get("CXX", "g++")


def build(
    library: Path, sources: Sequence[str], sanitizers: str, flags: Sequence[str], link: Sequence[str] = ()
) -> None:
    """Compile sources that changed. Each has an object file, which depends on the headers that the compiler read."""
    sanitize = f"-fsanitize={sanitizers} -fno-sanitize-recover=all"
    flags = [
        *torchext.compile_flags(), "-fPIC", "-O1", "-g1", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
        *(f"-isystem {path}" for path in include_paths()), *flags, sanitize,
    ]  # fmt: skip
    libraries = [*(f"-L{path} -Wl,-rpath,{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"]
    objects = {source: Path(source).name + ".o" for source in sources}
    library.parent.mkdir(parents=True, exist_ok=True)
    (library.parent / "build.ninja").write_text(
        "\n".join(
            [
                "rule compile",
                f"  command = {COMPILER} -MMD -MF $out.d {' '.join(flags)} -x c++ -c $in -o $out",
                "  depfile = $out.d",
                "  deps = gcc",
                "rule link",
                f"  command = {COMPILER} -shared {sanitize} {' '.join(link)} $in {' '.join(libraries)} -o $out",
                *(f"build {target}: compile {source}" for source, target in objects.items()),
                f"build {library.name}: link {' '.join(objects.values())}",
                "",
            ]
        )
    )
    subprocess.run(["ninja", "-C", str(library.parent), "--quiet"], check=True, stdout=sys.stderr)


def preloaded(*names: str) -> str:
    """The value of LD_PRELOAD: the sanitizers must come before all other libraries."""

    def path(name: str) -> str:
        command = [COMPILER, f"-print-file-name={name}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return ":".join(map(path, (*names, "libstdc++.so")))


def load(path: str) -> None:
    """Load a library in place of the package's own, which TORCHEXT_DISABLE_NATIVE=1 has left unloaded."""
    _load.libraries["_C"] = _load.load_file("_C", Path(path))
    assert _load.is_loaded("_C"), _load.libraries["_C"].problem
    _library.trace_kernels()
