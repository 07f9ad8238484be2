"""The rows of unfold and fold in the conformance table."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import COMPLEX, FLOATS, INTEGERS, LABELS, MOVED, Operation, Sample, WrongCall, make_values
from torchext.windows.padding import MODES


def unfold_by_pytorch(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1,
                      *, padding_mode: str = "constant", value: float = 0.0) -> Tensor:  # fmt: skip
    """F.unfold; a padding value by linearity, other modes by padding with NumPy."""
    if padding_mode != "constant":
        padded = pad_by_numpy(input, padding, padding_mode)
        return unfold_by_pytorch(
            padded, kernel_size, dilation, 0 if isinstance(padding, int) else (0,) * len(padding), stride
        )
    if not isinstance(kernel_size, int) and len(kernel_size) != 2:
        return unfold_by_convolution(input, kernel_size, dilation, padding, stride, value=value)
    columns = partial(F.unfold, kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)
    if value == 0:
        return columns(input)
    return columns(input - value) + value


def pad_by_numpy(input: Tensor, padding: Any, padding_mode: str) -> Tensor:
    """Padding by NumPy: indices are padded, and then used to read the elements."""
    import numpy

    image = input.shape[2:]
    pads = [(p, p) for p in ([padding] * len(image) if isinstance(padding, int) else padding)]
    mode = {"replicate": "edge", "circular": "wrap"}.get(padding_mode, padding_mode)
    places = torch.from_numpy(numpy.pad(numpy.arange(image.numel()).reshape(image), pads, mode=mode)).to(input.device)
    return input.flatten(2)[:, :, places]


def unfold_by_convolution(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1,
                          *, value: float = 0.0) -> Tensor:  # fmt: skip
    """Each tap of the window as a convolution with a unit kernel."""
    channels, rank = input.shape[1], len(kernel_size)
    taps = torch.Size(kernel_size).numel()
    weight = torch.eye(taps, dtype=input.dtype, device=input.device).reshape(taps, 1, *kernel_size)
    weight = weight.repeat(channels, *[1] * (rank + 1))
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    shifted = convolve(input - value, weight, None, stride, padding, dilation, channels) + value
    return shifted.flatten(2)


def fold_by_pytorch(input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
                    stride: Any = 1) -> Tensor:  # fmt: skip
    """F.fold, or the transposed convolution for other than two dimensions."""
    if isinstance(output_size, int) or len(output_size) == 2:
        return F.fold(input, output_size, kernel_size, dilation, padding, stride)
    shape = (input.shape[0], input.shape[1] // torch.Size(kernel_size).numel(), *output_size)
    image = torch.zeros(shape, dtype=input.dtype, device=input.device, requires_grad=True)
    with torch.enable_grad():
        columns = unfold_by_convolution(image, kernel_size, dilation, padding, stride)
    return torch.autograd.grad(columns, image, input)[0]


def random_geometry(draw: Draw, most: int) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """An image and windows along one to three axes; at least one window fits."""
    rank = draw.between(1, 3)
    most = {1: 20 * most, 2: most, 3: most // 3}[rank]
    axes = []
    while len(axes) < rank:
        image, kernel, dilation, padding = (draw.between(1, most), *(draw.between(1, high) for high in (5, 4, 5)))
        if image + 2 * (padding - 1) > dilation * (kernel - 1):
            axes.append((image, kernel, dilation, padding - 1, draw.between(1, 6)))
    image, *geometry = zip(*axes, strict=True)
    return image, dict(zip(("kernel_size", "dilation", "padding", "stride"), geometry, strict=True))


def _padding_mode(draw: Draw, image: tuple[int, ...], padding: tuple[int, ...]) -> str:
    mode = draw.one_of(*MODES)
    longest = max(p - i for p, i in zip(padding, image, strict=True))
    fits = {"constant": True, "replicate": True, "reflect": longest < 0}.get(mode, longest <= 0)
    return mode if fits else "replicate"


def random_unfold(draw: Draw) -> Call:
    image, geometry = random_geometry(draw, 24)
    shape = (draw.between(1, 3), draw.between(1, 6), *image)
    options = {**geometry, "padding_mode": _padding_mode(draw, image, geometry["padding"])}
    dtype = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool)
    if options["padding_mode"] == "constant" and dtype != torch.bool:
        options["value"] = float(draw.between(0, 9))
    return Call("unfold", (draw.values(shape, dtype),), options)


def random_fold(draw: Draw) -> Call:
    image, geometry = random_geometry(draw, 24)
    grid = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, d, p, s in zip(image, *geometry.values(), strict=True)]
    taps = math.prod(geometry["kernel_size"])
    shape = (draw.between(1, 3), draw.between(1, 6) * taps, math.prod(grid))
    dtype = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool)
    return Call("fold", (draw.values(shape, dtype), image), geometry)


_image = torch.zeros(2, 3, 8, 6)
_columns = torch.zeros(2, 12, 15)

_GEOMETRIES: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...] = (
    ("plain", (8, 6), {"kernel_size": 3}),
    ("patches", (8, 8), {"kernel_size": 4, "stride": 4}),
    ("pairs", (6, 12), {"kernel_size": 2, "stride": 2}),
    ("patches of 8", (16, 8), {"kernel_size": 8, "stride": 8}),
    ("overlapping", (9, 10), {"kernel_size": 4, "stride": 2, "padding": 1}),
    ("gaps", (9, 11), {"kernel_size": 2, "stride": 3}),
    ("asymmetric", (7, 6), {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 2), "stride": (2, 1)}),
    ("wide padding", (3, 2), {"kernel_size": (2, 3), "padding": (4, 3)}),
    ("whole image", (5, 4), {"kernel_size": (5, 4)}),
    ("wide rows", (3, 83), {"kernel_size": (1, 3), "padding": (0, 1)}),
    ("one dimension", (19,), {"kernel_size": (5,), "stride": (3,), "padding": (2,)}),
    # Planes of more than 128 KB, which the CPU kernels divide into blocks.
    ("blocks, apart", (4, 20000), {"kernel_size": 2, "stride": 2, "padding": 1}),
    (
        "blocks, apart and dilated",
        (5, 20000),
        {"kernel_size": (2, 4), "dilation": (1, 3), "padding": (1, 0), "stride": (1, 6)},
    ),
    ("blocks, overlapping", (130, 157), {"kernel_size": 3, "padding": 1}),
    ("blocks, long rows", (3, 30011), {"kernel_size": (2, 3), "padding": (1, 2), "stride": (1, 2)}),
    ("volume", (4, 5, 6), {"kernel_size": (2, 3, 2), "stride": (1, 2, 2), "padding": (1, 0, 1)}),
)

# For each padding mode the paths of the kernels: overlapping windows, a stride, one and three dimensions, no overlap.
_PADDED_GEOMETRIES: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...] = (
    ("reflect", (4, 5), {"kernel_size": 3, "padding": (2, 3)}),
    ("circular", (4, 9), {"kernel_size": (2, 4), "stride": 2, "dilation": (2, 1), "padding": (3, 2)}),
    ("symmetric", (11,), {"kernel_size": (5,), "stride": (3,), "padding": (11,)}),
    ("replicate", (2, 3, 4), {"kernel_size": (2, 3, 2), "stride": (1, 2, 2), "padding": (1, 4, 2)}),
    ("replicate", (5, 6), {"kernel_size": (2, 3), "stride": 3, "padding": (2, 4)}),
)


def _columns_shape(batch: int, channels: int, image: tuple[int, ...], options: dict[str, Any]) -> tuple[int, ...]:
    shape = unfold_by_pytorch(torch.zeros(1, channels, *image), **options).shape
    return (batch, *shape[1:])


UNFOLD = Operation(
    name="unfold",
    function=torchext.unfold,
    reference=torchext.reference.unfold,
    independent=unfold_by_pytorch,
    make=make_values,
    dtypes=(*FLOATS, *COMPLEX, *LABELS, *MOVED),
    independent_dtypes=(torch.float32, torch.float64, torch.complex64),
    default_dtype=torch.float64,
    samples=(
        *(Sample(name, ((2, 3, *image),), options) for name, image, options in _GEOMETRIES),
        Sample("value", ((2, 3, 5, 6),), {"kernel_size": 3, "padding": 1, "value": 1.0}),
        *(
            Sample(f"{mode}, {len(image)}-D", ((2, 3, *image),), {"padding_mode": mode, **options}, traced=mode == "reflect")
            for mode, image, options in _PADDED_GEOMETRIES
        ),
        Sample("empty batch", ((0, 3, 5, 6),), {"kernel_size": 3}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.unfold(3, 2), TypeError, "input: expected a tensor, got int"),
        WrongCall("rank", lambda: torchext.unfold(_image[0, 0], 2), ValueError, r"input: expected 3 or 4 dimensions, got shape \(8, 6\)"),
        WrongCall("too large", lambda: torchext.unfold(_image, 9), ValueError, r"kernel_size: .*fit into input \(8, 6\).*got \(9, 9\)"),
        WrongCall("zero kernel", lambda: torchext.unfold(_image, 0), ValueError, "kernel_size: expected at least 1"),
        WrongCall("zero stride", lambda: torchext.unfold(_image, 2, stride=0), ValueError, "stride: expected at least 1"),
        WrongCall("zero dilation", lambda: torchext.unfold(_image, 2, 0), ValueError, "dilation: expected at least 1"),
        WrongCall("negative padding", lambda: torchext.unfold(_image, 2, padding=-1), ValueError, "padding: expected at least 0"),
        WrongCall("taps", lambda: torchext.unfold(torch.ones(1, 1, 1, 1), 2**40, padding=2**39), ValueError, "kernel_size: expected at most 2.59"),
        WrongCall("product", lambda: torchext.unfold(torch.ones(1, 1, 1, 1, 1), (3557639, 3757099, 1380083), padding=(3557639, 3757099, 1380083)), ValueError, "kernel_size: expected at most 2.59"),
        WrongCall("extent", lambda: torchext.unfold(torch.ones(1).expand(1, 1, 2**59), (2,), padding=(1,)), ValueError, "padding: expected at most 2.59"),
        WrongCall("length", lambda: torchext.unfold(_image, (2, 2), stride=(1, 1, 1)), ValueError, "stride: expected an int or 2"),
        WrongCall("four", lambda: torchext.unfold(_image, (2, 2, 2, 2)), ValueError, "kernel_size: expected an int or 1 to 3"),
        WrongCall("float", lambda: torchext.unfold(_image, 2.0), TypeError, "kernel_size: expected an int or a sequence of ints, got float"),
        WrongCall("floats", lambda: torchext.unfold(_image, (2, 2.0)), TypeError, "kernel_size: expected an int, got float"),
        WrongCall("float in a tuple", lambda: [torchext.unfold(_image, (2, 2)), torchext.unfold(_image, (2.0, 2))], TypeError, "kernel_size: expected an int, got float"),
        WrongCall("huge", lambda: torchext.unfold(_image, 2, padding=2**62, stride=2**62), ValueError, "padding: expected at most"),
        WrongCall("bool value", lambda: torchext.unfold(_image, 2, value=False), TypeError, "value: expected a number, got bool"),
        WrongCall("mode", lambda: torchext.unfold(_image, 2, padding_mode="wrap"), ValueError, "padding_mode: expected one of 'constant', .*got 'wrap'"),
        WrongCall("wide reflection", lambda: torchext.unfold(_image, 2, padding=(1, 6), padding_mode="reflect"), ValueError, r"padding: expected at most its size minus 1 in each dimension of input \(8, 6\) with padding_mode 'reflect', got \(1, 6\)"),
        WrongCall("two rounds", lambda: torchext.unfold(_image, 2, padding=9, padding_mode="circular"), ValueError, r"padding: expected .*'circular', got \(9, 9\)"),
        WrongCall("no channels", lambda: torchext.unfold(_image[:, :0], 2), ValueError, "input: expected channels"),
        WrongCall("value", lambda: torchext.unfold(_image.byte(), 2, padding=1, value=-1), ValueError, "value: torch.uint8 cannot hold -1"),
    ),
    launches=1,
    exact=True,
    random_call=random_unfold,
    other_sizes=tuple(Sample(f"{size}", ((4, 2, 8, 8),), {"kernel_size": size}) for size in (4, 2)),
)  # fmt: skip

FOLD = Operation(
    name="fold",
    function=torchext.fold,
    reference=torchext.reference.fold,
    independent=fold_by_pytorch,
    make=make_values,
    dtypes=(*FLOATS, *COMPLEX, *LABELS),
    independent_dtypes=(torch.float32, torch.float64),
    default_dtype=torch.float64,
    samples=(
        *(
            Sample(name, (_columns_shape(2, 3, image, options),), {"output_size": image, **options})
            for name, image, options in _GEOMETRIES
        ),
        Sample("holes", ((2, 2 * 4, 6),), {"output_size": (7, 9), "kernel_size": 2, "stride": (4, 3)}),
        Sample("empty batch", ((0, 12, 15),), {"output_size": (4, 6), "kernel_size": 2}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.fold(None, 4, 2), TypeError, "input: expected a tensor, got NoneType"),
        WrongCall("dtype", lambda: torchext.fold(_columns.to(torch.float8_e5m2), (4, 6), 2), TypeError, "input: .*got torch.float8_e5m2"),
        WrongCall("rank", lambda: torchext.fold(_columns[0, 0], (4, 6), 2), ValueError, "input: expected 2 or 3 dimensions"),
        WrongCall("rows", lambda: torchext.fold(_columns[:, :11], (4, 6), 2), ValueError, "input: expected a multiple of 4 rows.*got 11"),
        WrongCall("columns", lambda: torchext.fold(_columns, (4, 5), 2), ValueError, "input: expected 12 columns.*got 15"),
        WrongCall("output", lambda: torchext.fold(_columns, (0, 6), 2), ValueError, "output_size: expected at least 1"),
        WrongCall("kernel", lambda: torchext.fold(_columns, (4, 6), 7), ValueError, r"kernel_size: .*fit into output_size \(4, 6\)"),
        WrongCall("pixels", lambda: torchext.fold(_columns, 2**30, 1, stride=2**30), ValueError, "output_size: expected at most 2.59"),
        WrongCall("length", lambda: torchext.fold(_columns, (4, 6), (2, 2, 2)), ValueError, "kernel_size: expected an int or 2"),
    ),
    launches=1,
    random_call=random_fold,
    other_sizes=tuple(Sample(f"{size}", ((4, 8, 9),), {"output_size": size, "kernel_size": 2}) for size in ((4, 4), (2, 10))),
)  # fmt: skip

OPERATIONS = (UNFOLD, FOLD)
