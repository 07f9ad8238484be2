"""Sliding-window inference: a model is run on the windows of a large input, and its outputs are merged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice, pairwise, product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import COMPLEX_DTYPES, DTYPES, FLOAT_DTYPES, accumulation_dtype
from torchext._core.library import is_recorded, outside_of_compilers
from torchext._core.progress import tqdm
from torchext._native import load
from torchext.windows.padding import PaddingMode
from torchext.windows.tiling import Inside, Tiles, extract_tiles, merge_tiles, pad_to, resize_weight, tile
from torchext.windows.weight import Weight, cached_weight, check_weight

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["sliding_window"]

# The sample of a window and its index in the grid, or only that index.
Position = tuple[int, ...]


class _Layout(NamedTuple):
    """The windows of one output, their positions and weight, and the part of the merged image that is returned."""

    shape: torch.Size  # of a window, with the channels
    dtype: torch.dtype
    device: torch.device
    samples: int
    tiles: Tiles
    inside: tuple[Inside, ...]
    weight: Tensor | None
    may_be_zero: bool
    argmax: bool

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


class _WeightSums:
    """The sums of the weights of all windows, computed for a few rows at a time.

    A sum depends only on the relative positions of neighbouring rows of windows, which are the same in the middle of a
    large image, so that the last sum is kept for the next row.
    """

    def __init__(self, tiles: Tiles, weight: Tensor, may_be_zero: bool) -> None:
        self.tiles, self.may_be_zero = tiles, may_be_zero
        # The sum over one row of windows, which is the same for all rows.
        self.row = weight.new_zeros(tiles.size[0], *tiles.extent[1:])
        for grid in product((0,), *map(range, tiles.grid[1:])):
            box = (slice(None), *tiles.at(grid)[1:])
            self.row[box] += weight
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

    The sums are in the result itself. If they cannot be there (for labels, half precision, a sum over ranks or a result
    without padding), they are in a slab that is as high as one window.
    """

    def __init__(self, layout: _Layout, group: ProcessGroup | None) -> None:
        self.layout, self.tiles, self.group = layout, layout.tiles, group
        channels, dtype, extent = layout.shape[0], accumulation_dtype(layout.dtype), self.tiles.extent
        kept = tuple(inside.length for inside in layout.inside)
        shape, result_dtype = (kept, torch.int64) if layout.argmax else ((channels, *kept), layout.dtype)
        self.result = load.empty((layout.samples, *shape), result_dtype, layout.device)
        self.slab: Tensor | None = None
        if result_dtype != dtype or group is not None or kept != extent:
            self.slab = load.empty((channels, self.tiles.size[0], *extent[1:]), dtype, layout.device).zero_()
        # With argmax no division is necessary: it does not change which score is the largest.
        divides = self.tiles.overlap and not layout.argmax
        self.sums = _WeightSums(self.tiles, layout.weight_or_ones(), layout.may_be_zero) if divides else None
        # The length of each window that earlier windows have written. The rest is overwritten, so that it need not be
        # initialised. With a group, windows of other ranks are missing, so that everything is added to zeros.
        self.written = tuple(
            tuple(k if group else max(a + k - b, 0) for a, b in pairwise((-k, *starts)))
            for starts, k in zip(self.tiles.starts, self.tiles.size, strict=True)
        )
        self.sample = self.row = 0

    def add(self, windows: Tensor, positions: Iterable[Position]) -> None:
        windows = self.layout.zero_unweighted(windows.to(self.result.device))
        for window, position in zip(windows, positions, strict=True):
            self._advance(*position[:2])
            self._add_one(window, position[1:])

    def finish(self) -> Tensor:
        self._advance(self.layout.samples, 0)
        return self.result

    def _rows(self) -> Tensor:
        """The memory of the positions that the current row of windows covers."""
        if self.slab is not None:
            return self.slab
        return self.result[self.sample].narrow(1, self.tiles.starts[0][self.row], self.tiles.size[0])

    def _add_one(self, window: Tensor, grid: Position) -> None:
        columns = (slice(None), slice(None), *self.tiles.at(grid)[1:])
        target = self._rows()[columns]
        box: list[slice] = [slice(None)]
        for written, i in zip(self.written, grid, strict=True):
            if written[i]:
                self._put(target, window, (*box, slice(written[i])), add=True)
            if written[i] == window.shape[len(box)]:
                return
            box.append(slice(written[i], None))
        self._put(target, window, tuple(box), add=False)

    def _put(self, target: Tensor, window: Tensor, box: tuple[slice, ...], *, add: bool) -> None:
        target, window = target[box], window[box]
        if self.layout.weight is None:
            target.add_(window) if add else target.copy_(window)
            return
        weight = self.layout.weight[box[1:]]
        target.addcmul_(window, weight) if add else torch.mul(window, weight, out=target)

    def _advance(self, sample: int, row: int) -> None:
        while (self.sample, self.row) != (sample, row):
            self._finish_row()
            self.row += 1
            if self.row == self.tiles.grid[0]:
                self.sample, self.row = self.sample + 1, 0

    def _finish_row(self) -> None:
        begin, end = self.tiles.finished_rows(self.row)
        done = self._rows()[:, : end - begin]
        if self.slab is None:
            if self.sums is not None:
                done.div_(self.sums.finished_by(self.row))
            return
        if self.group is not None:
            done = done.contiguous()
            torch.distributed.all_reduce(done, group=self.group)
        rows, done = self.layout.kept(done, begin)
        target = self.result[self.sample]
        if self.layout.argmax:
            # Like argmax, max returns the first of several equal scores. It is twice as fast.
            target[rows] = done.max(0).indices
        elif self.sums is None:
            target[:, rows] = done
        else:
            torch.div(done, self.layout.kept(self.sums.finished_by(self.row), begin)[1], out=target[:, rows])
        self._move_on(self.slab, end - begin)

    def _move_on(self, slab: Tensor, step: int) -> None:
        """Move the rows that later windows cover as well to the front, in parts that do not overlap."""
        if step == 0:
            return
        height = slab.shape[1]
        for begin in range(step, height, step):
            length = min(step, height - begin)
            slab[:, begin - step : begin - step + length] = slab[:, begin : begin + length]
        if self.group is not None:
            slab[:, height - step :] = 0


