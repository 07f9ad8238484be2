"""Windows of a tensor on a grid or at any offsets: extracting them, and merging them where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import INTEGER_DTYPES, accumulation_dtype, widest_float
from torchext._core.library import Derivative, Kernel, define, to_front, vmap_over_samples
from torchext._core.sharding import REPLICATE, Option, by_first, replicated_like
from torchext.windows import padding as _padding
from torchext.windows.padding import PaddingMode
from torchext.windows.unfold import Size, _check_adds, cached_check, check_image, split
from torchext.windows.weight import Kind, Weight, cached_weight, check_weight

__all__ = ["extract_windows", "gather_windows", "merge_windows", "scatter_windows"]

Partial = Literal["drop", "pad", "shift"]
_PARTIALS: tuple[Partial, ...] = ("drop", "pad", "shift")


class _Grid(NamedTuple):
    """A grid of windows, one entry for each dimension: window g starts at ``min(first + g·stride, last)``."""

    size: tuple[int, ...]
    grid: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]

    def flat(self) -> tuple[int, ...]:
        return (*self.size, *self.grid, *self.stride, *self.dilation, *self.first, *self.last)

    def padding(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """The number of positions before and after each dimension of the image that windows cover."""
        sides = zip(image_size, *self, strict=True)
        return [
            (max(-first, 0), max(min(first + (g - 1) * s, last) + d * (k - 1) + 1 - image, 0))
            for image, k, g, s, d, first, last in sides
        ]


# All references compute the index in the flattened image of each element of each window. Elements outside the image
# have the index after the last one.


def _positions(
    starts: Sequence[Tensor],
    image_size: Sequence[int],
    size: Sequence[int],
    dilation: Sequence[int],
    mode: int = _padding.CONSTANT,
    padding: Sequence[tuple[int, int]] = (),
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
            before, after = padding[axis]
            at = _padding.sources(mode, image, before, after, start.device)[at + before]
        positions = positions * image + at
    return positions if inside is None else torch.where(inside, positions, prod(image_size))


def _grid_positions(image_size: Sequence[int], geometry: _Grid, mode: int, device: torch.device) -> Tensor:
    starts, rank = [], len(geometry.size)
    for axis, (g, s, first, last) in enumerate(
        zip(geometry.grid, geometry.stride, geometry.first, geometry.last, strict=True)
    ):
        start = (torch.arange(g, device=device) * s + first).clamp(max=last)
        starts.append(start.view(*[1] * axis, g, *[1] * (rank - 1 - axis)))
    return _positions(starts, image_size, geometry.size, geometry.dilation, mode, geometry.padding(image_size))


def _offset_positions(image_size: Sequence[int], size: Sequence[int], offsets: Tensor) -> Tensor:
    # Clamping does not change which elements are outside, and sums with a clamped offset do not overflow.
    starts = [offsets[:, d].clamp(-k, s) for d, (k, s) in enumerate(zip(size, image_size, strict=True))]
    return _positions(starts, image_size, size, [1] * len(size))


def _extract_at(input: Tensor, positions: Tensor, rank: int, value: float) -> Tensor:
    """Extract the elements at `positions` from (N, C, *S) to (N, *windows, C, *size)."""
    windows = F.pad(input.flatten(2), (0, 1), value=value)[:, :, positions]
    return windows.movedim(1, positions.dim() - rank + 1).contiguous()


def _add_up(values: Tensor, positions: Tensor, count: int) -> Tensor:
    sums = values.new_zeros(*values.shape[:-1], count + 1)
    return sums.scatter_add(-1, positions.expand(values.shape), values)[..., :count]


def _merge_at(
    windows: Tensor, positions: Tensor, rank: int, count: int, weight: Tensor | None, normalize: bool
) -> Tensor:
    """Merge (N, *windows, C, *size), whose elements are at `positions`, to (N, C, count)."""
    dtype, at = windows.dtype, positions.flatten()
    values = windows.movedim(positions.dim() - rank + 1, 1).flatten(2)
    # int64 sums wrap around to the same bits as sums of narrower integers and of uint64.
    exact = values.view(torch.int64) if dtype == torch.uint64 else values
    exact = exact.to(accumulation_dtype(dtype))
    if weight is None and not normalize:
        sums = _add_up(exact, at, count)
        return sums != 0 if dtype == torch.bool else _narrow(sums, dtype)
    wide = _weight_dtype(dtype, windows.device)
    if weight is None and dtype in INTEGER_DTYPES and wide != torch.float64:
        return _narrow(_integer_means(exact, at, count, dtype), dtype)
    weights = torch.ones((), dtype=wide, device=windows.device) if weight is None else weight
    weights = weights.expand(positions.shape).reshape(-1)
    total = _add_up(weights, at, count)
    if dtype not in INTEGER_DTYPES:
        factors = _share(weights, F.pad(total, (0, 1))[at]) if normalize else weights
        return _narrow(_add_up(_weighted(exact, factors), at, count), dtype)
    sums = _add_up(values.to(wide) * weights, at, count)
    if not normalize:
        return _narrow(_rounded(sums, dtype), dtype)
    # The mean of a single value is that value, which float64 might not represent.
    has_weight = (weights != 0).to(torch.int64)
    is_single = _add_up(has_weight, at, count) == 1
    means = _rounded(torch.where(total == 0, 0, sums / total), dtype)
    return _narrow(torch.where(is_single, _add_up(exact * has_weight, at, count), means), dtype)


def _share(weights: Tensor, totals: Tensor) -> Tensor:
    return torch.where(totals == 0, 0, weights / totals)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    # Values with the weight 0 are left out, since infinity times 0 is NaN.
    return (values * weights).masked_fill_(weights == 0, 0)


_LEAST = -(2**63)


def _integer_means(values: Tensor, at: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Means of integers without float64, rounded half to even: the sum of each value's quotient and remainder."""
    if dtype == torch.uint64:  # subtracts 2^63, so that int64 represents the value
        values = values ^ _LEAST
    windows = _add_up(torch.ones_like(at), at, count)
    divisor = windows.clamp(min=1)
    element_divisor = F.pad(divisor, (0, 1), value=1)[at]
    quotients = values.div(element_divisor, rounding_mode="floor")
    remainders = _add_up(values - quotients * element_divisor, at, count)
    carry = remainders.div(divisor, rounding_mode="floor")
    means, twice = _add_up(quotients, at, count) + carry, 2 * (remainders - carry * divisor)
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


