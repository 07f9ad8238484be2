"""Checks of arguments. Each error names the argument, what was expected and what was given."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeGuard

import torch
from torch import Tensor

from torchext._core import sharding as _sharding
from torchext._core.dtypes import FLOAT_DTYPES, LABEL_DTYPES

MAX_DIMS = 64  # the kernels' limit; the same number as kMaxDims in csrc/common/axis.h

_STRIDED = torch.strided
_REAL_PARTS = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


def tensor(name: str, value: Any) -> None:
    """Check that `value` is a tensor in strided memory."""
    if not isinstance(value, Tensor):
        if isinstance(value, torch.fx.Proxy):
            raise TypeError(
                f"{name}: expected a tensor, got a Proxy of torch.fx; call the function as torchext.<name>, which "
                "torch.fx records, or pass its name to torch.fx.wrap in the module that imports it"
            )
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.layout is not _STRIDED:
        raise TypeError(f"{name}: expected a dense tensor, got {value.layout}")
    if type(value) is Tensor:
        if value.is_nested:
            raise TypeError(f"{name}: expected a dense tensor, got a nested one")
    elif type(value).__name__ == "DTensor":
        _sharding.register()


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Check that `value` is on the device of `other`."""
    if value.device != other.device:
        raise ValueError(f"{name}: expected device {other.device} as of {other_name}, got {value.device}")


def labels(name: str, value: Any, most_dims: int = MAX_DIMS) -> int:
    """Check that `value` is a bool or integer tensor of at most `most_dims` dimensions, and return how many it has."""
    if type(value) is not Tensor or value.layout is not _STRIDED:
        tensor(name, value)
    if value.dtype not in LABEL_DTYPES:
        raise TypeError(f"{name}: expected bool or an integer dtype, got {value.dtype}")
    rank: int = value.dim()
    if rank > most_dims:
        raise ValueError(f"{name}: expected at most {most_dims} dimensions, got {rank}")
    return rank


def dimension(name: str, value: Any, rank: int) -> int:
    """Return `value`, an index into `rank` dimensions that may be negative, as an index in [0, rank)."""
    index = value if type(value) is int else integer(name, value)
    if not -rank <= index < rank:
        raise ValueError(f"{name}: expected a dimension in [{-rank}, {rank - 1}], got {index}")
    return index % rank


def option(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Check that `value` is one of `allowed`."""
    if not (value is None or isinstance(value, str)) or value not in allowed:  # an array has no one truth value
        choices = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def flag(name: str, value: Any) -> bool:
    """Return `value`, which has to be True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return value


def device(name: str, value: Any) -> torch.device:
    """Return `value` as a `torch.device`."""
    try:
        return torch.device(value)
    except TypeError:
        raise TypeError(f"{name}: expected a device, its name or its index, got {type(value).__name__}") from None
    except RuntimeError:
        raise ValueError(f"{name}: expected the name of a device, got {value!r}") from None


def _short(value: Any) -> str:
    """A number as text for an error: Python refuses to convert ints of thousands of digits to text."""
    return f"an int of {value.bit_length()} bits" if isinstance(value, int) and abs(value) >= 2**64 else str(value)


def _number(name: str, value: Any, expected: str) -> int | float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if hasattr(value, "__float__") and not isinstance(value, (bool, Tensor)):
        for convert in (operator.index, float):
            try:
                return convert(value)
            except TypeError:
                continue
    raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")


def number(name: str, value: Any, expected: str = "a number") -> float:
    """Return `value`, any object with ``__float__`` except bool and tensors, as a float."""
    value = _number(name, value, expected)
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that float64 holds, got {_short(value)}") from None


def holds(name: str, value: Any, dtype: torch.dtype) -> float:
    """Return `value`, which `dtype` has to be able to hold, as the Python float that the operations take.

    An integer dtype also requires that float64 holds the value exactly.
    """
    if not (dtype == torch.bool and isinstance(value, bool)):
        value = _number(name, value, "a number")
    if value in (0, 1):
        return float(value)
    if dtype.is_floating_point or dtype.is_complex:
        part = _REAL_PARTS.get(dtype, dtype)
        is_finite = value == value and abs(value) != math.inf  # math.isfinite overflows for large ints
        # The 8-bit formats do not all have an infinity.
        fits = abs(value) <= torch.finfo(part).max or (dtype.itemsize > 1 and not is_finite)
    elif dtype == torch.bool:
        fits = False
    else:
        limits = torch.iinfo(dtype)
        fits = value == value and limits.min <= value <= limits.max and int(value) == value
        if fits and value != float(value):
            raise ValueError(f"{name}: expected an integer that float64 holds exactly, got {_short(value)}")
    if not fits:
        raise ValueError(f"{name}: {dtype} cannot hold {_short(value)}")
    return float(value)


def _as_index(value: Any) -> int | None:
    if isinstance(value, Tensor) and torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return int(value)  # a size of a traced tensor, which the trace fixes
    # bool and tensors have __index__ too, but as a size they are more likely a mistake.
    if hasattr(value, "__index__") and not isinstance(value, (bool, Tensor)):
        try:
            return operator.index(value)
        except TypeError:  # every array has __index__, but it works only for an array of one number
            pass
    return None


def integer(name: str, value: Any) -> int:
    """Return `value` as an int of at most 64 bits; any object that Python accepts as an index is valid."""
    if type(value) is int:  # the common case first, for speed
        index = value
    elif isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]  # a symbolic int
    elif (as_index := _as_index(value)) is not None:
        index = as_index
    else:
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"{name}: expected an int of at most 64 bits, got {_short(index)}")
    return index


