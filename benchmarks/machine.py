"""The machine in words: what a reader needs to judge the figures, and nothing that names the machine."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from .floors import huge_pages_in_allocator

CPU_DIRECTORY = Path("/sys/devices/system/cpu/cpu0/cache")
HUGE_PAGE_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return match[1] if match else platform.machine()


def _caches() -> Iterator[str]:
    for index in sorted(CPU_DIRECTORY.glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(_read(index / "type"), "")
        yield f"L{_read(index / 'level')}{kind} {_read(index / 'size')}"


def _huge_page_setting() -> str:
    match = re.search(r"\[(\w+)]", _read(HUGE_PAGE_SETTING))
    return match[1] if match else "unknown"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def native_kernels() -> bool | None:
    """Whether torchext's compiled library is loaded; None where the package cannot tell."""
    namespace = "torchext::"
    names = torch._C._dispatch_get_all_op_names()
    ours = [name for name in names if name.startswith(namespace)]
    if not ours:
        return None
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU") for name in ours)


def describe() -> dict[str, str | int | bool | None]:
    return {
        "cpu": cpu_model(),
        "cores": _cores(),
        "caches": ", ".join(_caches()),
        "transparent huge pages": _huge_page_setting(),
        "THP_MEM_ALLOC_ENABLE": "1" if huge_pages_in_allocator() else "unset",
        "torch": torch.__version__,
        "torch's CPU capability": torch.backends.cpu.get_cpu_capability(),
        "native kernels": native_kernels(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def describe_cuda() -> dict[str, str | int]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "GPU memory": f"{properties.total_memory >> 30} GiB",
        "L2": f"{properties.L2_cache_size >> 20} MiB",
        "CUDA of torch": str(torch.version.cuda),
    }


def one_line(machine: dict[str, str | int | bool | None]) -> str:
    parts = [f"{machine['cpu']}, {machine['cores']} cores", f"torch {machine['torch']}", str(machine["date"])]
    if "gpu" in machine:
        parts.insert(0, str(machine["gpu"]))
    return " · ".join(parts)
