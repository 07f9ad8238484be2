"""Floors: the memory accesses that no implementation can avoid, by PyTorch's functions and in the same process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Inputs = tuple[Any, ...]
Outputs = Sequence[torch.Tensor]
Thunk = Callable[[], Any]

MIB = 1 << 20
HUGE_PAGE = 2 * MIB
# glibc never keeps larger blocks in its heap: it maps them anew each time, which causes page faults.
LARGEST_HEAP_BLOCK = 32 * MIB


@dataclass(frozen=True)
class Floor:
    """`prepare(inputs, outputs)` allocates the memory of the floor and returns the call to time."""

    name: str
    prepare: Callable[[Inputs, Outputs], Thunk]


def huge_pages_in_allocator() -> bool:
    return os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"


def _fill(_inputs: Inputs, outputs: Outputs) -> Thunk:
    warm = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in outputs]
    return _each(warm, lambda x: x.fill_(1))


def _read(inputs: Inputs, _outputs: Outputs) -> Thunk:
    tensors = [x.detach() for x in inputs if isinstance(x, torch.Tensor)]
    return _each(tensors, torch.sum)


def _copy(_inputs: Inputs, outputs: Outputs) -> Thunk:
    (output,) = outputs
    source = torch.ones(output.shape, dtype=output.dtype, device=output.device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def _hinted_fill(inputs: Inputs, outputs: Outputs) -> Thunk:
    """Fill a newly allocated tensor with huge pages, the fastest way to write a new large output on a CPU."""
    (output,) = outputs
    shape, dtype, device = output.shape, output.dtype, output.device
    if device.type != "cpu" or output.nbytes < LARGEST_HEAP_BLOCK or huge_pages_in_allocator():
        return lambda: torch.empty(shape, dtype=dtype, device=device).fill_(1)
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return _fill(inputs, outputs)

    count, size = output.numel(), output.nbytes

    def fill_mapped() -> None:
        memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        torch.frombuffer(memory, dtype=dtype, count=count).fill_(1)

    return fill_mapped


def _each(tensors: Sequence[torch.Tensor], fn: Callable[[torch.Tensor], Any]) -> Thunk:
    def run() -> None:
        for tensor in tensors:
            fn(tensor)

    return run


def _both(first: Callable[..., Thunk], second: Callable[..., Thunk]) -> Callable[..., Thunk]:
    def prepare(inputs: Inputs, outputs: Outputs) -> Thunk:
        a, b = first(inputs, outputs), second(inputs, outputs)

        def run() -> None:
            a()
            b()

        return run

    return prepare


FILL = Floor("fill", _fill)
READ = Floor("read", _read)
COPY = Floor("copy", _copy)
READ_FILL = Floor("read + fill", _both(_read, _fill))
READ_FRESH = Floor("read + hinted fill", _both(_read, _hinted_fill))


def custom(name: str, fn: Callable[..., Any]) -> Floor:
    """A floor that calls `fn(*inputs)` with the inputs of the workload."""
    return Floor(name, lambda inputs, _outputs: lambda: fn(*inputs))
