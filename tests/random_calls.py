"""Random valid calls of the public operations, from a seed: odd sizes, strides, dtypes and options.

Values are small whole numbers whose sums and products are exact in every dtype and order, unless an operation divides.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from cases import COMPLEX, FLOATS, INTEGERS, LABELS
from torch import Tensor

import torchext

MODES = ("constant", "reflect", "replicate", "circular", "symmetric")
CAM_METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam_elementwise")
EXTREMES = (2**63 - 1, -(2**63), -1, 2**31, 2**16)


class Call(NamedTuple):
    """One call of `torchext.NAME`, and of its reference."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        parts = [_text(value) for value in self.args]
        parts += [f"{name}={_text(value)}" for name, value in self.options.items()]
        return f"{self.name}({', '.join(parts)})"


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} of strides {list(value.stride())}"
    return repr(value)


class Draw:
    """What one random call is made of."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def one_of(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def between(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def flip(self) -> bool:
        return self.rng.random() < 0.5

    def sizes(self, count: int, *choices: int) -> tuple[int, ...]:
        return tuple(self.one_of(*choices) for _ in range(count))

    def laid_out(self, tensor: Tensor) -> Tensor:
        """The same values in memory of another order, with gaps, or unaligned; one axis may be expanded instead."""
        if self.flip():
            return tensor
        order = list(range(tensor.dim()))
        self.rng.shuffle(order)
        gaps = [self.between(0, 2) for _ in order]
        memory = tensor.new_zeros([tensor.shape[axis] + gap for axis, gap in zip(order, gaps, strict=True)])
        view = memory[tuple(slice(gap, None) for gap in gaps)].permute([order.index(a) for a in range(tensor.dim())])
        view.copy_(tensor)
        axis = self.between(0, tensor.dim()) - 1
        if axis >= 0 and tensor.shape[axis] and self.between(0, 4) == 0:
            view = view.narrow(axis, 0, 1).expand(tensor.shape)
        return view

    def values(self, shape: tuple[int, ...], dtype: torch.dtype, low: int = -2, high: int = 2) -> Tensor:
        if dtype == torch.bool:
            return self.laid_out(torch.randint(0, 4, shape, generator=self.generator) == 0)
        if not (dtype.is_floating_point or dtype.is_complex):
            low, high = 0, 90
        numbers = torch.randint(low, high + 1, shape, generator=self.generator)
        return self.laid_out(numbers.to(dtype))

    def labels(self, shape: tuple[int, ...], classes: int, *, bad: bool) -> Tensor:
        """Labels of any dtype; where they may be bad a few are, by a little or by far."""
        dtype = self.one_of(*LABELS)
        limit = 2 if dtype == torch.bool else classes
        labels = torch.randint(0, max(limit, 1), shape, generator=self.generator)
        if bad and dtype != torch.bool and labels.numel():
            for _ in range(self.between(0, 3)):
                place = self.between(0, labels.numel() - 1)
                labels.view(-1)[place] = self.one_of(classes, classes + 1, *EXTREMES)
        return self.laid_out(labels.to(dtype))

    def label_options(self, classes: int) -> dict[str, Any]:
        options = {"invalid": self.one_of("raise", "zero")}
        if self.flip():
            options["ignore_index"] = self.between(-1, classes)
        return options


def one_hot(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 3, 5, 8, 17, 21, 64, 127, 300)
    shape = draw.sizes(draw.between(0, 3), 1, 2, 3, 4, 7, 8, 16, 33)
    dtype = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool)
    dim = draw.between(-len(shape) - 1, len(shape))
    options = {"dim": dim, **draw.label_options(classes)}
    if dtype.is_floating_point and draw.flip():
        options["label_smoothing"] = 0.25
    if dtype != torch.bool and draw.flip():
        options |= {"on_value": draw.between(1, 90), "off_value": draw.between(0, 3)}
    full = [*shape]
    full.insert(dim if dim >= 0 else dim + len(shape) + 1, classes)
    if draw.flip():
        # Memory that begins up to 15 bytes behind a boundary of 16.
        memory = torch.zeros(math.prod(full) + 3, dtype=dtype)
        options["out"] = memory[draw.between(0, 3) :][: math.prod(full)].view(full)
    else:
        options["dtype"] = dtype
    return Call("one_hot", (draw.labels(shape, classes, bad=True), classes), options)


def multi_hot(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 3, 8, 21, 64, 127, 300, 5000)
    shape = (*draw.sizes(draw.between(0, 2), 1, 2, 3, 16, 33), draw.one_of(0, 1, 2, 8, 30))
    options = {"dim": draw.between(-len(shape), len(shape) - 1), **draw.label_options(classes)}
    if draw.flip():
        options["dtype"] = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX)
        options |= {"on_value": draw.between(1, 90), "off_value": draw.between(0, 3)}
    else:
        options["weights"] = draw.values(shape, draw.one_of(*FLOATS))
        options["dtype"] = draw.one_of(*FLOATS)
    return Call("multi_hot", (draw.labels(shape, classes, bad=True), classes), options)


def mixup_one_hot(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 5, 31, 300)
    shape = draw.sizes(draw.between(1, 3), 1, 2, 3, 9, 20)
    options = {"dim": draw.between(-len(shape) - 1, len(shape)), **draw.label_options(classes)}
    if draw.flip():
        permutation = torch.randperm(shape[0], generator=draw.generator)
        options["permutation"] = permutation.to(draw.one_of(torch.int32, torch.int64))
    shares = torch.randint(0, 5, (shape[0],), generator=draw.generator) / 4
    lam = draw.one_of(0.25, 0.0, draw.laid_out(shares.to(draw.one_of(*FLOATS))))
    options["dtype"] = draw.one_of(*FLOATS)
    return Call("mixup_one_hot", (draw.labels(shape, classes, bad=True), lam, classes), options)


def class_counts(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 5, 31, 300, 9000)
    shape = draw.sizes(draw.between(0, 3), 0, 1, 2, 33, 70)
    return Call("class_counts", (draw.labels(shape, classes, bad=True), classes), draw.label_options(classes))


def confusion_matrix(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 5, 31, 120)
    shape = draw.sizes(draw.between(0, 3), 0, 1, 2, 33, 70)
    predicted, target = draw.labels(shape, classes, bad=True), draw.labels(shape, classes, bad=True)
    options = draw.label_options(classes)
    if "ignore_index" in options and predicted.dtype != torch.bool and draw.flip():
        # What was predicted for an ignored target may be anything.
        anything = torch.where(target.to(torch.int64) == options["ignore_index"], 125, predicted.to(torch.int64))
        predicted = draw.laid_out(anything.to(predicted.dtype))
    return Call("confusion_matrix", (predicted, target, classes), options)


def class_sums(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 5, 31, 300, 9000)
    shape = draw.sizes(draw.between(0, 2), 0, 1, 2, 33, 70)
    features = draw.sizes(draw.between(0, 2), 1, 2, 3, 7, 8, 33) if classes < 9000 else ()
    values = draw.values((*shape, *features), draw.one_of(*FLOATS, *INTEGERS), 0, 3)
    return Call("class_sums", (values, draw.labels(shape, classes, bad=True), classes), draw.label_options(classes))


def class_means(draw: Draw) -> Call:
    call = class_sums(draw)
    values = call.args[0] if call.args[0].is_floating_point() else call.args[0].float()
    return Call("class_means", (values, *call.args[1:]), call.options)


def class_overlap(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 3, 5, 31, 32, 33, 70)
    places = draw.sizes(draw.between(0, 2), 1, 2, 8, 33, 40)
    batch = draw.between(1, 3)
    scores = draw.values((batch, classes, *places), draw.one_of(*FLOATS), 0, 3)
    return Call(
        "class_overlap", (scores, draw.labels((batch, *places), classes, bad=True)), draw.label_options(classes)
    )


def _geometry(draw: Draw, most: int) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Image and windows along one to three axes, of which at least one fits."""
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


