"""Positions of windows that cover an image, and extracting and merging them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from torchext._core.checks import holds
from torchext.windows import padding as _padding
from torchext.windows.padding import PaddingMode


class Tiles(NamedTuple):
    """Windows of one size in a grid that covers an image, overlapping or edge to edge.

    Attributes:
        size: the size of a window.
        starts: for each axis the first positions of its windows, ascending.
    """

    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """The size of the image that the windows cover."""
        return tuple(starts[-1] + k for starts, k in zip(self.starts, self.size, strict=True))

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of windows along each axis."""
        return tuple(map(len, self.starts))

    @property
    def overlap(self) -> bool:
        """Whether two windows share a position."""
        return any(b - a < k for starts, k in zip(self.starts, self.size, strict=True) for a, b in pairwise(starts))

    def resized(self, size: Sequence[int]) -> Tiles:
        """The same windows scaled to another size. Starts are rounded down, so that windows still cover the image."""
        ratios = zip(self.starts, self.size, size, strict=True)
        return Tiles(tuple(size), tuple(tuple(start * new // old for start in starts) for starts, old, new in ratios))

    def at(self, grid: Sequence[int]) -> tuple[slice, ...]:
        """The slices of the image that the window with index `grid` covers."""
        corner = (starts[i] for starts, i in zip(self.starts, grid, strict=True))
        return tuple(slice(start, start + k) for start, k in zip(corner, self.size, strict=True))

    def finished_rows(self, row: int) -> tuple[int, int]:
        """The range of positions along the first axis for which this row of windows is the last that covers them."""
        starts = self.starts[0]
        return starts[row], starts[row + 1] if row + 1 < len(starts) else self.extent[0]


def tile(image_size: Sequence[int], size: tuple[int, ...], overlap: Sequence[float]) -> Tiles:
    """Cover an image by windows as with `partial="shift"`: the last window of each axis is moved back inside."""
    starts = []
    for extent, k, share in zip(map(int, image_size), size, overlap, strict=True):
        stride = max(int(k * (1 - share)), 1)  # MONAI's formula, with the same rounding error for 0.9 of 10
        starts.append((*range(0, extent - k, stride), extent - k))
    return Tiles(size, tuple(starts))


class Inside(NamedTuple):
    """The part of an image along one axis that remains after padding to the size of a window is removed."""

    start: int
    length: int

    def resized(self, old: Tiles, new: Tiles, axis: int) -> Inside:
        """The same part for windows that have another size along an axis."""
        if self.length == old.extent[axis]:
            return Inside(0, new.extent[axis])
        start, end = (
            round(Fraction(end * new.size[axis], old.size[axis])) for end in (self.start, self.start + self.length)
        )
        if start == end:  # less than one position: the position at the centre of the part is kept
            start = (2 * self.start + self.length) * new.size[axis] // (2 * old.size[axis])
        return Inside(start, max(end - start, 1))


def resize_weight(weight: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the weights of a window, with the nearest position of the original window."""
    for axis, (old, new) in enumerate(zip(weight.shape, size, strict=True)):
        if old != new:
            nearest = (torch.arange(new, device=weight.device) * 2 + 1) * old // (2 * new)
            weight = weight.index_select(axis, nearest)
    return weight


def _segments(starts: Sequence[int], size: int) -> tuple[list[int], list[range]]:
    """The lengths of the segments between all ends of windows along an axis, and which segments each window covers."""
    ends = sorted({*starts, *(start + size for start in starts)})
    number = {end: i for i, end in enumerate(ends)}
    return [b - a for a, b in pairwise(ends)], [range(number[start], number[start + size]) for start in starts]


# Both functions process one axis after the other, and read each element once for each axis, also in the backward pass.
# With slices instead, the gradient of each window would be allocated as a whole image of zeros.


def extract_tiles(image: Tensor, tiles: Tiles) -> Tensor:
    """Extract the windows ``(N, *grid, C, *size)`` of an image ``(N, C, *S)``."""
    for axis, (starts, size) in enumerate(zip(tiles.starts, tiles.size, strict=True)):
        lengths, covered = _segments(starts, size)
        parts = image.split(lengths, 2 + 2 * axis)
        image = torch.stack([torch.cat([parts[i] for i in window], 2 + 2 * axis) for window in covered], 1 + axis)
    return image


def merge_tiles(windows: Tensor, tiles: Tiles) -> Tensor:
    """Add windows ``(N, *grid, C, *size)`` to an image ``(N, C, *S)``."""
    for axis in reversed(range(len(tiles.size))):
        lengths, covered = _segments(tiles.starts[axis], tiles.size[axis])
        sums: list[Tensor | None] = [None] * len(lengths)
        for window, segments in zip(windows.unbind(1 + axis), covered, strict=True):
            parts = window.split([lengths[i] for i in segments], 2 + 2 * axis)
            for i, part in zip(segments, parts, strict=True):
                before = sums[i]
                sums[i] = part if before is None else before + part
        windows = torch.cat([part for part in sums if part is not None], 2 + 2 * axis)
    return windows


def pad_to(image: Tensor, size: Sequence[int], mode: PaddingMode, value: float) -> tuple[Tensor, list[Inside]]:
    """Pad an image to at least the size of a window; also returns the part of each axis that is not padding."""
    number = _padding.mode_number("padding_mode", mode)
    value = holds("value", value, image.dtype)
    extents = tuple(map(int, image.shape[2:]))  # int: the number of windows cannot depend on a symbolic size
    missing = [max(k - extent, 0) for k, extent in zip(size, extents, strict=True)]
    pads = [(count // 2, count - count // 2) for count in missing]
    if any(missing):
        _padding.check(f"padding to size {tuple(size)}", number, [after for _, after in pads], "input", extents)
        image = _padding.pad(image, pads, number, value)
    return image, [Inside(before, extent) for (before, _), extent in zip(pads, extents, strict=True)]
