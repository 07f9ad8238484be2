"""Padding of images: the modes, the amount of padding that each allows, and a reference in PyTorch.

csrc/windows/padding.h computes the same indices for the kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext._core import checks

PaddingMode = Literal["constant", "reflect", "replicate", "circular", "symmetric"]

# A mode's index is its number in schemas and kernels.
MODES: tuple[PaddingMode, ...] = ("constant", "reflect", "replicate", "circular", "symmetric")
CONSTANT, _REFLECT, REPLICATE, _CIRCULAR, _SYMMETRIC = range(5)


def mode_number(name: str, value: Any) -> int:
    """The number of the padding mode `value`; `name` is the argument's name in errors."""
    checks.option(name, value, MODES)
    return MODES.index(value)


def widest(mode: int, size: int) -> int:
    """The widest padding of an axis that kernels compute: each element of the padding is at most one period away."""
    if mode == CONSTANT or (mode == REPLICATE and size > 0):
        return sys.maxsize
    return max(size - 1, 0) if mode == _REFLECT else size


def check(name: str, mode: int, padding: Sequence[int], source: str, sizes: Sequence[int]) -> None:
    """Check that each dimension of the image `source` can be padded by `padding`, whose argument is `name`."""
    if any(pad > widest(mode, size) for pad, size in zip(padding, sizes, strict=True)):
        most = {REPLICATE: "0 if it is empty", _REFLECT: "its size minus 1"}.get(mode, "its size")
        raise ValueError(
            f"{name}: expected at most {most} in each dimension of {source} {tuple(sizes)} "
            f"with padding_mode {MODES[mode]!r}, got {tuple(padding)}"
        )


def _remainder(positions: Tensor, size: int) -> Tensor:
    if isinstance(size, int):
        return positions.remainder(size)
    # The exporter of ONNX has no remainder of a tensor and a size that is a symbol, only one of two tensors.
    return positions.remainder(torch.full((), size, dtype=positions.dtype, device=positions.device))


def sources(mode: int, positions: Tensor, size: int) -> Tensor:
    """The index of the element at each position, which may be in the padding, of an axis of this size.

    Padding may be wider than the axis, as in `numpy.pad`. The mode must not be constant, in which positions of the
    padding have no element.
    """
    last = size - 1
    if mode == REPLICATE:
        return positions.clamp(0, last)
    if mode == _CIRCULAR:
        return _remainder(positions, size)
    if mode == _REFLECT:
        period = max(2 * last, 1)
        return last - (last - _remainder(positions, period)).abs()
    assert mode == _SYMMETRIC
    positions = _remainder(positions, 2 * size)
    return torch.minimum(positions, 2 * last + 1 - positions)


def pad(input: Tensor, pads: Sequence[tuple[int, int]], mode: int, value: float = 0.0) -> Tensor:
    """Pad `input` by (before, after) along each of its last ``len(pads)`` dimensions."""
    if mode == CONSTANT:
        return F.pad(input, [size for before_after in reversed(pads) for size in before_after], value=value)
    for axis, (before, after) in enumerate(pads, input.dim() - len(pads)):
        size = input.shape[axis]
        positions = torch.arange(-before, size + after, device=input.device)
        input = input.index_select(axis, sources(mode, positions, size))
    return input


def add_back(padded: Tensor, pads: Sequence[tuple[int, int]], mode: int) -> Tensor:
    """The adjoint of `pad`: values in the padding are added to the element of which they are copies.

    Each side is added at once, to different elements, so that the result has the same bits in every run.
    """
    for axis, (before, after) in enumerate(pads, padded.dim() - len(pads)):
        size = padded.shape[axis] - before - after
        image = padded.narrow(axis, before, size)
        for begin, width in ((-before, before), (size, after)) if mode != CONSTANT else ():
            side = padded.narrow(axis, before + begin, width)
            positions = torch.arange(begin, begin + width, device=padded.device)
            if mode == REPLICATE:
                side, positions = side.sum(axis, keepdim=True), positions.new_full((1,), begin)
            image = image.index_add(axis, sources(mode, positions, size), side)
        padded = image
    return padded
