"""Checks of arguments. Each error names the argument, what came and what was expected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

INTEGER_DTYPES = frozenset(
    {
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.uint16, torch.uint32, torch.uint64,
    }
)  # fmt: skip
LABEL_DTYPES = INTEGER_DTYPES | {torch.bool}


def tensor(name: str, value: Any) -> None:
    """`value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if type(value) is not Tensor:
        _subclass(value)


def _subclass(value: Tensor) -> None:
    """A DTensor needs sharding rules. They import torch.distributed, so they wait for the first one."""
    if type(value).__name__ == "DTensor":
        from torchext import _distributed

        _distributed.register()


def labels(name: str, value: Any) -> None:
    """`value` is a tensor of labels: bool or any integer dtype."""
    tensor(name, value)
    if value.dtype not in LABEL_DTYPES:
        raise TypeError(f"{name}: expected bool or an integer dtype, got {value.dtype}")


def dimension(name: str, value: Any, rank: int) -> int:
    """`value` as an index into `rank` dimensions, from 0."""
    integer(name, value)
    if not -rank <= value < rank:
        raise ValueError(f"{name}: expected a dimension in [{-rank}, {rank - 1}], got {value}")
    return value % rank


def option(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """`value` is one of the allowed ones."""
    if value not in allowed:
        choices = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def holds(name: str, value: Any, dtype: torch.dtype) -> None:
    """`dtype` can hold `value`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if value in (0, 1):
        return
    if dtype.is_floating_point or dtype.is_complex:
        part = dtype.to_real() if dtype.is_complex else dtype
        fits = abs(value) <= torch.finfo(part).max or value != value or abs(value) == float("inf")
    elif dtype == torch.bool:
        fits = False
    else:
        limits = torch.iinfo(dtype)
        # Values travel as float64, which is exact for integers up to 2^53 only.
        fits = value == value and limits.min <= value <= limits.max and int(value) == value == float(value)
    if not fits:
        raise ValueError(f"{name}: {dtype} cannot hold {value}")


def integer(name: str, value: Any) -> None:
    """`value` is an int."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (int, torch.SymInt))):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")


def no_overlap(name: str, written: Tensor, other_name: str, other: Tensor) -> None:
    """`written` shares no memory with `other` and none between its own elements."""
    if torch.compiler.is_compiling():
        return  # traced tensors have no memory yet, and PyTorch checks what it functionalises
    if any(stride == 0 and size > 1 for stride, size in zip(written.stride(), written.shape, strict=True)):
        raise ValueError(f"{name}: expected a tensor whose elements have each their own memory, got an expanded one")
    begin, end = _span(written)
    other_begin, other_end = _span(other)
    if begin < other_end and other_begin < end:
        raise ValueError(f"{name}: expected memory apart from {other_name}, got one that overlaps it")


def _span(value: Tensor) -> tuple[int, int]:
    """The range of bytes that a tensor touches."""
    if value.numel() == 0:
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return value.data_ptr(), value.data_ptr() + (last + 1) * value.element_size()


def sizes(name: str, value: Any, rank: int, *, least: int) -> tuple[int, ...]:
    """`value` as one size for each of `rank` dimensions; an int stands for all."""
    if isinstance(value, (int, torch.SymInt)):
        values: tuple[Any, ...] = (value,) * rank
    elif isinstance(value, (tuple, list)):
        values = tuple(value)
    else:
        raise TypeError(f"{name}: expected an int or a sequence of ints, got {type(value).__name__}")
    for one in values:
        integer(name, one)
    if len(values) != rank:
        raise ValueError(f"{name}: expected an int or {rank} of them, got {values}")
    for one in values:
        if one < least:
            raise ValueError(f"{name}: expected at least {least} in each dimension, got {value}")
    return values


FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def floats(name: str, value: Any) -> None:
    """`value` is a tensor of float16, bfloat16, float32 or float64."""
    tensor(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {value.dtype}")