def unfold(draw: Draw) -> Call:
    image, geometry = _geometry(draw, 24)
    shape = (draw.between(1, 3), draw.between(1, 6), *image)
    options = {**geometry, "padding_mode": _padding_mode(draw, image, geometry["padding"])}
    dtype = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool)
    if options["padding_mode"] == "constant" and dtype != torch.bool:
        options["value"] = float(draw.between(0, 9))
    return Call("unfold", (draw.values(shape, dtype),), options)


def fold(draw: Draw) -> Call:
    image, geometry = _geometry(draw, 24)
    grid = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, d, p, s in zip(image, *geometry.values(), strict=True)]
    taps = math.prod(geometry["kernel_size"])
    shape = (draw.between(1, 3), draw.between(1, 6) * taps, math.prod(grid))
    dtype = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool)
    return Call("fold", (draw.values(shape, dtype), image), geometry)


def extract_windows(draw: Draw) -> Call:
    image, geometry = _geometry(draw, 24)
    dilation = geometry["dilation"] if draw.flip() else 1
    partial = draw.one_of("drop", "pad", "shift")
    options: dict[str, Any] = {"partial": partial, "dilation": dilation}
    if partial != "shift":
        options["padding"] = geometry["padding"]
    reach = (
        (d if dilation != 1 else 1) * (k - 1) + 1
        for d, k in zip(geometry["dilation"], geometry["kernel_size"], strict=True)
    )
    if partial == "drop" or any(r > i for r, i in zip(reach, image, strict=True)):
        options["partial"] = "drop"
        options["padding"] = geometry["padding"]
    shape = (draw.between(1, 3), draw.between(1, 6), *image)
    windows = draw.values(shape, draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool))
    return Call("extract_windows", (windows, geometry["kernel_size"], geometry["stride"]), options)


