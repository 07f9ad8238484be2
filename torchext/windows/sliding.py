"""Sliding-window inference: a model is run on the windows of a large input, and its outputs are merged."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise, product
from math import ceil, floor, gcd, lcm, prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, overload

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.containers import map_leaves
from torchext._core.dtypes import COMPLEX_DTYPES, DTYPES, FLOAT_DTYPES, accumulation_dtype
from torchext._core.library import is_recorded, is_traced, outside_of_compilers
from torchext._core.progress import tqdm
from torchext._native import load
from torchext.windows import arrays
from torchext.windows import padding as _padding
from torchext.windows.arrays import Array
from torchext.windows.blend import best_channels, blend
from torchext.windows.padding import PaddingMode
from torchext.windows.tiles import _gather
from torchext.windows.tiling import Inside, Tiles, check_overlap, extract_tiles, merge_tiles, resize_weight, tile
from torchext.windows.weight import Weight, cached_weight, check_weight

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Unpack

__all__ = ["sliding_window"]

# The sample of a window and its index in the grid, or only that index.
Position = tuple[int, ...]


class _Layout(NamedTuple):
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

    def cut(self, windows: Tensor, positions: Sequence[Position]) -> Tensor:
        """Cut off the halo of windows."""
        if self.cuts is None:
            return windows
        parts = []
        for window, (_, *grid) in zip(windows, positions, strict=True):
            starts = [cuts[i] for cuts, i in zip(self.cuts, grid, strict=True)]
            for axis, (start, k) in enumerate(zip(starts, self.tiles.size, strict=True), 1):
                window = window.narrow(axis, start, k)
            parts.append(window)
        return torch.stack(parts) if parts else windows.new_empty(0, *self.shape)

    def number(self, position: Position) -> int:
        """The index of a window in the order of all windows."""
        return _row_major(position, (self.samples, *self.tiles.grid))

    def weight_or_ones(self) -> Tensor:
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


def _row_major(position: Sequence[int], counts: Sequence[int]) -> int:
    """The number of a position in a grid whose last dimension changes fastest."""
    number = 0
    for i, count in zip(position, counts, strict=True):
        number = number * count + i
    return number


def _row_offsets(tiles: Tiles, device: torch.device) -> Tensor:
    """The offsets of the windows of one row of windows, for `blend`."""
    # Without a compiled kernel their values are read, which would wait for the device.
    starts = map(torch.tensor, ((0,), *tiles.starts[1:]))
    return torch.cartesian_prod(*starts).view(-1, len(tiles.size)).to(device if load.has_kernels(device) else "cpu")


def _rows_of(offsets: Tensor, numbers: list[int]) -> Tensor:
    """The rows with these numbers, in ascending order, without a copy if they are regular."""
    first, last = numbers[0], numbers[-1]
    regular = range(first, last + 1, max((last - first) // max(len(numbers) - 1, 1), 1))
    if list(regular) == numbers:
        return offsets[first : last + 1 : regular.step]
    return offsets[torch.tensor(numbers, device=offsets.device)]


class _WeightSums:
    """The sums of the weights of all windows, computed for a few rows at a time.

    A sum depends only on the relative positions of neighbouring rows of windows, which are the same in the middle of a
    large image, so that the last sum is kept for the next row.
    """

    def __init__(self, tiles: Tiles, weight: Tensor, may_be_zero: bool) -> None:
        self.tiles, self.may_be_zero = tiles, may_be_zero
        # The sum over one row of windows, which is the same for all rows.
        self.row = weight.new_zeros(tiles.size[0], *tiles.extent[1:])
        offsets = _row_offsets(tiles, weight.device)
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
                sums[first:last] += self.row[first - offset : last - offset]
            # Where all weights are 0, the sum of the windows is 0 as well, and is divided by 1.
            self.key, self.sums = key, sums.masked_fill_(sums == 0, 1) if self.may_be_zero else sums
        return self.sums


class _Blend:
    """Adds windows in place, one row of windows after the other, and finishes positions that later rows do not cover.

    The sums are in the result itself. If they cannot be there (for labels, half precision, a sum over ranks, a result
    without padding, missing windows, or an array to write into), they are in a slab that is as high as one window.
    """

    def __init__(self, layout: _Layout, group: ProcessGroup | None, name: str, out: Any) -> None:
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
        # The windows of a row, which are at the same offsets in the memory of every row.
        self.offsets = _row_offsets(self.tiles, layout.device)
        # The number of positions along the first axis that each row of windows shares with the row before it.
        height, starts = self.tiles.size[0], self.tiles.starts[0]
        self.shared = [max(a + height - b, 0) for a, b in pairwise((-height, *starts))]
        self.sample = self.row = 0
        # The memory of the positions that the current row of windows covers.
        self.rows = self.result if self.slab is None else self.slab
        self._begin_row()

    def add(self, windows: Tensor, positions: Sequence[Position]) -> None:
        if self.counts:
            windows = torch.cat([windows, windows.new_ones(len(windows), 1, *windows.shape[2:])], 1)
        windows, begin, count = windows.to(self.layout.device), 0, len(positions)
        while begin < count:
            sample, row, *_ = positions[begin]
            self._advance(sample, row)
            end = next((i for i in range(begin + 1, count) if positions[i][:2] != (sample, row)), count)
            columns = [_row_major(position[2:], self.tiles.grid[1:]) for position in positions[begin:end]]
            blend(windows[begin:end], _rows_of(self.offsets, columns), self.layout.weight, self.rows, None)
            begin = end

    def finish(self) -> Any:
        self._advance(self.layout.samples, 0)
        return self.result

    def _begin_row(self) -> None:
        """Initialise the positions that no earlier row covers."""
        if self.slab is None and self.sample < self.layout.samples:
            self.rows = self.result[self.sample].narrow(1, self.tiles.starts[0][self.row], self.tiles.size[0])
            self.rows[:, self.shared[self.row] :] = self.nothing

    @property
    def current(self) -> tuple[int, int]:
        """The sample and the row of windows to which windows are added."""
        return self.sample, self.row

    def _advance(self, sample: int, row: int) -> None:
        while self.current != (sample, row):
            self.finish_row()

    def finish_row(self) -> None:
        """Finish the positions that no later row covers, and move on to the next row."""
        self._finish_row()
        self.row += 1
        if self.row == self.tiles.grid[0]:
            self.sample, self.row = self.sample + 1, 0
        self._begin_row()

    def _finish_row(self) -> None:
        begin, end = self.tiles.finished_rows(self.row)
        done = self.rows[:, : end - begin]
        if self.group is not None:
            done = done.contiguous()
            torch.distributed.all_reduce(done, group=self.group)
        if self.sums is not None:
            done.div_(self.sums.finished_by(self.row))
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
            box = (slice(self.sample, self.sample + 1), *[slice(None)] * (not self.layout.argmax), rows, *rest)
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


class _Record:
    """Keeps all windows and merges them at the end with differentiable functions.

    Windows before the first one with a gradient may have been added to a `_Blend`. They are zeros here, and the windows
    here are zeros there, so that the sum of both results is the result.
    """

    def __init__(self, layout: _Layout, blended: _Blend | None, indices: list[int]) -> None:
        self.layout, self.blended, self.indices = layout, blended, list(indices)
        zeros = torch.zeros(len(indices), *layout.shape, dtype=layout.dtype, device=layout.device)
        self.windows = [zeros] if indices else []

    def add(self, windows: Tensor, positions: Sequence[Position]) -> None:
        self.indices += map(self.layout.number, positions)
        self.windows.append(windows.to(self.layout.device))
        if self.blended is not None:
            self.blended.add(torch.zeros_like(self.windows[-1]), positions)

    def finish(self) -> Tensor:
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


def _check_output(path: str, output: Tensor, batch: int, rank: int, argmax: bool) -> None:
    if output.dtype not in FLOAT_DTYPES and (argmax or output.dtype not in COMPLEX_DTYPES):
        kinds = "a floating" if argmax else "a floating or complex"
        raise TypeError(f"model: expected {path} of {kinds} dtype, got {output.dtype}")
    if output.dim() != rank + 2 or output.shape[0] != batch or 0 in output.shape[1:]:
        raise ValueError(
            f"model: expected {path} of shape (B, C, *S) with B = {batch} and {rank} spatial dimensions, "
            f"got {tuple(output.shape)}"
        )
    if argmax and output.shape[1] == 1:
        raise ValueError(
            f"argmax: expected at least two channels, got one in {path}, whose labels would all be 0; "
            "compare the scores with a threshold instead"
        )


def _check_same_shape_and_dtype(path: str, output: Tensor, layout: _Layout) -> None:
    if output.dtype != layout.dtype:
        raise TypeError(f"model: expected {path} of {layout.dtype} as for the first windows, got {output.dtype}")
    if output.shape[1:] != layout.output:
        expected = ("B", *layout.output)
        raise ValueError(
            f"model: expected {path} of shape {expected} as for the first windows, got {tuple(output.shape)}"
        )


def _check_out(path: str, out: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(out.shape) != shape:
        raise ValueError(f"{path}: expected shape {shape}, got {tuple(out.shape)}")
    given = arrays.dtype_of(path, out)
    if not torch.can_cast(dtype, given):
        raise TypeError(f"{path}: expected a dtype for results of {dtype}, got {given}")


def _tensors(output: Any) -> dict[str, Tensor]:
    """The tensors in a model's output by their path."""
    tensors: dict[str, Tensor] = {}

    def add(path: str, leaf: Any) -> None:
        if isinstance(leaf, Tensor):
            tensors[path] = leaf
        elif leaf is not None:
            kinds = "tensors in tuples, lists, mappings and dataclasses"
            raise TypeError(f"model: expected {kinds}, got {type(leaf).__name__} for {path}")

    map_leaves(output, add, "output")
    return tensors


