"""Windows of a tensor on a grid or at any offsets: extracting them, and merging them where they overlap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import product, repeat
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import INTEGER_DTYPES, accumulation_dtype, narrow, widen, widest_float
from torchext._core.library import Kernel, define, in_onnx_export, linear_derivative, to_front, vmap_over_samples
from torchext._core.sharding import REPLICATE, Option, by_first, replicated_like
from torchext.windows import padding as _padding
from torchext.windows.grid import (
    Grid,
    Partial,
    Size,
    cached_check,
    check_adds,
    check_grid,
    check_image,
    check_unambiguous,
    is_known,
    split,
)
from torchext.windows.padding import PaddingMode
from torchext.windows.positions import add_up, fold_planes, grid_positions, window_positions
from torchext.windows.weight import Kind, Weight, cached_weight, check_weight

__all__ = ["extract_windows", "gather_windows", "merge_windows", "scatter_windows"]


def _offset_positions(image_size: Sequence[int], size: Sequence[int], offsets: Tensor) -> Tensor:
    # Clamping does not change which elements are outside, and sums with a clamped offset do not overflow.
    starts = [offsets[:, d].clamp(-k, s) for d, (k, s) in enumerate(zip(size, image_size, strict=True))]
    return window_positions(starts, image_size, size, [1] * len(size))


def _extract_at(input: Tensor, positions: Tensor, rank: int, value: float) -> Tensor:
    """Extract the elements at `positions` from (N, C, *S) to (N, *windows, C, *size)."""
    windows = F.pad(input.flatten(2), (0, 1), value=value)[:, :, positions]
    return windows.movedim(1, positions.dim() - rank + 1).contiguous()


def _merge_at(
    windows: Tensor, positions: Tensor, rank: int, count: int, weight: Tensor | None, normalize: bool
) -> Tensor:
    """Merge (N, *windows, C, *size), whose elements are at `positions`, to (N, C, count)."""
    dtype, at = windows.dtype, positions.flatten()
    values = windows.movedim(positions.dim() - rank + 1, 1).flatten(2)
    exact = widen(values)
    wide, is_integer = _weight_dtype(dtype, windows.device), dtype in INTEGER_DTYPES
    if weight is None and (not normalize or (is_integer and wide != torch.float64)):
        return narrow(_integer_means(exact, at, count, dtype) if normalize else add_up(exact, at, count), dtype)
    weights = torch.ones((), dtype=wide, device=windows.device) if weight is None else weight
    weights = weights.expand(positions.shape).reshape(-1)
    total = add_up(weights, at, count)
    if is_integer:
        sums = add_up(values.to(wide) * weights, at, count)
        sums = _rounded(_share(sums, total) if normalize else sums, dtype)
        if normalize:  # The mean of a single value is that value, which float64 might not represent.
            has_weight = (weights != 0).to(torch.int64)
            is_single = add_up(has_weight, at, count) == 1
            sums = torch.where(is_single, add_up(exact * has_weight, at, count), sums)
    else:
        factors = _share(weights, F.pad(total, (0, 1))[at]) if normalize else weights
        sums = add_up(_weighted(exact, factors), at, count)
    return narrow(sums, dtype)


def _share(weights: Tensor, totals: Tensor) -> Tensor:
    return torch.where(totals == 0, 0, weights / totals)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    # Values with the weight 0 are left out, since infinity times 0 is NaN.
    return (values * weights).masked_fill(weights == 0, 0)


_LEAST = -(2**63)


def _integer_means(values: Tensor, at: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Means of integers without float64, rounded half to even: the sum of each value's quotient and remainder."""
    if dtype == torch.uint64:  # subtracts 2^63, so that int64 represents the value
        values = values ^ _LEAST
    windows = add_up(torch.ones_like(at), at, count)
    divisor = windows.clamp(min=1)
    element_divisor = F.pad(divisor, (0, 1), value=1)[at]
    quotients = values.div(element_divisor, rounding_mode="floor")
    remainders = add_up(values - quotients * element_divisor, at, count)
    carry = remainders.div(divisor, rounding_mode="floor")
    means, twice = add_up(quotients, at, count) + carry, 2 * (remainders - carry * divisor)
    means = means + ((twice > divisor) | ((twice == divisor) & (means % 2 != 0))).to(torch.int64)
    if dtype == torch.uint64:
        means = means ^ _LEAST
    return torch.where(windows == 0, 0, means)


