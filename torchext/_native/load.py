"""Finds and loads the compiled libraries, and keeps the results for `doctor`."""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from torchext._core import library as _library
from torchext._native import faults
from torchext._native import gpus as _gpus
from torchext._native.faults import Fault
from torchext._native.folders import PACKAGE


class Library(NamedTuple):
    """A compiled library and the result of loading it; `problem` is None if it is loaded."""

    name: str
    path: Path | None
    problem: str | None = None
    remedy: str | None = None


libraries: dict[str, Library] = {}


def load_all() -> None:
    """Load the libraries that were built and can run on this machine; without them the references run."""
    for name in ("_C", "_C_cuda"):
        libraries[name] = _load(name)
    ignored = faults.of_capability()
    if ignored is not None:
        warnings.warn(f"{ignored.problem}: {ignored.remedy}", stacklevel=3)


def unused() -> list[Library]:
    """The libraries that this machine could use and that are not loaded: that of CUDA only if there is a GPU for it."""
    found = [library for library in libraries.values() if library.problem is not None]
    return [library for library in found if library.name == "_C" or (torch.version.cuda and _gpus.found())]


def report_unused() -> None:
    """Warn if a library is installed, or there is one for the platform, and the slower references run instead.

    Raises:
        ImportError: TORCHEXT_REQUIRE_NATIVE=1 is set, and a library that this machine could use is not loaded.
    """
    required = os.environ.get("TORCHEXT_REQUIRE_NATIVE") == "1"
    has_warned = os.environ.get("TORCHEXT_JIT") == "1"  # that it cannot be compiled either
    for library in unused():
        text = f"{library.name} is not loaded: {library.problem}; to fix it: {library.remedy}"
        if required:
            raise ImportError(f"TORCHEXT_REQUIRE_NATIVE=1, but {text}")
        if not has_warned and (library.path is not None or library.problem == faults.ANOTHER_WHEEL):
            warnings.warn(f"the slower references run, because {text}", stacklevel=3)
            return


def load_file(name: str, path: Path) -> Library:
    """Load a library, unless something is wrong with its file."""
    fault = faults.of_file(path) or faults.of_stamp(path, _library.stamp())
    if fault is None:
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            fault = faults.of_loading(error)
    return Library(name, path, *(fault or ()))


def _load(name: str) -> Library:
    if os.environ.get("TORCHEXT_DISABLE_NATIVE") == "1":
        return Library(name, None, "TORCHEXT_DISABLE_NATIVE=1 is set", "unset TORCHEXT_DISABLE_NATIVE")
    if name == "_C_cuda" and torch.version.cuda is None:
        remedy = "nothing without a GPU, otherwise install a CUDA build of PyTorch"
        return Library(name, None, "this PyTorch is built without CUDA", remedy)
    path = PACKAGE / f"{name}.so"
    if not path.exists():
        return Library(name, None, *faults.of_missing())
    fault = _cuda_fault(path) if name == "_C_cuda" else None
    return load_file(name, path) if fault is None else Library(name, path, *fault)


def _cuda_fault(path: Path) -> Fault | None:
    """The reason not to load the CUDA library: its kernels would replace the references and then fail."""
    damage = faults.of_file(path)
    if damage is not None:
        return damage
    content = path.read_bytes()
    return driver_fault(cuda_runtime_version(content)) or _gpu_fault(cuda_architectures(content))


def driver_fault(runtime: int | None) -> Fault | None:
    """The reason why the driver cannot run a library with this CUDA runtime, or None.

    A driver runs libraries with any CUDA runtime of its own major version and of earlier ones.
    """
    driver = cuda_driver_version()
    if driver is None:
        return Fault("no NVIDIA driver was found", "install an NVIDIA driver")
    if runtime is not None and driver // 1000 < runtime // 1000:
        return Fault(
            f"it requires a driver for CUDA {runtime // 1000}, this one is for CUDA {version_text(driver)}",
            "update the NVIDIA driver, or build with an older CUDA toolkit: torchext.jit_build()",
        )
    return None


def _gpu_fault(architectures: _gpus.Architectures | None) -> Fault | None:
    """The reason why no GPU of the machine can run a library, or None."""
    gpus = _gpus.found()
    if architectures is None or not gpus or any(architectures.serve(gpu) for gpu in gpus):
        return None
    names = ", ".join(str(gpu) for gpu in dict.fromkeys(gpus))
    problem = f"it has no kernel image for {names}: only for compute capability {architectures}"
    return Fault(problem, f"{faults.BUILD}, which compiles for the GPUs of this machine")


def cuda_driver_version() -> int | None:
    """The newest CUDA version that the driver supports, as 1000·major + 10·minor; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def cuda_runtime_version(content: bytes) -> int | None:
    """The version of the CUDA runtime in a library, read from a text that the build writes into it.

    The library is not loaded for this, since loading registers its kernels, which cannot be undone.
    """
    return next(iter(_note(content, b"torchext-cuda-runtime")), None)


def cuda_architectures(content: bytes) -> _gpus.Architectures | None:
    """The architectures for which a library has kernels, read in the same way."""
    codes = _note(content, b"torchext-cuda-architectures")
    if not codes:
        return None
    ptx = next(iter(_note(content, b"torchext-cuda-ptx")), None)
    return _gpus.Architectures(tuple(code // 10 for code in codes), ptx)


def _note(content: bytes, name: bytes) -> list[int]:
    """The numbers of a text that the build wrote as ``name=numbers;``; an empty list if there is none."""
    found = re.search(name + rb"=(\d+(?:,\d+)*);", content)
    return [int(number) for number in found[1].split(b",")] if found else []


def version_text(number: int) -> str:
    """A CUDA version as "major.minor"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def cpu_capability() -> str | None:
    """The instruction set that the CPU library selected; None if it is not loaded."""
    if not is_loaded("_C"):
        return None
    function = ctypes.CDLL(str(libraries["_C"].path)).torchext_cpu_capability
    function.restype = ctypes.c_char_p
    return bytes(function()).decode()


def devices_with_labels(count: int) -> list[int]:
    """The CUDA devices of the first `count` on which kernels of this process have read labels."""
    if not is_loaded("_C_cuda"):
        return []
    reads_labels = ctypes.CDLL(str(libraries["_C_cuda"].path)).torchext_reads_labels
    reads_labels.restype = ctypes.c_bool
    return [index for index in range(count) if reads_labels(index)]


def empty(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """`torch.empty` with huge pages for large tensors, as for the outputs of the kernels.

    The first write to memory with small pages takes many times longer, so that the hint has to be before it.
    """
    result = torch.empty(tuple(shape), dtype=dtype, device=device, memory_format=memory_format)
    if device.type == "cpu" and type(result) is torch.Tensor and is_loaded("_C") and not torch.compiler.is_compiling():
        _hint_huge_pages()(result.data_ptr(), result.nbytes)
    return result


@cache
def _hint_huge_pages() -> Callable[[int, int], None]:
    function = ctypes.CDLL(str(libraries["_C"].path)).torchext_hint_huge_pages
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t), None
    return function


def is_loaded(name: str) -> bool:
    """Whether a library's kernels are in use."""
    return name in libraries and libraries[name].problem is None


def has_kernels(device: torch.device) -> bool:
    """Whether compiled kernels run on a device."""
    return is_loaded({"cpu": "_C", "cuda": "_C_cuda"}.get(device.type, ""))