def merge_windows(draw: Draw) -> Call:
    cut = extract_windows(draw)
    image = cut.args[0]
    windows = torchext.reference.extract_windows(*cut.args, **cut.options)
    dtype = image.dtype
    options: dict[str, Any] = {**cut.options, "normalize": dtype == torch.bool or draw.flip()}
    if dtype != torch.bool and draw.flip():
        size = cut.args[1]
        weight_dtype = dtype if dtype.is_floating_point else torch.float64
        options["weight"] = 2.0 ** draw.values(size, torch.float32, 0, 2).to(weight_dtype)
    return Call("merge_windows", (draw.values(tuple(windows.shape), dtype), image.shape[2:], cut.args[2]), options)


def _offsets(draw: Draw, image: tuple[int, ...], samples: int | None) -> Tensor:
    # Beyond the threads of a block now and then.
    count = draw.between(0, 40) if draw.between(0, 5) else 300
    columns = [torch.randint(-6, size + 3, (count,), generator=draw.generator) for size in image]
    if count and draw.flip():
        columns[0][draw.between(0, count - 1)] = draw.one_of(2**62, -(2**62))
    if samples is not None:
        columns.insert(0, torch.randint(-1, samples + 1, (count,), generator=draw.generator))
    return draw.laid_out(torch.stack(columns, 1))


def gather_windows(draw: Draw) -> Call:
    image = draw.sizes(draw.between(1, 3), 1, 3, 8, 19)
    size = draw.sizes(len(image), 1, 2, 4, 9)
    samples = draw.between(1, 3)
    values = draw.values((samples, draw.between(1, 6), *image), draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool))
    return Call("gather_windows", (values, _offsets(draw, image, draw.one_of(None, samples)), size), {})


def scatter_windows(draw: Draw) -> Call:
    image = draw.sizes(draw.between(1, 3), 1, 3, 8, 70)[: draw.between(1, 3)]
    image = image if len(image) < 3 else tuple(min(size, 9) for size in image)
    size = draw.sizes(len(image), 1, 2, 4, 9)
    samples, own = draw.between(1, 3), draw.flip()
    if own and draw.flip():
        # More samples, and so more bins, than a block has threads.
        samples, image = 300, tuple(min(size, 3) for size in image)
    offsets = _offsets(draw, image, samples if own else None)
    dtype = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool)
    leading = (len(offsets),) if own else (samples, len(offsets))
    windows = draw.values((*leading, draw.between(1, 6), *size), dtype)
    options: dict[str, Any] = {"normalize": dtype == torch.bool or draw.flip()}
    if dtype != torch.bool and draw.flip():
        weight_dtype = dtype if dtype.is_floating_point else torch.float64
        options["weight"] = 2.0 ** draw.values(size, torch.float32, 0, 2).to(weight_dtype)
    return Call("scatter_windows", (windows, offsets, (samples, *image) if own else image), options)


