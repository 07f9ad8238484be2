"""Weights of the positions of a window, for blending windows that overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import FLOAT_DTYPES
from torchext._core.library import in_transform, is_captured

__all__ = ["window_weight"]

Kind = Literal["linear", "hann", "gaussian"]
KINDS: tuple[Kind, ...] = ("linear", "hann", "gaussian")
Weight = Kind | Tensor | None


def check_weight(weight: Any, size: Sequence[int]) -> None:
    """`weight` is a float tensor of a window's size, a name or None."""
    if isinstance(weight, Tensor):
        checks.floats("weight", weight)
        if weight.shape != tuple(size):
            raise ValueError(f"weight: expected shape {tuple(size)}, that of a window, got {tuple(weight.shape)}")
    elif weight is None or isinstance(weight, str):
        checks.option("weight", weight, (None, *KINDS))
    else:
        raise TypeError(f"weight: expected None, a str or a tensor, got {type(weight).__name__}")


def _along_axis(n: int, kind: Kind, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    from_edge = torch.arange(n, dtype=dtype, device=device)
    # Of the nearer end, so that both halves have the same bits.
    from_edge = torch.minimum(from_edge, n - 1 - from_edge)
    if kind == "linear":
        return from_edge + 1
    if kind == "hann":
        return torch.sin((from_edge + 0.5) * (math.pi / n)) ** 2
    from_centre = (n - 1) / 2 - from_edge
    return torch.exp(from_centre**2 / (-2 * (n / 8) ** 2))


def window_weight(
    size: int | Sequence[int],
    kind: Kind,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weigh the positions of a window, the centre most: the product of one weight for each dimension.

    Place i of n weighs ``min(i + 1, n - i)`` if linear, ``sin²(π(i + ½)/n)`` if hann, and if gaussian
    ``exp(-(i - (n - 1)/2)² / 2σ²)`` with ``σ = n/8``, whose product is never less than 1e-3: MONAI's
    ``compute_importance_map``. No weight is 0, so that what is divided by a sum of weights stays finite.

    Args:
        size: size of the window, an int for one dimension.
        kind: ``"linear"``, ``"hann"`` or ``"gaussian"``.
        dtype: float16, bfloat16, float32 or float64; the default float dtype if None.
        device: where the weights are.

    Returns:
        A tensor of shape `size`.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong size or kind, or linear weights too large for the dtype.

    Examples:
        >>> torchext.window_weight(5, "linear")
        tensor([1., 2., 3., 2., 1.])
        >>> torchext.window_weight((2, 4), "hann")
        tensor([[0.0732, 0.4268, 0.4268, 0.0732],
                [0.0732, 0.4268, 0.4268, 0.0732]])
    """
    sizes = checks.sizes("size", size, len(size) if checks.is_sequence(size) else 1, least=1)
    if not sizes:
        raise ValueError(f"size: expected at least one dimension, got {size}")
    checks.fits("size", size, sizes)
    checks.option("kind", kind, KINDS)
    dtype = _float_dtype(dtype)
    device = None if device is None else checks.device("device", device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.ones((), dtype=wide, device=device)
    peak = 1
    for n in sizes:
        weight = weight.unsqueeze(-1) * _along_axis(n, kind, wide, device)
        peak *= (n + 1) // 2
    if kind == "linear" and peak > torch.finfo(dtype).max:
        raise ValueError(f"size: {dtype} cannot hold the linear weight {peak} of a window of size {sizes}")
    # A product of small weights would underflow.
    return weight.clamp_min(1e-3 if kind == "gaussian" else torch.finfo(dtype).tiny).to(dtype)


_LARGEST_KEPT = 2**20  # elements


class _NotKeptError(Exception):
    """Carries a weight past the cache."""


# On a GPU a weight is a dozen launches and more, which take longer than joining a few windows. What is made on a stream
# is ready for that stream alone, hence the stream.
@lru_cache(maxsize=16)
def _kept(size: tuple[int, ...], kind: Kind, dtype: torch.dtype, device: torch.device, stream: Any) -> Tensor:
    with torch.inference_mode(False):  # what inference mode makes no backward could save
        weight = window_weight(size, kind, dtype=dtype, device=device)
    # A mode, such as that of fake tensors, makes something else than a tensor.
    if type(weight) is not Tensor or weight.numel() > _LARGEST_KEPT:
        raise _NotKeptError(weight)
    return weight


def kept_weight(size: tuple[int, ...], kind: Kind, dtype: torch.dtype, device: torch.device, windows: Tensor) -> Tensor:
    """`window_weight` for `windows`, only to be read and not to be handed out: it may be the same tensor each time."""
    # What is made in a transform belongs to the transform, and what is made during the capture of a CUDA graph to the
    # graph; nor may a graph use what is kept, since it may be replayed when that is kept no more.
    keeps = not torch.compiler.is_compiling() and type(windows) is Tensor and not in_transform()
    where = device.type
    if keeps and (where == "cpu" or (where == "cuda" and not is_captured(device))):
        try:
            return _kept(size, kind, dtype, device, torch.cuda.current_stream(device) if where == "cuda" else None)
        except _NotKeptError as error:
            weight: Tensor = error.args[0]
            return weight
    return window_weight(size, kind, dtype=dtype, device=device)


def _float_dtype(dtype: Any) -> torch.dtype:
    if dtype is None:
        return torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected a torch.dtype, got {type(dtype).__name__}")
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"dtype: expected float16, bfloat16, float32 or float64, got {dtype}")
    return dtype
