"""The rows of patchify and unpatchify in the conformance table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import FLOATS, INTEGERS, LABELS, Operation, Sample, WrongCall, make_values


def _per_channel(numbers: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(numbers, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 2))


def patchify_by_unfold(
    images: Tensor,
    size: Any,
    *,
    mean: Any = 0.0,
    std: Any = 1.0,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
    input_layout: str = "NCHW",
    token_order: str = "CPP",
) -> Tensor:
    """F.unfold of the normalised images."""
    if images.dim() == 3:
        options = {"mean": mean, "std": std, "scale": scale, "input_layout": input_layout, "token_order": token_order}
        return patchify_by_unfold(images[None], size, **options)[0]
    dtype = dtype or (images.dtype if images.is_floating_point() else torch.get_default_dtype())
    scale = scale if scale is not None else 1 / 255 if images.dtype == torch.uint8 else 1.0
    planes = (images.movedim(-1, 1) if input_layout == "NHWC" else images).to(torch.float64)
    planes = (planes * scale - _per_channel(mean, planes)) / _per_channel(std, planes)
    tokens = F.unfold(planes, size, stride=size).transpose(1, 2)
    if token_order == "PPC":
        tokens = tokens.unflatten(2, (planes.shape[1], -1)).transpose(2, 3).flatten(2)
    return tokens.to(dtype)


def unpatchify_by_fold(
    tokens: Tensor,
    size: Any,
    grid: Any,
    *,
    mean: Any = 0.0,
    std: Any = 1.0,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
    output_layout: str = "NCHW",
    token_order: str = "CPP",
) -> Tensor:
    """F.fold, after undoing the normalisation."""
    dtype = dtype or tokens.dtype
    scale = scale if scale is not None else 1 / 255 if dtype == torch.uint8 else 1.0
    patch, patches = (((x, x) if isinstance(x, int) else x) for x in (size, grid))
    columns = tokens.to(torch.float64)
    if token_order == "PPC":
        columns = columns.unflatten(2, (patch[0] * patch[1], -1)).transpose(2, 3).flatten(2)
    whole = [p * g for p, g in zip(patch, patches, strict=True)]
    images = F.fold(columns.transpose(1, 2), whole, patch, stride=patch)
    images = (images * _per_channel(std, images) + _per_channel(mean, images)) / scale
    if not dtype.is_floating_point:
        images = images.round().clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return (images.movedim(1, -1) if output_layout == "NHWC" else images).to(dtype)


def _statistics(draw: Draw, channels: int) -> dict[str, Any]:
    """Powers of two as divisors, one number or one for each channel."""

    def numbers(one: Callable[[], float]) -> Any:
        return one() if draw.flip() else [one() for _ in range(channels)]

    mean, std = numbers(lambda: draw.between(1, 8) / 4), numbers(lambda: draw.one_of(0.25, 0.5, 1.0, 2.0))
    return {"mean": mean, "std": std, "scale": draw.one_of(0.5, 1.0)}


def random_patchify(draw: Draw) -> Call:
    size, grid = draw.sizes(2, 1, 2, 3, 4, 7, 8, 16), draw.sizes(2, 1, 2, 4)
    channels = draw.one_of(1, 2, 3, 3, 4, 16, 17, 64, 65, 150)
    height, width = (s * g for s, g in zip(size, grid, strict=True))
    layout = draw.one_of("NCHW", "NHWC")
    shape = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    images = draw.values((draw.between(1, 2), *shape), draw.one_of(*FLOATS, *INTEGERS))
    options = {"input_layout": layout, "token_order": draw.one_of("CPP", "PPC"), "dtype": draw.one_of(*FLOATS)}
    return Call("patchify", (images, size), {**options, **_statistics(draw, channels)})


def random_unpatchify(draw: Draw) -> Call:
    size, grid = draw.sizes(2, 1, 2, 3, 4, 7, 8), draw.sizes(2, 1, 2, 4)
    channels = draw.one_of(1, 2, 3, 4, 17, 65)
    shape = (draw.between(1, 2), math.prod(grid), channels * math.prod(size))
    numbers = (
        torch.randint(-600, 600, shape, generator=draw.generator).to(draw.one_of(torch.float32, torch.float64)) / 2
    )
    options = {"output_layout": draw.one_of("NCHW", "NHWC"), "token_order": draw.one_of("CPP", "PPC")}
    options["dtype"] = draw.one_of(torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32)
    return Call("unpatchify", (draw.laid_out(numbers), size, grid), {**options, **_statistics(draw, channels)})


_RGB: dict[str, Any] = {"mean": (0.48, 0.46, 0.41), "std": (0.23, 0.22, 0.225)}
_pixels, _tokens = torch.zeros(2, 3, 8, 6), torch.zeros(2, 12, 12)

PATCHIFY = Operation(
    name="patchify",
    function=torchext.patchify,
    reference=torchext.reference.patchify,
    independent=patchify_by_unfold,
    make=make_values,
    dtypes=(*FLOATS, *LABELS),
    independent_dtypes=(torch.float32, torch.float64, torch.uint8, torch.int32),
    default_dtype=torch.float64,
    samples=(
        Sample("plain", ((2, 3, 8, 12),), {"size": 4}),
        Sample("normalised", ((2, 3, 6, 8),), {"size": (3, 2), "scale": 0.5, **_RGB}),
        Sample("channels last", ((2, 16, 32, 3),), {"size": 16, "input_layout": "NHWC", "mean": 0.5}),
        Sample("channels inside", ((2, 3, 8, 4),), {"size": 4, "token_order": "PPC", **_RGB}),
        Sample("channels last and inside", ((2, 4, 14, 3),), {"size": (2, 7), "input_layout": "NHWC", "token_order": "PPC", **_RGB}),
        Sample("many channels", ((2, 20, 4, 4),), {"size": 2, "mean": tuple(range(20)), "std": 2.0}),
        Sample("several blocks", ((1, 3, 4, 4004),), {"size": (2, 13), "std": 0.25}),
        Sample("one channel", ((1, 5, 3),), {"size": 1, "scale": 3.0}, batched=False),
        Sample("empty batch", ((0, 3, 8, 12),), {"size": 4, **_RGB}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.patchify([1], 2), TypeError, "images: expected a tensor, got list"),
        WrongCall("dtype", lambda: torchext.patchify(_pixels.to(torch.complex64), 2), TypeError, "images: expected bool, an integer or .*got torch.complex64"),
        WrongCall("rank", lambda: torchext.patchify(_pixels[0, 0], 2), ValueError, r"images: expected 3 or 4 dimensions, got shape \(8, 6\)"),
        WrongCall("no channels", lambda: torchext.patchify(_pixels[:, :0], 2), ValueError, r"images: expected channels and pixels, got shape \(2, 0, 8, 6\)"),
        WrongCall("multiple", lambda: torchext.patchify(_pixels, 4), ValueError, r"size: expected a patch that divides images of size \(8, 6\), got \(4, 4\)"),
        WrongCall("layout", lambda: torchext.patchify(_pixels, 2, input_layout="NHWC"), ValueError, r"divides images of size \(3, 8\)"),
        WrongCall("zero", lambda: torchext.patchify(_pixels, 0), ValueError, "size: expected at least 1"),
        WrongCall("float size", lambda: torchext.patchify(_pixels, 2.0), TypeError, "size: expected an int or a sequence of ints, got float"),
        WrongCall("three", lambda: torchext.patchify(_pixels, (2, 2, 2)), ValueError, "size: expected an int or 2 of them"),
        WrongCall("mean", lambda: torchext.patchify(_pixels, 2, mean=(1.0, 2.0)), ValueError, "mean: expected one number or 3, one for each channel, got 2"),
        WrongCall("tensor", lambda: torchext.patchify(_pixels, 2, mean=torch.zeros(3)), TypeError, "mean: expected a number or a sequence of numbers, got Tensor"),
        WrongCall("text", lambda: torchext.patchify(_pixels, 2, std=("a", 1.0, 1.0)), TypeError, "std: expected a number, got str"),
        WrongCall("infinite", lambda: torchext.patchify(_pixels, 2, mean=math.inf), ValueError, "mean: expected a finite number, got inf"),
        WrongCall("no deviation", lambda: torchext.patchify(_pixels, 2, std=(1.0, 0.0, 1.0)), ValueError, "std: expected positive numbers"),
        WrongCall("scale", lambda: torchext.patchify(_pixels, 2, scale=0), ValueError, "scale: expected a number other than 0"),
        WrongCall("scales", lambda: torchext.patchify(_pixels, 2, scale=(1.0, 1.0, 1.0)), TypeError, "scale: expected a number, got tuple"),
        WrongCall("integer tokens", lambda: torchext.patchify(_pixels, 2, dtype=torch.uint8), TypeError, "dtype: expected float16, .* for tokens, got torch.uint8"),
        WrongCall("input_layout", lambda: torchext.patchify(_pixels, 2, input_layout="CHW"), ValueError, "input_layout: expected one of 'NCHW', 'NHWC', got 'CHW'"),
        WrongCall("token_order", lambda: torchext.patchify(_pixels, 2, token_order="PCP"), ValueError, "token_order: expected one of 'CPP', 'PPC', got 'PCP'"),
    ),
    launches=1,
    random_call=random_patchify,
    random_calls_round=True,
    other_sizes=tuple(Sample(f"{size}", ((4, 2, 8, 8),), {"size": size}) for size in (4, 2)),
)  # fmt: skip

UNPATCHIFY = Operation(
    name="unpatchify",
    function=torchext.unpatchify,
    reference=torchext.reference.unpatchify,
    independent=unpatchify_by_fold,
    make=make_values,
    dtypes=FLOATS,
    independent_dtypes=(torch.float32, torch.float64),
    default_dtype=torch.float64,
    samples=(
        Sample("plain", ((2, 6, 48),), {"size": 4, "grid": (2, 3)}),
        Sample("restored", ((2, 6, 18),), {"size": (3, 2), "grid": (3, 2), "scale": 0.5, **_RGB}),
        Sample("channels last", ((2, 2, 768),), {"size": 16, "grid": (1, 2), "output_layout": "NHWC", "mean": 0.5}),
        Sample("channels inside", ((2, 2, 48),), {"size": 4, "grid": (2, 1), "token_order": "PPC", **_RGB}),
        Sample("channels last and inside", ((2, 4, 42),), {"size": (2, 7), "grid": 2, "output_layout": "NHWC", "token_order": "PPC", "std": 2.0}),
    ),
    wrong=(
        WrongCall("height", lambda: torchext.unpatchify(torch.zeros(0, 2**30, 2**30), (2**30, 1), (2**30, 1)), ValueError, "size: expected at most 2.59"),
        WrongCall("dtype list", lambda: torchext.unpatchify(_tokens, 2, (4, 3), dtype=[]), TypeError, "dtype: expected a torch.dtype, got list"),
        WrongCall("type", lambda: torchext.unpatchify(1, 2, 2), TypeError, "tokens: expected a tensor, got int"),
        WrongCall("dtype", lambda: torchext.unpatchify(_tokens.int(), 2, (4, 3)), TypeError, "tokens: expected float16, .*got torch.int32"),
        WrongCall("rank", lambda: torchext.unpatchify(_tokens[0, 0], 2, (4, 3)), ValueError, r"tokens: expected 2 or 3 dimensions, got shape \(12,\)"),
        WrongCall("values", lambda: torchext.unpatchify(_tokens, 5, (4, 3)), ValueError, r"tokens: expected a multiple of 25 values for size \(5, 5\), got 12"),
        WrongCall("grid", lambda: torchext.unpatchify(_tokens, 2, 3), ValueError, r"tokens: expected 9 tokens for grid \(3, 3\), got 12"),
        WrongCall("zero grid", lambda: torchext.unpatchify(_tokens, 2, (0, 3)), ValueError, "grid: expected at least 1"),
        WrongCall("std", lambda: torchext.unpatchify(_tokens, 2, (4, 3), std=(1.0, 2.0)), ValueError, "std: expected one number or 3"),
        WrongCall("negative", lambda: torchext.unpatchify(_tokens, 2, (4, 3), std=-1), ValueError, "std: expected positive numbers, got -1"),
        WrongCall("wide integers", lambda: torchext.unpatchify(_tokens, 2, (4, 3), dtype=torch.int64), TypeError, "dtype: expected a float dtype or an integer dtype of at most 32 bits, got torch.int64"),
        WrongCall("no dtype", lambda: torchext.unpatchify(_tokens, 2, (4, 3), dtype="uint8"), TypeError, "dtype: expected a torch.dtype, got str"),
        WrongCall("output_layout", lambda: torchext.unpatchify(_tokens, 2, (4, 3), output_layout=None), ValueError, "output_layout: expected one of 'NCHW', 'NHWC', got None"),
    ),
    launches=1,
    random_call=random_unpatchify,
    random_calls_round=True,
    other_sizes=tuple(Sample(f"{grid}", ((4, 16, 32),), {"size": 4, "grid": grid}) for grid in (4, (2, 8))),
)  # fmt: skip

# Integer images have no derivative.
UNPATCHIFY_BYTES = replace(
    UNPATCHIFY,
    name="unpatchify_bytes",
    samples=(
        Sample("channels last", ((2, 2, 768),), {"size": 16, "grid": (1, 2), "output_layout": "NHWC", "dtype": torch.uint8, **_RGB}),
        Sample("signed", ((2, 4, 21),), {"size": (1, 7), "grid": 2, "scale": 0.1, "dtype": torch.int8}),
    ),
    wrong=(),
    differentiable=False,
)  # fmt: skip

OPERATIONS = (PATCHIFY, UNPATCHIFY, UNPATCHIFY_BYTES)
