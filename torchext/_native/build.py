"""The sources of the compiled libraries and their compiler flags, for setup.py and for `torchext.jit_build`."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from torchext._core import library as _library
from torchext._native.folders import PACKAGE

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")

# The LibTorch Stable ABI of PyTorch 2.10: one library works with every later PyTorch and every CPython.
STABLE_ABI = ["-std=c++20", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


# How long a program may take to print its version.
SECONDS = 10.0


def csrc() -> Path:
    """The folder of the C++ sources: inside an installed package, or next to the package in a source tree."""
    inside = PACKAGE / "csrc"
    return inside if inside.is_dir() else PACKAGE.parent / "csrc"


def sources(root: Path, *, cuda: bool) -> list[str]:
    """The sources of one of the two libraries, sorted so that builds are reproducible.

    `torch.utils.cpp_extension.load` names the object file of a source by its file name without the folder. File names
    must therefore be unique, and that of a kernel contains the name of its operation.
    """
    return sorted(str(path) for path in root.rglob("*.cu" if cuda else "*.cpp"))


def write_schemas(path: Path) -> None:
    """Write the source of the library that defines the schemas in a program without Python, where no module does."""
    lines = [f"  library.def({json.dumps(operation.schema)});" for operation in _library.operations.values()]
    text = "\n".join(
        ["#include <torch/csrc/stable/library.h>", "STABLE_TORCH_LIBRARY(torchext, library) {", *lines, "}", ""]
    )
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # otherwise it would be compiled again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def cxx_flags() -> list[str]:
    """Flags of the C++ compiler, followed by those in TORCHEXT_CXX_FLAGS."""
    more = os.environ.get("TORCHEXT_CXX_FLAGS", "").split()
    flags = ["-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"]
    return [*STABLE_ABI, _stamp(), *flags, *more]


def instruction_set() -> str | None:
    """The best instruction set of this processor that TORCHEXT_CPU_CAPABILITY allows.

    None if the system does not list it in /proc/cpuinfo, or if loops are not compiled for more than one.
    """
    limit = os.environ.get("TORCHEXT_CPU_CAPABILITY")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    if platform.machine() != "x86_64" or not found:
        return None
    # The same conditions as in csrc/common/capability.cpp.
    if limit not in ("baseline", "avx2") and found >= {"avx512f", "avx512bw", "avx512dq", "avx512vl"}:
        return "avx512"
    return "avx2" if limit != "baseline" and found >= {"avx2", "fma", "f16c"} else "baseline"


def one_set_flags(chosen: str | None) -> list[str]:
    """Flags that compile the loops for one instruction set, see csrc/common/each_isa.h; none for all of them."""
    # The loops of the baseline are then not called.
    return [] if chosen is None else [f"-DTORCHEXT_{chosen.upper()}_ALONE", "-Wno-unused-function"]


def nvcc_flags(architectures: Sequence[str] = ARCHITECTURES) -> list[str]:
    """Flags of nvcc: machine code for each architecture, and PTX of the last one for later GPUs.

    TORCH_CUDA_ARCH_LIST, which torch.utils.cpp_extension reads, replaces all architectures. nvcc itself adds the flags
    in NVCC_APPEND_FLAGS.
    """
    # The host compiler does not know pragmas of nvcc such as unroll.
    host = "-Xcompiler=-fvisibility=hidden,-Wall,-Wextra,-Wno-unknown-pragmas"
    flags = [*STABLE_ABI, _stamp(), "-O3", "-DUSE_CUDA", host]
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
    """Flags that reduce the CUDA library to a third of its size; none if the toolkit does not support them."""
    return ["--compress-mode=size"] if toolkit_version(toolkit) >= 12080 else []


def _stamp() -> str:
    return f"-DTORCHEXT_STAMP={_library.stamp()}"


def system_include_flags() -> list[str]:
    """Include PyTorch's headers as system headers, for which compilers do not warn.

    `torch.utils.cpp_extension.load` does so by itself, and quotes a folder whose name has a space.
    """
    from torch.utils.cpp_extension import include_paths  # takes a second to import

    return [flag for path in include_paths() for flag in ("-isystem", path)]


def cuda_link_flags(toolkit: str) -> list[str]:
    """Flags that link the CUDA runtime statically, so that the library requires only a driver.

    The library finds PyTorch's CUDA library through libtorch. If PyTorch is a CPU build, libtorch seems unused, and the
    linker would drop it with --as-needed.
    """
    runtime = [f"-L{toolkit}/lib64", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
    return [*runtime, "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]


def cuda_toolkit() -> str | None:
    """The folder of the CUDA toolkit: CUDA_HOME, or that of the nvcc on the path, or /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME")
    if home:
        return home
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        # The nvcc on the path may be a script outside of the toolkit, so that nvcc itself prints the folder.
        dry_run = run(nvcc, "--dryrun", "-c", "any.cu")
        for line in dry_run.stderr.splitlines():
            if line.startswith("#$ TOP="):
                return str(Path(line.removeprefix("#$ TOP=")).resolve())
    default = Path("/usr/local/cuda")
    return str(default) if (default / "bin" / "nvcc").exists() else None


def toolkit_version(toolkit: str) -> int:
    """The CUDA version of a toolkit, as 1000·major + 10·minor."""
    done = run(str(Path(toolkit) / "bin" / "nvcc"), "--version")
    done.check_returncode()
    major, minor = re.findall(r"release (\d+)\.(\d+)", done.stdout)[0]
    return 1000 * int(major) + 10 * int(minor)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program that prints a few lines, in any encoding.

    Raises:
        OSError: the program cannot be started.
        subprocess.TimeoutExpired: it does not end within `SECONDS`; it is then killed with the programs it started.
    """
    # A group of processes of its own can be killed as a whole. A child of the program would keep the pipes open.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
