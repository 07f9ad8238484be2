"""Compiles the CPU kernels with Clang for processors without AVX and for a system without huge pages on request.

Nothing is run: what is shown is that the sources compile there, warnings being errors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils.cpp_extension import include_paths

import torchext

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("aarch64-linux-gnu", "aarch64-macos")
FLAGS = [*torchext.compile_flags(), "-O1", "-Wall", "-Wextra", "-Werror"]
# GCC's pragmas, and loops over a compile-time number of vectors.
FLAGS += ["-Wno-unknown-pragmas", "-Wno-for-loop-analysis"]


def compile_file(target: str, source: Path, folder: Path) -> bool:
    """Whether a source compiles for a target; what the compiler says goes to the terminal."""
    headers = [flag for path in include_paths() for flag in ("-isystem", path)]
    compiler = [sys.executable, "-m", "ziglang", "c++", "-target", target]
    command = [*compiler, *FLAGS, f"-I{ROOT / 'csrc'}", *headers, "-c", str(source)]
    done = subprocess.run([*command, "-o", str(folder / f"{target}-{source.stem}.o")], check=False)
    print(f"{target}: {source.relative_to(ROOT)}: {'compiled' if done.returncode == 0 else 'FAILED'}", flush=True)
    return done.returncode == 0


def main() -> int:
    """Compile all sources for all targets; the status tells whether one failed."""
    sources = sorted((ROOT / "csrc").rglob("*.cpp"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [pool.submit(compile_file, target, source, Path(folder)) for target in TARGETS for source in sources]
        return int(not all(job.result() for job in jobs))


if __name__ == "__main__":
    sys.exit(main())
