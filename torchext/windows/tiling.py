"""Positions of windows that cover an image, and extracting and merging them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchext._core import checks


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

    def scaled(self, ratios: Sequence[Fraction], size: Sequence[int]) -> Tiles:
        """The same windows in an image of another resolution. Starts are rounded down, so that the image is covered."""
        axes = zip(self.starts, ratios, strict=True)
        return Tiles(tuple(size), tuple(tuple(int(start * ratio) for start in starts) for starts, ratio in axes))

    def is_whole(self, ratios: Sequence[Fraction]) -> bool:
        """Whether all starts are whole positions in an image of another resolution."""
        axes = zip(self.starts, ratios, strict=True)
        return all(start % ratio.denominator == 0 for starts, ratio in axes for start in starts)

    def at(self, grid: Sequence[int]) -> tuple[slice, ...]:
        """The slices of the image that the window with index `grid` covers."""
        corner = (starts[i] for starts, i in zip(self.starts, grid, strict=True))
        return tuple(slice(start, start + k) for start, k in zip(corner, self.size, strict=True))

    def index_in_grid(self, number: int) -> tuple[int, ...]:
        """The sample of a window and its index in the grid. Windows are numbered in row-major order."""
        index: list[int] = []
        for count in reversed(self.grid):
            number, i = divmod(number, count)
            index.append(i)
        return (number, *reversed(index))

    def offsets(self, samples: int) -> Tensor:
        """The samples and first positions of all windows, ``(K, 1 + D)``, on the CPU."""
        axes = (range(samples), *self.starts)
        return torch.cartesian_prod(*(torch.tensor(axis, dtype=torch.int64) for axis in axes))

    def row_offsets(self) -> Tensor:
        """The first positions of the windows of one row ``(K, D)``, in the rows that they cover, on the CPU."""
        return self._replace(starts=((0,), *self.starts[1:])).offsets(1)[:, 1:]

    def finished_rows(self, row: int) -> tuple[int, int]:
        """The range of positions along the first axis for which this row of windows is the last that covers them."""
        starts = self.starts[0]
        return starts[row], starts[row + 1] if row + 1 < len(starts) else self.extent[0]


def stride_of(size: int, overlap: float) -> int:
    """The step between windows of this size, whose overlap is a number of positions (an int) or a fraction."""
    if isinstance(overlap, int):
        return size - overlap
    step = size * (1 - overlap)
    # 96·(1 - 40/96) is 55.99999999999999, since 40/96 is rounded.
    return round(step) if abs(step - round(step)) <= 1e-9 else int(step)


def check_overlap(overlap: Any, kept: Sequence[int]) -> list[float]:
    """The overlap for each axis: a number of positions if it is an int, otherwise a fraction of the kept part."""
    given = overlap if checks.is_sequence(overlap) else (overlap,) * len(kept)
    if len(given) != len(kept):
        raise ValueError(f"overlap: expected a number or {len(kept)} of them, got {checks.shown(given)}")
    shares: list[float] = []
    for share, size in zip(given, kept, strict=True):
        is_count = hasattr(share, "__index__") and not isinstance(share, (bool, Tensor))
        number = (
            checks.integer("overlap", share)
            if is_count
            else checks.number("overlap", share, "a number or a sequence of numbers")
        )
        if not 0 <= number < (size if is_count else 1):
            raise ValueError(
                f"overlap: expected a fraction of at least 0 and less than 1, or an int of at least 0 and less than "
                f"{size}, got {overlap}"
            )
        shares.append(number)
    return shares


def tile(
    image_size: Sequence[int], size: Sequence[int], overlap: Sequence[float], halo: Sequence[int], unit: Sequence[int]
) -> tuple[Tiles, Tiles]:
    """Cover an image by windows, of which the last of each axis is moved back inside.

    Returns the windows that the model gets, and their parts that are kept. Without a halo the whole window is kept.
    Otherwise the kept parts are a grid of smaller windows. Each has the halo around it, except at the border of the
    image, where the window of the model is moved inside. All starts are multiples of `unit`; fewer than `unit`
    positions at the far end may be left out. A halo has to be a multiple of `unit` as well.
    """
    windows, kept = [], []
    for extent, k, share, margin, step in zip(map(int, image_size), size, overlap, halo, unit, strict=True):
        last = (extent - k) // step * step
        for cut in (0, 1, 2):  # a single window is kept as a whole, and two windows lose the margin on one side only
            length, last_kept = k - cut * margin, last + cut * margin
            stride = max(stride_of(length, share) // step * step, step)
            starts = (*range(0, last_kept, stride), last_kept)
            if margin == 0 or len(starts) <= cut + 1:
                break
        kept.append((length, starts))
        windows.append(tuple(min(max(start - margin, 0), last) for start in starts))
    return Tiles(tuple(size), tuple(windows)), Tiles(*zip(*kept, strict=True))


class Inside(NamedTuple):
    """The part of an image along one axis that remains after padding to the size of a window is removed."""

    start: int
    length: int

    def scaled(self, extent: int, ratio: Fraction, new_extent: int) -> Inside:
        """The same part of an image of another resolution."""
        if self.length == extent:
            return Inside(0, new_extent)
        start, end = round(self.start * ratio), min(round((self.start + self.length) * ratio), new_extent)
        if start >= end:  # less than one position: the position at the centre of the part is kept
            start = min(int((2 * self.start + self.length) * ratio / 2), new_extent - 1)
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