def _rounded(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats to int64 (for uint64, to its bits), clamped to the range of the dtype; NaN becomes 0."""
    whole, bound = torch.where(sums.isnan(), 0, sums).round(), float(2**63)
    high = whole >= bound if dtype == torch.uint64 else None
    if high is not None:
        whole = torch.where(high, whole - bound, whole)
    most = 2**63 - (2**10 if whole.dtype == torch.float64 else 2**39)  # the largest float below the bound
    bits = torch.where(whole >= bound, torch.iinfo(torch.int64).max, whole.clamp(-bound, most).to(torch.int64))
    return bits if high is None else torch.where(high, bits ^ _LEAST, bits)


def _weight_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of weights and weighted sums; for integers it is float64, if the device has it."""
    if dtype in INTEGER_DTYPES:
        return widest_float(device)
    return torch.float32 if accumulation_dtype(dtype) in (torch.float32, torch.complex64) else torch.float64


def _is_strided(image_size: Sequence[int], grid: Grid) -> bool:
    """Whether all windows are inside of the image and the distances of their starts equal the strides."""
    axes = zip(image_size, grid.size, grid.grid, grid.stride, grid.dilation, grid.first, grid.last, strict=True)
    return all(
        k > 0 and g > 0 and first == 0 and (g - 1) * s <= last and (g - 1) * s + d * (k - 1) < extent
        for extent, k, g, s, d, first, last in axes
    )


def _extract_reference(input: Tensor, mode: int, geometry: Sequence[int], value: float) -> Tensor:
    grid = Grid(*map(tuple, split(geometry, 6)))
    if _is_strided(input.shape[2:], grid):
        rank, windows = len(grid.size), input
        for axis, (k, g, s, d) in enumerate(zip(*grid[:4], strict=True), 2):
            reach = d * (k - 1) + 1
            windows = windows.narrow(axis, 0, (g - 1) * s + reach).unfold(axis, reach, s)[..., ::d]
        windows = windows.permute(0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
        return windows.clone(memory_format=torch.contiguous_format)
    positions = grid_positions(input.shape[2:], grid, mode, input.device)
    return _extract_at(input, positions, len(grid.size), value)


def _extract_traced(input: Tensor, mode: int, geometry: Sequence[int], value: float) -> Tensor:
    """The same along one axis after the other: patches by a reshape, other windows by an index of rows."""
    rank, windows = len(geometry) // 6, input
    axes = list(zip(input.shape[2:], *split(geometry, 6), strict=True))
    if mode == _padding.CONSTANT:
        ends = (torch.sym_min(first + (g - 1) * s, last) + d * (k - 1) + 1 for _, k, g, s, d, first, last in axes)
        pads = [(-first, torch.sym_max(end - n, 0)) for (n, *_, first, _), end in zip(axes, ends, strict=True)]
        if not all(before == 0 and is_known(after == 0) for before, after in pads):
            windows = _padding.pad(input, pads, mode, value)
    if mode == _padding.CONSTANT and in_onnx_export() and _are_few(geometry):
        starts = [[min(first + i * s, last) - first for i in range(g)] for _, _, g, s, _, first, last in axes]
        ranges = [[slice(start, start + k) for start in along] for along, (_, k, *_) in zip(starts, axes, strict=True)]
        boxes: list[tuple[Any, ...]] = [(..., *box) for box in product(*ranges)]
        return torch.stack([windows[box] for box in boxes], 1).unflatten(1, [g for _, _, g, *_ in axes])
    for axis, (extent, k, g, s, d, first, last) in enumerate(axes):
        at = 2 + 2 * axis
        if d == 1 and s == k and first == 0 and is_known(last == (g - 1) * s):
            windows = windows.narrow(at, 0, g * k)
        else:
            starts = (torch.arange(g, device=input.device) * s + first).clamp(max=last)
            positions = (starts.unsqueeze(1) + torch.arange(k, device=input.device) * d).flatten()
            is_inside = mode == _padding.CONSTANT
            positions = positions - first if is_inside else _padding.sources(mode, positions, extent)
            windows = windows.index_select(at, positions)
        windows = windows.unflatten(at, (g, k))
    return windows.permute(0, *range(2, 2 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2)).contiguous()


def _are_few(geometry: Sequence[int]) -> bool:
    """Whether windows are so few and large that onnxruntime copies slices faster than it reads an index."""
    if not all(isinstance(number, int) for number in geometry):
        return False
    size, grid, stride, dilation, _first, _last = split(geometry, 6)
    overlaps = any(s != k and g > 1 for k, g, s in zip(size, grid, stride, strict=True))
    return overlaps and set(dilation) == {1} and prod(grid) <= 256 and prod(size) >= 256


def _extract_fake(input: Tensor, _mode: int, geometry: Any, *_: Any) -> Tensor:
    size, grid, *_rest = split(geometry, 6)
    return input.new_empty(input.shape[0], *grid, input.shape[1], *size)


def _grid_and_size(shape: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    rank = len(shape) // 2 - 1
    return shape[1 : 1 + rank], shape[2 + rank :]


def _merge_reference(
    windows: Tensor, weight: Tensor | None, mode: int, geometry: Sequence[int], normalize: bool
) -> Tensor:
    output_size, *grid_sizes = split(geometry, 5)
    grid, size = map(tuple, _grid_and_size(windows.shape))
    positions = grid_positions(output_size, Grid(size, grid, *map(tuple, grid_sizes)), mode, windows.device)
    image = _merge_at(windows, positions, len(size), prod(output_size), weight, normalize)
    return image.reshape(*image.shape[:2], *output_size).contiguous()


def _merge_traced(
    windows: Tensor, weight: Tensor | None, mode: int, geometry: Sequence[int], normalize: bool
) -> Tensor:
    """The same with `torch.nn.functional.fold`, if it supports the grid and the dtype."""
    output_size, stride, dilation, first, last = split(geometry, 5)
    grid, size = _grid_and_size(windows.shape)
    rank, axes = len(output_size), zip(grid, stride, first, last, strict=True)
    is_even = all(is_known(end == begin + (g - 1) * s) for g, s, begin, end in axes)
    if not is_even or rank == 3 or mode != _padding.CONSTANT or accumulation_dtype(windows.dtype) != torch.float32:
        return _merge_reference(windows, weight, mode, geometry, normalize)
    reach = [(g - 1) * s + d * (k - 1) + 1 for g, s, d, k in zip(grid, stride, dilation, size, strict=True)]

    def fold(values: Tensor) -> Tensor:
        columns = values.permute(0, 1 + rank, *range(2 + rank, 2 + 2 * rank), *range(1, 1 + rank))
        columns = columns.reshape(values.shape[0], values.shape[1 + rank] * prod(size), prod(grid))
        image = fold_planes(columns, reach, size, dilation, (0,) * rank, stride)
        sides = zip(first, output_size, reach, strict=True)
        pads = [(begin, extent - begin - covered) for begin, extent, covered in sides]  # negative ones crop
        if all(before == 0 and is_known(after == 0) for before, after in pads):
            return image
        return _padding.pad(image, pads, _padding.CONSTANT)

    values = widen(windows)
    # Without weights, the mean of at most one window is its element.
    is_single = all(is_known(s > d * (k - 1)) for s, d, k in zip(stride, dilation, size, strict=True))
    if weight is None and (not normalize or is_single):
        return narrow(fold(values), windows.dtype)
    wide = _weight_dtype(windows.dtype, windows.device)
    weights = torch.ones(tuple(size), dtype=wide, device=windows.device) if weight is None else weight
    sums = fold(values if weight is None else _weighted(values, weights))
    if normalize:
        total = fold(weights.expand(1, *grid, 1, *size))
        # Without weights, the quotient is 0 where there is no window. This is one pass instead of three in onnxruntime.
        in_one_pass = weight is None and in_onnx_export()
        sums = sums / total.clamp(min=1) if in_one_pass else _share(sums, total)
    return narrow(sums, windows.dtype)


def _merge_fake(windows: Tensor, weight: Tensor | None, _mode: int, geometry: Any, *_: Any) -> Tensor:
    output_size = split(geometry, 5)[0]
    return windows.new_empty(windows.shape[0], windows.shape[1 + len(output_size)], *output_size)


# If offsets name the sample of each window, the samples are treated as another spatial dimension, along which windows
# have the size 1.


def _names_sample(offsets: Tensor, size: Sequence[int]) -> bool:
    return offsets.shape[-1] > len(size)


def _gather_reference(input: Tensor, offsets: Tensor, rank: int, size: list[int]) -> Tensor:
    if not _names_sample(offsets, size):
        return _extract_at(input, _offset_positions(input.shape[2:], size, offsets), rank, 0.0)
    image = input.movedim(1, 0).unsqueeze(0)
    positions = _offset_positions(image.shape[2:], [1, *size], offsets)
    return _extract_at(image, positions, 1 + rank, 0.0).squeeze(0).squeeze(2)


def _gather_fake(input: Tensor, offsets: Tensor, _rank: int, size: Any) -> Tensor:
    samples = () if _names_sample(offsets, size) else (input.shape[0],)
    return input.new_empty(*samples, offsets.shape[0], input.shape[1], *size)


def _scatter_reference(
    windows: Tensor,
    offsets: Tensor,
    weight: Tensor | None,
    samples: int,
    output_size: list[int],
    normalize: bool,
) -> Tensor:
    rank, image = len(output_size), list(output_size)
    size = list(windows.shape[windows.dim() - rank :])
    if _names_sample(offsets, size):
        windows, size, image = windows.unsqueeze(0).unsqueeze(3), [1, *size], [samples, *image]
        weight = None if weight is None else weight.unsqueeze(0)
    positions = _offset_positions(image, size, offsets)
    out = _merge_at(windows, positions, len(size), prod(image), weight, normalize)
    out = out.reshape(*out.shape[:2], *image)
    return (out if len(image) == rank else out.squeeze(0).movedim(1, 0)).contiguous()


def _scatter_fake(
    windows: Tensor, offsets: Tensor, weight: Tensor | None, samples: Any, output_size: Any, normalize: bool
) -> Tensor:
    channels = windows.dim() - len(output_size) - 1
    samples = samples if _names_sample(offsets, output_size) else windows.shape[0]
    return windows.new_empty(samples, windows.shape[channels], *output_size)


def _call_for_each(call: Kernel, in_dims: Any, tensors: Sequence[Any], options: Sequence[Any]) -> tuple[Tensor, int]:
    """Call an operation, `call`, for each element of a vmapped batch."""
    batches = (repeat(t) if dim is None else t.unbind(dim) for t, dim in zip(tensors, in_dims, strict=False))
    return torch.stack([call(*row, *options) for row in zip(*batches, strict=False)]), 0


def _merge_vmap(
    call: Kernel, batch_size: int, in_dims: Any, windows: Tensor, weight: Tensor | None, *options: Any
) -> tuple[Tensor, int]:
    if in_dims[1] is not None:
        if batch_size:
            return _call_for_each(call, in_dims, (windows, weight), options)
        weight = None  # there are no windows
    windows = to_front(windows, in_dims[0], batch_size)
    return call(windows.flatten(0, 1), weight, *options).unflatten(0, windows.shape[:2]), 0


def _offsets_of_all(offsets: Tensor, samples: int, names_sample: bool) -> Tensor:
    """Offsets (batch, ..., 1 + D) that name the sample, numbered across all elements of the vmapped batch."""
    first = torch.arange(offsets.shape[0], device=offsets.device).view(-1, 1, 1) * samples
    if names_sample:
        sample, offsets = offsets[..., 0], offsets[..., 1:]
        sample = torch.where((sample >= 0) & (sample < samples), sample + first[..., 0], -1)
    else:
        sample = first + torch.arange(samples, device=offsets.device).view(-1, 1)
        offsets = offsets.unsqueeze(1)
        sample = sample.expand(*offsets.shape[:1], samples, offsets.shape[2])
        offsets = offsets.expand(*sample.shape, offsets.shape[-1])
    return torch.cat([sample.unsqueeze(-1), offsets], dim=-1)


def _gather_vmap(
    call: Kernel, batch_size: int, in_dims: Any, input: Tensor, offsets: Tensor, rank: int, size: Any
) -> tuple[Tensor, int]:
    input, batch_offsets = to_front(input, in_dims[0], batch_size), to_front(offsets, in_dims[1], batch_size)
    names_sample = _names_sample(batch_offsets, size)
    if in_dims[1] is None and not names_sample:
        return call(input.flatten(0, 1), offsets, rank, size).unflatten(0, input.shape[:2]), 0
    all_offsets = _offsets_of_all(batch_offsets, input.shape[1], names_sample)
    windows = call(input.flatten(0, 1), all_offsets.flatten(0, -2), rank, size)
    return windows.unflatten(0, all_offsets.shape[:-1]), 0


def _scatter_vmap(
    call: Kernel,
    batch_size: int,
    in_dims: Any,
    windows: Tensor,
    offsets: Tensor,
    weight: Tensor | None,
    samples: int,
    output_size: Any,
    normalize: bool,
) -> tuple[Tensor, int]:
    if in_dims[2] is not None:
        if batch_size:
            return _call_for_each(call, in_dims, (windows, offsets, weight), (samples, output_size, normalize))
        weight = None  # there are no windows
    windows, batch_offsets = to_front(windows, in_dims[0], batch_size), to_front(offsets, in_dims[1], batch_size)
    names_sample = _names_sample(batch_offsets, output_size)
    if in_dims[1] is None and not names_sample:
        out = call(windows.flatten(0, 1), offsets, weight, batch_size * samples, output_size, normalize)
    else:
        all_offsets = _offsets_of_all(batch_offsets, samples, names_sample)
        flat = windows.flatten(0, all_offsets.dim() - 2)
        out = call(flat, all_offsets.flatten(0, -2), weight, batch_size * samples, output_size, normalize)
    return out.unflatten(0, (batch_size, samples)), 0


def _merge_sharding(*_: Any) -> list[Option]:
    return [(0, [0, REPLICATE])]


def _gather_sharding(_input: Tensor, offsets: Tensor, _rank: int, size: Any) -> list[Option]:
    # With offsets that name the sample, each rank needs all samples. Otherwise samples are independent.
    return [(0, [REPLICATE, 0]) if _names_sample(offsets, size) else (0, [0, REPLICATE])]


def _scatter_sharding(
    _windows: Tensor, offsets: Tensor, _weight: Any, _samples: int, output_size: Any, *_: Any
) -> list[Option]:
    return [] if _names_sample(offsets, output_size) else [(0, [0, REPLICATE, REPLICATE])]


# All operations are linear. Extracting and merging without weights are adjoint to each other. Merging with weights
# equals merging without weights after each window is multiplied by its share of the weights at each position, which
# does not depend on the windows.


def _extract_backward(ctx: Any, grad: Tensor, mode: int, geometry: Sequence[int], _value: float) -> Tensor:
    check_adds("input", grad.dtype)
    rank = len(geometry) // 6
    return _merge(grad, None, mode, (*ctx.shape[2:], *geometry[2 * rank :]), False)


def _weigh(
    windows: Tensor, weight: Tensor | None, normalize: bool, size: Sequence[int], sum_at: Callable[[Tensor], Tensor]
) -> Tensor:
    """Multiply the gradient of windows by their weights, or their share of the sum of weights, ``sum_at(weight)``."""
    if weight is None:
        if not normalize:
            return windows
        weight = windows.new_ones(size, dtype=_weight_dtype(windows.dtype, windows.device))
    return _weighted(windows, _share(weight, sum_at(weight)) if normalize else weight).to(windows.dtype)


def _merge_backward(
    ctx: Any, grad: Tensor, weight: Tensor | None, mode: int, geometry: Sequence[int], normalize: bool
) -> Tensor:
    grid, size = _grid_and_size(ctx.shape)

    def extract(image: Tensor) -> Tensor:
        return _extract(image, mode, (*size, *grid, *geometry[len(size) :]), 0.0)

    def sum_at(weight: Tensor) -> Tensor:
        return extract(_merge(weight.expand(1, *grid, 1, *size), None, mode, geometry, False))

    return _weigh(extract(grad), weight, normalize, size, sum_at)


def _gather_backward(ctx: Any, grad: Tensor, offsets: Tensor, _rank: int, _size: Any) -> Tensor:
    check_adds("input", grad.dtype)
    return _scatter(grad, offsets, None, ctx.shape[0], ctx.shape[2:], False)


def _scatter_backward(
    ctx: Any, grad: Tensor, offsets: Tensor, weight: Tensor | None, samples: int, output_size: Any, normalize: bool
) -> Tensor:
    rank = len(output_size)
    size = ctx.shape[len(ctx.shape) - rank :]
    samples, batch = (samples, ()) if _names_sample(offsets, size) else (1, (1,))

    def sum_at(weight: Tensor) -> Tensor:
        all_weights = weight.expand(*batch, offsets.shape[0], 1, *size)
        return _gather(_scatter(all_weights, offsets, None, samples, output_size, False), offsets, rank, size)

    return _weigh(_gather(grad, offsets, rank, size), weight, normalize, size, sum_at)


# The geometry is that of `Grid.flat`. For merging, the output's size replaces its first two entries (size and grid),
# which are in the shape of the windows.
_extract: Callable[..., Tensor] = define(
    "extract_windows(Tensor input, int mode, SymInt[] geometry, float value) -> Tensor",
    reference=_extract_reference,
    fake=_extract_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=linear_derivative(_extract_backward, lambda tangent, *options: _extract(tangent, *options[:2], 0.0)),
    decomposition=_extract_traced,
)

_merge: Callable[..., Tensor] = define(
    "merge_windows(Tensor windows, Tensor? weight, int mode, SymInt[] geometry, bool normalize) -> Tensor",
    reference=_merge_reference,
    fake=_merge_fake,
    vmap=_merge_vmap,
    sharding=_merge_sharding,
    derivative=linear_derivative(_merge_backward, lambda *args: _merge(*args), tensors=1),
    decomposition=_merge_traced,
)

_gather: Callable[..., Tensor] = define(
    "gather_windows(Tensor input, Tensor offsets, int rank, SymInt[] size) -> Tensor",
    reference=_gather_reference,
    fake=_gather_fake,
    vmap=_gather_vmap,
    sharding=_gather_sharding,
    derivative=linear_derivative(_gather_backward, lambda *args: _gather(*args), tensors=1),
)

_scatter: Callable[..., Tensor] = define(
    "scatter_windows(Tensor windows, Tensor offsets, Tensor? weight, SymInt samples, SymInt[] output_size, "
    "bool normalize) -> Tensor",
    reference=_scatter_reference,
    fake=_scatter_fake,
    vmap=_scatter_vmap,
    sharding=_scatter_sharding,
    derivative=linear_derivative(_scatter_backward, lambda *args: _scatter(*args), tensors=2),
)


@cached_check
def _check_grid(source: str, image_size: Sequence[int], *options: Any) -> tuple[Grid, tuple[int, ...]]:
    """The grid, also flat as the operations take it; `source` is the image's argument."""
    grid = check_grid(source, image_size, "size" if source == "input" else "windows", *options)
    if source == "output_size" and options[-1] == "drop" and not torch.compiler.is_compiling():
        _warn_of_uncovered(image_size, grid)
    return grid, grid.flat()


def _warn_of_uncovered(image_size: Sequence[int], grid: Grid) -> None:
    """Warn if no window covers the far end of an axis, unless that end is no longer than the gap between windows.

    The cache of `_check_grid` makes it one warning for each geometry.
    """
    for image, k, d, s, last in zip(image_size, grid.size, grid.dilation, grid.stride, grid.last, strict=True):
        reach = d * (k - 1) + 1
        if image - last - reach > max(s - reach, 0):
            warnings.warn(
                f"merge_windows: no window covers the last {image - last - reach} positions of a dimension of "
                f"output_size {tuple(image_size)}, which are 0; pass partial='shift' or 'pad' to extract_windows and "
                "here, or a smaller output_size",
                stacklevel=5,
            )
            return


def extract_windows(
    input: Tensor,
    size: Size,
    stride: Size | None = None,
    *,
    dilation: Size = 1,
    padding: Size = 0,
    padding_mode: PaddingMode = "constant",
    value: float = 0.0,
    partial: Partial = "drop",
) -> Tensor:
    """Extract windows on a regular grid from an image.

    Each window is an image, unlike a column of `unfold`: for example a tile of a large picture, a frame of a signal or
    a window of an attention. `merge_windows` is the inverse.

    Args:
        input: ``(N, C, *S)`` or ``(C, *S)`` with one to three spatial dimensions, any dtype, any strides; read in
            place.
        size: size of a window. Its length is the number of spatial dimensions; one int means two for a 4-D input and
            three for a 5-D input, and is an error for a 3-D input, ``(N, C, T)`` or ``(C, H, W)``.
        stride: step between windows; None is `size`.
        dilation: step between a window's elements.
        padding: elements added on both sides of each dimension.
        padding_mode: the values of the padding, as in `unfold`: ``"constant"``, ``"reflect"``, ``"replicate"``,
            ``"circular"`` or ``"symmetric"``, but of any width, as in `numpy.pad`.
        value: the value of the padding in constant mode.
        partial: how the positions at the far edge that no whole window covers are handled. ``"drop"`` leaves them out;
            ``"pad"`` adds a window that reads padding after the edge, unless it would read only padding; ``"shift"``
            adds a window that is moved back inside the image. With ``"pad"`` and ``"shift"``, an image smaller than the
            window is padded: with ``"pad"`` at the far edge, with ``"shift"`` evenly on both sides.

    Returns:
        ``(N, *grid, C, *size)`` or ``(*grid, C, *size)``, in the input's dtype.

    Raises:
        TypeError: a wrong type.
        ValueError: a wrong shape, geometry or option, or a `value` that the dtype cannot hold.

    Note:
        Deterministic, and differentiable any number of times.

    Examples:
        >>> image = torch.arange(12.0).reshape(1, 2, 6)
        >>> torchext.extract_windows(image, (4,), (2,)).shape
        torch.Size([1, 2, 2, 4])
        >>> torchext.extract_windows(image, (4,), (3,), partial="shift")[0, :, 0]
        tensor([[0., 1., 2., 3.],
                [2., 3., 4., 5.]])
    """
    check_unambiguous(input, size)
    rank, batched = check_image(input, "size", size)
    if type(value) is not float or value != 0:
        value = checks.holds("value", value, input.dtype)
    mode = _padding.mode_number("padding_mode", padding_mode)
    image_size = input.shape[-rank:]
    grid, geometry = _check_grid("input", image_size, size, dilation, padding, stride, partial)
    extract = _extract
    if mode != _padding.CONSTANT:
        pads = zip(grid.padding(image_size), image_size, strict=True)
        if any(pad > _padding.widest(mode, extent) for pad, extent in pads):
            extract = _extract_reference
    windows = extract(input if batched else input.unsqueeze(0), mode, geometry, value)
    return windows if batched else windows.squeeze(0)


def _weights(weight: Any, size: Sequence[int], windows: Tensor) -> Tensor | None:
    """The weights of a window's elements in the dtype of weighted sums; for DTensor windows, a replicated DTensor."""
    if weight is None:
        return None
    if windows.dtype == torch.bool:
        raise TypeError("weight: expected None for windows of torch.bool, which are combined by logical or")
    check_weight(weight, size)
    dtype = _weight_dtype(windows.dtype, windows.device)
    if isinstance(weight, str):
        weights = cached_weight(tuple(size), cast(Kind, weight), dtype, windows.device, windows)
    elif weight.device != windows.device:
        raise ValueError(f"weight: expected device {windows.device} as of windows, got {weight.device}")
    elif weight.requires_grad:
        raise ValueError("weight: expected a constant, got a tensor that requires grad; detach it")
    else:
        weights = weight.to(dtype)
    return weights if type(weights).__name__ == "DTensor" else replicated_like(weights, windows)


def _check_sums(windows: Any) -> None:
    checks.tensor("windows", windows)
    check_adds("windows", windows.dtype)


def merge_windows(
    windows: Tensor,
    output_size: Size,
    stride: Size | None = None,
    *,
    dilation: Size = 1,
    padding: Size = 0,
    partial: Partial = "drop",
    weight: Weight = None,
    normalize: bool = True,
) -> Tensor:
    """Merge windows on a regular grid into an image; where windows overlap, it is their weighted mean.

    It is the inverse of `extract_windows`: exact where a single window covers a position, otherwise up to rounding.

    Args:
        windows: ``(N, *grid, C, *size)`` or ``(*grid, C, *size)``; bool, an integer dtype, a float dtype of 16 to 64
            bits, complex64 or complex128; any strides; read in place.
        output_size: spatial size of the image; an int is used for all dimensions.
        stride: step between windows; None is their size.
        dilation: step between a window's elements.
        padding: positions on both sides of each dimension whose values are dropped.
        partial: how the positions at the far edge were handled, as in `extract_windows`. If ``"drop"`` leaves some of
            them uncovered, a warning says so, once for each geometry.
        weight: the weights of a window's elements. None is the same weight for all; ``"linear"``, ``"hann"`` and
            ``"gaussian"`` are those of `window_weight`; or a constant float tensor ``(*size)``, which must not require
            grad. Elements with the weight 0 are left out, including infinite ones and NaN.
        normalize: divide by the sum of the weights at each position. False returns the sum of the weighted windows.

    Returns:
        ``(N, C, *output_size)`` or ``(C, *output_size)``, in the windows' dtype. float16 and bfloat16 are summed in
        float32 and rounded once. Means and weighted sums of integers are computed in float64 and rounded half to even;
        sums of integers without weights wrap around. On a device without float64, means of integers without weights are
        exact, and weighted ones are computed in float32. bool is combined by logical or, and allows no weights.
        Positions that no window covers, or whose weights have the sum 0, are 0.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, geometry or option, or a weight that requires grad.

    Note:
        Deterministic: the same bits in every run and for any number of threads, also on a GPU, since each position
        gathers its values in a fixed order. Differentiable in the windows any number of times.

    Examples:
        >>> image = torch.randn(1, 3, 40, 56)
        >>> tiles = torchext.extract_windows(image, 16, 12, partial="shift")
        >>> merged = torchext.merge_windows(tiles, (40, 56), 12, partial="shift", weight="hann")
        >>> torch.allclose(merged, image, atol=1e-6)
        True
    """
    _check_sums(windows)
    if not 3 <= windows.dim() <= 8:
        raise ValueError(
            f"windows: expected (N, *grid, C, *size) or (*grid, C, *size) with 1 to 3 spatial dimensions, "
            f"got shape {tuple(windows.shape)}"
        )
    rank, batched = (windows.dim() - 1) // 2, windows.dim() % 2 == 0
    if 0 in windows.shape[batched:]:
        raise ValueError(f"windows: expected no empty dimension except the batch, got shape {tuple(windows.shape)}")
    image_size = checks.sizes("output_size", output_size, rank, least=1)
    size, grid = windows.shape[-rank:], windows.shape[batched : batched + rank]
    expected, geometry = _check_grid("output_size", image_size, tuple(size), dilation, padding, stride, partial)
    if grid != expected.grid:
        raise ValueError(
            f"windows: expected a grid of {expected.grid} windows for output_size {image_size}, got {tuple(grid)}"
        )
    weights = _weights(weight, size, windows)
    normalize = checks.flag("normalize", normalize) and windows.dtype != torch.bool
    windows = windows if batched else windows.unsqueeze(0)
    image = _merge(windows, weights, _padding.CONSTANT, (*image_size, *geometry[2 * rank :]), normalize)
    return image if batched else image.squeeze(0)


def _check_offsets(offsets: Any, rank: int, other_name: str, other: Tensor) -> Tensor:
    """Check offsets and return them as int64."""
    checks.tensor("offsets", offsets)
    if offsets.dtype not in INTEGER_DTYPES:
        raise TypeError(f"offsets: expected an integer dtype, got {offsets.dtype}")
    # Not `in (rank, rank + 1)`: that does not work with a symbolic size.
    if offsets.dim() != 2 or (offsets.shape[1] != rank and offsets.shape[1] != rank + 1):
        raise ValueError(
            f"offsets: expected shape (L, {rank}), or (L, {rank + 1}) with the sample first, got {tuple(offsets.shape)}"
        )
    if offsets.device != other.device:
        raise ValueError(f"offsets: expected device {other.device} as of {other_name}, got {offsets.device}")
    wide: Tensor = offsets.to(torch.int64)
    if offsets.dtype == torch.uint64:  # 2^63 and more would become negative
        wide = torch.where(wide < 0, torch.iinfo(torch.int64).max, wide)
    return wide


def gather_windows(input: Tensor, offsets: Tensor, size: Size) -> Tensor:
    """Extract windows at any positions of an image.

    Args:
        input: ``(N, C, *S)`` or ``(C, *S)`` with D = one to three spatial dimensions, any dtype, any strides; read in
            place.
        offsets: the first position of each window, any integer dtype: ``(L, D)`` for the same windows in every sample,
            or ``(L, 1 + D)`` with the index of the sample in the first column. Windows may overlap, occur several times
            and be partly or wholly outside the image.
        size: size of a window. Its length is the number of spatial dimensions; one int means two for a 4-D input and
            three for a 5-D input, and is an error for a 3-D input, ``(N, C, T)`` or ``(C, H, W)``.

    Returns:
        ``(N, L, C, *size)``, without N if `input` has none or the offsets name the samples; in the input's dtype.
        Positions outside the image, and samples that do not exist, are 0.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape.

    Note:
        Deterministic, and differentiable in the input any number of times.

    Examples:
        >>> image = torch.arange(16).reshape(1, 4, 4)
        >>> torchext.gather_windows(image, torch.tensor([[1, 1], [3, -1]]), (2, 2))[:, 0]
        tensor([[[ 5,  6],
                 [ 9, 10]],
        <BLANKLINE>
                [[ 0, 12],
                 [ 0,  0]]])
    """
    check_unambiguous(input, size)
    rank, batched = check_image(input, "size", size)
    sizes = checks.sizes("size", size, rank, least=1)
    offsets = _check_offsets(offsets, rank, "input", input)
    if max(sizes) > 2**19:  # otherwise the product of three sizes is less than the limit
        checks.fits("size", size, sizes)
    if not batched:
        if offsets.shape[1] > rank:
            raise ValueError(
                f"offsets: expected shape (L, {rank}) for an input without a batch, got {tuple(offsets.shape)}"
            )
        return _gather(input.unsqueeze(0), offsets, len(sizes), sizes).squeeze(0)
    return _gather(input, offsets, len(sizes), sizes)


def scatter_windows(
    windows: Tensor,
    offsets: Tensor,
    output_size: Size,
    *,
    weight: Weight = None,
    normalize: bool = True,
) -> Tensor:
    """Merge windows at any positions into an image; where windows overlap, it is their weighted mean.

    Args:
        windows: ``(N, L, C, *size)`` or ``(L, C, *size)``, the layout of a result of `gather_windows`; the dtypes of
            `merge_windows`; any strides, read in place.
        offsets: the first position of each window: ``(L, D)`` for the same positions in every sample, or ``(L, 1 + D)``
            with the index of the sample in the first column. Elements outside the image are dropped.
        output_size: size of the image, ``(*S)``, or ``(N, *S)`` if the offsets name the samples.
        weight: the weights of a window's elements, as in `merge_windows`.
        normalize: divide by the sum of the weights at each position. False returns the sum of the weighted windows.

    Returns:
        ``(N, C, *S)``, without N if `windows` has none and the offsets do not name samples; in the windows' dtype,
        computed and rounded as in `merge_windows`. Positions that no window covers are 0, and positions that a single
        window covers are its element.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, or a weight that requires grad.

    Note:
        Deterministic: the same bits in every run and for any number of threads, also on a GPU, since each position
        gathers its values in the order of the windows. The time is linear in the number of windows and in the size of
        the image, since each call writes the whole image. For windows that arrive in batches, `WindowMerger` adds each
        batch in place. Differentiable in the windows any number of times.

    Examples:
        >>> windows = torch.tensor([[[1.0, 1.0]], [[3.0, 3.0]]])
        >>> torchext.scatter_windows(windows, torch.tensor([[0], [1]]), (4,))
        tensor([[1., 2., 3., 0.]])
    """
    _check_sums(windows)
    checks.tensor("offsets", offsets)
    # The number may be symbolic; these comparisons make it an int.
    columns = next((c for c in range(1, 5) if offsets.dim() == 2 and offsets.shape[1] == c), 0)
    # (N, L, C, *size) has three dimensions before those of a window, (L, C, *size) two.
    rank = columns - 1 if windows.dim() == columns + 1 else columns
    batched = windows.dim() == rank + 3
    if not 1 <= rank <= 3 or (not batched and windows.dim() != rank + 2):
        raise ValueError(
            f"offsets: expected shape (L, D), or (L, 1 + D) with the sample first, for windows (N, L, C, *size) or "
            f"(L, C, *size) with D = 1 to 3, got {tuple(offsets.shape)} for {tuple(windows.shape)}"
        )
    names_sample = columns > rank
    sizes = checks.sizes("output_size", output_size, columns, least=0 if names_sample else 1)
    if names_sample:  # the number of samples may be 0, the other sizes may not
        checks.sizes("output_size", sizes[1:], rank, least=1)
    if max(sizes) > 2**14:  # otherwise the product of four sizes is less than the limit
        checks.fits("output_size", output_size, sizes)
    offsets = _check_offsets(offsets, rank, "windows", windows)
    if 0 in windows.shape[-rank - 1 :]:
        raise ValueError(f"windows: expected channels and no empty window, got shape {tuple(windows.shape)}")
    if windows.shape[batched] != offsets.shape[0]:
        count = windows.shape[batched]
        raise ValueError(f"offsets: expected {count} rows, one for each window, got {offsets.shape[0]}")
    weights = _weights(weight, windows.shape[-rank:], windows)
    normalize = checks.flag("normalize", normalize) and windows.dtype != torch.bool
    if names_sample:
        return _scatter(windows, offsets, weights, sizes[0], sizes[1:], normalize)
    samples = windows if batched else windows.unsqueeze(0)
    image = _scatter(samples, offsets, weights, samples.shape[0], sizes, normalize)
    return image if batched else image.squeeze(0)
