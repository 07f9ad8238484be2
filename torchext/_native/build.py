"""What the libraries are made of and the flags that compile them, for setup.py and for `torchext.jit_build`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from torchext._core import library as _library
from torchext._native.folders import PACKAGE

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")

# The LibTorch Stable ABI of PyTorch 2.10: one library serves every later PyTorch and every CPython.
STABLE_ABI = ["-std=c++20", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


def csrc() -> Path:
    """Where the C++ sources are: inside an installed package, or next to it in a source tree."""
    inside = PACKAGE / "csrc"
    return inside if inside.is_dir() else PACKAGE.parent / "csrc"


def sources(root: Path, *, cuda: bool) -> list[str]:
    """The sources of one of the two libraries, sorted so that builds repeat.

    `torch.utils.cpp_extension.load` names an object by the last part of its source's path alone: no two of them may be
    the same, and that of a kernel has its operation in it.
    """
    return sorted(str(path) for path in root.rglob("*.cu" if cuda else "*.cpp"))


def cxx_flags() -> list[str]:
    """Flags of the C++ compiler; TORCHEXT_CXX_FLAGS adds to them."""
    more = os.environ.get("TORCHEXT_CXX_FLAGS", "").split()
    flags = ["-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"]
    return [*STABLE_ABI, _stamp(), *flags, *_quiet(), *more]


def nvcc_flags(architectures: Sequence[str] = ARCHITECTURES) -> list[str]:
    """Flags of nvcc: machine code for each architecture, and PTX of the last for what comes after it.

    TORCH_CUDA_ARCH_LIST, which torch.utils.cpp_extension reads, takes the place of all of them; NVCC_APPEND_FLAGS,
    which nvcc reads, adds to the flags.
    """
    host = "-Xcompiler=-fvisibility=hidden,-Wall,-Wextra,-Wno-unknown-pragmas"  # such as unroll, which is nvcc's
    flags = [*STABLE_ABI, _stamp(), "-O3", "-DUSE_CUDA", host, *_quiet()]
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if chosen:
        ptx = re.findall(r"(\d+)\.(\d+)a?\+PTX", chosen)
        flags += [f"-DTORCHEXT_CUDA_PTX={int(major)}{minor}" for major, minor in ptx[-1:]]
    elif architectures:
        newest = architectures[-1]
        flags += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
        flags += [f"-gencode=arch=compute_{newest},code=compute_{newest}", f"-DTORCHEXT_CUDA_PTX={newest}"]
    return flags


def compression(toolkit: str) -> list[str]:
    """Makes the CUDA library a third of its size, with a toolkit that can."""
    return ["--compress-mode=size"] if toolkit_version(toolkit) >= 12080 else []


def _stamp() -> str:
    return f"-DTORCHEXT_STAMP={_library.stamp()}"


def _quiet() -> list[str]:
    """PyTorch's headers are not ours to warn about."""
    from torch.utils.cpp_extension import include_paths  # takes a second to import

    return [flag for path in include_paths() for flag in ("-isystem", path)]


def cuda_link_flags(toolkit: str) -> list[str]:
    """Links the CUDA runtime in, so that the library requires a driver and nothing else of CUDA.

    It finds PyTorch's CUDA library through libtorch, which looks unused to the linker if PyTorch is a CPU build.
    """
    runtime = [f"-L{toolkit}/lib64", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
    return [*runtime, "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]


def cuda_toolkit() -> str | None:
    """The CUDA toolkit: CUDA_HOME, or the one that the nvcc on the path belongs to, or the usual place."""
    home = os.environ.get("CUDA_HOME")
    if home:
        return home
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        # The nvcc on the path may be a script elsewhere; only nvcc itself knows its toolkit.
        dry = subprocess.run([nvcc, "--dryrun", "-c", "any.cu"], capture_output=True, text=True, check=False)
        for line in dry.stderr.splitlines():
            if line.startswith("#$ TOP="):
                return str(Path(line.removeprefix("#$ TOP=")).resolve())
    usual = Path("/usr/local/cuda")
    return str(usual) if (usual / "bin" / "nvcc").exists() else None


def toolkit_version(toolkit: str) -> int:
    """The CUDA version of a toolkit, as 1000·major + 10·minor."""
    nvcc = Path(toolkit) / "bin" / "nvcc"
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"release (\d+)\.(\d+)", text)[0]
    return 1000 * int(major) + 10 * int(minor)