def _statistics(draw: Draw, channels: int) -> dict[str, Any]:
    """Powers of two to divide by, and one number or one a channel."""

    def numbers(one: Callable[[], float]) -> Any:
        return one() if draw.flip() else [one() for _ in range(channels)]

    mean, std = numbers(lambda: draw.between(1, 8) / 4), numbers(lambda: draw.one_of(0.25, 0.5, 1.0, 2.0))
    return {"mean": mean, "std": std, "scale": draw.one_of(0.5, 1.0)}


def patchify(draw: Draw) -> Call:
    size, grid = draw.sizes(2, 1, 2, 3, 4, 7, 8, 16), draw.sizes(2, 1, 2, 4)
    channels = draw.one_of(1, 2, 3, 3, 4, 16, 17, 64, 65, 150)
    height, width = (s * g for s, g in zip(size, grid, strict=True))
    layout = draw.one_of("NCHW", "NHWC")
    shape = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    images = draw.values((draw.between(1, 2), *shape), draw.one_of(*FLOATS, *INTEGERS))
    options = {"input_layout": layout, "token_order": draw.one_of("CPP", "PPC"), "dtype": draw.one_of(*FLOATS)}
    return Call("patchify", (images, size), {**options, **_statistics(draw, channels)})


def unpatchify(draw: Draw) -> Call:
    size, grid = draw.sizes(2, 1, 2, 3, 4, 7, 8), draw.sizes(2, 1, 2, 4)
    channels = draw.one_of(1, 2, 3, 4, 17, 65)
    shape = (draw.between(1, 2), math.prod(grid), channels * math.prod(size))
    numbers = (
        torch.randint(-600, 600, shape, generator=draw.generator).to(draw.one_of(torch.float32, torch.float64)) / 2
    )
    options = {"output_layout": draw.one_of("NCHW", "NHWC"), "token_order": draw.one_of("CPP", "PPC")}
    options["dtype"] = draw.one_of(torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32)
    return Call("unpatchify", (draw.laid_out(numbers), size, grid), {**options, **_statistics(draw, channels)})


def cam_pool(draw: Draw) -> Call:
    grid = draw.sizes(draw.between(1, 3), 1, 2, 5, 9, 20)
    batch, channels = draw.between(1, 3), draw.between(1, 70)
    dtype = draw.one_of(*FLOATS)
    shape = (batch, channels, *grid)
    targets = draw.one_of((), (1,), (4,), (6,))

    kind = draw.one_of("random", "random", "random", "zero", "constant", "nan")

    def numbers(shape: tuple[int, ...], mean: float) -> Tensor:
        flat = {"zero": 0.0, "constant": 1.0}.get(kind)
        values = torch.randn(shape, generator=draw.generator) + mean if flat is None else torch.full(shape, flat)
        return draw.laid_out(values.to(dtype))

    # Far from 0: some methods divide by the sum of the activations.
    activations = numbers(shape, 3)
    if kind == "nan":
        activations[0, 0] = math.nan
    options: dict[str, Any] = {"relu": draw.flip(), "normalize": draw.one_of("max", "minmax", None)}
    if draw.between(0, 6) == 0:
        options["weights"] = numbers((*targets, batch, channels), 0)
    else:
        options |= {"gradients": numbers((*targets, *shape), 0), "method": draw.one_of(*CAM_METHODS)}
    if draw.flip():
        options["size"] = draw.sizes(len(grid), 1, 7, 24)
    return Call("cam_pool", (activations,), options)


OPERATIONS: dict[str, Callable[[Draw], Call]] = {
    draw.__name__: draw
    for draw in (
        one_hot, multi_hot, mixup_one_hot, class_counts, confusion_matrix, class_sums, class_means, class_overlap,
        unfold, fold, extract_windows, merge_windows, gather_windows, scatter_windows, patchify, unpatchify, cam_pool,
    )
}  # fmt: skip