def _narrow(sums: Tensor, dtype: torch.dtype) -> Tensor:
    return sums.contiguous().view(dtype) if dtype == torch.uint64 else sums.to(dtype)


def _weight_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of weights and weighted sums; for integers it is float64, if the device has it."""
    if dtype in INTEGER_DTYPES:
        return widest_float(device)
    return torch.float32 if accumulation_dtype(dtype) in (torch.float32, torch.complex64) else torch.float64


def _extract_reference(input: Tensor, mode: int, geometry: Sequence[int], value: float) -> Tensor:
    grid = _Grid(*map(tuple, split(geometry, 6)))
    positions = _grid_positions(input.shape[2:], grid, mode, input.device)
    return _extract_at(input, positions, len(grid.size), value)


def _extract_fake(input: Tensor, _mode: int, geometry: Any, *_: Any) -> Tensor:
    size, grid, *_rest = split(geometry, 6)
    return input.new_empty(input.shape[0], *grid, input.shape[1], *size)


def _grid_and_size(windows: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = (windows.dim() - 2) // 2
    return windows.shape[1 : 1 + rank], windows.shape[2 + rank :]


def _merge_reference(
    windows: Tensor, weight: Tensor | None, mode: int, geometry: Sequence[int], normalize: bool
) -> Tensor:
    output_size, *grid_sizes = split(geometry, 5)
    grid, size = _grid_and_size(windows)
    positions = _grid_positions(output_size, _Grid(size, grid, *map(tuple, grid_sizes)), mode, windows.device)
    image = _merge_at(windows, positions, len(size), prod(output_size), weight, normalize)
    return image.reshape(*image.shape[:2], *output_size).contiguous()


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


def _merge_vmap(
    call: Kernel, batch_size: int, in_dims: Any, windows: Tensor, weight: Tensor | None, *options: Any
) -> tuple[Tensor, int]:
    windows = to_front(windows, in_dims[0], batch_size)
    if weight is not None and in_dims[1] is not None:
        if batch_size:
            pairs = zip(windows, weight.movedim(in_dims[1], 0), strict=True)
            return torch.stack([call(entry, entry_weight, *options) for entry, entry_weight in pairs]), 0
        weight = None  # there are no windows
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
    windows, batch_offsets = to_front(windows, in_dims[0], batch_size), to_front(offsets, in_dims[1], batch_size)
    if weight is not None and in_dims[2] is not None:
        if batch_size:
            rows = zip(windows, batch_offsets, weight.movedim(in_dims[2], 0), strict=True)
            return torch.stack([call(*row, samples, output_size, normalize) for row in rows]), 0
        weight = None  # there are no windows
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


def _extract_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.image_size, (ctx.mode, ctx.geometry) = inputs[0].shape[2:], inputs[1:3]


def _extract_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    _check_adds("input", grad.dtype)
    geometry = (*ctx.image_size, *ctx.geometry[2 * len(ctx.image_size) :])
    return _merge(grad, None, ctx.mode, geometry, False), None, None, None


def _extract_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    return _extract(tangent, ctx.mode, ctx.geometry, 0.0)


def _merge_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.grid, ctx.size = _grid_and_size(inputs[0])
    ctx.mode, ctx.geometry, ctx.normalize = inputs[2:]
    ctx.save_for_backward(inputs[1])
    ctx.save_for_forward(inputs[1])


def _merge_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (weight,) = ctx.saved_tensors
    geometry = (*ctx.size, *ctx.grid, *ctx.geometry[len(ctx.size) :])
    windows = _extract(grad, ctx.mode, geometry, 0.0)
    if ctx.normalize:
        weights = _ones(grad, ctx.size) if weight is None else weight
        all_weights = weights.expand(1, *ctx.grid, 1, *ctx.size)
        total = _merge(all_weights, None, ctx.mode, ctx.geometry, False)
        share = _share(weights, _extract(total, ctx.mode, geometry, 0.0))
        windows = _weighted(windows, share).to(grad.dtype)
    elif weight is not None:
        windows = _weighted(windows, weight).to(grad.dtype)
    return windows, None, None, None, None


def _ones(like: Tensor, size: Sequence[int]) -> Tensor:
    return like.new_ones(size, dtype=_weight_dtype(like.dtype, like.device))


def _merge_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    return _merge(tangent, *ctx.saved_tensors, ctx.mode, ctx.geometry, ctx.normalize)


def _gather_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.samples, ctx.image_size, ctx.size = inputs[0].shape[0], inputs[0].shape[2:], inputs[3]
    ctx.save_for_backward(inputs[1])
    ctx.save_for_forward(inputs[1])


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    _check_adds("input", grad.dtype)
    return _scatter(grad, *ctx.saved_tensors, None, ctx.samples, ctx.image_size, False), None, None, None


def _gather_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    return _gather(tangent, *ctx.saved_tensors, len(ctx.size), ctx.size)


def _scatter_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    windows, offsets, weight, ctx.samples, ctx.output_size, ctx.normalize = inputs
    ctx.size = windows.shape[windows.dim() - len(ctx.output_size) :]
    ctx.save_for_backward(offsets, weight)
    ctx.save_for_forward(offsets, weight)


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    offsets, weight = ctx.saved_tensors
    windows = _gather(grad, offsets, len(ctx.size), ctx.size)
    if ctx.normalize:
        weights = _ones(grad, ctx.size) if weight is None else weight
        names_sample = _names_sample(offsets, ctx.size)
        all_weights = weights.expand(*(() if names_sample else (1,)), offsets.shape[0], 1, *ctx.size)
        total = _scatter(all_weights, offsets, None, ctx.samples if names_sample else 1, ctx.output_size, False)
        share = _share(weights, _gather(total, offsets, len(ctx.size), ctx.size))
        windows = _weighted(windows, share).to(grad.dtype)
    elif weight is not None:
        windows = _weighted(windows, weight).to(grad.dtype)
    return (windows, *[None] * 5)


def _scatter_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    return _scatter(tangent, *ctx.saved_tensors, ctx.samples, ctx.output_size, ctx.normalize)


# The geometry is that of `_Grid.flat`. For merging, the output's size replaces its first two entries (size and grid),
# which are in the shape of the windows.
_extract = define(
    "extract_windows(Tensor input, int mode, SymInt[] geometry, float value) -> Tensor",
    reference=_extract_reference,
    fake=_extract_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=Derivative(_extract_save, _extract_backward, _extract_jvp),
)

_merge = define(
    "merge_windows(Tensor windows, Tensor? weight, int mode, SymInt[] geometry, bool normalize) -> Tensor",
    reference=_merge_reference,
    fake=_merge_fake,
    vmap=_merge_vmap,
    sharding=_merge_sharding,
    derivative=Derivative(_merge_save, _merge_backward, _merge_jvp),
)

_gather = define(
    "gather_windows(Tensor input, Tensor offsets, int rank, SymInt[] size) -> Tensor",
    reference=_gather_reference,
    fake=_gather_fake,
    vmap=_gather_vmap,
    sharding=_gather_sharding,
    derivative=Derivative(_gather_save, _gather_backward, _gather_jvp),
)

_scatter = define(
    "scatter_windows(Tensor windows, Tensor offsets, Tensor? weight, SymInt samples, SymInt[] output_size, "
    "bool normalize) -> Tensor",
    reference=_scatter_reference,
    fake=_scatter_fake,
    vmap=_scatter_vmap,
    sharding=_scatter_sharding,
    derivative=Derivative(_scatter_save, _scatter_backward, _scatter_jvp),
)


def _along(image: int, k: int, s: int, d: int, p: int, partial: Partial) -> tuple[int, int, int]:
    """The number of windows along a dimension (less than 1 if none fits), and the first and the last start."""
    rest = image + 2 * p - d * (k - 1) - 1  # the length that the first window leaves
    if partial == "drop":
        grid = rest // s + 1
        return grid, -p, (grid - 1) * s - p
    if rest <= 0:
        start = -p - (-rest // 2 if partial == "shift" else 0)
        return 1, start, start
    grid = -(-rest // s) + 1
    if partial == "pad" and s > d * (k - 1) + 1:  # with gaps between windows, none may start after the far edge
        grid = min(grid, -(-(image + 2 * p) // s))
    return grid, -p, (rest if partial == "shift" else (grid - 1) * s) - p


@cached_check
def _check_grid(
    source: str,
    image_size: Sequence[int],
    size: Size,
    stride: Size | None,
    dilation: Size,
    padding: Size,
    partial: Partial,
) -> tuple[_Grid, tuple[int, ...]]:
    """The grid, also flat as the operations take it; `source` is the image's argument."""
    rank = len(image_size)
    name = "size" if source == "input" else "windows"  # whose shape contains the size
    sizes = checks.sizes("size", size, rank, least=1)
    strides = checks.sizes("stride", sizes if stride is None else stride, rank, least=1)
    dilations = checks.sizes("dilation", dilation, rank, least=1)
    paddings = checks.sizes("padding", padding, rank, least=0)
    checks.option("partial", partial, _PARTIALS)
    for extent, k, d, p in zip(image_size, sizes, dilations, paddings, strict=True):
        checks.fits("padding", padding, (extent + 2 * p,), "a padded dimension")
        checks.fits("dilation", dilation, (d * (k - 1) + 1,), "a dimension of a dilated window")
    along = [_along(*axis, partial) for axis in zip(image_size, sizes, strides, dilations, paddings, strict=True)]
    grid, first, last = zip(*along, strict=True)
    for count in grid:
        if count < 1:
            raise ValueError(
                f"{name}: expected windows that fit into {source} {tuple(image_size)} padded by {paddings}, or partial "
                f"'pad' or 'shift', got {sizes} with dilation {dilations}"
            )
    checks.fits(source, tuple(image_size), image_size, "an image")
    checks.fits(name, size, (*sizes, *grid), "the windows")
    checked = _Grid(sizes, grid, strides, dilations, first, last)
    return checked, checked.flat()


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
        size: size of a window. Its length is the number of spatial dimensions; one int means two, or three for a
            5-D input.
        stride: step between windows; None is `size`.
        dilation: step between a window's elements.
        padding: elements added on both sides of each dimension.
        padding_mode: the values of the padding, as in `unfold`: ``"constant"``, ``"reflect"``, ``"replicate"``,
            ``"circular"`` or ``"symmetric"``.
        value: the value of the padding in constant mode.
        partial: how the rest at the far edge, which no whole window covers, is handled. ``"drop"`` leaves it out;
            ``"pad"`` adds a window that reads padding after the edge, unless it would read only padding; ``"shift"``
            adds a window that is moved back inside. With both, an image smaller than the window is padded, with
            ``"shift"`` evenly on both sides.

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
    rank, batched = check_image(input, "size", size)
    if type(value) is not float or value != 0:
        value = checks.holds("value", value, input.dtype)
    mode = _padding.mode_number("padding_mode", padding_mode)
    image_size = input.shape[-rank:]
    grid, geometry = _check_grid("input", image_size, size, stride, dilation, padding, partial)
    if mode != _padding.CONSTANT:
        reached = [max(sides) for sides in grid.padding(image_size)]
        _padding.check("padding", mode, reached, "input", image_size)
    windows = _extract(input if batched else input.unsqueeze(0), mode, geometry, value)
    return windows if batched else windows.squeeze(0)


