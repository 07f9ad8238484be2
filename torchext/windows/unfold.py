"""Sliding windows of a tensor as columns, and the sum of such columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import COMPLEX_DTYPES, DTYPES, FLOAT_DTYPES, LABEL_DTYPES, accumulation_dtype
from torchext._core.library import Derivative, define, vmap_over_samples
from torchext._core.sharding import by_first
from torchext.windows import padding as _padding
from torchext.windows.padding import PaddingMode

__all__ = ["fold", "unfold"]


def _grid(
    image_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> list[int]:
    """The number of windows that fit along each dimension."""
    sizes = zip(image_size, kernel_size, dilation, padding, stride, strict=True)
    return [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, d, p, s in sizes]


def split(geometry: Sequence[int], kinds: int) -> list[Sequence[int]]:
    """Split a geometry, which is a concatenation of several kinds of sizes, such as kernel size and stride.

    Operations take it as one list, since each list argument of an operation takes a microsecond in each call.
    """
    rank = len(geometry) // kinds
    return [geometry[kind * rank : (kind + 1) * rank] for kind in range(kinds)]


def _is_sparse(image_size: Sequence[int], geometry: Sequence[int], mode: int) -> bool:
    """Whether the padded image is too large to allocate. The other modes limit the padding by the image's size."""
    padding = split(geometry, 4)[2]
    padded = prod(size + 2 * p for size, p in zip(image_size, padding, strict=True))
    return mode in (_padding.CONSTANT, _padding.REPLICATE) and padded > 2**28


def _positions(
    image_size: Sequence[int], geometry: Sequence[int], mode: int, device: torch.device
) -> tuple[list[int], list[Tensor]]:
    """The grid, and for each axis the indices that the windows' taps read, ``(windows, taps)``.

    In constant mode, the index of positions in the padding is the image's size.
    """
    kernel_size, dilation, padding, stride = split(geometry, 4)
    grid, positions = _grid(image_size, kernel_size, dilation, padding, stride), []
    for size, g, k, d, p, s in zip(image_size, grid, kernel_size, dilation, padding, stride, strict=True):
        at = torch.arange(g, device=device).unsqueeze(1) * s - p + torch.arange(k, device=device) * d
        constant = mode == _padding.CONSTANT
        positions.append(torch.where((at >= 0) & (at < size), at, size) if constant else at.clamp(0, size - 1))
    return grid, positions


def _unfold_sparse(input: Tensor, mode: int, geometry: Sequence[int], value: float) -> Tensor:
    grid, positions = _positions(input.shape[2:], geometry, mode, input.device)
    rank, kernel_size, shape = len(grid), split(geometry, 4)[0], input.shape
    windows = F.pad(input, (0, 1) * rank, value=value)
    for axis, at in enumerate(positions):
        windows = windows.index_select(2 + axis, at.flatten())
    windows = windows.reshape(*shape[:2], *(n for pair in zip(grid, kernel_size, strict=True) for n in pair))
    windows = windows.permute(0, 1, *range(3, 3 + 2 * rank, 2), *range(2, 2 + 2 * rank, 2))
    return windows.reshape(shape[0], shape[1] * prod(kernel_size), prod(grid)).contiguous()


def _fold_sparse(columns: Tensor, mode: int, output_size: Sequence[int], geometry: Sequence[int]) -> Tensor:
    """Sum columns ``(N, C, taps, *grid)`` into an image."""
    grid, positions = _positions(output_size, geometry, mode, columns.device)
    rank, kernel_size = len(grid), split(geometry, 4)[0]
    image = columns.reshape(*columns.shape[:2], *kernel_size, *grid)
    image = image.permute(0, 1, *(axis for d in range(rank) for axis in (2 + rank + d, 2 + d)))
    image = image.reshape(*columns.shape[:2], *(g * k for g, k in zip(grid, kernel_size, strict=True)))
    for axis, (at, size) in enumerate(zip(positions, output_size, strict=True), 2):
        sums = image.new_zeros(*image.shape[:axis], size + 1, *image.shape[axis + 1 :])
        image = sums.index_add(axis, at.flatten(), image).narrow(axis, 0, size)
    return image