def _looks_unpadded(size: Sequence[int], output: Sequence[int]) -> bool:
    """Whether an output of this size is rather that of a network without padding than one of another resolution.

    It is smaller than the window, and not a whole fraction of it. All axes of a resolution have the same ratio, and if
    the windows are not cubes, different differences.
    """
    axes = list(zip(size, output, strict=True))
    if not any(new < old and old % new for old, new in axes):
        return False
    return len({Fraction(new, old) for old, new in axes}) > 1 or len({old - new for old, new in axes}) == 1


@dataclass(frozen=True)
class _Geometry:
    """Which windows the model gets, and which parts of its outputs are kept."""

    windows: Tiles
    kept: Tiles
    inside: Sequence[Inside]  # the part of each axis that is not padding
    halo: tuple[int, ...]
    scale: tuple[Fraction, ...] | None
    rounded: list[tuple[Fraction, ...]] = field(default_factory=list)  # ratios of outputs at rounded positions

    def _without_halo(self) -> tuple[int, ...]:
        return tuple(k - 2 * cut for k, cut in zip(self.windows.size, self.halo, strict=True))

    def _ratios(self, path: str, output: Sequence[int]) -> tuple[tuple[Fraction, ...], bool]:
        """The ratio of an output to the window for each axis, and whether the model has cut off the halo itself."""
        size, without_halo = self.windows.size, self._without_halo()
        own = tuple(Fraction(new, old) for new, old in zip(output, size, strict=True))
        if self.scale is not None:
            for expected in (size, without_halo):
                exact = [k * ratio for k, ratio in zip(expected, self.scale, strict=True)]
                if all(floor(e) <= new <= ceil(e) for e, new in zip(exact, output, strict=True)):
                    return self.scale, expected is not size
            if not _looks_unpadded(size, output) and all(
                (ratio / scale).denominator == 1 for ratio, scale in zip(own, self.scale, strict=True)
            ):
                return own, False
        elif not _looks_unpadded(size, output):
            return own, False
        elif any(self.halo) and tuple(output) == without_halo:
            return (Fraction(1),) * len(size), True
        margins = {old - new for old, new in zip(size, output, strict=True)}
        of_scale = "" if self.scale is None else f" with scale {_text(self.scale)} and halo {_text(self.halo)}"
        advice = f"scale={_text(own)} if it has another resolution"
        if len(margins) == 1 and (margin := margins.pop()) > 0 and margin % 2 == 0:
            advice = f"halo={margin // 2} and scale=1 for a network without padding, " + advice
        raise ValueError(
            f"model: expected {path} to be a whole fraction or multiple of the window {size}{of_scale}, "
            f"got spatial size {tuple(output)}; pass {advice}"
        )

    def of_output(
        self, path: str, output: Sequence[int]
    ) -> tuple[Tiles, tuple[tuple[int, ...], ...] | None, tuple[Inside, ...]]:
        """The kept parts of an output, where they start in each window, and the part of the image without padding."""
        ratios, unpadded = self._ratios(path, output)
        inside: Iterable[Inside] = self.inside
        if not (self.windows.is_whole(ratios) and self.kept.is_whole(ratios)):
            if any(self.halo):
                advice = f"pass scale={_text(ratios)}, with which they do"
                raise ValueError(f"halo: expected windows that start at whole positions of {path}; {advice}")
            self.rounded.append(ratios)
        windows, inside, extents = self.windows.scaled(ratios, output), self.inside, self.windows.extent
        if unpadded:
            tiles = windows
            lengths = (part.length - 2 * cut for part, cut in zip(inside, self.halo, strict=True))
            inside = [Inside(part.start, length) for part, length in zip(inside, lengths, strict=True)]
            extents = tuple(extent - 2 * cut for extent, cut in zip(extents, self.halo, strict=True))
        else:
            axes = zip(output, self.windows.size, self.kept.size, ratios, strict=True)
            tiles = self.kept.scaled(ratios, [new - int((k - kept) * ratio) for new, k, kept, ratio in axes])
        cuts = None
        if tiles != windows:
            pairs = zip(tiles.starts, windows.starts, strict=True)
            cuts = tuple(tuple(a - b for a, b in zip(*starts, strict=True)) for starts in pairs)
        kept_axes = zip(inside, extents, ratios, tiles.extent, strict=True)
        return tiles, cuts, tuple(part.scaled(extent, ratio, new) for part, extent, ratio, new in kept_axes)


