"""Merging the windows of one output of a model: in place, or with functions that autograd records."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from torchext._core.dtypes import accumulation_dtype
from torchext._native import load
from torchext.windows import arrays
from torchext.windows.blend import best_channels, blend
from torchext.windows.tiling import Inside, Tiles, merge_tiles

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Layout(NamedTuple):
    """The windows of one output, their positions and weight, and the part of the merged image that is returned."""

    output: torch.Size  # the shape of a window of the model's output, with the channels
    cuts: tuple[tuple[int, ...], ...] | None  # where the kept part of each window starts along each axis
    dtype: torch.dtype
    device: torch.device
    samples: int
    tiles: Tiles  # of the kept parts
    inside: tuple[Inside, ...]
    weight: Tensor | None
    may_be_zero: bool
    argmax: bool
    incomplete: bool  # whether windows may be missing, which `skip` left out

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a window that is merged."""
        return (self.output[0], *self.tiles.size)

    def cut(self, windows: Tensor, numbers: Sequence[int]) -> Tensor:
        """Cut off the halo of windows."""
        if self.cuts is None:
            return windows
        parts = []
        for window, number in zip(windows, numbers, strict=True):
            _, *grid = self.tiles.index_in_grid(number)
            starts = [cuts[i] for cuts, i in zip(self.cuts, grid, strict=True)]
            for axis, (start, k) in enumerate(zip(starts, self.tiles.size, strict=True), 1):
                window = window.narrow(axis, start, k)
            parts.append(window)
        return torch.stack(parts) if parts else windows.new_empty(0, *self.shape)

    def weight_or_ones(self) -> Tensor:
        """The weights of the elements of a window."""
        if self.weight is not None:
            return self.weight
        return torch.ones(self.tiles.size, dtype=accumulation_dtype(self.dtype).to_real(), device=self.device)

    def zero_unweighted(self, windows: Tensor) -> Tensor:
        """Set elements with the weight 0 to 0, since infinity times 0 is NaN."""
        if self.weight is None or not self.may_be_zero:
            return windows
        return windows.masked_fill(self.weight == 0, 0)

    def kept(self, image: Tensor, begin: int = 0) -> tuple[slice, Tensor]:
        """Remove the padding from rows of an image that start at `begin`; returns their rows in the result as well."""
        rows, *columns = self.inside
        first = max(rows.start - begin, 0)
        last = max(min(rows.start + rows.length - begin, image.shape[-len(self.inside)]), first)
        box: tuple[Any, ...] = (..., slice(first, last), *(slice(start, start + length) for start, length in columns))
        result_row = begin + first - rows.start
        return slice(result_row, result_row + last - first), image[box]


def rows_of(table: Tensor, numbers: Sequence[int], first: int = 0) -> Tensor:
    """The rows with these numbers of a table whose first row has the number `first`: a view if they are regular."""
    if isinstance(numbers, range):
        return table[numbers.start - first : numbers.stop - first : numbers.step]
    return table[torch.tensor(numbers, dtype=torch.int64, device=table.device) - first]


def _for_kernels(offsets: Tensor, device: torch.device) -> Tensor:
    # Without a compiled kernel their values are read, which would wait for the device.
    return offsets.to(device) if load.has_kernels(device) else offsets


class _WeightSums:
    """The sums of the weights of all windows, computed for a few rows at a time.

    A sum depends only on the relative positions of neighbouring rows of windows, which are the same in the middle of a
    large image, so that the last sum is kept for the next row.
    """

    def __init__(self, tiles: Tiles, weight: Tensor, may_be_zero: bool) -> None:
        self.tiles, self.may_be_zero = tiles, may_be_zero
        # The sum over one row of windows, which is the same for all rows.
        self.row = weight.new_zeros(tiles.size[0], *tiles.extent[1:])
        offsets = _for_kernels(tiles.row_offsets(), weight.device)
        blend(weight.expand(len(offsets), 1, *tiles.size), offsets, None, self.row.unsqueeze(0), None)
        self.key: tuple[int, ...] | None = None
        self.sums = self.row

    def finished_by(self, row: int) -> Tensor:
        begin, end = self.tiles.finished_rows(row)
        height, starts = self.tiles.size[0], self.tiles.starts[0]
        offsets = [start - begin for start in starts[bisect_right(starts, begin - height) : row + 1]]
        key = (end - begin, *offsets)
        if key != self.key:
            sums = self.row.new_zeros(end - begin, *self.row.shape[1:])
            for offset in offsets:
                first, last = max(offset, 0), min(offset + height, end - begin)
                sums.narrow(0, first, last - first).add_(self.row.narrow(0, first - offset, last - first))
            # Where all weights are 0, the sum of the windows is 0 as well, and is divided by 1.
            self.key, self.sums = key, sums.masked_fill_(sums == 0, 1) if self.may_be_zero else sums
        return self.sums


