"""What is loaded, which kernel runs where, and how to mend what is missing."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import NamedTuple

import torch

from torchext import _library, _native


class Kernel(NamedTuple):
    """Which kernel serves one operation on one device, and why that one."""

    operation: str
    device: str
    kernel: str
    reason: str


@dataclass(frozen=True, repr=False)
class Report:
    """What `torchext.doctor` found; prints as text."""

    versions: dict[str, str]
    libraries: tuple[_native.Library, ...]
    kernels: tuple[Kernel, ...]

    def __repr__(self) -> str:
        lines = [f"{name}: {version}" for name, version in self.versions.items()]
        for library in self.libraries:
            if library.problem is None:
                lines.append(f"{library.name}: loaded from {library.path}")
            else:
                lines.append(f"{library.name}: not loaded, {library.problem}; {library.remedy}")
        width = max(len(kernel.operation) for kernel in self.kernels)
        lines += [f"{k.operation:{width}}  {k.device:4}  {k.kernel:9}  {k.reason}" for k in self.kernels]
        return "\n".join(lines)


def doctor() -> Report:
    """Tell which libraries are loaded and, per operation and device, which kernel runs and why.

    Returns:
        A report that prints as text; its fields hold the same for programs.

    Example:
        >>> report = torchext.doctor()
        >>> {kernel.device for kernel in report.kernels if kernel.operation == "one_hot"} == {"cpu", "cuda"}
        True
    """
    versions = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": f"{platform.machine()}, kernels for {_native.cpu_capability() or 'none'}",
        "cuda": _cuda_version(),
    }
    kernels = [_kernel(name, device) for name in sorted(_library.operations) for device in ("cpu", "cuda")]
    return Report(versions, tuple(_native.libraries.values()), tuple(kernels))


def _cuda_version() -> str:
    driver = _native.cuda_driver_version()
    served = "no driver" if driver is None else f"driver for {_native.version_text(driver)}"
    return f"torch built for {torch.version.cuda or 'none'}, {served}"


def _kernel(operation: str, device: str) -> Kernel:
    library = _native.libraries["_C" if device == "cpu" else "_C_cuda"]
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"torchext::{operation}", device.upper()):
        capability = f", {_native.cpu_capability()}" if device == "cpu" else ""
        return Kernel(operation, device, "compiled", f"{library.name} is loaded{capability}")
    if library.problem is None:
        return Kernel(operation, device, "reference", f"{library.name} has no kernel for it")
    return Kernel(operation, device, "reference", f"{library.name}: {library.problem}")