def classes(name: str, value: Any, other_sizes: Sequence[int] = ()) -> int:
    """Return `value` as a number of classes, for a result with a class dimension and dimensions of `other_sizes`."""
    count = integer(name, value)
    if count < 0:
        raise ValueError(f"{name}: expected a number of classes, got {count}")
    # Below this, the result has fewer than 2^59 elements for any tensor that fits in memory.
    if count > 2**31:
        fits(name, count, (count, *other_sizes))
    return count


def no_overlap(name: str, written: Tensor, other_name: str, other: Tensor) -> None:
    """Check that `written` shares no memory with `other`, and that no two of its own elements share memory."""
    if torch.compiler.is_compiling() or written.is_meta or type(written) is not Tensor:
        return  # there are no addresses to compare; under a compiler, PyTorch does such checks itself
    if _may_overlap_itself(written):
        raise ValueError(
            f"{name}: expected a tensor whose elements do not share memory, got shape {tuple(written.shape)} "
            f"with strides {written.stride()}"
        )
    begin, end = _span(written)
    other_begin, other_end = _span(other)
    if begin < other_end and other_begin < end:
        raise ValueError(f"{name}: expected a tensor that shares no memory with {other_name}, got one that overlaps it")


def _may_overlap_itself(value: Tensor) -> bool:
    """Whether elements of `value` may share memory.

    They cannot if, with the dimensions in the order of their strides, each stride is larger than the memory range of
    all dimensions before it.
    """
    if value.is_contiguous() or value.numel() == 0:
        return False
    last = 0
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1:
            if stride <= last:
                return True
            last += (size - 1) * stride
    return False


def _span(value: Tensor) -> tuple[int, int]:
    """The address of a tensor's first byte and the address after its last byte."""
    if value.numel() == 0:
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return value.data_ptr(), value.data_ptr() + (last + 1) * value.element_size()


# With this limit, sums of a few sizes cannot overflow int64. Products can, and `fits` checks them.
_LARGEST_SIZE = 2**40
_MOST_ELEMENTS = 2**59  # of at most 16 bytes each, so that int64 can count the bytes


def fits(name: str, value: Any, counts: Iterable[int], what: str = "the result") -> None:
    """Check that the product of `counts`, the number of elements of `what` for this `value`, is at most 2^59."""
    count = math.prod(counts)
    if count > _MOST_ELEMENTS:
        raise ValueError(f"{name}: expected at most 2^59 elements in {what}, got {count} for {value}")


ANY_DTYPE = "a real, complex or bool dtype of whole bytes"  # one of DTYPES
FLOAT_DTYPE = "float16, bfloat16, float32 or float64"  # one of FLOAT_DTYPES


def dtype(value: Any, allowed: AbstractSet[torch.dtype], expected: str) -> None:
    """Check that the argument `dtype` is one of `allowed`, which the error describes as `expected`."""
    if not isinstance(value, torch.dtype):
        raise TypeError(f"dtype: expected a torch.dtype, got {type(value).__name__}")
    if value not in allowed:
        raise TypeError(f"dtype: expected {expected}, got {value}")


def not_in_dtypes(name: str, dtype: torch.dtype) -> TypeError:
    """The error for a `dtype` that is not in ``DTYPES``."""
    return TypeError(f"{name}: expected {ANY_DTYPE}, got {dtype}")


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether `value` is a sequence, such as a tuple, a range or an array, but not text and not a tensor."""
    if isinstance(value, (tuple, list)):
        return True
    if isinstance(value, (int, float, torch.SymInt, str, bytes, Tensor)) or not hasattr(value, "__getitem__"):
        return False
    try:
        len(value)
    except (TypeError, OverflowError):  # a zero-dimensional array; a range of more than 2^63 entries
        return False
    return True


def shown(values: Sequence[Any]) -> str:
    """A sequence as text for an error: only its length if it is long, as a range may be."""
    return str(tuple(values)) if len(values) <= 8 else f"{len(values)} of them"


def sizes(name: str, value: Any, rank: int, *, least: int) -> tuple[int, ...]:
    """Return `value` as one size of at least `least` for each of `rank` dimensions; an int is used for all."""
    if type(value) is int:  # a common case first, for speed
        values = (value,) * rank
    elif is_sequence(value):
        if len(value) != rank:
            raise ValueError(f"{name}: expected an int or {rank} of them, got {shown(value)}")
        values = tuple(integer(name, entry) for entry in value)
    elif isinstance(value, (int, torch.SymInt)) or _as_index(value) is not None:
        values = (integer(name, value),) * rank
    else:
        raise TypeError(f"{name}: expected an int or a sequence of ints, got {type(value).__name__}")
    for size in values:
        if size < least:
            raise ValueError(f"{name}: expected at least {least} in each dimension, got {value}")
        if size > _LARGEST_SIZE:
            raise ValueError(f"{name}: expected at most {_LARGEST_SIZE} in each dimension, got {value}")
    return values


def tensor_of(name: str, value: Any, allowed: AbstractSet[torch.dtype], expected: str) -> None:
    """Check that `value` is a tensor of one of the dtypes `allowed`, which the error describes as `expected`."""
    tensor(name, value)
    if value.dtype not in allowed:
        raise TypeError(f"{name}: expected {expected}, got {value.dtype}")


def floats(name: str, value: Any) -> None:
    """Check that `value` is a tensor of float16, bfloat16, float32 or float64."""
    tensor_of(name, value, FLOAT_DTYPES, FLOAT_DTYPE)
