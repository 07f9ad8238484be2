"""Sliding windows of a tensor as columns, and the sum of such columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import FLOAT_DTYPES, narrow, widen
from torchext._core.library import define, in_onnx_export, linear_derivative, vmap_over_samples
from torchext._core.sharding import by_first
from torchext.windows import padding as _padding
from torchext.windows.grid import (
    Size,
    cached_check,
    check_adds,
    check_grid,
    check_image,
    fit_grid,
    is_known,
    rank_of,
    split,
)
from torchext.windows.padding import PaddingMode
from torchext.windows.positions import add_up, fold_planes, grid_positions

__all__ = ["fold", "unfold"]


def _is_sparse(image_size: Sequence[int], geometry: Sequence[int], mode: int) -> bool:
    """Whether the padded image is too large to allocate. The other modes limit the padding by the image's size."""
    padding = split(geometry, 4)[2]
    padded = prod([size + 2 * p for size, p in zip(image_size, padding, strict=True)])
    return mode in (_padding.CONSTANT, _padding.REPLICATE) and is_known(padded > 2**28)


def _sparse_positions(image_size: Sequence[int], geometry: Sequence[int], mode: int, device: torch.device) -> Tensor:
    """The index of the element of each column, ``(taps, L)``."""
    grid = fit_grid(image_size, *split(geometry, 4), partial="drop")
    return grid_positions(image_size, grid, mode, device).flatten(len(image_size)).flatten(0, -2).T


