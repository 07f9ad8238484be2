"""Groups of dtypes, and the dtypes in which sums are accumulated."""

from __future__ import annotations

import torch
from torch import Tensor

INTEGER_DTYPES = frozenset(
    {
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.uint16, torch.uint32, torch.uint64,
    }
)  # fmt: skip
LABEL_DTYPES = INTEGER_DTYPES | {torch.bool}
FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
FLOAT8_DTYPES = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})
COMPLEX_DTYPES = frozenset({torch.complex64, torch.complex128})
DTYPES = LABEL_DTYPES | FLOAT_DTYPES | FLOAT8_DTYPES | COMPLEX_DTYPES | {torch.complex32}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values are computed and added: float32 for half precision, int64 for integers and bool."""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.int64


def widen(values: Tensor) -> Tensor:
    """Convert values to the dtype of their sums. Sums of int64 wrap around to the bits of sums of other integers."""
    return (values.view(torch.int64) if values.dtype == torch.uint64 else values).to(accumulation_dtype(values.dtype))


def narrow(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert sums to the dtype of the values; it is the inverse of `widen`."""
    return sums.contiguous().view(dtype) if dtype == torch.uint64 else sums.to(dtype)


def widest_float(device: torch.device) -> torch.dtype:
    """float64 on the CPU and on CUDA, float32 on other devices, which may have no float64."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32
