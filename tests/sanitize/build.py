"""Builds the CPU library with sanitizers and with threads that they can follow, and prints the environment variables.

env $(python tests/sanitize/build.py address) python -m tests.fuzz
env $(python tests/sanitize/build.py thread) python -m tests.sanitize.races
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests import ROOT, sanitizers
from torchext._native import build as _build


def build(kind: str) -> Path:
    """Compile sources that changed."""
    library = ROOT / "build" / "sanitize" / kind / "_C.so"
    stamp = next(flag for flag in _build.cxx_flags() if flag.startswith("-DTORCHEXT_STAMP"))
    flags = [stamp, "-fno-math-errno", f"-I{ROOT / 'csrc'}"]
    # One instruction set is enough for ThreadSanitizer, since threads share the same data with each of them. For the
    # other sanitizers all are compiled, which would take minutes with optimisation.
    flags.append("-DTORCHEXT_BASELINE_ALONE" if kind == "thread" else "-O0")
    sources = [*_build.sources(ROOT / "csrc", cuda=False), str(Path(__file__).with_name("threads.cpp"))]
    names = "thread" if kind == "thread" else "address,undefined"
    # The library's own definition of a function is used before PyTorch's function of the same name.
    sanitizers.build(library, sources, names, flags, ["-Wl,-Bsymbolic"])
    return library


def environment(kind: str, library: Path) -> dict[str, str]:
    """The environment variables that a Python process needs to load the library."""
    options = {
        # Python and PyTorch do not free everything at exit; a request for too much memory fails.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:max_allocation_size_mb=2048",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "TSAN_OPTIONS": "exitcode=66",
    }
    first = ("libtsan.so",) if kind == "thread" else ("libasan.so", "libubsan.so")
    paths = {"TORCHEXT_SANITIZED": str(library), "LD_PRELOAD": sanitizers.preloaded(*first)}
    # PyTorch's own loops use one thread each: sanitizers do not know the barriers of their threads.
    return {"TORCHEXT_DISABLE_NATIVE": "1", "OMP_NUM_THREADS": "1", **paths, **options}


if __name__ == "__main__":
    (kind,) = sys.argv[1:]
    print(*(f"{name}={value}" for name, value in environment(kind, build(kind)).items()))
