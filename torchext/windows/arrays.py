"""Arrays that are not tensors, such as `numpy.memmap` and zarr arrays: reading and writing a part at a time."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from torchext._core import checks


class Array(Protocol):
    """Anything with a shape, a dtype of NumPy or PyTorch, and values that are read by slices."""

    @property
    def shape(self) -> Any:
        """The size of each dimension."""

    @property
    def dtype(self) -> Any:
        """The dtype of the values."""

    def __getitem__(self, key: Any, /) -> Any:
        """The values of slices."""


def check(name: str, value: Any, *more: str) -> None:
    """Check that `value` is a tensor, or an array that has the attributes `more` too."""
    if isinstance(value, Tensor):
        checks.tensor(name, value)
    elif not all(hasattr(value, attribute) for attribute in ("shape", "dtype", "__getitem__", *more)):
        raise TypeError(
            f"{name}: expected a tensor, or an array with shape, dtype and slices, got {type(value).__name__}"
        )


def dtype_of(name: str, array: Tensor | Array) -> torch.dtype:
    """The dtype of a tensor with the values of `array`."""
    dtype = array.dtype
    if isinstance(dtype, torch.dtype):
        return dtype
    import numpy

    try:
        return torch.from_numpy(numpy.empty(0, numpy.dtype(dtype).newbyteorder("="))).dtype
    except TypeError:
        raise TypeError(f"{name}: expected a dtype that PyTorch has, got {dtype}") from None


def read(array: Tensor | Array, box: tuple[slice, ...]) -> Tensor:
    """The values inside of `box`: a view of a tensor, and a copy of an array."""
    part = array[box]
    if isinstance(part, Tensor):
        return part
    import numpy

    values = numpy.array(part)
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))


def write(array: Any, box: tuple[slice, ...], values: Tensor) -> None:
    """Write `values` into the part of `array` inside of `box`, in the dtype and on the device of `array`."""
    if not isinstance(array, Tensor):
        values = values.to("cpu", dtype_of("out", array))
    array[box] = values if isinstance(array.dtype, torch.dtype) else values.numpy()


def may_overlap(array: Any, other: Any) -> bool:
    """Whether two arrays of NumPy may share memory."""
    if not (hasattr(array, "__array_interface__") and hasattr(other, "__array_interface__")):
        return False
    import numpy

    return (
        isinstance(array, numpy.ndarray) and isinstance(other, numpy.ndarray) and numpy.may_share_memory(array, other)
    )