def _check_out(path: str, out: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(out.shape) != shape:
        raise ValueError(f"{path}: expected shape {shape}, got {tuple(out.shape)}")
    given = arrays.dtype_of(path, out)
    if not torch.can_cast(dtype, given):
        raise TypeError(f"{path}: expected a dtype for results of {dtype}, got {given}")


class Blend:
    """Adds windows in place in ascending order, and finishes positions that later rows of windows do not cover.

    A row of windows are those with the same position along the first axis of a sample; rows of all samples are counted.
    The sums are in the result itself. If they cannot be there (for labels, half precision, a sum over ranks, a result
    without padding, missing windows, or an array to write into), they are in a slab that is as high as one window.
    """

    def __init__(self, layout: Layout, group: ProcessGroup | None, name: str, out: Any) -> None:
        self.layout, self.tiles, self.group = layout, layout.tiles, group
        channels, dtype, extent = layout.shape[0], accumulation_dtype(layout.dtype), self.tiles.extent
        kept = tuple(inside.length for inside in layout.inside)
        shape, result_dtype = (kept, torch.int64) if layout.argmax else ((channels, *kept), layout.dtype)
        shape = (layout.samples, *shape)
        self.result: Any = out
        if out is None:
            self.result = load.empty(shape, result_dtype, layout.device)
        else:
            _check_out(name, out, shape, result_dtype)
        # With a group, windows of other ranks are missing.
        self.incomplete = layout.incomplete or group is not None
        # With argmax no division is necessary: it does not change which score is the largest.
        divides = self.tiles.overlap and not layout.argmax
        # If windows are missing, the weights of the others are summed in another channel.
        self.counts = divides and layout.incomplete
        # Adding to -0.0 leaves both zeros as they are. Where nothing may be added, the result is 0.
        self.nothing = 0.0 if layout.may_be_zero or layout.incomplete else -0.0
        self.slab: Tensor | None = None
        in_result = isinstance(self.result, Tensor) and (
            self.result.dtype,
            self.result.device,
            self.result.stride(-1),
        ) == (dtype, layout.device, 1)
        if not in_result or self.incomplete or kept != extent:
            slab = (channels + self.counts, self.tiles.size[0], *extent[1:])
            self.slab = load.empty(slab, dtype, layout.device).fill_(self.nothing)
        separable = divides and not self.counts
        self.sums = _WeightSums(self.tiles, layout.weight_or_ones(), layout.may_be_zero) if separable else None
        # In the slab, the windows of every row are at the same offsets.
        offsets = self.tiles.offsets(layout.samples) if self.slab is None else self.tiles.row_offsets()
        self.offsets = _for_kernels(offsets, layout.device)
        self.columns = prod(self.tiles.grid[1:])
        self.row = 0  # the first row of windows that is not finished
        self.begun = 0  # the number of rows for which the result is initialised

    def add(self, windows: Tensor, numbers: Sequence[int]) -> None:
        """Add windows, whose numbers are larger than those before."""
        if self.counts:
            windows = torch.cat([windows, windows.new_ones(len(windows), 1, *windows.shape[2:])], 1)
        windows, columns = windows.to(self.layout.device), self.columns
        if self.slab is None and len(numbers):
            last = numbers[-1] // columns
            self._begin_rows(last)
            blend(windows, rows_of(self.offsets, numbers), self.layout.weight, self.result, None)
            self.advance(last)
        while self.slab is not None and len(numbers):
            row = numbers[0] // columns
            self.advance(row)
            count = bisect_right(numbers, (row + 1) * columns - 1)
            offsets = rows_of(self.offsets, numbers[:count], row * columns)
            blend(windows[:count], offsets, self.layout.weight, self.slab, None)
            windows, numbers = windows[count:], numbers[count:]

    def finish(self) -> Any:
        """The result, after all windows were added."""
        self.advance(self.layout.samples * self.tiles.grid[0])
        return self.result

    def _begin_rows(self, last: int) -> None:
        """Initialise the positions of the result that rows of windows until the last one are the first to cover."""
        height, starts = self.tiles.size[0], self.tiles.starts[0]
        while self.begun <= last:
            sample, row = divmod(self.begun, len(starts))
            begin = max(starts[row], starts[row - 1] + height) if row else 0
            self.result[sample].narrow(1, begin, starts[row] + height - begin).fill_(self.nothing)
            self.begun += 1

    def advance(self, row: int) -> None:
        """Finish all rows of windows before this one."""
        while self.row < row:
            self._finish(*divmod(self.row, self.tiles.grid[0]))
            self.row += 1

    def _finish(self, sample: int, row: int) -> None:
        begin, end = self.tiles.finished_rows(row)
        done = self.result[sample, :, begin:end] if self.slab is None else self.slab[:, : end - begin]
        if self.group is not None:
            done = done.contiguous()
            torch.distributed.all_reduce(done, group=self.group)
        if self.sums is not None:
            done.div_(self.sums.finished_by(row))
        elif self.counts:
            done, sums = done[:-1], done[-1]
            sums = sums.real if sums.is_complex() else sums
            done.div_(sums.masked_fill(sums == 0, 1))
        if self.slab is None:
            return
        rows, done = self.layout.kept(done, begin)
        if rows.start < rows.stop:
            values = best_channels(done) if self.layout.argmax else done
            rest = [slice(None)] * (len(self.layout.inside) - 1)
            box = (slice(sample, sample + 1), *[slice(None)] * (not self.layout.argmax), rows, *rest)
            arrays.write(self.result, box, values.unsqueeze(0))
        self._move_on(self.slab, end - begin)

    def _move_on(self, slab: Tensor, step: int) -> None:
        """Move the rows that later windows cover as well to the front, in parts that do not overlap."""
        if step == 0:
            return
        height = slab.shape[1]
        for begin in range(step, height, step):
            length = min(step, height - begin)
            slab[:, begin - step : begin - step + length] = slab[:, begin : begin + length]
        slab[:, height - step :] = self.nothing


class Record:
    """Keeps all windows and merges them at the end with differentiable functions.

    Windows before the first one with a gradient may have been added to a `Blend`. They are zeros here, and the windows
    here are zeros there, so that the sum of both results is the result.
    """

    def __init__(self, layout: Layout, blended: Blend | None, indices: list[int]) -> None:
        self.layout, self.blended, self.indices = layout, blended, list(indices)
        zeros = torch.zeros(len(indices), *layout.shape, dtype=layout.dtype, device=layout.device)
        self.windows = [zeros] if indices else []

    def add(self, windows: Tensor, numbers: Sequence[int]) -> None:
        """Keep windows."""
        self.indices += numbers
        self.windows.append(windows.to(self.layout.device))
        if self.blended is not None:
            self.blended.add(torch.zeros_like(self.windows[-1]), numbers)

    def finish(self) -> Tensor:
        """The result, after all windows were added."""
        layout, tiles = self.layout, self.layout.tiles
        windows = torch.cat(self.windows).to(accumulation_dtype(layout.dtype))
        weight = layout.weight_or_ones() if tiles.overlap else layout.weight
        if weight is not None:
            windows = layout.zero_unweighted(windows) * weight
        total = layout.samples * prod(tiles.grid)
        present = None
        if layout.incomplete and len(windows) < total:
            indices = torch.tensor(self.indices, dtype=torch.int64, device=windows.device)
            windows = windows.new_zeros(total, *layout.shape).index_copy(0, indices, windows)
            present = (
                windows.real.new_zeros(total).index_fill(0, indices, 1).unflatten(0, (layout.samples, *tiles.grid))
            )
        image = merge_tiles(windows.unflatten(0, (layout.samples, *tiles.grid)), tiles)
        if tiles.overlap and weight is not None:
            weights = weight.expand(1, *tiles.grid, 1, *tiles.size)
            if present is not None:
                weights = weights * present.view(*present.shape, *[1] * (1 + len(tiles.size)))
            sums = merge_tiles(weights, tiles)
            image = image / (sums.masked_fill(sums == 0, 1) if layout.may_be_zero or present is not None else sums)
        image = layout.kept(image)[1]
        if self.blended is not None:
            image = image + self.blended.finish()
        return image.argmax(1) if layout.argmax else image.to(layout.dtype).contiguous()
