"""Compiles the sources for systems on which they cannot run here, with every warning as an error.

The CPU kernels are compiled with Clang for processors without AVX and for a system without huge pages on request. The
CPU and the CUDA kernels are compiled against the headers of the oldest and the newest supported PyTorch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch.utils import cpp_extension

import torchext
from torchext._native import build

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PROCESSORS = ("aarch64-linux-gnu", "aarch64-macos")
PYTORCH = ("2.10.0", "2.14.1")
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# A header alone leaves most of its functions unused, and CUDA headers have pragmas of nvcc.
PARSE_FLAGS = ["-fsyntax-only", *WARNINGS, "-Wno-unused-function", "-Wno-unknown-pragmas", "-x", "c++"]
# Device code is compiled for one architecture without optimisation, and host code only parsed: this finds all errors.
NVCC_FLAGS = ["-arch=sm_75", "-O0", "-Xcicc=-O0", "-Werror=all-warnings"]
NVCC_FLAGS += [f"-Xcompiler=-fsyntax-only,-Wno-unknown-pragmas,{','.join(WARNINGS)}"]


class Target(NamedTuple):
    """A compilation: the compiler with its flags, the folders of PyTorch's headers, and the files."""

    name: str
    compiler: Sequence[str]
    headers: Iterable[Path | str]
    files: Sequence[str]


def for_processors() -> Iterator[Target]:
    """Clang for other processors and systems, with the headers of the installed PyTorch."""
    # For pragmas of GCC, and for loops over a compile-time number of vectors.
    flags = ["-O1", *WARNINGS, "-Wno-unknown-pragmas", "-Wno-for-loop-analysis"]
    for processor in PROCESSORS:
        clang = [sys.executable, "-m", "ziglang", "c++", "-target", processor, *flags]
        yield Target(processor, clang, cpp_extension.include_paths(), build.sources(CSRC, cuda=False))


def for_pytorch(folder: Path) -> Iterator[Target]:
    """The compilers of this machine, with the headers of other versions of PyTorch."""
    toolkit = build.cuda_toolkit()
    if toolkit is None:
        print("nvcc was not found: the CUDA kernels are not compiled", flush=True)
    # Each header is also compiled by itself, as an editor does; those for CUDA require CUDA's headers.
    alone = [str(path) for path in sorted(CSRC.rglob("*.h")) if "cuda" not in path.name]
    for version in PYTORCH:
        include = headers(version, folder)
        paths = [include, include / "torch/csrc/api/include"]
        files = [*build.sources(CSRC, cuda=False), *(alone if version == PYTORCH[-1] else [])]
        yield Target(f"PyTorch {version}", [os.environ.get("CXX", "g++"), *PARSE_FLAGS], paths, files)
        if toolkit is not None:
            files = build.sources(CSRC, cuda=True)
            yield Target(f"PyTorch {version}", [f"{toolkit}/bin/nvcc", "-DUSE_CUDA", *NVCC_FLAGS], paths, files)


def headers(version: str, folder: Path) -> Path:
    """The headers of a PyTorch, from its smallest wheel, that for macOS; they are the same for every system."""
    platforms = [f"--platform=macosx_{major}_0_arm64" for major in (11, 12, 13, 14, 15)]
    download = ["download", "-qq", "--no-deps", "--only-binary=:all:", "--python-version=3.12", *platforms]
    here = folder / version
    command = [sys.executable, "-m", "pip", *download, "--dest", str(here), f"torch=={version}"]
    subprocess.run(command, check=True)
    wheel = next(here.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(here, [name for name in archive.namelist() if name.startswith("torch/include/")])
    wheel.unlink()
    return here / "torch/include"


def compile_file(target: Target, source: Path, folder: Path) -> bool:
    """Compile a source for a target; the output of the compiler is printed. Returns whether it succeeded."""
    include = [f"-I{CSRC}", *(flag for path in target.headers for flag in ("-isystem", str(path)))]
    result = folder / f"{target.name}-{source.name}.o"
    unit = ["-include", str(source), os.devnull] if source.suffix == ".h" else [str(source)]
    command = [*target.compiler, *torchext.compile_flags(), *include, "-c", *unit, "-o", str(result)]
    done = subprocess.run(command, check=False)
    print(f"{target.name}: {source.relative_to(ROOT)}: {'FAILED' if done.returncode else 'compiled'}", flush=True)
    return done.returncode == 0


def main() -> int:
    """Compile all sources for all targets; the exit status is 1 if one failed."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        folder = Path(name)
        jobs = [
            pool.submit(compile_file, target, Path(source), folder)
            for target in (*for_processors(), *for_pytorch(folder))
            for source in target.files
        ]
        return int(not all(job.result() for job in jobs))


if __name__ == "__main__":
    sys.exit(main())
