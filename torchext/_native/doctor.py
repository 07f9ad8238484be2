"""The report of `torchext.doctor`: the loaded libraries, the kernel of each operation, and remedies for problems."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from torchext import reference
from torchext._core import version as _version
from torchext._native import faults as _faults
from torchext._native import gpus as _gpus
from torchext._native import load, toolchain
from torchext._native.faults import Fault
from torchext._native.folders import DISTRIBUTION, PACKAGE

DEVICES = ("cpu", "cuda")
# Without the first option, pip does nothing, since the package is installed already.
_FROM_SOURCE = f"pip install --force-reinstall --no-deps --no-binary {DISTRIBUTION} {DISTRIBUTION}"
_NO_KERNEL = "has no kernel for it"
# The registered operations that run public functions of other names.
_RUN_BY = {
    "class_max": "class_extremes",
    "class_means": "class_sums",
    "class_min": "class_extremes",
    "confusion_matrix": "confusion_counts",
}


class Kernel(NamedTuple):
    """The kernel that runs one public operation on one device, and the reason for it."""

    operation: str
    device: str
    kernel: str
    reason: str


@dataclass(frozen=True, repr=False)
class Report:
    """The result of `torchext.doctor`; prints as text."""

    versions: dict[str, str]
    libraries: tuple[load.Library, ...]
    kernels: tuple[Kernel, ...]
    faults: tuple[Fault, ...] = ()
    schemas: load.Library | None = None  # the library of schemas, which only programs without Python load

    def __repr__(self) -> str:
        """The report as text."""
        lines = [f"{name}: {version}" for name, version in self.versions.items()]
        for library in self.libraries:
            if library.problem is None:
                lines.append(f"{library.name}: loaded from {library.path}")
            else:
                lines += [f"{library.name}: not loaded, {library.problem}", f"  to fix it: {library.remedy}"]
        if self.schemas is not None:
            lines += self._schemas(self.schemas)
        for fault in self.faults:
            lines += [fault.problem, f"  to fix it: {fault.remedy}"]
        return "\n".join([*lines, *self._kernels()])

    @staticmethod
    def _schemas(library: load.Library) -> list[str]:
        if library.problem is None:
            return [f"{library.name}: {library.path}, for programs without Python"]
        return [
            f"{library.name}: none for programs without Python, {library.problem}",
            f"  to add it: {library.remedy}",
        ]

    def _kernels(self) -> Iterator[str]:
        by_operation: dict[str, list[Kernel]] = {}
        for kernel in self.kernels:
            by_operation.setdefault(kernel.operation, []).append(kernel)
        width = max(map(len, by_operation))
        yield f"{'operation':{width}}  {'  '.join(f'{device:9}' for device in DEVICES)}".rstrip()
        for operation, kernels in by_operation.items():
            # The reason why a library is not loaded is in its own line above.
            own = "; ".join(kernel.reason for kernel in kernels if kernel.reason.endswith(_NO_KERNEL))
            yield f"{operation:{width}}  {'  '.join(f'{k.kernel:9}' for k in kernels)}  {own}".rstrip()


def doctor() -> Report:
    """Report the loaded libraries, what runs each operation on each device and why, and how to fix faults.

    It does not compile, does not initialise CUDA, and does not use the network.

    Returns:
        A report that prints as text; programs can read its fields.

    Examples:
        >>> report = torchext.doctor()
        >>> {kernel.device for kernel in report.kernels if kernel.operation == "one_hot"} == {"cpu", "cuda"}
        True
    """
    kernels = tuple(_kernel(name, device) for name in reference.__all__ for device in DEVICES)
    tools = toolchain.tools()
    return Report(_versions(tools), tuple(load.libraries.values()), kernels, tuple(_found(tools)), _schemas())


def _schemas() -> load.Library:
    path = PACKAGE / "_C_schemas.so"
    if path.exists():
        return load.Library(path.stem, path)
    problem = "no such library in the package's folder, and jit_build() compiles only kernels"
    remedy = f"install a wheel for this platform, or build one from source: {_FROM_SOURCE}"
    return load.Library(path.stem, None, problem, remedy)


def _versions(tools: toolchain.Tools) -> dict[str, str]:
    libc = " ".join(platform.libc_ver())
    versions = {
        "torchext": f"{_version.__version__}, in {PACKAGE}",
        "torch": torch.__version__,
        "python": f"{platform.python_version()}, {libc}" if libc.strip() else platform.python_version(),
        "cpu": f"{platform.machine()}, kernels for {load.cpu_capability() or 'none'}",
        "cuda": _cuda_version(tools.toolkit),
        "compiler": f"{tools.compiler}, {tools.ninja}",
    }
    gpus = ", ".join(map(str, _gpus.found()))
    return {**versions, "gpu": gpus} if gpus else versions


def _cuda_version(toolkit: int | None) -> str:
    driver = load.cuda_driver_version()
    served = "no driver" if driver is None else f"driver for {load.version_text(driver)}"
    nvcc = "no toolkit" if toolkit is None else f"toolkit {load.version_text(toolkit)}"
    return f"torch built for {torch.version.cuda or 'none'}, {served}, {nvcc}"


def _found(tools: toolchain.Tools) -> Iterator[Fault]:
    # If all kernels are loaded, a compiler is not necessary.
    if not (load.is_loaded("_C") and (torch.version.cuda is None or load.is_loaded("_C_cuda"))):
        yield from toolchain.faults(tools)
    capability = _faults.of_capability()
    if capability is not None:
        yield capability
    yield from _unserved_gpus()
    yield from _other_copies()


def _unserved_gpus() -> Iterator[Fault]:
    """Faults of GPUs for which the loaded CUDA library has no code, although it has code for another GPU."""
    library = load.libraries["_C_cuda"]
    if library.problem is not None or library.path is None:
        return
    architectures = load.cuda_architectures(library.path.read_bytes())
    for gpu in dict.fromkeys(_gpus.found()):
        if architectures is not None and not architectures.serve(gpu):
            yield Fault(
                f"_C_cuda has no kernel image for {gpu}: only for compute capability {architectures}",
                "keep tensors off it (CUDA_VISIBLE_DEVICES), or with TORCHEXT_DISABLE_NATIVE=1 call jit_build()",
            )


def _other_copies() -> Iterator[Fault]:
    """Faults of other copies of the package on the path, which `import torchext` may find in another process."""
    found = {os.path.join(entry, "torchext") for entry in sys.path}
    # os.path.isfile returns False for folders that cannot be read.
    found = {os.path.realpath(folder) for folder in found if os.path.isfile(os.path.join(folder, "__init__.py"))}
    others = sorted(found - {str(PACKAGE)})
    for other in others:
        yield Fault(
            f"two torchext are on the path: this one in {PACKAGE}, another in {other}",
            f"keep one: pip uninstall {DISTRIBUTION}, or leave the folder out of PYTHONPATH",
        )
    versions = _installed(DISTRIBUTION) - {_version.__version__}
    if versions and not others:
        listed = ", ".join(sorted(versions))
        yield Fault(
            f"{DISTRIBUTION} {listed} is installed too, in addition to this {_version.__version__}",
            f"remove it: pip uninstall {DISTRIBUTION}, and install again",
        )
    for stranger in sorted(_installed("torchext")):
        yield Fault(
            f"torchext {stranger} is installed, which is a package of another project with the same import name",
            f"remove both, and install this one again: pip uninstall torchext {DISTRIBUTION}, "
            f"pip install {DISTRIBUTION}",
        )


def _installed(name: str) -> set[str]:
    """The installed versions of a distribution."""
    return {_version_of(found) for found in importlib.metadata.distributions(name=name)}


def _version_of(distribution: importlib.metadata.Distribution) -> str:
    # For a folder without METADATA, which an interrupted installation leaves, some versions of Python return None, and
    # others raise errors of several types.
    try:
        return distribution.version or "of an unknown version"
    except Exception:
        return "of an unknown version"


def _kernel(operation: str, device: str) -> Kernel:
    library = load.libraries["_C" if device == "cpu" else "_C_cuda"]
    registered = f"torchext::{_RUN_BY.get(operation, operation)}"
    if torch._C._dispatch_has_kernel_for_dispatch_key(registered, device.upper()):
        capability = f", {load.cpu_capability()}" if device == "cpu" else ""
        return Kernel(operation, device, "compiled", f"{library.name} is loaded{capability}")
    if library.problem is None:
        return Kernel(operation, device, "reference", f"{library.name} {_NO_KERNEL}")
    return Kernel(operation, device, "reference", f"{library.name}: {library.problem}")
