"""Code that the encodings of labels share: values of entries, the pure-PyTorch encoding, and checks of options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchext._core import checks as _checks
from torchext._core.dtypes import FLOAT8_DTYPES
from torchext._core.library import Kernel, define, in_onnx_export, in_transform, is_readable
from torchext.onehot.labels import bins_of

# torch.where does not support these dtypes. It is called in another dtype, which holds the same values.
_CARRIERS = {
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
    torch.complex32: torch.complex64,
    **dict.fromkeys(FLOAT8_DTYPES, torch.float32),
}


def values(num_classes: int, on_value: float, off_value: float, label_smoothing: float) -> tuple[float, float]:
    """The value of an entry at its label's class and of any other entry: off + (on - off)·((1 - e)·hot + e/C)."""
    if label_smoothing == 0 or num_classes == 0:
        return on_value, off_value  # exact; the formula would turn infinities into NaN
    share = label_smoothing / num_classes
    span = on_value - off_value
    return off_value + span * (1 - label_smoothing + share), off_value + span * share


def compare(indices: Tensor, num_classes: int, dim: int) -> Tensor:
    """Whether each class, along a new dimension `dim`, is equal to the entry of `indices`."""
    classes = torch.arange(num_classes, device=indices.device)
    if in_onnx_export():  # onnxruntime compares int32 in half the time
        indices, classes = indices.to(torch.int32), classes.to(torch.int32)
    return indices.unsqueeze(dim) == classes.view(-1, *[1] * (indices.dim() - dim))


def is_fused(labels: Tensor) -> bool:
    """Whether a compiler fuses the encoding into its consumer; DTensors have rules only for the whole operation."""
    return torch.compiler.is_compiling() and type(labels).__name__ != "DTensor"


def is_zero(value: float) -> bool:
    """Whether the value is 0, and not -0."""
    return value == 0 and math.copysign(1.0, value) > 0


def _scalar(value: float, dtype: torch.dtype) -> float:
    """The value as the dtype that is computed in instead of `dtype` represents it."""
    carrier = _CARRIERS.get(dtype, dtype)
    if carrier.is_floating_point or carrier.is_complex:
        return value
    # A uint64 value of 2^63 or more is represented by the int64 with the same bits.
    return int(value - 2**64 if dtype == torch.uint64 and value >= 2**63 else value)


def scattered(classes: Tensor, are_classes: bool, shape: Sequence[int], dim: int, *entry: Any) -> Tensor:
    """The encoding of a shape with classes along `dim`: `hot` at those in `classes`, `cold` elsewhere.

    The last arguments are the dtype, `hot` and `cold`. The classes have any size along `dim`, and those of -1, which
    there are only without `are_classes`, are left out.
    """
    dtype, hot, cold = entry
    bins, count = bins_of(classes, are_classes, shape[dim])
    binned = (*shape[:dim], count, *shape[dim + 1 :])
    value, carrier = _scalar(hot, dtype), _CARRIERS.get(dtype, dtype)
    if is_zero(cold):
        out = classes.new_zeros(binned, dtype=carrier)
    else:
        out = classes.new_full(binned, _scalar(cold, dtype), dtype=carrier)
    # A program that is traced writes into no tensor.
    out = out.scatter_(dim, bins, value) if is_readable(out) else out.scatter(dim, bins, value)
    return (out if are_classes else out.narrow(dim, 0, shape[dim])).to(dtype).contiguous()


def entries(is_hot: Tensor, dtype: torch.dtype, hot: float, cold: float, zero: Tensor | None = None) -> Tensor:
    """Encode a mask: `hot` where it is true, `cold` where it is false, and 0 where `zero` is true."""
    if hot == 1 and is_zero(cold):
        return is_hot.to(dtype).contiguous()
    is_hot = is_hot.to(torch.bool)
    carrier = _CARRIERS.get(dtype, dtype)

    def constant(value: float) -> Tensor:
        return torch.full((), _scalar(value, dtype), dtype=carrier, device=is_hot.device)

    out = torch.where(is_hot, constant(hot), constant(cold))
    if not is_zero(cold) and zero is not None:
        out = torch.where(zero, constant(0), out)
    return out.to(dtype).contiguous()


def check_smoothing(label_smoothing: Any, dtype: torch.dtype) -> float:
    """Return the smoothing as a float, which has to be in [0, 1] and, unless it is 0, requires a float dtype."""
    smoothing = _checks.number("label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {label_smoothing}")
    if smoothing != 0 and not dtype.is_floating_point:
        raise ValueError(f"label_smoothing: expected a float dtype for {label_smoothing}, got {dtype}")
    return smoothing


def check_out(out: Tensor, shape: tuple[int, ...], dtype: torch.dtype, inputs: dict[str, Tensor]) -> None:
    """Check that `out` can take a result of that shape and dtype, and shares no memory with the inputs."""
    if out.dtype != dtype:
        raise TypeError(f"out: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {tuple(out.shape)}")
    name, first = next(iter(inputs.items()))
    _checks.same_device("out", out, name, first)
    if not torch.compiler.is_compiling():
        if in_transform():
            raise ValueError("out: expected None inside a transform of torch.func, which cannot trace it, got a tensor")
        if out.is_conj() or out.is_neg():
            raise ValueError("out: expected a tensor that is not a conjugate or negative view, got such a view")
    if out.requires_grad:
        raise ValueError("out: expected a tensor that does not require grad, got one that does")
    for name, tensor in inputs.items():
        _checks.no_overlap("out", out, name, tensor)


def define_out(schema: str, reference: Kernel, dtype_at: int) -> Kernel:
    """Define the operation that writes what `reference` returns into its last argument.

    It does not have the argument `dtype` of `reference`, which is at the index `dtype_at`.
    """

    def write_reference(*args: Any) -> None:
        *inputs, out = args
        out.copy_(reference(*inputs[:dtype_at], out.dtype, *inputs[dtype_at:]))

    return define(schema, reference=write_reference, fake=lambda *_: None, vmap=None, sharding=None, traceable=False)


def write(out: Tensor, encode: Kernel, encode_out: Kernel, inputs: tuple[Any, ...], options: tuple[Any, ...]) -> None:
    """Write into `out`: with `encode_out` if it is row-major, otherwise by a copy of the result of `encode`.

    The arguments of `encode` are the inputs, the dtype and the options.
    """
    if not out.is_contiguous():
        out.copy_(encode(*inputs, out.dtype, *options))
        return
    encode_out(*inputs, *options, out)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(out)