class _Record:
    """Keeps all windows and merges them at the end with differentiable functions.

    Windows before the first one with a gradient may have been added to a `_Blend`. They are zeros here, and the windows
    here are zeros there, so that the sum of both results is the result.
    """

    def __init__(self, layout: _Layout, blended: _Blend | None, count: int) -> None:
        self.layout, self.blended = layout, blended
        self.windows = [torch.zeros(count, *layout.shape, dtype=layout.dtype, device=layout.device)] if count else []

    def add(self, windows: Tensor, positions: Iterable[Position]) -> None:
        self.windows.append(windows.to(self.layout.device))
        if self.blended is not None:
            self.blended.add(torch.zeros_like(self.windows[-1]), positions)

    def finish(self) -> Tensor:
        layout, tiles = self.layout, self.layout.tiles
        windows = torch.cat(self.windows).to(accumulation_dtype(layout.dtype))
        weight = layout.weight_or_ones() if tiles.overlap else layout.weight
        if weight is not None:
            windows = layout.zero_unweighted(windows) * weight
        image = merge_tiles(windows.unflatten(0, (layout.samples, *tiles.grid)), tiles)
        if tiles.overlap and weight is not None:
            sums = merge_tiles(weight.expand(1, *tiles.grid, 1, *tiles.size), tiles)
            image = image / (sums.masked_fill(sums == 0, 1) if layout.may_be_zero else sums)
        image = layout.kept(image)[1]
        if self.blended is not None:
            image = image + self.blended.finish()
        return image.argmax(1) if layout.argmax else image.to(layout.dtype).contiguous()


def _check_output(output: Tensor, batch: int, rank: int, argmax: bool) -> None:
    if output.dtype not in FLOAT_DTYPES and (argmax or output.dtype not in COMPLEX_DTYPES):
        kinds = "a floating" if argmax else "a floating or complex"
        raise TypeError(f"model: expected outputs of {kinds} dtype, got {output.dtype}")
    if output.dim() != rank + 2 or output.shape[0] != batch or 0 in output.shape[1:]:
        raise ValueError(
            f"model: expected outputs (B, C, *S) with B = {batch} and {rank} spatial dimensions, "
            f"got shape {tuple(output.shape)}"
        )