def _units(ratios: Sequence[Fraction]) -> tuple[int, ...]:
    """The positions of which windows have to start at multiples, so that an output starts at a whole position."""
    return tuple(ratio.denominator for ratio in ratios)


def _common_divisor(ratios: Sequence[Fraction]) -> Fraction:
    """The largest number of which all ratios are multiples."""
    denominator = lcm(*(ratio.denominator for ratio in ratios))
    return Fraction(gcd(*(int(ratio * denominator) for ratio in ratios)), denominator)


def _text(numbers: Sequence[Any]) -> str:
    """One number, or the numbers of all axes if they differ, as Python code."""
    return str(numbers[0]) if len(set(numbers)) == 1 else f"({', '.join(map(str, numbers))})"


@dataclass
class _Outputs:
    """Merges all tensors that a model returns. The layout of each is determined from the first batch."""

    geometry: _Geometry
    samples: int
    weight: Weight
    device: torch.device
    argmax: bool
    group: ProcessGroup | None
    incomplete: bool
    outs: dict[str, Any] | None
    structure: Any = None
    layouts: dict[str, _Layout] = field(default_factory=dict)
    mergers: dict[str, _Blend | _Record] = field(default_factory=dict)
    indices: list[int] = field(default_factory=list)  # of the windows until now, if there may be gaps
    count: int = 0

    def add(self, output: Any, batch: int, positions: Sequence[Position]) -> None:
        """Add the model's output for a batch. Windows after the last position are ignored."""
        leaves = _tensors(output)
        if not self.layouts:
            self.layouts = {path: self._layout_of(path, leaf, batch) for path, leaf in leaves.items()}
            self.structure = map_leaves(output, lambda _, leaf: leaf if leaf is None else 0, "output")
            if self.outs is not None and self.outs.keys() != leaves.keys():
                expected, got = (", ".join(paths) or "no arrays" for paths in (leaves, self.outs))
                raise ValueError(f"out: expected arrays for {expected}, got them for {got}")
        if leaves.keys() != self.layouts.keys():
            expected, got = (", ".join(paths) or "no tensors" for paths in (self.layouts, leaves))
            raise ValueError(f"model: expected {expected} as for the first windows, got {got}")
        merged = {}
        for path, layout in self.layouts.items():
            leaf = leaves[path].detach() if self.argmax else leaves[path]
            _check_output(path, leaf, batch, len(layout.tiles.size), self.argmax)
            _check_same_shape_and_dtype(path, leaf, layout)
            merged[path] = layout.cut(leaf[: len(positions)], positions)
        mergers = {path: self._merger_for(path, windows) for path, windows in merged.items()}
        # Ranks wait for each other in each row, and therefore have to finish the rows of all outputs in one order.
        length = max(len(positions), 1) if self.group is None else 1
        for begin in range(0, len(positions), length) or (0,):
            part = positions[begin : begin + length]
            if self.group is not None and part:
                self._advance(*part[0][:2])
            for path, merger in mergers.items():
                merger.add(merged[path][begin : begin + length], part)
        if self.incomplete and self.layouts:
            self.indices += map(next(iter(self.layouts.values())).number, positions)
        self.count += len(positions)

    def _advance(self, sample: int, row: int) -> None:
        blends = [merger for merger in self.mergers.values() if isinstance(merger, _Blend)]
        while blends and blends[0].current != (sample, row):
            for merger in blends:
                merger.finish_row()

    def finish(self) -> Any:
        if self.group is not None:
            self._advance(self.samples, 0)
        return map_leaves(
            self.structure, lambda path, leaf: leaf if leaf is None else self.mergers[path].finish(), "output"
        )

    def _merger_for(self, path: str, windows: Tensor) -> _Blend | _Record:
        """The object that merges windows: a `_Record` from the first windows with a gradient on, and for an export."""
        merger = self.mergers.get(path)
        is_exported = is_traced((windows,)) and self.group is None and self.outs is None
        if is_recorded(windows) or is_exported:
            for name, given in (("mesh", self.group), ("out", self.outs)):
                if given is not None:
                    raise ValueError(f"{name}: expected outputs without gradients (torch.no_grad), got {path} with one")
            if not isinstance(merger, _Record):
                merger = _Record(
                    self.layouts[path], merger, self.indices if self.incomplete else list(range(self.count))
                )
        elif merger is None:
            out = None if self.outs is None else self.outs[path]
            merger = _Blend(self.layouts[path], self.group, path.replace("output", "out", 1), out)
        self.mergers[path] = merger
        return merger

    def _layout_of(self, path: str, first: Tensor, batch: int) -> _Layout:
        _check_output(path, first, batch, len(self.geometry.windows.size), self.argmax)
        tiles, cuts, inside = self.geometry.of_output(path, first.shape[2:])
        weight, may_be_zero = self._weight_for(tiles, first), isinstance(self.weight, Tensor)
        first_window = (first.shape[1:], cuts, first.dtype, self.device)
        return _Layout(*first_window, self.samples, tiles, inside, weight, may_be_zero, self.argmax, self.incomplete)

    def _weight_for(self, tiles: Tiles, windows: Tensor) -> Tensor | None:
        weight, dtype = self.weight, accumulation_dtype(windows.dtype).to_real()
        if weight is None or not (tiles.overlap or isinstance(weight, Tensor)):
            return None
        kept = self.geometry.kept.size
        if isinstance(weight, Tensor):  # the weights of the centre
            margins = (old - new for old, new in zip(weight.shape, kept, strict=True))
            weight = weight[tuple(slice(m // 2, m // 2 + k) for m, k in zip(margins, kept, strict=True))]
        else:
            weight = cached_weight(kept, weight, dtype, self.device, windows)
        weight = resize_weight(weight.detach().to(self.device, dtype), tiles.size)
        # Without overlap the weighted mean is the window itself, or 0 where its weight is 0.
        return weight if tiles.overlap else (weight != 0).to(dtype)


_T = TypeVar("_T")
_Out = TypeVar("_Out")


class _Options(TypedDict, total=False):
    """The options of `sliding_window` for type checkers, which read them twice."""

    overlap: float | Sequence[float]
    halo: int | Sequence[int]
    scale: float | Sequence[float] | None
    batch_size: int
    weight: Weight
    skip: Callable[[Tensor], bool | Tensor] | None
    padding_mode: PaddingMode
    value: float
    output_device: torch.device | str | int | None
    argmax: bool
    progress: bool
    mesh: DeviceMesh | None


@overload
def sliding_window(
    model: Callable[[Tensor], _T],
    input: Tensor | Array,
    size: int | Sequence[int],
    *,
    out: None = None,
    **options: Unpack[_Options],
) -> _T: ...
@overload
def sliding_window(
    model: Callable[[Tensor], Any],
    input: Tensor | Array,
    size: int | Sequence[int],
    *,
    out: _Out,
    **options: Unpack[_Options],
) -> _Out: ...


@outside_of_compilers
def sliding_window(
    model: Callable[[Tensor], Any],
    input: Tensor | Array,
    size: int | Sequence[int],
    *,
    overlap: float | Sequence[float] = 0.25,
    halo: int | Sequence[int] = 0,
    scale: float | Sequence[float] | None = None,
    batch_size: int = 4,
    weight: Weight = "gaussian",
    skip: Callable[[Tensor], bool | Tensor] | None = None,
    padding_mode: PaddingMode = "constant",
    value: float = 0.0,
    out: Any = None,
    output_device: torch.device | str | int | None = None,
    argmax: bool = False,
    progress: bool = False,
    mesh: DeviceMesh | None = None,
) -> Any:
    """Run a model on the windows of an input, and merge its outputs by a weighted mean where windows overlap.

    Windows are on a grid, and the last window of each axis is moved back inside. An input smaller than a window is
    padded evenly, and the outputs for the padding are removed, but at least one position remains. Windows, weights and
    results are those of MONAI's ``sliding_window_inference``, except that a step within 1e-9 of an integer is that
    integer.

    The model's outputs may have any number of channels and any resolution, which are determined from the first batch:
    the position of a window in an output is its position in the input times the ratio of the sizes, rounded down. A
    warning is given if positions are rounded, and `scale` moves the windows so that none is. Outputs may be nested
    tuples, lists, mappings and dataclasses.

    Without gradients, the memory is that of one batch of windows, the result, and the sum of the weights for one row of
    windows of one sample. If the sums cannot be accumulated in the result (for labels, half precision, a padded input,
    `skip`, a mesh, or an `out` that is an array), the memory of the sums for one row of windows is added.

    Args:
        model: maps windows ``(B, C, *size)`` to outputs ``(B, C', *S')`` of a float or complex dtype. Its exceptions
            pass through.
        input: ``(N, C, *S)`` with one to three spatial dimensions, any dtype and strides. Windows are copies. Instead
            of a tensor, it may be anything with a shape, a dtype and slices, such as `numpy.memmap` or a zarr array:
            then it is read one window at a time.
        size: size of a window, one number or one for each spatial dimension; for an input of three dimensions, which
            may be ``(N, C, T)`` or ``(C, H, W)``, one number is refused.
        overlap: how much of a window the next window covers as well, one number or one for each dimension: an int is a
            number of positions, a float a fraction in [0, 1).
        halo: the margin that is cut off each window's output, in positions of the input, except at the border of the
            image. It is in addition to the overlap, which is that of the parts that are kept. If it is at least the
            radius of a network's receptive field, the result is that of the network on the whole image. An output that
            is smaller than the window by this margin is that of a network without padding, and so is the result.
        scale: the ratio of an output's size to the input's, one number or one for each dimension. None takes it from
            the first batch. Windows then start at multiples for which no position of the output is rounded, `size` has
            to be such a multiple, a halo is enlarged to one, and fewer positions than that at the far end of the image
            may be left out. Of several outputs, it is the ratio of the smallest; those of the others are multiples.
        batch_size: the number of windows in each call of the model, of one or several samples; the last call may have
            fewer.
        weight: the weight of each position of a window in the mean where windows overlap. None (the same for all),
            ``"linear"``, ``"hann"`` or ``"gaussian"`` (see `torchext.window_weight`), or a tensor ``(*size)`` without
            negative numbers, used as a constant. Outputs with the weight 0 are left out, including infinite ones and
            NaN. Where all weights are 0, the result is 0. With a halo, the weights are those of the part that is kept,
            or the centre of the tensor.
        skip: a function of one window ``(C, *size)`` that returns True where the model need not run. Such windows
            weigh nothing, and positions that no other window covers are 0. Other windows are read twice.
        padding_mode: how an input smaller than a window is padded: ``"constant"``, ``"reflect"``, ``"replicate"``,
            ``"circular"`` or ``"symmetric"``, of any width, as in `numpy.pad`.
        value: the value of the padding in constant mode.
        out: a tensor, or an array such as `numpy.memmap`, into which the result is written, one row of windows at a
            time; for several outputs a container of the same structure. Its dtype may be another one that PyTorch
            casts to, such as uint8 for labels. Outputs must not have a gradient.
        output_device: the device on which outputs are merged, and of the result; None is the input's device.
        argmax: return the channel with the largest score at each position (the first of several) instead of the scores,
            of which only one row of windows is in memory at a time. Scores of half precision are compared in float32:
            in a result of half precision they would be rounded, and more of them would be equal. A single channel is
            refused.
        progress: show a progress bar, which requires ``tqdm``: ``torchext-ops[progress]``.
        mesh: a one-dimensional device mesh. All ranks call with the same input; each runs the model on a part of the
            windows, and each returns the whole result. Gradients are not supported.

    Returns:
        `out`, or else the structure that the model returned for the first batch, with tensors ``(N, C', *S·S'/size)``
        in the model's dtype, summed in float32 for half precision; with `argmax` int64 labels ``(N, *S·S'/size)``. If
        no windows overlap, the result is bit for bit the model's output, or 0 where the weight is 0. Tensors have the
        class and the attributes of an input of a subclass, such as ``monai.data.MetaTensor``; the model gets plain
        tensors.

    Raises:
        ImportError: `progress` is True and ``tqdm`` is not installed.
        TypeError: a wrong type or dtype, also of the model's output.
        ValueError: a wrong shape or option, a wrong shape of an output, an output whose size is neither that of a
            resolution nor explained by `halo` and `scale`, or outputs that differ in structure, shape or dtype from
            those for the first windows.

    Note:
        Deterministic if the model is. Differentiable any number of times in the input and in tensors that the model
        uses; the outputs of all windows are then kept. torch.compile does not trace this function: compile the model.

    Examples:
        >>> photo = torch.rand(1, 3, 100, 150)
        >>> blur = torch.nn.AvgPool2d(3, stride=1, padding=1)
        >>> torchext.sliding_window(blur, photo, 64).shape
        torch.Size([1, 3, 100, 150])
        >>> exact = torchext.sliding_window(blur, photo, 64, overlap=0, halo=1)
        >>> torch.allclose(exact, blur(photo))
        True
        >>> model = lambda windows: {"twice": windows.repeat(1, 1, 2, 2), "half": windows[..., ::2, ::2]}
        >>> result = torchext.sliding_window(model, photo, (64, 32), overlap=(0.25, 16))
        >>> {name: tuple(tensor.shape) for name, tensor in result.items()}
        {'twice': (1, 3, 200, 300), 'half': (1, 3, 50, 75)}
    """
    if not callable(model):
        raise TypeError(f"model: expected a callable, got {type(model).__name__}")
    arrays.check("input", input)
    dtype = arrays.dtype_of("input", input)
    if dtype not in DTYPES:
        raise checks.not_in_dtypes("input", dtype)
    shape = tuple(map(int, input.shape))  # int: the number of windows cannot depend on a symbolic size
    rank = len(shape) - 2
    if not 1 <= rank <= 3 or 0 in shape[1:]:
        raise ValueError(f"input: expected (N, C, *S) with 1 to 3 spatial dimensions, got shape {shape}")
    if rank == 1 and not checks.is_sequence(size):
        raise ValueError(
            f"size: expected (size,) for signals (N, C, T), or an input with a batch, input[None], for an image "
            f"(C, H, W); one int is ambiguous for an input of shape {shape}"
        )
    window = checks.sizes("size", size, rank, least=1)
    checks.fits("size", size, window, "a window")
    margins = checks.sizes("halo", halo, rank, least=0)
    ratios = _check_scale(scale, rank)
    units = (1,) * rank if ratios is None else _units(ratios)
    if any(k % unit for k, unit in zip(window, units, strict=True)):
        raise ValueError(f"size: expected multiples of {_text(units)} for scale {_text(ratios or units)}, got {window}")
    # A wider halo than necessary does no harm.
    wide = tuple(-(-margin // unit) * unit for margin, unit in zip(margins, units, strict=True))
    kept = tuple(k - 2 * margin for k, margin in zip(window, wide, strict=True))
    if min(kept) < 1:
        raise ValueError(f"halo: expected less than half of the window {window}, got {_text(wide)}")
    shares = check_overlap(overlap, kept)
    batch_size = checks.integer("batch_size", batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    check_weight(weight, window)
    if skip is not None and not callable(skip):
        raise TypeError(f"skip: expected a callable, got {type(skip).__name__}")
    mode = _padding.mode_number("padding_mode", padding_mode)
    value = checks.holds("value", value, dtype)
    outs = None if out is None else _check_outs(out, input)
    argmax, progress = checks.flag("argmax", argmax), checks.flag("progress", progress)
    device = input.device if isinstance(input, Tensor) else torch.device("cpu")
    device = device if output_device is None else checks.device("output_device", output_device)
    group, ranks, this_rank = _check_mesh(mesh)

    samples, extents = shape[0], shape[2:]
    missing = [max(k - extent, 0) for k, extent in zip(window, extents, strict=True)]
    pads = [(count // 2, count - count // 2) for count in missing]
    padded = tuple(map(max, window, extents))
    windows, kept_parts = tile(padded, window, shares, wide, units)
    inside = [
        Inside(before, min(extent, covered))
        for (before, _), extent, covered in zip(pads, extents, windows.extent, strict=True)
    ]
    # The model has cut off the halo of the argument, not a wider one.
    geometry = _Geometry(windows, kept_parts, inside, margins, ratios)
    outputs = _Outputs(geometry, samples, weight, device, argmax, group, skip is not None, outs)
    image = input.as_subclass(Tensor) if isinstance(input, Tensor) and _is_subclass(input) else input
    reader = _Reader(image, windows, [] if not any(missing) else pads, mode, value)
    read = (
        reader.recorded(batch_size, skip is None)
        if isinstance(image, Tensor) and (is_recorded(image) or is_traced((image,)))
        else reader.read()
    )

    all_positions = product(range(samples), *map(range, windows.grid))
    positions: Iterator[Position] = islice(all_positions, this_rank, None, ranks)
    total = len(range(this_rank, samples * prod(windows.grid), ranks))

    # A function, so that the tensors of a batch are freed before the next batch.
    def run(positions: Sequence[Position]) -> None:
        batch = read(positions)
        outputs.add(model(batch), len(batch), positions)
        if geometry.rounded:
            scale = _text([_common_divisor(axis) for axis in zip(*geometry.rounded, strict=True)])
            geometry.rounded.clear()
            warnings.warn(
                "sliding_window: windows start at positions that are not whole ones of the output, and are blended at "
                f"rounded positions; pass scale={scale}, which moves them",
                stacklevel=4,
            )

    with _bar(total, shown=progress and this_rank == 0) as bar:
        if skip is not None:
            positions = _needed(positions, reader.copy, skip, bar)
        while batch := list(islice(positions, batch_size)):
            run(batch)
            if bar is not None:
                bar.update(len(batch))
    if not outputs.layouts:
        # There is no window, or none for this rank: one call determines the structure of the output.
        first = read([(0,) * (1 + rank)])
        outputs.add(model(first), len(first), ())
    result = outputs.finish()
    if out is not None:
        return out
    return map_leaves(result, lambda _, leaf: _like(leaf, input) if isinstance(leaf, Tensor) else leaf)


def _needed(
    positions: Iterator[Position], read: Callable[[list[Position]], Tensor], skip: Callable[[Tensor], Any], bar: Any
) -> Iterator[Position]:
    """The positions of the windows that `skip` does not leave out. It reads each of them once more than the model."""
    for position in positions:
        left_out = skip(read([position])[0])
        if getattr(left_out, "shape", None) == ():  # of PyTorch or NumPy
            left_out = left_out.item()
        if not checks.flag("skip", left_out):
            yield position
        elif bar is not None:
            bar.update(1)


def _is_subclass(tensor: Tensor) -> bool:
    """Whether a tensor has a class of its own, but is a tensor in memory like others."""
    kind = type(tensor)
    plain = kind in (Tensor, torch.nn.Parameter)
    return not plain and kind.__torch_dispatch__ is Tensor.__torch_dispatch__


def _like(result: Tensor, input: Any) -> Tensor:
    """The result in the class of the input, with the attributes that the input has, such as an image's metadata."""
    if not isinstance(input, Tensor) or not _is_subclass(input):
        return result
    like = result.as_subclass(type(input))
    vars(like).update({name: copy(attribute) for name, attribute in vars(input).items()})
    return like


class _Reader(NamedTuple):
    """Copies windows, padding those of an input that is smaller than a window."""

    image: Tensor | Array
    tiles: Tiles
    pads: Sequence[tuple[int, int]]
    mode: int
    value: float

    def read(self) -> Callable[[Sequence[Position]], Tensor]:
        """A function that returns the windows at given positions, if possible with one call of a kernel."""
        image, tiles = self.image, self.tiles
        if not isinstance(image, Tensor) or self.pads or not load.has_kernels(image.device):
            return self.copy
        size, rows, channels, unit = tiles.size, image.detach(), image.shape[1], 1
        channels_last = _memory_format(image) != torch.contiguous_format
        if channels_last:  # the channels of a position are consecutive, like positions
            unit = channels
            rows = rows.movedim(1, -1).flatten(-2).unsqueeze(1)
            size = (*size[:-1], size[-1] * channels)
        starts = (range(len(image)), *tiles.starts[:-1], [start * unit for start in tiles.starts[-1]])
        offsets = torch.cartesian_prod(*(torch.tensor(axis, dtype=torch.int64) for axis in starts)).to(image.device)
        counts = (len(image), *tiles.grid)

        def gather(positions: Sequence[Position]) -> Tensor:
            chosen = _rows_of(offsets, [_row_major(position, counts) for position in positions])
            windows = _gather(rows, chosen, len(size), size)
            return windows.view(-1, *tiles.size, channels).movedim(-1, 1) if channels_last else windows

        return gather

    def copy(self, positions: Sequence[Position]) -> Tensor:
        """The windows at these positions, in memory of their own."""
        image, extents = self.image, self.image.shape[2:]
        if isinstance(image, Tensor):
            image = image.detach()
        parts = []
        for sample, *grid in positions:
            box = self.tiles.at(grid)
            if self.pads:
                box = tuple(slice(at.start, min(at.stop, int(e))) for at, e in zip(box, extents, strict=True))
            parts.append(arrays.read(image, (slice(sample, sample + 1), slice(None), *box)))
        first = parts[0]
        layout = _memory_format(image) if isinstance(image, Tensor) else torch.contiguous_format
        shape = (sum(map(len, parts)), *first.shape[1:])
        windows = torch.cat(parts, out=load.empty(shape, first.dtype, first.device, layout))
        return self._padded(windows).contiguous(memory_format=layout) if self.pads else windows

    def recorded(self, batch_size: int, in_order: bool) -> Callable[[Sequence[Position]], Tensor]:
        """A function that returns windows that are part of a graph, at positions in order, or at any positions."""
        assert isinstance(self.image, Tensor)
        image = self._padded(self.image)
        for axis, extent in enumerate(self.tiles.extent, 2):
            image = image.narrow(axis, 0, extent)
        windows = extract_tiles(image, self.tiles).flatten(0, len(self.tiles.size))
        if in_order:
            # With Tensor.split a model could not change its windows in place. That is safe here, since each is read
            # once.
            batches = iter(windows.unsafe_split(batch_size))
            return lambda positions: next(batches)
        singles = windows.unsafe_split(1)
        counts = (len(image), *self.tiles.grid)
        return lambda positions: torch.cat([singles[_row_major(position, counts)] for position in positions])

    def _padded(self, images: Tensor) -> Tensor:
        return _padding.pad(images, self.pads, self.mode, self.value) if self.pads else images


def _memory_format(image: Tensor) -> torch.memory_format:
    """The memory format of windows: channels-last if the image is, for models that run faster with it."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(image.dim(), torch.contiguous_format)
    row_major = image.is_contiguous() or not image.is_contiguous(memory_format=channels_last)
    return torch.contiguous_format if row_major else channels_last


def _check_scale(scale: Any, rank: int) -> tuple[Fraction, ...] | None:
    if scale is None:
        return None
    given = scale if checks.is_sequence(scale) else (scale,) * rank
    if len(given) != rank:
        raise ValueError(f"scale: expected a number or {rank} of them, got {checks.shown(given)}")
    numbers = [checks.number("scale", number, "None, a number or a sequence of numbers") for number in given]
    for number in numbers:
        if not 1e-3 <= number <= 1e3:
            raise ValueError(f"scale: expected at least 0.001 and at most 1000, got {scale}")
    return tuple(Fraction(number).limit_denominator(1000) for number in numbers)


def _check_outs(out: Any, input: Any) -> dict[str, Any]:
    """The arrays to write into, by the path of the output for which each is."""
    outs: dict[str, Any] = {}

    def add(path: str, leaf: Any) -> None:
        if leaf is None:
            return
        name = path.replace("output", "out", 1)
        arrays.check(name, leaf, "__setitem__")
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            raise ValueError(f"{name}: expected a tensor that does not require grad; detach it")
        if isinstance(leaf, Tensor) and isinstance(input, Tensor):
            checks.no_overlap(name, leaf, "input", input)
        elif arrays.may_overlap(leaf, input):
            raise ValueError(f"{name}: expected an array that shares no memory with input, got one that may overlap it")
        outs[path] = leaf

    map_leaves(out, add, "output")
    return outs


def _check_mesh(mesh: Any) -> tuple[ProcessGroup | None, int, int]:
    """The group of processes, its size, and the rank of this process in it."""
    if mesh is None:
        return None, 1, 0
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh: expected a torch.distributed.DeviceMesh, got {type(mesh).__name__}")
    if mesh.ndim != 1:
        raise ValueError(f"mesh: expected one dimension, got {mesh.ndim}; select one of them: mesh[name]")
    return mesh.get_group(), mesh.size(), mesh.get_local_rank()


def _bar(total: int, *, shown: bool) -> AbstractContextManager[Any]:
    return tqdm()(total=total, unit="window") if shown else nullcontext()