def _unfold_reference(input: Tensor, padding_mode: int, geometry: Sequence[int], value: float) -> Tensor:
    kernel_size, dilation, padding, stride = split(geometry, 4)
    rank, is_padded = len(kernel_size), not is_known(max(padding) == 0)
    if is_padded and _is_sparse(input.shape[2:], geometry, padding_mode):
        positions = _sparse_positions(input.shape[2:], geometry, padding_mode, input.device)
        return F.pad(input.flatten(2), (0, 1), value=value)[:, :, positions].flatten(1, 2).contiguous()
    windows = _padding.pad(input, [(p, p) for p in padding], padding_mode, value) if is_padded else input
    for axis, (k, d, s) in enumerate(zip(kernel_size, dilation, stride, strict=True)):
        windows = windows.unfold(2 + axis, d * (k - 1) + 1, s)
        windows = windows if is_known(d == 1) else windows[..., ::d]
    # (N, C, *grid, *kernel) to (N, C, *kernel, *grid)
    windows = windows.permute(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    length = prod(windows.shape[2 + rank :])
    columns = windows.clone(memory_format=torch.contiguous_format)
    return columns.reshape(input.shape[0], input.shape[1] * prod(kernel_size), length)


def _joined(taps: Tensor, rank: int) -> Tensor:
    """The windows (N, C, *kernel, *grid) as (N, C, grid, kernel, grid, kernel, ...), as they lie in an image."""
    axes = ((2 + rank + axis, 2 + axis) for axis in range(rank))
    return taps.permute(0, 1, *chain(*axes))


def _added(taps: Tensor, image: Tensor, dilation: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Add windows (N, C, *kernel, *grid) to an image, as many taps at once as cannot lie at the same element."""
    rank = len(stride)
    kernel_size = taps.shape[2 : 2 + rank]
    at_once = [s if d == 1 else 1 for s, d in zip(stride, dilation, strict=True)]
    for begin in product(*(range(0, k, step) for k, step in zip(kernel_size, at_once, strict=True))):
        covered, part = image, taps
        for axis, (first, step, d, s) in enumerate(zip(begin, at_once, dilation, stride, strict=True), 2):
            part = part.narrow(axis, first, min(step, taps.shape[axis] - first))
            width = s * (taps.shape[axis + rank] - 1) + part.shape[axis]
            covered = covered.narrow(axis, first * d, width).unfold(axis, part.shape[axis], s)
        covered += part.permute(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return image


def _fold_reference(columns: Tensor, padding_mode: int, geometry: Sequence[int]) -> Tensor:
    output_size, kernel_size, dilation, padding, stride = split(geometry, 5)
    grid = fit_grid(output_size, kernel_size, dilation, padding, stride, partial="drop").grid
    batch, channels = columns.shape[0], columns.shape[1] // prod(kernel_size)
    values = widen(columns).reshape(batch, channels, prod(kernel_size), *grid)
    if max(padding) > 0 and _is_sparse(output_size, geometry[len(output_size) :], padding_mode):
        positions = _sparse_positions(output_size, geometry[len(output_size) :], padding_mode, columns.device)
        image = add_up(values.flatten(2), positions.flatten(), prod(output_size)).unflatten(2, output_size)
    else:
        padded_size = [o + 2 * p for o, p in zip(output_size, padding, strict=True)]
        taps = values.reshape(batch, channels, *kernel_size, *grid)
        if kernel_size == stride and padded_size == [k * g for k, g in zip(kernel_size, grid, strict=True)]:
            joined = _joined(taps, len(grid)).clone(memory_format=torch.contiguous_format)
            padded = joined.reshape(batch, channels, *padded_size)
        else:
            padded = _added(taps, values.new_zeros(batch, channels, *padded_size), dilation, stride)
        image = _padding.add_back(padded, [(p, p) for p in padding], padding_mode)
    return narrow(image, columns.dtype).contiguous()


def _unfold_traced(input: Tensor, padding_mode: int, geometry: Sequence[int], value: float) -> Tensor:
    """The same with `torch.nn.functional.unfold`, for which compilers have code of their own."""
    kernel_size, dilation, padding, stride = split(geometry, 4)
    if in_onnx_export() and _copies_are_few(geometry) and not _is_sparse(input.shape[2:], geometry, padding_mode):
        return _unfold_in_onnx(input, padding_mode, geometry, value)
    if len(kernel_size) != 2 or input.dtype not in FLOAT_DTYPES:
        return _unfold_reference(input, padding_mode, geometry, value)
    if padding_mode != _padding.CONSTANT or value != 0:
        input, padding = _padding.pad(input, [(p, p) for p in padding], padding_mode, value), (0, 0)
    return F.unfold(input, tuple(kernel_size), tuple(dilation), tuple(padding), tuple(stride))


_MOST_COPIES = 64  # so that a program does not have hundreds of operators


def _copies_are_few(geometry: Sequence[int]) -> bool:
    """Whether `_unfold_in_onnx` makes few copies of the image for each axis."""
    if not all(isinstance(number, int) for number in geometry):
        return False
    kernel_size, dilation, _, stride = split(geometry, 4)
    axes = list(zip(kernel_size, dilation, stride, strict=True))
    last = -(-kernel_size[-1] // stride[-1]) if dilation[-1] == 1 else kernel_size[-1]
    return max(last, *(k for k, _, _ in axes[1:-1]), 0) <= _MOST_COPIES


def _unfold_in_onnx(input: Tensor, padding_mode: int, geometry: Sequence[int], value: float) -> Tensor:
    """The same for onnxruntime, which reads an index of single elements many times slower than one of rows."""
    kernel_size, dilation, padding, stride = split(geometry, 4)
    grid = fit_grid(input.shape[2:], kernel_size, dilation, padding, stride, partial="drop").grid
    axes = list(zip(kernel_size, dilation, stride, grid, strict=True))
    k, d, s, g = axes[-1]
    if padding_mode != _padding.CONSTANT:
        input, padding = _padding.pad(input, [(p, p) for p in padding], padding_mode), [0] * len(padding)
    # Without dilation, the last axis is copied in whole steps, which reach over the end of a window.
    pads = [(p, p) for p in padding[:-1]] + [(padding[-1], padding[-1] + (-k % s if d == 1 else 0))]
    windows = _padding.pad(input, pads, _padding.CONSTANT, value) if any(map(any, pads)) else input
    # Each axis converts (N, C, *taps, *grid, extent, *rest) to (N, C, *taps, k, *grid, g, *rest).
    if len(axes) > 1:
        rows = windows.index_select(2, _tap_positions(*axes[0], input.device))
        windows = rows.unflatten(2, (kernel_size[0], grid[0]))
    if len(axes) > 2:
        windows = torch.stack(_taps(windows, 4, *axes[1]), 3)
    to = 1 + len(axes)
    if d > 1 or s == 1:
        windows = torch.stack(_taps(windows, windows.dim() - 1, k, d, s, g), to)
    else:  # an element of a window is the same element of a step, some steps later
        steps = -(-k // s)
        if not is_known(windows.shape[-1] == (g - 1 + steps) * s):
            windows = windows.narrow(-1, 0, (g - 1 + steps) * s)
        by_step = windows.unflatten(-1, (g - 1 + steps, s)).movedim(-1, to)
        taps = [by_step.narrow(to, 0, min(s, k - j * s)).narrow(-1, j, g) for j in range(steps)]
        windows = torch.cat(taps, to) if steps > 1 else taps[0]
    return windows.reshape(input.shape[0], input.shape[1] * prod(kernel_size), prod(grid))


def _tap_positions(k: int, dilation: int, stride: int, count: int, device: torch.device) -> Tensor:
    """The positions along an axis of the element of each tap of each window, flattened."""
    taps, starts = torch.arange(k, device=device) * dilation, torch.arange(count, device=device) * stride
    return (taps.unsqueeze(1) + starts).flatten()


def _taps(windows: Tensor, axis: int, k: int, dilation: int, stride: int, count: int) -> list[Tensor]:
    """For each tap its elements in all windows along an axis."""
    before, reach = (slice(None),) * axis, stride * (count - 1) + 1
    taps = [slice(i * dilation, i * dilation + reach, stride) for i in range(k)]
    return [windows[before + (tap,)] for tap in taps]  # noqa: RUF005  # Python 3.10 has no `*` in an index


def _fold_traced(columns: Tensor, padding_mode: int, geometry: Sequence[int]) -> Tensor:
    """The same with `torch.nn.functional.fold`, and without writing into a tensor."""
    output_size, kernel_size, dilation, padding, stride = split(geometry, 5)
    values = widen(columns)
    if padding_mode == _padding.CONSTANT and len(output_size) < 3 and values.dtype == torch.float32:
        image = fold_planes(values, output_size, kernel_size, dilation, padding, stride)
    else:
        positions = _sparse_positions(output_size, geometry[len(output_size) :], padding_mode, columns.device)
        rows = values.unflatten(1, (-1, prod(kernel_size))).flatten(2)
        image = add_up(rows, positions.flatten(), prod(output_size)).unflatten(2, tuple(output_size))
    return narrow(image, columns.dtype).contiguous()


def _unfold_fake(input: Tensor, _mode: int, geometry: Any, *_: Any) -> Tensor:
    grid = fit_grid(input.shape[2:], *split(geometry, 4), partial="drop")
    return input.new_empty(input.shape[0], input.shape[1] * prod(grid.size), prod(grid.grid))


def _fold_fake(columns: Tensor, _mode: int, geometry: Any) -> Tensor:
    output_size, kernel_size, *_rest = split(geometry, 5)
    return columns.new_empty(columns.shape[0], columns.shape[1] // prod(kernel_size), *output_size)


# Both operations are linear, and each is the adjoint of the other in the same padding mode. The tangent is therefore
# the operation itself, and double backward requires no other code.


def _unfold_backward(ctx: Any, grad: Tensor, mode: int, geometry: Sequence[int], _value: float) -> Tensor:
    check_adds("input", grad.dtype)
    return _fold(grad, mode, (*ctx.shape[2:], *geometry))


def _fold_backward(_ctx: Any, grad: Tensor, mode: int, geometry: Sequence[int]) -> Tensor:
    return _unfold(grad, mode, geometry[len(geometry) // 5 :], 0.0)


# Channels are not sharded: an uneven split of C is another split of the C·∏kernel_size rows.
# The geometry is (*kernel_size, *dilation, *padding, *stride), for fold with the output's size before them.
_unfold: Callable[..., Tensor] = define(
    "unfold(Tensor input, int padding_mode, SymInt[] geometry, float value) -> Tensor",
    reference=_unfold_reference,
    fake=_unfold_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=linear_derivative(_unfold_backward, lambda tangent, *options: _unfold(tangent, *options[:2], 0.0)),
    decomposition=_unfold_traced,
)

# In a padding mode other than constant, values in the padding are not dropped but added to the elements of which the
# padding has copies: this is the adjoint of unfold.
_fold: Callable[..., Tensor] = define(
    "fold(Tensor columns, int padding_mode, SymInt[] geometry) -> Tensor",
    reference=_fold_reference,
    fake=_fold_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=linear_derivative(_fold_backward, lambda *args: _fold(*args)),
    decomposition=_fold_traced,
)


@cached_check
def _check_geometry(
    source: str, image_size: Sequence[int], kernel_size: Size, dilation: Size, padding: Size, stride: Size
) -> tuple[tuple[int, ...], int, int]:
    """The geometry, the number of elements of a window and the number of windows; `source` is the image's argument."""
    grid = check_grid(source, image_size, "kernel_size", kernel_size, dilation, padding, stride)
    paddings = (-first for first in grid.first)
    return (*grid.size, *grid.dilation, *paddings, *grid.stride), prod(grid.size), prod(grid.grid)


def unfold(
    input: Tensor,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
    *,
    padding_mode: PaddingMode = "constant",
    value: float = 0.0,
) -> Tensor:
    """Copy every sliding window of an image into a column.

    The result is that of `torch.nn.functional.unfold` for the same arguments. In addition, one and three spatial
    dimensions, every dtype and other modes of padding are supported.

    Args:
        input: ``(N, C, *S)`` or ``(C, *S)``, any strides; read in place.
        kernel_size: size of a window. Its length is the number of spatial dimensions; one int means two, or three
            for a 5-D input.
        dilation: step between a window's elements.
        padding: elements added on both sides of each dimension.
        stride: step between windows.
        padding_mode: the values of the padding, as in `numpy.pad` and `torch.nn.functional.pad`: ``"constant"`` is
            `value`, ``"reflect"`` the image mirrored without repeating its first and last element, ``"symmetric"``
            mirrored with repeating them, ``"replicate"`` the nearest element, ``"circular"`` the image repeated. No
            padded copy is made.
        value: the value of the padding in constant mode.

    Returns:
        ``(N, C·∏kernel_size, L)`` or ``(C·∏kernel_size, L)`` with L windows in row-major order, in the input's dtype.

    Raises:
        TypeError: a wrong type.
        ValueError: a wrong shape or geometry, an unknown mode, a padding that the mode does not allow (it has to be
            less than the image's size for reflect, and at most that size for circular and symmetric), or a `value` that
            the dtype cannot hold.

    Note:
        Deterministic, and differentiable any number of times. The gradient is `fold` of the columns' gradient; in modes
        other than constant, gradients of the padding are added to the elements that were copied.

    Examples:
        >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> torchext.unfold(image, 2)
        tensor([[[0., 1., 3., 4.],
                 [1., 2., 4., 5.],
                 [3., 4., 6., 7.],
                 [4., 5., 7., 8.]]])
    """
    rank, batched = check_image(input, "kernel_size", kernel_size)
    if type(value) is not float or value != 0:
        value = checks.holds("value", value, input.dtype)
    mode = _padding.mode_number("padding_mode", padding_mode)
    size = input.shape[-rank:]
    geometry, _, _ = _check_geometry("input", size, kernel_size, dilation, padding, stride)
    if mode != _padding.CONSTANT:
        _padding.check("padding", mode, split(geometry, 4)[2], "input", size)
    columns = _unfold(input if batched else input.unsqueeze(0), mode, geometry, value)
    return columns if batched else columns.squeeze(0)


def fold(
    input: Tensor,
    output_size: Size,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> Tensor:
    """Add columns of windows to an image; where windows overlap, the result is their sum.

    The result is that of `torch.nn.functional.fold` for the same arguments. In addition, one and three spatial
    dimensions and all dtypes below are supported.

    Args:
        input: ``(N, C·∏kernel_size, L)`` or ``(C·∏kernel_size, L)``, the layout of a result of `unfold`; bool, an
            integer dtype, a float dtype of 16 to 64 bits, complex64 or complex128.
        output_size: spatial size of the image. Its length is the number of spatial dimensions; for one int it is the
            length of `kernel_size`, and two if that is an int as well.
        kernel_size: size of a window.
        dilation: step between a window's elements.
        padding: positions on both sides of each dimension whose values are dropped.
        stride: step between windows.

    Returns:
        ``(N, C, *output_size)`` or ``(C, *output_size)``, in the input's dtype. float16 and bfloat16 are summed in
        float32 and rounded once, integers wrap around, and bool is combined by logical or. Positions that no window
        covers are 0.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or geometry.

    Note:
        Deterministic: the same bits in every run and for any number of threads, also on a GPU, since each position
        gathers its values in a fixed order. Differentiable any number of times; the gradient is `unfold` of the image's
        gradient.

    Examples:
        >>> image = torch.ones(1, 1, 3, 3)
        >>> torchext.fold(torchext.unfold(image, 2), 3, 2)
        tensor([[[[1., 2., 1.],
                  [2., 4., 2.],
                  [1., 2., 1.]]]])
    """
    checks.tensor("input", input)
    check_adds("input", input.dtype)
    rank = rank_of("output_size", output_size, rank_of("kernel_size", kernel_size, 2))
    size = checks.sizes("output_size", output_size, rank, least=1)
    geometry, taps, length = _check_geometry("output_size", size, kernel_size, dilation, padding, stride)
    batched = input.dim() == 3
    if not batched and input.dim() != 2:
        raise ValueError(f"input: expected 2 or 3 dimensions, got shape {tuple(input.shape)}")
    rows = input.shape[-2]
    if rows == 0 or rows % taps:
        kernels = split(geometry, 4)[0]
        raise ValueError(f"input: expected a multiple of {taps} rows for kernel_size {kernels}, got {rows}")
    if input.shape[-1] != length:
        raise ValueError(f"input: expected {length} columns for output_size {size}, got {input.shape[-1]}")
    image = _fold(input if batched else input.unsqueeze(0), _padding.CONSTANT, (*size, *geometry))
    return image if batched else image.squeeze(0)
