"""The positions of the elements of windows, which references read and add up.

A position is an index in the flattened image. Elements outside the image have the index after the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext.windows import padding as _padding
from torchext.windows.grid import Grid


def window_positions(
    starts: Sequence[Tensor],
    image_size: Sequence[int],
    size: Sequence[int],
    dilation: Sequence[int],
    mode: int = _padding.CONSTANT,
) -> Tensor:
    """The indices of the elements of windows, ``(*windows, *size)``; the starts of each axis broadcast to windows."""
    rank, positions, inside = len(size), torch.zeros((), dtype=torch.int64, device=starts[0].device), None
    for axis, (start, image, k, d) in enumerate(zip(starts, image_size, size, dilation, strict=True)):
        taps = torch.arange(k, device=start.device) * d
        at = start.reshape(*start.shape, *[1] * rank) + taps.view(*[1] * axis, k, *[1] * (rank - 1 - axis))
        if mode == _padding.CONSTANT:
            here = (at >= 0) & (at < image)
            inside = here if inside is None else inside & here
        else:
            at = _padding.sources(mode, at, image)
        positions = positions * image + at
    return positions if inside is None else torch.where(inside, positions, prod(image_size))


def grid_positions(image_size: Sequence[int], grid: Grid, mode: int, device: torch.device) -> Tensor:
    """The indices of the elements of all windows of a grid, ``(*grid, *size)``."""
    starts, rank = [], len(grid.size)
    for axis, (g, s, first, last) in enumerate(zip(grid.grid, grid.stride, grid.first, grid.last, strict=True)):
        start = (torch.arange(g, device=device) * s + first).clamp(max=last)
        starts.append(start.view(*[1] * axis, g, *[1] * (rank - 1 - axis)))
    return window_positions(starts, image_size, grid.size, grid.dilation, mode)


def add_up(values: Tensor, positions: Tensor, count: int) -> Tensor:
    """The sums of the values ``(..., L)`` at each of `count` positions, added in order."""
    sums = values.new_zeros(*values.shape[:-1], count + 1)
    return sums.scatter_add(-1, positions.expand(values.shape), values)[..., :count]


def fold_planes(values: Tensor, output_size: Sequence[int], *geometry: Sequence[int]) -> Tensor:
    """`torch.nn.functional.fold` for one or two spatial dimensions; the geometry is that of `fold`, in its order."""
    if len(output_size) == 2:
        return F.fold(values, tuple(output_size), *map(tuple, geometry))
    kernel_size, dilation, padding, stride = geometry
    in_rows = ((1, *kernel_size), (1, *dilation), (0, *padding), (1, *stride))
    return F.fold(values, (1, *output_size), *in_rows).squeeze(2)