def _check_same_shape_and_dtype(output: Tensor, layout: _Layout) -> None:
    if output.dtype != layout.dtype:
        raise TypeError(f"model: expected outputs of {layout.dtype} as for the first windows, got {output.dtype}")
    if output.shape[1:] != layout.shape:
        raise ValueError(
            f"model: expected outputs {('B', *layout.shape)} as for the first windows, got shape {tuple(output.shape)}"
        )


def _map(function: Callable[[str, Tensor], Tensor], output: Any, path: str = "output") -> Any:
    """A model's output with the results of ``function(path, tensor)`` in the place of its tensors, in order."""
    if output is None:
        return None
    if isinstance(output, Tensor):
        return function(path, output)
    if isinstance(output, Mapping):
        return {key: _map(function, entry, f"{path}[{key!r}]") for key, entry in output.items()}
    if not isinstance(output, (tuple, list)):
        raise TypeError(f"model: expected tensors in tuples, lists and dicts, got {type(output).__name__}")
    values = [_map(function, entry, f"{path}[{i}]") for i, entry in enumerate(output)]
    if isinstance(output, tuple):
        return type(output)(*values) if hasattr(output, "_fields") else tuple(values)
    return values


@dataclass
class _Outputs:
    """Merges all tensors that a model returns. The layout of each is determined from the first batch."""

    tiles: Tiles
    inside: Sequence[Inside]
    samples: int
    weight: Weight
    device: torch.device
    argmax: bool
    group: ProcessGroup | None
    structure: Any = None
    layouts: dict[str, _Layout] = field(default_factory=dict)
    mergers: dict[str, _Blend | _Record] = field(default_factory=dict)
    count: int = 0

    def add(self, output: Any, batch: int, positions: Sequence[Position]) -> None:
        """Add the model's output for a batch. Windows after the last position are ignored."""
        leaves: dict[str, Tensor] = {}
        _map(leaves.setdefault, output)
        if self.structure is None:
            self.layouts = {path: self._layout_of(leaf, batch) for path, leaf in leaves.items()}
            self.structure = _map(lambda *_: torch.empty(0), output)
        if leaves.keys() != self.layouts.keys():
            expected, got = (", ".join(paths) or "no tensors" for paths in (self.layouts, leaves))
            raise ValueError(f"model: expected {expected} as for the first windows, got {got}")
        for path, layout in self.layouts.items():
            leaf = leaves[path].detach() if self.argmax else leaves[path]
            _check_output(leaf, batch, len(self.tiles.size), self.argmax)
            _check_same_shape_and_dtype(leaf, layout)
            self._merger_for(path, leaf).add(leaf[: len(positions)], positions)
        self.count += len(positions)

    def finish(self) -> Any:
        return _map(lambda path, _: self.mergers[path].finish(), self.structure)

    def _merger_for(self, path: str, windows: Tensor) -> _Blend | _Record:
        """The object that merges windows: a `_Record` from the first windows with a gradient on."""
        merger = self.mergers.get(path)
        if is_recorded(windows):
            if self.group is not None:
                raise ValueError("mesh: expected outputs without gradients (torch.no_grad), got an output with one")
            if not isinstance(merger, _Record):
                merger = _Record(self.layouts[path], merger, self.count)
        elif merger is None:
            merger = _Blend(self.layouts[path], self.group)
        self.mergers[path] = merger
        return merger

    def _layout_of(self, first: Tensor, batch: int) -> _Layout:
        rank = len(self.tiles.size)
        _check_output(first, batch, rank, self.argmax)
        tiles = self.tiles.resized(first.shape[2:])
        inside = tuple(kept.resized(self.tiles, tiles, axis) for axis, kept in enumerate(self.inside))
        weight, may_be_zero = self._weight_for(tiles, first), isinstance(self.weight, Tensor)
        first_window = (first.shape[1:], first.dtype, self.device)
        return _Layout(*first_window, self.samples, tiles, inside, weight, may_be_zero, self.argmax)

    def _weight_for(self, tiles: Tiles, windows: Tensor) -> Tensor | None:
        weight, dtype = self.weight, accumulation_dtype(windows.dtype).to_real()
        if weight is None or not (tiles.overlap or isinstance(weight, Tensor)):
            return None
        if not isinstance(weight, Tensor):
            weight = cached_weight(self.tiles.size, weight, dtype, self.device, windows)
        weight = resize_weight(weight.detach().to(self.device, dtype), tiles.size)
        # Without overlap the weighted mean is the window itself, or 0 where its weight is 0.
        return weight if tiles.overlap else (weight != 0).to(dtype)


