"""A description of the machine: what a reader needs to judge the figures, and nothing that identifies it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .floors import huge_pages_in_allocator

CPU_DIRECTORY = Path("/sys/devices/system/cpu/cpu0/cache")
HUGE_PAGE_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

ENOUGH_TICKS = 0.2


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


class Bystanders:
    """Measures how many cores other processes, and other guests of the host, take from this process."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        fields = _read(Path("/proc/stat")).split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields or [0] * 8)
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy, time.process_time(), time.perf_counter()

    def cores(self) -> float:
        busy, own, elapsed = (now - then for now, then in zip(self._now(), self._start, strict=True))
        # Busy time is counted in ticks, which are too coarse for short times.
        return max(busy - own, 0.0) / elapsed if elapsed > ENOUGH_TICKS else 0.0


def native_operations(device: str) -> list[str]:
    """Operations with a compiled kernel for the device; all others run their PyTorch reference."""
    key = device.upper()
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("torchext::")}
    return sorted(
        name.removeprefix("torchext::") for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    )


def describe() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": _cores(),
        "caches": ", ".join(_caches()),
        "transparent huge pages": _huge_page_setting(),
        "THP_MEM_ALLOC_ENABLE": "1" if huge_pages_in_allocator() else "unset",
        "torch": torch.__version__,
        "torch's CPU capability": torch.backends.cpu.get_cpu_capability(),
        "native CPU kernels": ", ".join(native_operations("cpu")) or "none, references were timed",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def describe_cuda() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "GPU memory": f"{properties.total_memory >> 30} GiB",
        "L2": f"{properties.L2_cache_size >> 20} MiB",
        "CUDA of torch": str(torch.version.cuda),
        "native CUDA kernels": ", ".join(native_operations("cuda")) or "none, references were timed",
    }


def slug(machine: dict[str, Any]) -> str:
    """The name for the files with the results of a machine: its GPU or its processor."""
    name = re.sub(r"\((R|TM|C)\)|\b(Processor|CPU)\b.*", "", str(machine.get("gpu") or machine["cpu"]))
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def one_line(machine: dict[str, Any]) -> str:
    parts = [f"{machine['cpu']}, {machine['cores']} cores", f"torch {machine['torch']}", str(machine["date"])]
    if "gpu" in machine:
        parts.insert(0, str(machine["gpu"]))
    return " · ".join(parts)
