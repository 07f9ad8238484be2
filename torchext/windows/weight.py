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
    """Check that `weight` is a float tensor of a window's size, a name or None."""
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
    # The distance from the nearer end, so that both halves have the same bits.
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
    """Compute weights of the positions of a window, which are largest at its centre.

    A weight is the product of one factor for each dimension. The factor of position i of n is ``min(i + 1, n - i)`` for
    ``"linear"``, ``sin²(π(i + ½)/n)`` for ``"hann"``, and ``exp(-(i - (n - 1)/2)² / 2σ²)`` with ``σ = n/8`` for
    ``"gaussian"``. Gaussian weights are at least 1e-3, as in MONAI's ``compute_importance_map``. No weight is 0, so
    that a division by a sum of weights is finite.

    Args:
        size: size of the window, an int for one dimension.
        kind: ``"linear"``, ``"hann"`` or ``"gaussian"``.
        dtype: float16, bfloat16, float32 or float64; None is PyTorch's default float dtype.
        device: device of the result; None is PyTorch's default device.

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
    if dtype is None:
        dtype = torch.get_default_dtype()
    checks.dtype(dtype, FLOAT_DTYPES, checks.FLOAT_DTYPE)
    device = None if device is None else checks.device("device", device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.ones((), dtype=wide, device=device)
    peak = 1
    for n in sizes:
        weight = weight.unsqueeze(-1) * _along_axis(n, kind, wide, device)
        peak *= (n + 1) // 2
    if kind == "linear" and peak > torch.finfo(dtype).max:
        raise ValueError(f"size: {dtype} cannot hold the linear weight {peak} of a window of size {sizes}")
    # A product of small weights could underflow to 0.
    return weight.clamp_min(1e-3 if kind == "gaussian" else torch.finfo(dtype).tiny).to(dtype)


_MOST_CACHED_ELEMENTS = 2**20


class _NotCachedError(Exception):
    """Raised with a weight that must not be cached: `lru_cache` does not store the result of a call that raises."""


# On a GPU a weight takes a dozen launches or more, which take longer than merging a few windows. The stream is an
# argument because a tensor that is computed on one stream cannot be read on another without a synchronisation.
@lru_cache(maxsize=16)
def _cached(size: tuple[int, ...], kind: Kind, dtype: torch.dtype, device: torch.device, stream: Any) -> Tensor:
    with torch.inference_mode(False):  # a backward pass cannot save tensors that are created in inference mode
        weight = window_weight(size, kind, dtype=dtype, device=device)
    # In a mode such as that of fake tensors, the result is not a plain tensor.
    if type(weight) is not Tensor or weight.numel() > _MOST_CACHED_ELEMENTS:
        raise _NotCachedError(weight)
    return weight


def cached_weight(
    size: tuple[int, ...], kind: Kind, dtype: torch.dtype, device: torch.device, windows: Tensor
) -> Tensor:
    """`window_weight` for `windows`, from a cache: the caller must not write to it or return it to the user."""
    # Tensors that are created in a transform or in the capture of a CUDA graph must not be used outside of it. A graph
    # must not use a cached tensor either, since a replay may come after the tensor has left the cache.
    may_cache = not torch.compiler.is_compiling() and type(windows) is Tensor and not in_transform()
    device_type = device.type
    if may_cache and (device_type == "cpu" or (device_type == "cuda" and not is_captured(device))):
        try:
            stream = torch.cuda.current_stream(device) if device_type == "cuda" else None
            return _cached(size, kind, dtype, device, stream)
        except _NotCachedError as error:
            weight: Tensor = error.args[0]
            return weight
    return window_weight(size, kind, dtype=dtype, device=device)