@outside_of_compilers
def sliding_window(
    model: Callable[[Tensor], Any],
    input: Tensor,
    size: int | Sequence[int],
    *,
    overlap: float | Sequence[float] = 0.25,
    batch_size: int = 4,
    weight: Weight = "gaussian",
    padding_mode: PaddingMode = "constant",
    value: float = 0.0,
    output_device: torch.device | str | int | None = None,
    argmax: bool = False,
    progress: bool = False,
    mesh: DeviceMesh | None = None,
) -> Any:
    """Run a model on the windows of an input, and merge its outputs by a weighted mean where windows overlap.

    Windows are on a grid, and the last window of each axis is moved back inside. An input smaller than a window is
    padded evenly, and the outputs for the padding are removed, but at least one position remains. Windows, weights and
    results are those of MONAI's ``sliding_window_inference``.

    The model's outputs may have any number of channels and any resolution, which are determined from the first batch:
    the position of a window in an output is its position in the input times the ratio of the sizes, rounded down.
    Results are best for ratios with which no position is rounded. Outputs may be nested tuples, lists and dicts.

    Without gradients, the memory is that of one batch of windows, the result, and the sum of the weights for one row of
    windows of one sample. If the sums cannot be accumulated in the result (for labels, half precision, a padded input
    or a mesh), the memory of the sums for one row of windows is added.

    Args:
        model: maps windows ``(B, C, *size)`` to outputs ``(B, C', *S')`` of a float or complex dtype. Its exceptions
            pass through.
        input: ``(N, C, *S)`` with one to three spatial dimensions, any dtype and strides. Windows are copies.
        size: size of a window, one number or one for each spatial dimension.
        overlap: the fraction of a window that the next window covers as well, in [0, 1), one number or one for each
            dimension.
        batch_size: the number of windows in each call of the model, of one or several samples; the last call may have
            fewer.
        weight: the weight of each position of a window in the mean where windows overlap. None (the same for all),
            ``"linear"``, ``"hann"`` or ``"gaussian"`` (see `torchext.window_weight`), or a tensor ``(*size)`` without
            negative numbers, used as a constant. Outputs with the weight 0 are left out, including infinite ones and
            NaN. Where all weights are 0, the result is 0.
        padding_mode: how an input smaller than a window is padded: ``"constant"``, ``"reflect"``, ``"replicate"``,
            ``"circular"`` or ``"symmetric"``.
        value: the value of the padding in constant mode.
        output_device: the device of the result, on which outputs are merged; None is the input's device.
        argmax: return the channel with the largest score at each position (the first of several) instead of the scores,
            of which only one row of windows is in memory at a time. Scores of half precision are compared in float32:
            in a result of half precision they would be rounded, and more of them would be equal.
        progress: show a progress bar, which requires ``tqdm``: ``torchext-ops[progress]``.
        mesh: a one-dimensional device mesh. All ranks call with the same input; each runs the model on a part of the
            windows, and each returns the whole result. Gradients are not supported.

    Returns:
        The structure that the model returned for the first batch, with tensors ``(N, C', *S·S'/size)`` in the model's
        dtype, summed in float32 for half precision; with `argmax` int64 labels ``(N, *S·S'/size)``. If no windows
        overlap, the result is bit for bit the model's output, or 0 where the weight is 0.

    Raises:
        ImportError: `progress` is True and ``tqdm`` is not installed.
        TypeError: a wrong type or dtype, also of the model's output.
        ValueError: a wrong shape or option, a wrong shape of an output, or outputs that differ in structure, shape or
            dtype from those for the first windows.

    Note:
        Deterministic if the model is. Differentiable any number of times in the input and in tensors that the model
        uses; the outputs of all windows are then kept. torch.compile does not trace this function: compile the model.

    Examples:
        >>> photo = torch.rand(1, 3, 100, 150)
        >>> blur = torch.nn.AvgPool2d(3, stride=1, padding=1)
        >>> torchext.sliding_window(blur, photo, 64).shape
        torch.Size([1, 3, 100, 150])
        >>> model = lambda windows: {"twice": windows.repeat(1, 1, 2, 2), "half": windows[..., ::2, ::2]}
        >>> result = torchext.sliding_window(model, photo, (64, 32), overlap=(0.25, 0.5))
        >>> {name: tuple(tensor.shape) for name, tensor in result.items()}
        {'twice': (1, 3, 200, 300), 'half': (1, 3, 50, 75)}
    """
    if not callable(model):
        raise TypeError(f"model: expected a callable, got {type(model).__name__}")
    checks.tensor("input", input)
    if input.dtype not in DTYPES:
        raise checks.not_in_dtypes("input", input.dtype)
    rank = input.dim() - 2
    if not 1 <= rank <= 3 or 0 in input.shape[1:]:
        raise ValueError(f"input: expected (N, C, *S) with 1 to 3 spatial dimensions, got shape {tuple(input.shape)}")
    window = checks.sizes("size", size, rank, least=1)
    checks.fits("size", size, window, "a window")
    shares = _check_overlap(overlap, rank)
    batch_size = checks.integer("batch_size", batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    check_weight(weight, window)
    argmax, progress = checks.flag("argmax", argmax), checks.flag("progress", progress)
    device = input.device if output_device is None else checks.device("output_device", output_device)
    group, ranks, this_rank = _check_mesh(mesh)
    image, inside = pad_to(input, window, padding_mode, value)
    tiles = tile(image.shape[2:], window, shares)

    all_positions = product(range(len(image)), *map(range, tiles.grid))
    positions = islice(all_positions, this_rank, None, ranks)
    total = len(range(this_rank, len(image) * prod(tiles.grid), ranks))
    outputs = _Outputs(tiles, inside, len(image), weight, device, argmax, group)
    extract = _extractor(image, tiles, batch_size)

    # A function, so that the tensors of a batch are freed before the next batch.
    def run(positions: Sequence[Position]) -> None:
        windows = extract(positions)
        outputs.add(model(windows), len(windows), positions)

    with _bar(total, shown=progress and this_rank == 0) as bar:
        while batch := list(islice(positions, batch_size)):
            run(batch)
            if bar is not None:
                bar.update(len(batch))
    if not total:
        # There is no window, or none for this rank: one call determines the structure of the output.
        corner = (slice(1), slice(None), *map(slice, window))
        first = image[corner].clone()
        outputs.add(model(first), len(first), ())
    return outputs.finish()


def _extractor(image: Tensor, tiles: Tiles, batch_size: int) -> Callable[[Sequence[Position]], Tensor]:
    """A function that returns the windows at the given positions, which have to be in order."""
    if is_recorded(image):
        # With Tensor.split a model could not change its windows in place. That is safe here, since each is read once.
        batches = iter(extract_tiles(image, tiles).flatten(0, len(tiles.size)).unsafe_split(batch_size))
        return lambda positions: next(batches)
    layout = _memory_format(image)

    def copy(positions: Sequence[Position]) -> Tensor:
        boxes = [(slice(sample, sample + 1), slice(None), *tiles.at(grid)) for sample, *grid in positions]
        shape = (len(boxes), image.shape[1], *tiles.size)
        windows = load.empty(shape, image.dtype, image.device, layout)
        return torch.cat([image[box] for box in boxes], out=windows)

    return copy


def _memory_format(image: Tensor) -> torch.memory_format:
    """The memory format of windows: channels-last if the image is, for models that run faster with it."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(image.dim(), torch.contiguous_format)
    row_major = image.is_contiguous() or not image.is_contiguous(memory_format=channels_last)
    return torch.contiguous_format if row_major else channels_last


def _check_overlap(overlap: Any, rank: int) -> tuple[float, ...]:
    given = overlap if checks.is_sequence(overlap) else (overlap,) * rank
    if len(given) != rank:
        raise ValueError(f"overlap: expected a number or {rank} of them, got {checks.shown(given)}")
    shares = tuple(checks.number("overlap", share, "a number or a sequence of numbers") for share in given)
    for share in shares:
        if not 0 <= share < 1:
            raise ValueError(f"overlap: expected at least 0 and less than 1, got {overlap}")
    return shares


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
