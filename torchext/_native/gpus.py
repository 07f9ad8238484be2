"""The GPUs of the machine, read from the driver without initialising CUDA, after which a process cannot fork."""

from __future__ import annotations

import ctypes
from typing import NamedTuple


class Gpu(NamedTuple):
    """A GPU and its compute capability, as 10·major + minor."""

    name: str
    capability: int

    def __str__(self) -> str:
        """Name and compute capability."""
        return f"{self.name} (compute capability {self.capability // 10}.{self.capability % 10})"


def found() -> list[Gpu]:
    """All GPUs of the driver, including those that CUDA_VISIBLE_DEVICES hides; an empty list without a driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        gpus = [_describe(nvml, index) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()
    return [gpu for gpu in gpus if gpu is not None]


def _describe(nvml: ctypes.CDLL, index: int) -> Gpu | None:
    handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(96)
    if (
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        or nvml.nvmlDeviceGetName(handle, name, len(name))
        or nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    ):
        return None
    return Gpu(name.value.decode(), 10 * major.value + minor.value)


class Architectures(NamedTuple):
    """The compute capabilities of a CUDA library: of its machine code, and of PTX, which a driver compiles."""

    machine_code: tuple[int, ...]
    ptx: int | None

    def serve(self, gpu: Gpu) -> bool:
        """Whether kernels run on a GPU: machine code does on later GPUs of its major version, PTX on all later ones."""
        same_major = any(code // 10 == gpu.capability // 10 and code <= gpu.capability for code in self.machine_code)
        return same_major or (self.ptx is not None and self.ptx <= gpu.capability)

    def __str__(self) -> str:
        """The compute capabilities as text."""
        text = ", ".join(f"{code // 10}.{code % 10}" for code in self.machine_code)
        return text if self.ptx is None else f"{text} and what is newer"