def _weights(weight: Any, size: Sequence[int], windows: Tensor) -> Tensor | None:
    """The weights of a window's elements in the dtype of weighted sums; for DTensor windows, a replicated DTensor."""
    weights = _checked_weights(weight, size, windows)
    if weights is None or type(weights).__name__ == "DTensor":
        return weights
    return replicated_like(weights, windows)


def _checked_weights(weight: Any, size: Sequence[int], windows: Tensor) -> Tensor | None:
    if weight is None:
        return None
    if windows.dtype == torch.bool:
        raise TypeError("weight: expected None for windows of torch.bool, which are combined by logical or")
    check_weight(weight, size)
    dtype = _weight_dtype(windows.dtype, windows.device)
    if isinstance(weight, str):
        return cached_weight(tuple(size), cast(Kind, weight), dtype, windows.device, windows)
    if weight.device != windows.device:
        raise ValueError(f"weight: expected device {windows.device} as of windows, got {weight.device}")
    if weight.requires_grad:
        raise ValueError("weight: expected a constant, got a tensor that requires grad; detach it")
    weights: Tensor = weight.to(dtype)
    return weights


def _check_sums(windows: Any) -> None:
    checks.tensor("windows", windows)
    _check_adds("windows", windows.dtype)


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
    """Merge windows on a regular grid to an image, which is their weighted mean where they overlap.

    It is the inverse of `extract_windows`: exact where a single window covers a position, otherwise up to rounding.

    Args:
        windows: ``(N, *grid, C, *size)`` or ``(*grid, C, *size)``; bool, an integer dtype, a float dtype of 16 to 64
            bits, complex64 or complex128; any strides; read in place.
        output_size: spatial size of the image; an int is used for all dimensions.
        stride: step between windows; None is their size.
        dilation: step between a window's elements.
        padding: positions on both sides of each dimension whose values are dropped.
        partial: how the rest at the far edge was handled, as in `extract_windows`.
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
    expected, geometry = _check_grid("output_size", image_size, tuple(size), stride, dilation, padding, partial)
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
        size: size of a window. Its length is the number of spatial dimensions; one int means two, or three for a
            5-D input.

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
        >>> torchext.gather_windows(image, torch.tensor([[1, 1], [3, -1]]), 2)[:, 0]
        tensor([[[ 5,  6],
                 [ 9, 10]],
        <BLANKLINE>
                [[ 0, 12],
                 [ 0,  0]]])
    """
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
    """Merge windows at any positions to an image, which is their weighted mean where they overlap.

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
        gathers its values in the order of the windows. The time is linear in the number of windows. Differentiable in
        the windows any number of times.

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
