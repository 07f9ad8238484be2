"""Conversion of images to normalised patch tokens and back, each in one pass."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import FLOAT_DTYPES, INTEGER_DTYPES, LABEL_DTYPES, widest_float
from torchext._core.library import define, in_onnx_export, linear_derivative, vmap_over_samples
from torchext._core.sharding import by_first
from torchext.windows.grid import Size, cached_check

__all__ = ["patchify", "unpatchify"]

# Both operations compute x·factor + offset, with one factor and one offset for all channels or for each channel. Empty
# lists mean the factor 1 and the offset 0. The adjoint of each is the other with the same factors and no offsets, and
# the tangent is the operation itself without offsets.

_EXACT_IN_FLOAT32 = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.float32}
)


def _computation_dtype(source: torch.dtype, target: torch.dtype, device: torch.device) -> torch.dtype:
    if {source, target} <= _EXACT_IN_FLOAT32:
        return torch.float32
    return torch.float64 if torch.float64 in (source, target) else widest_float(device)


def _broadcastable(numbers: list[float], like: Tensor) -> Tensor | float:
    """Numbers as they broadcast to ``(N, C, ...)``, without a copy from the host, which CUDA graphs cannot capture."""
    if len(numbers) == 1:
        return numbers[0]
    filled = [torch.full((1,) * (like.dim() - 2), x, dtype=like.dtype, device=like.device) for x in numbers]
    return torch.stack(filled)


def _affine(
    values: Tensor,
    factors: list[float],
    offsets: list[float],
    dtype: torch.dtype,
    broadcastable: Callable[[list[float], Tensor], Tensor | float] = _broadcastable,
) -> Tensor:
    """Apply factors and offsets to ``(N, C, ...)`` and convert to `dtype`.

    Integers are rounded half to even and clamped to the range of `dtype`; NaN becomes 0.
    """
    values = values.to(_computation_dtype(values.dtype, dtype, values.device))
    if factors:
        values = values * broadcastable(factors, values)
    if offsets:
        values = values + broadcastable(offsets, values)
    if dtype.is_floating_point:
        return values.to(dtype)
    limits = torch.iinfo(dtype)
    if dtype.itemsize < 4 and in_onnx_export():  # the same in fewer passes, since float32 represents these limits
        return torch.where(values.isnan(), 0, values).round().clamp(limits.min, limits.max).to(dtype)
    values = values.nan_to_num(nan=0.0, posinf=limits.max, neginf=limits.min).round().clamp(limits.min, limits.max)
    # float32 cannot represent every limit, so that the result is clamped again as integers.
    return values.to(torch.int64).clamp(limits.min, limits.max).to(dtype)


def _patchify_reference(
    images: Tensor,
    dtype: torch.dtype,
    size: list[int],
    factors: list[float],
    offsets: list[float],
    channels_last: bool,
    channels_inside: bool,
) -> Tensor:
    planes = _affine(images.movedim(-1, 1) if channels_last else images, factors, offsets, dtype)
    batch, channels, height, width = planes.shape
    rows, columns = height // size[0], width // size[1]
    patches = planes.reshape(batch, channels, rows, size[0], columns, size[1])
    order = (0, 2, 4, 3, 5, 1) if channels_inside else (0, 2, 4, 1, 3, 5)
    return patches.permute(order).reshape(batch, rows * columns, channels * size[0] * size[1]).contiguous()


def _unpatchify_reference(
    tokens: Tensor,
    dtype: torch.dtype,
    size: list[int],
    grid: list[int],
    factors: list[float],
    offsets: list[float],
    channels_last: bool,
    channels_inside: bool,
) -> Tensor:
    batch, channels = tokens.shape[0], tokens.shape[2] // (size[0] * size[1])
    if in_onnx_export():
        return _unpatchify_in_onnx(tokens, dtype, size, grid, factors, offsets, channels_last, channels_inside)
    if channels_inside:
        patches = tokens.reshape(batch, *grid, *size, channels).permute(0, 5, 1, 3, 2, 4)
    else:
        patches = tokens.reshape(batch, *grid, channels, *size).permute(0, 3, 1, 4, 2, 5)
    planes = _affine(patches.reshape(batch, channels, grid[0] * size[0], grid[1] * size[1]), factors, offsets, dtype)
    return (planes.movedim(1, -1) if channels_last else planes).contiguous()


def _unpatchify_in_onnx(
    tokens: Tensor,
    dtype: torch.dtype,
    size: list[int],
    grid: list[int],
    factors: list[float],
    offsets: list[float],
    channels_last: bool,
    channels_inside: bool,
) -> Tensor:
    """The same with one permutation, of the result, whose dtype may be narrower."""
    pixels = size[0] * size[1]
    batch, channels = tokens.shape[0], tokens.shape[2] // pixels

    def broadcastable(numbers: list[float], like: Tensor) -> Tensor | float:
        if len(numbers) == 1:
            return numbers[0]
        each = torch.stack([torch.full((), x, dtype=like.dtype, device=like.device) for x in numbers])
        return each.repeat(pixels) if channels_inside else each.unsqueeze(1).repeat(1, pixels).reshape(-1)

    values = _affine(tokens, factors, offsets, dtype, broadcastable)
    if channels_inside:
        values, order = values.reshape(batch, *grid, *size, channels), (0, 1, 3, 2, 4, 5)
    else:
        values, order = values.reshape(batch, *grid, channels, *size), (0, 1, 4, 2, 5, 3)
    image = (grid[0] * size[0], grid[1] * size[1])
    if channels_last:
        return values.permute(order).reshape(batch, *image, channels)
    return values.permute(order[0], order[5], *order[1:5]).reshape(batch, channels, *image)


def _patchify_fake(
    images: Tensor, dtype: torch.dtype, size: Any, factors: Any, offsets: Any, channels_last: bool, _inside: bool
) -> Tensor:
    batch, channels, height, width = images.shape
    if channels_last:
        channels, height, width = width, channels, height
    length = (height // size[0]) * (width // size[1])
    return images.new_empty(batch, length, channels * size[0] * size[1], dtype=dtype)


def _unpatchify_fake(
    tokens: Tensor, dtype: torch.dtype, size: Any, grid: Any, factors: Any, offsets: Any, channels_last: bool, _: bool
) -> Tensor:
    batch, channels = tokens.shape[0], tokens.shape[2] // (size[0] * size[1])
    image = (grid[0] * size[0], grid[1] * size[1])
    return tokens.new_empty((batch, *image, channels) if channels_last else (batch, channels, *image), dtype=dtype)


def _patchify_backward(
    ctx: Any, grad: Tensor, _dtype: Any, size: Any, factors: list[float], _offsets: Any, *layout: bool
) -> Tensor:
    height, width = ctx.shape[1:3] if layout[0] else ctx.shape[2:]
    return _unpatchify(grad, ctx.dtype, size, [height // size[0], width // size[1]], factors, [], *layout)


def _unpatchify_backward(
    ctx: Any, grad: Tensor, _dtype: Any, size: Any, _grid: Any, factors: list[float], _offsets: Any, *layout: bool
) -> Tensor:
    return _patchify(grad, ctx.dtype, size, factors, [], *layout)


_patchify: Callable[..., Tensor] = define(
    "patchify(Tensor images, ScalarType dtype, SymInt[] size, float[] factors, float[] offsets, bool channels_last, "
    "bool channels_inside) -> Tensor",
    reference=_patchify_reference,
    fake=_patchify_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=linear_derivative(
        _patchify_backward,
        lambda tangent, *options: _patchify(tangent, *options[:3], [], *options[4:]),
    ),
)

_unpatchify: Callable[..., Tensor] = define(
    "unpatchify(Tensor tokens, ScalarType dtype, SymInt[] size, SymInt[] grid, float[] factors, float[] offsets, "
    "bool channels_last, bool channels_inside) -> Tensor",
    reference=_unpatchify_reference,
    fake=_unpatchify_fake,
    vmap=vmap_over_samples,
    sharding=by_first,
    derivative=linear_derivative(
        _unpatchify_backward,
        lambda tangent, *options: _unpatchify(tangent, *options[:4], [], *options[5:]),
    ),
)


Numbers = float | Sequence[float]
Layout = Literal["NCHW", "NHWC"]
TokenOrder = Literal["CPP", "PPC"]

_WRITTEN_DTYPES = FLOAT_DTYPES | (INTEGER_DTYPES - {torch.int64, torch.uint64})


def _number(name: str, value: Any, expected: str = "a number") -> float:
    number = checks.number(name, value, expected)
    # A comparison instead of math.isfinite, which Dynamo does not trace for a dynamic number.
    if not -sys.float_info.max <= number <= sys.float_info.max:
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return number


def _numbers(name: str, value: Any, channels: int) -> list[float]:
    """Return `value` as a list of one number for all channels, or of one for each channel."""
    if not checks.is_sequence(value):
        return [_number(name, value, "a number or a sequence of numbers")]
    if len(value) != channels:
        raise ValueError(f"{name}: expected one number or {channels}, one for each channel, got {len(value)}")
    return [_number(name, entry) for entry in value]


_NUMBERS = frozenset({float, int})


def _is_number(value: Any) -> bool:
    """Whether numbers can be a key of a cache. Not -0.0: it equals 0.0, which has another result."""
    numbers = value if type(value) is tuple else (value,)
    return all(n is None or (type(n) in _NUMBERS and (n or str(n) != "-0.0")) for n in numbers)


@partial(cached_check, is_key=_is_number)
def _coefficients(channels: int, restores: bool, mean: Any, std: Any, scale: Any) -> tuple[list[float], list[float]]:
    """Factors and offsets of ``(x·scale - mean) / std``, or of the inverse ``(x·std + mean) / scale``."""
    means = [] if mean is None else _numbers("mean", mean, channels)
    deviations = [1.0] if std is None else _numbers("std", std, channels)
    if any(deviation <= 0 for deviation in deviations):
        raise ValueError(f"std: expected positive numbers, got {std}")
    scale = _number("scale", scale)
    if scale == 0:
        raise ValueError("scale: expected a number other than 0, got 0")
    if restores:
        factors, offsets = [deviation / scale for deviation in deviations], [mean / scale for mean in means]
    else:
        factors = [scale / deviation for deviation in deviations]
        count = max(len(means), len(deviations)) if means else 0
        offsets = [-means[i % len(means)] / deviations[i % len(deviations)] for i in range(count)]
    return [] if std is None and scale == 1 else factors, offsets


def _options(name: str, layout: Any, token_order: Any) -> tuple[bool, bool]:
    """Check both options; returns whether channels are the last dimension of images, and of tokens."""
    checks.option(name, layout, ("NCHW", "NHWC"))
    checks.option("token_order", token_order, ("CPP", "PPC"))
    return layout == "NHWC", token_order == "PPC"


def patchify(
    images: Tensor,
    size: Size,
    *,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
    input_layout: Layout = "NCHW",
    token_order: TokenOrder = "CPP",
) -> Tensor:
    """Extract patches that do not overlap from images, each flattened to a normalised token: the input of a ViT.

    A pixel x is normalised to ``(x·scale - mean) / std`` in the same pass, so that uint8 images are read once and no
    float images are stored.

    Args:
        images: ``(N, C, H, W)`` or ``(C, H, W)``, with the channels last for ``input_layout="NHWC"``; any strides, bool
            or any integer or float dtype (16 to 64 bits); read in place.
        size: P, or the height and the width of a patch, which have to divide those of the images.
        mean: the mean to subtract after scaling, one number or one for each channel; None is 0.
        std: the standard deviation to divide by, one number or one for each channel; None is 1.
        scale: the factor for pixels; None is 1/255 for uint8 and 1 for every other dtype.
        dtype: dtype of the tokens, a float dtype. None is the dtype of float images, otherwise PyTorch's default float
            dtype.
        input_layout: ``"NCHW"`` or ``"NHWC"``.
        token_order: the layout of a token. ``"CPP"`` is (C, P, P), as in the weight of a convolution that embeds
            patches; ``"PPC"`` is (P, P, C), as in MAE.

    Returns:
        ``(N, L, C·P·P)`` or ``(L, C·P·P)`` with L patches in row-major order.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option, or a patch size that does not divide the size of the images.

    Note:
        Deterministic, and differentiable in float images any number of times. Computed as ``x·(scale/std) - mean/std``
        in float32, or in float64 for float64 images or tokens and, on a device with float64, for integers of more than
        16 bits. Before it is rounded to the tokens' dtype, the error is at most three units in the last place of the
        larger term. Without scale, mean and std, values are copied exactly.

    Examples:
        >>> images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
        >>> torchext.patchify(images, 2, scale=1)
        tensor([[[ 0.,  1.,  4.,  5.],
                 [ 2.,  3.,  6.,  7.],
                 [ 8.,  9., 12., 13.],
                 [10., 11., 14., 15.]]])
    """
    checks.tensor("images", images)
    if images.dtype not in LABEL_DTYPES and images.dtype not in FLOAT_DTYPES:
        raise TypeError(f"images: expected bool, an integer or a float dtype of 16 to 64 bits, got {images.dtype}")
    channels_last, channels_inside = _options("input_layout", input_layout, token_order)
    batched = images.dim() == 4
    if not batched and images.dim() != 3:
        raise ValueError(f"images: expected 3 or 4 dimensions, got shape {tuple(images.shape)}")
    channels, height, width = images.shape[-3:]
    if channels_last:
        channels, height, width = width, channels, height
    if channels == 0 or height == 0 or width == 0:
        raise ValueError(f"images: expected channels and pixels, got shape {tuple(images.shape)}")
    patch = checks.sizes("size", size, 2, least=1)
    if height % patch[0] or width % patch[1]:
        raise ValueError(f"size: expected a patch that divides images of size {(height, width)}, got {patch}")
    if dtype is None:
        dtype = images.dtype if images.is_floating_point() else torch.get_default_dtype()
    else:
        checks.dtype(dtype, FLOAT_DTYPES, f"{checks.FLOAT_DTYPE} for tokens")
    if scale is None:
        scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    factors, offsets = _coefficients(channels, False, mean, std, scale)
    batch = images if batched else images.unsqueeze(0)
    tokens = _patchify(batch, dtype, patch, factors, offsets, channels_last, channels_inside)
    return tokens if batched else tokens.squeeze(0)


def unpatchify(
    tokens: Tensor,
    size: Size,
    grid: Size,
    *,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
    output_layout: Layout = "NCHW",
    token_order: TokenOrder = "CPP",
) -> Tensor:
    """Merge patch tokens into images: the inverse of `patchify` with the same options.

    A pixel is ``(t·std + mean) / scale``, computed from the value t of a token.

    Args:
        tokens: ``(N, L, C·P·P)`` or ``(L, C·P·P)``, a float dtype, any strides; read in place.
        size: P, or the height and the width of a patch.
        grid: the number of patches along the height and along the width, whose product is L; an int is used for both.
        mean: the mean to add, one number or one for each channel; None is 0.
        std: the standard deviation to multiply by, one number or one for each channel; None is 1.
        scale: the divisor of pixels; None is 1/255 for uint8 images and 1 for every other dtype.
        dtype: dtype of the images: a float dtype, or an integer dtype of at most 32 bits, for which values are rounded
            half to even and clamped to the range of the dtype. None is the dtype of the tokens.
        output_layout: ``"NCHW"`` or ``"NHWC"``.
        token_order: ``"CPP"`` or ``"PPC"``, the layout of a token as in `patchify`.

    Returns:
        ``(N, C, H, W)`` or ``(C, H, W)``, with the channels last for ``output_layout="NHWC"``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic, and differentiable any number of times if the images are floats. From float32 and float64 tokens,
        uint8 images are restored exactly.

    Examples:
        >>> images = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
        >>> tokens = torchext.patchify(images, 16, mean=0.5, std=0.25)
        >>> tokens.shape
        torch.Size([2, 6, 768])
        >>> torch.equal(torchext.unpatchify(tokens, 16, (2, 3), mean=0.5, std=0.25, dtype=torch.uint8), images)
        True
    """
    checks.floats("tokens", tokens)
    channels_last, channels_inside = _options("output_layout", output_layout, token_order)
    batched = tokens.dim() == 3
    if not batched and tokens.dim() != 2:
        raise ValueError(f"tokens: expected 2 or 3 dimensions, got shape {tuple(tokens.shape)}")
    patch, patches = checks.sizes("size", size, 2, least=1), checks.sizes("grid", grid, 2, least=1)
    length, width = tokens.shape[-2:]
    pixels = patch[0] * patch[1]
    if width == 0 or width % pixels:
        raise ValueError(f"tokens: expected a multiple of {pixels} values for size {patch}, got {width}")
    if length != patches[0] * patches[1]:
        raise ValueError(f"tokens: expected {patches[0] * patches[1]} tokens for grid {patches}, got {length}")
    if patch[0] > 2**19 or patch[1] > 2**19:  # only for a batch without images can such patches be too many
        for axis in (0, 1):
            checks.fits("size", size, (patch[axis], patches[axis]), "a dimension of the images")
    if dtype is None:
        dtype = tokens.dtype
    else:
        checks.dtype(dtype, _WRITTEN_DTYPES, "a float dtype or an integer dtype of at most 32 bits")
    if scale is None:
        scale = 1 / 255 if dtype == torch.uint8 else 1.0
    factors, offsets = _coefficients(width // pixels, True, mean, std, scale)
    batch = tokens if batched else tokens.unsqueeze(0)
    images = _unpatchify(batch, dtype, patch, patches, factors, offsets, channels_last, channels_inside)
    return images if batched else images.squeeze(0)