def _unfold_reference(input: Tensor, padding_mode: int, geometry: Sequence[int], value: float) -> Tensor:
    kernel_size, dilation, padding, stride = split(geometry, 4)
    rank = len(kernel_size)
    if _is_sparse(input.shape[2:], geometry, padding_mode):
        return _unfold_sparse(input, padding_mode, geometry, value)
    windows = _padding.pad(input, [(p, p) for p in padding], padding_mode, value)
    for axis, (k, d, s) in enumerate(zip(kernel_size, dilation, stride, strict=True)):
        windows = windows.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    # (N, C, *grid, *kernel) to (N, C, *kernel, *grid)
    windows = windows.permute(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    length = prod(windows.shape[2 + rank :])
    return windows.reshape(input.shape[0], input.shape[1] * prod(kernel_size), length).contiguous()


def _fold_reference(columns: Tensor, padding_mode: int, geometry: Sequence[int]) -> Tensor:
    output_size, kernel_size, dilation, padding, stride = split(geometry, 5)
    grid = _grid(output_size, kernel_size, dilation, padding, stride)
    batch, channels = columns.shape[0], columns.shape[1] // prod(kernel_size)
    # int64 sums wrap around to the same bits as sums of narrower integers and of uint64.
    values = columns.view(torch.int64) if columns.dtype == torch.uint64 else columns
    values = values.to(accumulation_dtype(columns.dtype)).reshape(batch, channels, prod(kernel_size), *grid)
    if _is_sparse(output_size, geometry[len(output_size) :], padding_mode):
        image = _fold_sparse(values, padding_mode, output_size, geometry[len(output_size) :])
    else:
        padded = values.new_zeros(batch, channels, *(o + 2 * p for o, p in zip(output_size, padding, strict=True)))
        all_images = [slice(None), slice(None)]
        for index, tap in enumerate(product(*map(range, kernel_size))):
            steps = zip(tap, dilation, stride, grid, strict=True)
            covered = [slice(k * d, k * d + s * (g - 1) + 1, s) for k, d, s, g in steps]
            padded[tuple(all_images + covered)] += values[:, :, index]
        image = _padding.add_back(padded, [(p, p) for p in padding], padding_mode)
    if columns.dtype == torch.bool:
        return image != 0
    if columns.dtype == torch.uint64:
        return image.contiguous().view(torch.uint64)
    return image.to(columns.dtype).contiguous()


def _unfold_fake(input: Tensor, _mode: int, geometry: Any, *_: Any) -> Tensor:
    kernel_size, *sizes = split(geometry, 4)
    length = prod(_grid(input.shape[2:], kernel_size, *sizes))
    return input.new_empty(input.shape[0], input.shape[1] * prod(kernel_size), length)


def _fold_fake(columns: Tensor, _mode: int, geometry: Any) -> Tensor:
    output_size, kernel_size, *_rest = split(geometry, 5)
    return columns.new_empty(columns.shape[0], columns.shape[1] // prod(kernel_size), *output_size)


# Both operations are linear, and each is the adjoint of the other in the same padding mode. The tangent is therefore
# the operation itself, and double backward requires no other code.


def _unfold_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.output_size, (ctx.mode, ctx.geometry) = inputs[0].shape[2:], inputs[1:3]


def _unfold_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    _check_adds("input", grad.dtype)
    return _fold(grad, ctx.mode, (*ctx.output_size, *ctx.geometry)), None, None, None


def _unfold_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    return _unfold(tangent, ctx.mode, ctx.geometry, 0.0)


def _fold_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mode, ctx.geometry = inputs[1:]


def _fold_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rank = len(ctx.geometry) // 5
    return _unfold(grad, ctx.mode, ctx.geometry[rank:], 0.0), None, None


def _fold_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    return _fold(tangent, ctx.mode, ctx.geometry)


# Channels are not sharded: an uneven split of C is another split of the C·∏kernel_size rows.
# The geometry is (*kernel_size, *dilation, *padding, *stride), for fold with the output's size before them.
_unfold = define(
    "unfold(Tensor input, int padding_mode, SymInt[] geometry, float value) -> Tensor",
    reference=_unfold_reference,
    fake=_unfold_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=Derivative(_unfold_save, _unfold_backward, _unfold_jvp),
)

# In a padding mode other than constant, values in the padding are not dropped but added to the elements of which the
# padding has copies: this is the adjoint of unfold.
_fold = define(
    "fold(Tensor columns, int padding_mode, SymInt[] geometry) -> Tensor",
    reference=_fold_reference,
    fake=_fold_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=Derivative(_fold_save, _fold_backward, _fold_jvp),
)


Size = int | Sequence[int]


def _rank(name: str, sizes: Size, default: int) -> int:
    """The number of spatial dimensions: the length of `sizes`, or `default` if it is one int."""
    if type(sizes) is int or not checks.is_sequence(sizes):
        return default
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name}: expected an int or 1 to 3 of them, got {checks.shown(sizes)}")
    return len(sizes)


def check_image(input: Any, size_name: str, size: Size) -> tuple[int, bool]:
    """Check an image against a size; returns the number of spatial dimensions and whether there is a batch."""
    checks.tensor("input", input)
    if input.dtype not in DTYPES:
        raise checks.not_in_dtypes("input", input.dtype)
    rank = _rank(size_name, size, 3 if input.dim() == 5 else 2)
    batched = input.dim() == rank + 2
    if not batched and input.dim() != rank + 1:
        raise ValueError(f"input: expected {rank + 1} or {rank + 2} dimensions, got shape {tuple(input.shape)}")
    if 0 in input.shape[-rank - 1 :]:
        raise ValueError(f"input: expected channels and an image without empty dimensions, got {tuple(input.shape)}")
    return rank, batched


_T = TypeVar("_T")


_PLAIN, _INT = frozenset({int, str, type(None)}), frozenset({int})


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return _INT.issuperset(map(type, value)) if kind is tuple else kind in _PLAIN


def cached_check(check: Callable[..., _T]) -> Callable[..., _T]:
    """Cache a check of an image's size and of options, which would take longer than a small kernel."""
    cached = lru_cache(maxsize=1024)(check)

    def checked(source: str, image_size: Sequence[int], *options: Any) -> _T:
        # Keys of a cache are compared by value: 2.0 and True would be accepted for the ints 2 and 1.
        if torch.compiler.is_compiling() or not all(map(_is_plain, options)):
            return check(source, image_size, *options)
        try:
            return cached(source, image_size, *options)
        except TypeError:  # a symbolic image size has no hash
            return check(source, image_size, *options)

    return checked


@cached_check
def _check_geometry(
    source: str, image_size: Sequence[int], kernel_size: Size, dilation: Size, padding: Size, stride: Size
) -> tuple[tuple[int, ...], int, int]:
    """The geometry, the number of elements of a window and the number of windows; `source` is the image's argument."""
    rank = len(image_size)
    kernels = checks.sizes("kernel_size", kernel_size, rank, least=1)
    dilations = checks.sizes("dilation", dilation, rank, least=1)
    paddings = checks.sizes("padding", padding, rank, least=0)
    strides = checks.sizes("stride", stride, rank, least=1)
    for extent, p in zip(image_size, paddings, strict=True):
        checks.fits("padding", padding, (extent + 2 * p,), "a padded dimension")
    grid = _grid(image_size, kernels, dilations, paddings, strides)
    for count in grid:
        if count < 1:
            raise ValueError(
                f"kernel_size: expected windows that fit into {source} {tuple(image_size)} padded by {paddings}, "
                f"got {kernels} with dilation {dilations}"
            )
    checks.fits(source, tuple(image_size), image_size, "an image")
    checks.fits("kernel_size", kernel_size, (*kernels, *grid), "the windows")
    return (*kernels, *dilations, *paddings, *strides), prod(kernels), prod(grid)


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

    A drop-in replacement for `torch.nn.functional.unfold`, for one to three spatial dimensions and every dtype.

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

    A drop-in replacement for `torch.nn.functional.fold`, for one to three spatial dimensions and all dtypes below.

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
    _check_adds("input", input.dtype)
    rank = _rank("output_size", output_size, _rank("kernel_size", kernel_size, 2))
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


_SUMMED_DTYPES = LABEL_DTYPES | FLOAT_DTYPES | COMPLEX_DTYPES


def _check_adds(name: str, dtype: torch.dtype) -> None:
    if dtype not in _SUMMED_DTYPES:
        raise TypeError(
            f"{name}: expected bool, an integer dtype, float16, bfloat16, float32, float64, complex64 or complex128, "
            f"got {dtype}"
        )
