"""The conformance table: each operation once, as data. test_conformance.py drives every row through every check."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from torchext._core.library import reference_only
from torchext.onehot.class_overlap import overlap_of_scores as fused_overlap_of_scores

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip
LABELS = (torch.bool, *INTEGERS)
MOVED = (torch.complex32, torch.float8_e4m3fn, torch.float8_e5m2)  # dtypes that are copied but never added
VALUES_AND_LABELS = tuple(
    dict.fromkeys([*((dtype, torch.int64) for dtype in FLOATS), *((torch.float32, dtype) for dtype in LABELS)])
)

LABELS_AND_VALUES = tuple((label, value) for value, label in VALUES_AND_LABELS)

Make = Callable[[tuple[int, ...], torch.dtype, str, torch.Generator], Tensor]
Dtypes = torch.dtype | tuple[torch.dtype, ...]  # of all tensor arguments, or of each


@dataclass(frozen=True)
class Sample:
    """One call: the shapes of its tensor arguments, and the other arguments by name."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any] = field(default_factory=dict)
    batched: bool = True  # the first dimension of each tensor that has one is the batch
    traced: bool = True  # False where compiling and exporting are those of another sample


@dataclass(frozen=True)
class WrongCall:
    """A call that must be refused."""

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    message: str


@dataclass(frozen=True)
class Operation:
    """One row of the table. Its functions return a tensor or a tuple of tensors."""

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    independent: Callable[..., Any]  # the same values by other means, for `independent_dtypes`
    make: Make | tuple[Make, ...]  # what makes all tensor arguments, or each
    dtypes: tuple[Dtypes, ...]
    independent_dtypes: tuple[Dtypes, ...]
    default_dtype: Dtypes
    samples: tuple[Sample, ...]
    wrong: tuple[WrongCall, ...]
    launches: int  # kernels, copies and fills that a call of `batched` puts on a GPU, at most, whatever the batch
    differentiable: bool = True  # in the arguments that are not integers, as far as outputs are not
    exact: bool = False  # kernels and references agree to the bit

    def batched(self, count: int) -> Sample:
        """The first sample whose tensors all have a batch and are not empty, with another size of the batch."""
        sample = next(s for s in self.samples if s.batched and all(shape and 0 not in shape for shape in s.shapes))
        return replace(sample, shapes=tuple((count, *shape[1:]) for shape in sample.shapes))

    def arguments(self, sample: Sample, device: str, dtype: Dtypes | None = None, *, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        count = len(sample.shapes)
        makes, dtypes = _of_each(self.make, count), _of_each(dtype or self.default_dtype, count)
        return [
            make(shape, one, device, generator) for make, shape, one in zip(makes, sample.shapes, dtypes, strict=True)
        ]


def _of_each(value: Any, count: int) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,) * count


def outputs(result: Any) -> tuple[Tensor, ...]:
    """What an operation returned, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def has_derivative(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


def requiring_grad(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Fresh leaves; integers as they are."""
    return [tensor.detach().requires_grad_(has_derivative(tensor)) for tensor in tensors]


def total(result: Any, power: int = 1) -> Tensor:
    """The sum of a power of all outputs that have a derivative."""
    return sum(((out**power).sum() for out in outputs(result) if has_derivative(out)), torch.zeros(()))


def make_values(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Numbers that every dtype can hold and that are never tied."""
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex64 if dtype.is_complex else torch.float64
        return torch.randn(shape, dtype=wide, generator=generator).to(dtype).to(device)
    if dtype == torch.bool:
        return (torch.rand(shape, generator=generator) < 0.3).to(device)
    return torch.randint(0, 100, shape, generator=generator).to(dtype).to(device)


def make_eighths(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Multiples of 1/8 in (0, 3]: sums of thousands of them, and of their squares, are exact in float32."""
    return (torch.randint(1, 25, shape, generator=generator) / 8).to(dtype).to(device)


def make_permutation(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    return torch.randperm(shape[0], generator=generator).to(dtype).to(device)


def make_labels(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator, *, num_classes: int = 5
) -> Tensor:
    limit = 2 if dtype == torch.bool else num_classes
    return torch.randint(0, limit, shape, generator=generator).to(dtype).to(device)


def one_hot_by_loop(labels: Tensor, num_classes: int = -1, **options: Any) -> Tensor:
    """F.one_hot where it can, arithmetic for the rest."""
    dim, dtype = options.get("dim", -1), options.get("dtype") or torch.get_default_dtype()
    on, off = options.get("on_value", 1.0), options.get("off_value", 0.0)
    smoothing, ignored = options.get("label_smoothing", 0.0), options.get("ignore_index")
    wide = labels.to(torch.int64)
    zero = (wide < 0) | (wide >= num_classes) if options.get("invalid") == "zero" else torch.zeros_like(wide).bool()
    if ignored is not None:
        zero |= wide == ignored
    hot = F.one_hot(wide.masked_fill(zero, 0), num_classes).to(torch.float64)
    values = torch.where(hot == 1, on, off).to(torch.float64)
    if smoothing:
        values = off + (on - off) * ((1 - smoothing) * hot + smoothing / num_classes)
    values = values.masked_fill(zero.unsqueeze(-1), 0)
    return values.movedim(-1, dim).to(dtype)


def multi_hot_by_sum(indices: Tensor, weights: Tensor | None = None, *, num_classes: int, **options: Any) -> Tensor:
    """The sum of a one-hot for each label."""
    on, off = options.get("on_value", 1.0), options.get("off_value", 0.0)
    rule = {name: options[name] for name in ("ignore_index", "invalid") if name in options}
    hot = one_hot_by_loop(indices, num_classes, dtype=torch.float64, **rule)
    if weights is None:
        values = torch.where(hot.sum(-2) > 0, on, off)
        dtype = options.get("dtype") or torch.get_default_dtype()
    else:
        values = off + (on - off) * (hot * weights.to(torch.float64).unsqueeze(-1)).sum(-2)
        dtype = options.get("dtype") or weights.dtype
    return values.movedim(-1, options.get("dim", -1)).to(dtype)


def mixup_by_one_hot(labels: Tensor, lam: Tensor | float, permutation: Tensor | None = None, *, num_classes: int,
                     **options: Any) -> Tensor:  # fmt: skip
    """timm's mixup_target, with a share a sample and a permutation."""
    dim, dtype = options.pop("dim", -1), options.pop("dtype", None)
    hot = one_hot_by_loop(labels, num_classes, dtype=torch.float64, **options)
    if isinstance(lam, Tensor):
        dtype, lam = dtype or lam.dtype, lam.to(torch.float64).view(-1, *[1] * labels.dim())
    other = hot.flip(0) if permutation is None else hot[permutation.long()]
    return (hot * lam + other * (1 - lam)).movedim(-1, dim).to(dtype or torch.get_default_dtype())


def unfold_by_pytorch(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1,
                      *, padding_mode: str = "constant", value: float = 0.0) -> Tensor:  # fmt: skip
    """F.unfold; other values than 0 in the padding by linearity, other modes from an image that NumPy has padded."""
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
    """Modes by which NumPy pads: which element stands where is read off padded indices."""
    import numpy

    image = input.shape[2:]
    pads = [(p, p) for p in ([padding] * len(image) if isinstance(padding, int) else padding)]
    mode = {"replicate": "edge", "circular": "wrap"}.get(padding_mode, padding_mode)
    places = torch.from_numpy(numpy.pad(numpy.arange(image.numel()).reshape(image), pads, mode=mode)).to(input.device)
    return input.flatten(2)[:, :, places]


def unfold_by_convolution(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1,
                          *, value: float = 0.0) -> Tensor:  # fmt: skip
    """Each tap of the window is a convolution with a unit kernel."""
    channels, rank = input.shape[1], len(kernel_size)
    taps = torch.Size(kernel_size).numel()
    weight = torch.eye(taps, dtype=input.dtype, device=input.device).reshape(taps, 1, *kernel_size)
    weight = weight.repeat(channels, *[1] * (rank + 1))
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    shifted = convolve(input - value, weight, None, stride, padding, dilation, channels) + value
    return shifted.flatten(2)


def fold_by_pytorch(input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
                    stride: Any = 1) -> Tensor:  # fmt: skip
    """F.fold, and beyond two dimensions the transposed convolution."""
    if isinstance(output_size, int) or len(output_size) == 2:
        return F.fold(input, output_size, kernel_size, dilation, padding, stride)
    shape = (input.shape[0], input.shape[1] // torch.Size(kernel_size).numel(), *output_size)
    image = torch.zeros(shape, dtype=input.dtype, device=input.device, requires_grad=True)
    with torch.enable_grad():
        columns = unfold_by_convolution(image, kernel_size, dilation, padding, stride)
    return torch.autograd.grad(columns, image, input)[0]


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
    """F.fold, and the normalisation undone."""
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


def _channel_weights(a: Tensor, g: Tensor, method: str) -> Tensor:
    """Of one sample (C, S), as the papers write them."""
    if method == "gradcam":
        return g.mean(1)
    if method == "xgradcam":
        return (g * a / a.sum(1, keepdim=True)).sum(1)
    alpha = g**2 / (2 * g**2 + a.sum(1, keepdim=True) * g**3)
    return (alpha * g.clamp(min=0)).sum(1)


def _raw_cam(a: Tensor, g: Tensor, method: str, given: bool) -> Tensor:
    """Of one sample, (C, *S) to (*S)."""
    if method == "layercam":
        return torch.einsum("cs,cs->s", g.flatten(1).clamp(min=0), a.flatten(1)).view(a.shape[1:])
    if method == "hirescam":
        return torch.einsum("cs,cs->s", g.flatten(1), a.flatten(1)).view(a.shape[1:])
    if method == "gradcam_elementwise":
        return (g * a).clamp(min=0).sum(0)
    weights = g if given else _channel_weights(a.flatten(1), g.flatten(1), method)
    return torch.einsum("c,c...->...", weights, a)


def cam_by_einsum(activations: Tensor, source: Tensor, *, given: bool = False, method: str = "gradcam",
                  relu: bool = True, normalize: str | None = "max", size: Any = None, grid: Any = None,
                  prefix_tokens: int = 0) -> Tensor:  # fmt: skip
    """Target by target and sample by sample; `source` is given weights or gradients."""
    if source.dim() > (2 if given else activations.dim()):
        options = {"method": method, "relu": relu, "normalize": normalize, "size": size, "grid": grid}
        return torch.stack(
            [cam_by_einsum(activations, s, given=given, prefix_tokens=prefix_tokens, **options) for s in source]
        )
    if grid is not None:
        activations, source = (
            t if t.dim() == 2 else t[:, prefix_tokens:].mT.reshape(t.shape[0], t.shape[2], *grid)
            for t in (activations, source)
        )
    maps = []
    for a, g in zip(activations, source, strict=True):
        one = _raw_cam(a, g, method, given)
        one = one.relu() if relu else one
        if normalize == "max" and one.numel() and one.any():
            one = one / one.abs().max()
        if normalize == "minmax" and one.numel():
            low, high = one.min(), one.max()
            one = (one - low) / (high - low) if high > low else torch.zeros_like(one)
        maps.append(one)
    out = torch.stack(maps) if maps else activations[:, :0].sum(1)
    if size is None:
        return out
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[out.dim() - 1]
    return F.interpolate(out[:, None], size, mode=mode)[:, 0]


def cam_of(activations: Tensor, source: Tensor, *, given: bool = False, **options: Any) -> Tensor:
    """cam_pool with gradients or, `given`, with weights."""
    if given:
        return torchext.cam_pool(activations, weights=source, **options)
    return torchext.cam_pool(activations, source, **options)


def cam_by_reference(*args: Any, **options: Any) -> Tensor:
    with reference_only():
        return cam_of(*args, **options)


def make_activations(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Numbers of both signs whose sum over positions is not near 0, where some methods have a pole."""
    return make_values(shape, dtype, device, generator) + 1.5


def class_overlap_by_loop(
    scores: Tensor,
    labels: Tensor,
    *,
    activation: str | None = None,
    squared: bool = False,
    dim: int = 1,
    ignore_index: int | None = None,
    invalid: str = "raise",
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample by sample and class by class, over the places that take part."""
    if activation is not None:
        scores = scores.softmax(dim) if activation == "softmax" else scores.sigmoid()
    planes, wide = scores.movedim(dim, 1 if dim else 0), labels.to(torch.int64)
    if dim == 0:
        planes, wide = planes[None], wide[None]
    sums = []
    for sample, places in zip(planes, wide, strict=True):
        for c, values in enumerate(sample):
            kept = (places >= 0) & (places < len(sample)) & (places != ignore_index)
            hit = kept & (places == c)
            sums.append((values[hit].sum(), (values[kept] ** (2 if squared else 1)).sum(), hit.sum()))
    shape = planes.shape[:2] if dim else planes.shape[1:2]
    if not sums:
        empty = scores.new_zeros(shape)
        return empty, empty, empty.to(torch.int64)
    intersection, total, support = (torch.stack(one).reshape(shape) for one in zip(*sums, strict=True))
    return intersection, total, support


def overlap_of_scores(
    scores: Tensor, labels: Tensor, *, activation: Any = None, squared: bool = False, **options: Any
) -> torchext.ClassOverlap:
    """class_overlap with the activation on the way, as losses call it."""
    options = {"dim": 1, "ignore_index": None, "invalid": "raise", **options}
    return fused_overlap_of_scores("scores", scores, labels, activation, squared, **options)


def overlap_of_scores_by_reference(*args: Any, **options: Any) -> torchext.ClassOverlap:
    with reference_only():
        return overlap_of_scores(*args, **options)


_labels = torch.tensor([[0, 1], [2, 1]])
_image = torch.zeros(2, 3, 8, 6)
_columns = torch.zeros(2, 12, 15)

ONE_HOT = Operation(
    name="one_hot",
    function=torchext.one_hot,
    reference=torchext.reference.one_hot,
    independent=one_hot_by_loop,
    make=make_labels,
    dtypes=LABELS,
    independent_dtypes=LABELS,
    default_dtype=torch.int64,
    samples=(
        Sample("plain", ((7,),), {"num_classes": 5}),
        Sample("one label", ((),), {"num_classes": 5}),
        Sample("masks", ((2, 9, 11),), {"num_classes": 5, "dim": 1}),
        Sample("beyond a block", ((2, 70, 61),), {"num_classes": 5, "dim": 1, "dtype": torch.bfloat16}),
        Sample("dim first", ((3, 4),), {"num_classes": 5, "dim": 0, "dtype": torch.float64}),
        Sample("wide rows", ((3,),), {"num_classes": 33000, "dtype": torch.uint8}),
        Sample("values", ((4, 5),), {"num_classes": 6, "on_value": 0.75, "off_value": -2.0, "dim": -2}),
        Sample("smoothed", ((4, 5),), {"num_classes": 5, "label_smoothing": 0.1, "dtype": torch.float64}),
        Sample("infinite", ((4, 5),), {"num_classes": 5, "on_value": 0.0, "off_value": float("-inf")}),
        Sample("far apart", ((4,),), {"num_classes": 5, "on_value": 2**53, "off_value": -1, "dtype": torch.int64}),
        Sample("ignored", ((4, 5),), {"num_classes": 5, "ignore_index": 1, "off_value": 3.0, "on_value": 4}),
        Sample("smoothed, ignored", ((4, 5, 3),), {"num_classes": 5, "label_smoothing": 0.2, "ignore_index": 0, "dim": 1}),
        Sample("invalid zero", ((50,),), {"num_classes": 3, "invalid": "zero"}),
        Sample("invalid zero planes", ((2, 50),), {"num_classes": 3, "invalid": "zero", "off_value": 1, "on_value": 2, "dim": 1}),
        Sample("empty", ((0, 3),), {"num_classes": 5, "dim": 1}),
        Sample("integers", ((6,),), {"num_classes": 5, "dtype": torch.int64}),
    ),
    wrong=(
        WrongCall("list", lambda: torchext.one_hot([0, 1], 2), TypeError, "labels: expected a tensor, got list"),
        WrongCall("float labels", lambda: torchext.one_hot(torch.zeros(2), 2), TypeError, "labels: .*got torch.float32"),
        WrongCall("label", lambda: torchext.one_hot(_labels, 2), IndexError, r"label 2 at position \(1, 0\) is outside \[0, 2\)"),
        WrongCall("negative", lambda: torchext.one_hot(_labels - 1, 3, dim=0), IndexError, r"label -1 at position \(0, 0\) is outside \[0, 3\)"),
        WrongCall("one label", lambda: torchext.one_hot(torch.tensor(9), 2), IndexError, r"label 9 at position \(\) is"),
        WrongCall("vector", lambda: torchext.one_hot(torch.tensor([9], dtype=torch.uint8), 2), IndexError, r"label 9 at position \(0,\) is"),
        WrongCall("huge", lambda: torchext.one_hot(torch.tensor([2**64 - 1], dtype=torch.uint64), 2), IndexError, "label 18446744073709551615"),
        WrongCall("dim", lambda: torchext.one_hot(_labels, 3, dim=3), ValueError, r"dim: expected a dimension in \[-3, 2\], got 3"),
        WrongCall("num_classes", lambda: torchext.one_hot(_labels, -2), ValueError, "num_classes: .*got -2"),
        WrongCall("float num_classes", lambda: torchext.one_hot(_labels, 3.0), TypeError, "num_classes: expected an int, got float"),
        WrongCall("nothing to count", lambda: torchext.one_hot(_labels[:0]), ValueError, "num_classes: .*no label"),
        WrongCall("dtype", lambda: torchext.one_hot(_labels, 3, dtype="float"), TypeError, "dtype: expected a torch.dtype, got str"),
        WrongCall("value", lambda: torchext.one_hot(_labels, 3, dtype=torch.uint8, on_value=256), ValueError, "on_value: torch.uint8 cannot hold 256"),
        WrongCall("fraction", lambda: torchext.one_hot(_labels, 3, dtype=torch.int64, off_value=0.5), ValueError, "off_value: torch.int64 cannot hold 0.5"),
        WrongCall("half", lambda: torchext.one_hot(_labels, 3, dtype=torch.float16, on_value=1e6), ValueError, "on_value: torch.float16 cannot hold"),
        WrongCall("bool", lambda: torchext.one_hot(_labels, 3, dtype=torch.bool, on_value=2), ValueError, "on_value: torch.bool cannot hold 2"),
        WrongCall("smoothing", lambda: torchext.one_hot(_labels, 3, label_smoothing=1.5), ValueError, r"label_smoothing: .*\[0, 1\], got 1.5"),
        WrongCall("smoothing ints", lambda: torchext.one_hot(_labels, 3, label_smoothing=0.1, dtype=torch.int64), ValueError, "label_smoothing: expected a float dtype"),
        WrongCall("invalid", lambda: torchext.one_hot(_labels, 3, invalid="ignore"), ValueError, "invalid: expected one of 'raise', 'zero', got 'ignore'"),
        WrongCall("ignore", lambda: torchext.one_hot(_labels, 3, ignore_index=1.0), TypeError, "ignore_index: expected an int, got float"),
        WrongCall("out type", lambda: torchext.one_hot(_labels, 3, out=5), TypeError, "out: expected a tensor, got int"),
        WrongCall("no class", lambda: torchext.one_hot(torch.tensor([-5])), IndexError, r"label -5 at position \(0,\) is outside \[0, 0\)"),
        WrongCall("too many", lambda: torchext.one_hot(_labels, 2**63), ValueError, "num_classes: expected an int of at most 64 bits"),
        WrongCall("bits", lambda: torchext.one_hot(_labels, 3, dtype=torch.quint8), TypeError, "dtype: expected a real, complex or bool dtype"),
        WrongCall("out shape", lambda: torchext.one_hot(_labels, 3, out=torch.zeros(2, 2, 4)), ValueError, r"out: expected shape \(2, 2, 3\), got \(2, 2, 4\)"),
        WrongCall("out dtype", lambda: torchext.one_hot(_labels, 3, dtype=torch.int64, out=torch.zeros(2, 2, 3)), TypeError, "out: expected dtype torch.int64"),
        WrongCall("out expanded", lambda: torchext.one_hot(_labels, 3, out=torch.zeros(1, 2, 3).expand(2, 2, 3)), ValueError, "out: .*each their own memory"),
        WrongCall("out grad", lambda: torchext.one_hot(_labels, 3, out=torch.zeros(2, 2, 3, requires_grad=True)), ValueError, "out: .*require grad"),
    ),
    launches=1,
    differentiable=False,
    exact=True,
)  # fmt: skip

MULTI_HOT = Operation(
    name="multi_hot",
    function=torchext.multi_hot,
    reference=torchext.reference.multi_hot,
    independent=multi_hot_by_sum,
    make=make_labels,
    dtypes=LABELS,
    independent_dtypes=LABELS,
    default_dtype=torch.int64,
    samples=(
        Sample("plain", ((7, 3),), {"num_classes": 5}),
        Sample("one row", ((4,),), {"num_classes": 5}),
        Sample("one label a row", ((6, 1),), {"num_classes": 5}),
        Sample("no labels", ((6, 0),), {"num_classes": 5, "off_value": 2.0, "on_value": 3.0}),
        Sample("no labels, planes", ((6, 2, 0),), {"num_classes": 5, "dim": 0}),
        Sample("experts first", ((300, 3),), {"num_classes": 130, "dim": 0, "dtype": torch.bfloat16}),
        Sample("masks", ((2, 9, 11, 3),), {"num_classes": 7, "dim": 1, "dtype": torch.bool}),
        Sample("wide rows", ((3, 5),), {"num_classes": 33000, "dtype": torch.uint8}),
        Sample("long rows", ((3, 700),), {"num_classes": 40, "dtype": torch.int32}),
        Sample("beyond a block", ((2, 5000, 2),), {"num_classes": 5, "dim": 1, "dtype": torch.uint8}),
        Sample("values", ((4, 5, 2),), {"num_classes": 6, "on_value": 0.75, "off_value": -2.0, "dim": -2}),
        Sample("infinite", ((4, 2),), {"num_classes": 5, "on_value": 0.0, "off_value": float("-inf")}),
        Sample("complex", ((4, 2),), {"num_classes": 5, "dtype": torch.complex128, "off_value": 1.5, "dim": 0}),
        Sample("ignored", ((4, 5),), {"num_classes": 5, "ignore_index": 1, "off_value": 3.0, "on_value": 4}),
        Sample("invalid zero", ((50, 3),), {"num_classes": 3, "invalid": "zero"}),
        Sample("invalid zero planes", ((2, 50, 2),), {"num_classes": 3, "invalid": "zero", "off_value": 1, "on_value": 2, "dim": 1}),
        Sample("empty", ((0, 3, 2),), {"num_classes": 5, "dim": 1}),
    ),
    wrong=(
        WrongCall("list", lambda: torchext.multi_hot([[0, 1]], 2), TypeError, "indices: expected a tensor, got list"),
        WrongCall("float indices", lambda: torchext.multi_hot(torch.zeros(2, 2), 2), TypeError, "indices: .*got torch.float32"),
        WrongCall("no dimension", lambda: torchext.multi_hot(torch.tensor(1), 2), ValueError, "indices: expected a dimension of a row's labels"),
        WrongCall("label", lambda: torchext.multi_hot(_labels, 2), IndexError, r"label 2 at position \(1, 0\) is outside \[0, 2\)"),
        WrongCall("negative", lambda: torchext.multi_hot(_labels - 1, 3, dim=0), IndexError, r"label -1 at position \(0, 0\) is outside \[0, 3\)"),
        WrongCall("no class", lambda: torchext.multi_hot(_labels, 0), IndexError, r"label 0 at position \(0, 0\) is outside \[0, 0\)"),
        WrongCall("dim", lambda: torchext.multi_hot(_labels, 3, dim=2), ValueError, r"dim: expected a dimension in \[-2, 1\], got 2"),
        WrongCall("num_classes", lambda: torchext.multi_hot(_labels, -1), ValueError, "num_classes: expected a number of classes, got -1"),
        WrongCall("float num_classes", lambda: torchext.multi_hot(_labels, 3.0), TypeError, "num_classes: expected an int, got float"),
        WrongCall("dtype", lambda: torchext.multi_hot(_labels, 3, dtype="float"), TypeError, "dtype: expected a torch.dtype, got str"),
        WrongCall("value", lambda: torchext.multi_hot(_labels, 3, dtype=torch.uint8, on_value=256), ValueError, "on_value: torch.uint8 cannot hold 256"),
        WrongCall("invalid", lambda: torchext.multi_hot(_labels, 3, invalid="ignore"), ValueError, "invalid: expected one of 'raise', 'zero', got 'ignore'"),
        WrongCall("ignore", lambda: torchext.multi_hot(_labels, 3, ignore_index=1.0), TypeError, "ignore_index: expected an int, got float"),
        WrongCall("out type", lambda: torchext.multi_hot(_labels, 3, out=5), TypeError, "out: expected a tensor, got int"),
        WrongCall("out shape", lambda: torchext.multi_hot(_labels, 3, out=torch.zeros(2, 4)), ValueError, r"out: expected shape \(2, 3\), got \(2, 4\)"),
        WrongCall("out dtype", lambda: torchext.multi_hot(_labels, 3, dtype=torch.int64, out=torch.zeros(2, 3)), TypeError, "out: expected dtype torch.int64"),
        WrongCall("out grad", lambda: torchext.multi_hot(_labels, 3, out=torch.zeros(2, 3, requires_grad=True)), ValueError, "out: .*require grad"),
    ),
    launches=1,
    differentiable=False,
    exact=True,
)  # fmt: skip


def _weighted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda indices, weights, **options: function(indices, weights=weights, **options)


_weights = torch.ones(2, 2)

WEIGHTED_MULTI_HOT = Operation(
    name="weighted multi_hot",
    function=_weighted(torchext.multi_hot),
    reference=_weighted(torchext.reference.multi_hot),
    independent=multi_hot_by_sum,
    make=(make_labels, make_values),
    dtypes=LABELS_AND_VALUES,
    independent_dtypes=LABELS_AND_VALUES,
    default_dtype=(torch.int64, torch.float64),
    samples=(
        Sample("plain", ((7, 3),) * 2, {"num_classes": 5}),
        Sample("one row", ((4,),) * 2, {"num_classes": 5}),
        Sample("no labels", ((6, 0),) * 2, {"num_classes": 5, "off_value": 2.0, "on_value": 3.0}),
        Sample("no labels, planes", ((6, 2, 0),) * 2, {"num_classes": 5, "dim": 0}),
        Sample("experts first", ((300, 3),) * 2, {"num_classes": 130, "dim": 0}),
        Sample("masks", ((2, 9, 11, 2),) * 2, {"num_classes": 7, "dim": 1, "off_value": -1.0}),
        Sample("wide rows", ((2, 5),) * 2, {"num_classes": 700}),
        Sample("long rows", ((3, 160),) * 2, {"num_classes": 40, "off_value": 0.5, "on_value": 2.0}),
        Sample("values", ((4, 5, 2),) * 2, {"num_classes": 6, "on_value": 0.75, "off_value": -2.0, "dim": -2}),
        Sample("ignored", ((4, 5),) * 2, {"num_classes": 5, "ignore_index": 1}),
        Sample("invalid zero planes", ((2, 50, 2),) * 2, {"num_classes": 3, "invalid": "zero", "off_value": 1, "on_value": 2, "dim": 1}),
        Sample("empty", ((0, 3, 2),) * 2, {"num_classes": 5, "dim": 1}),
    ),
    wrong=(
        WrongCall("weights type", lambda: torchext.multi_hot(_labels, 3, weights=[1.0]), TypeError, "weights: expected a tensor, got list"),
        WrongCall("weights dtype", lambda: torchext.multi_hot(_labels, 3, weights=_labels), TypeError, "weights: expected float16.*got torch.int64"),
        WrongCall("weights shape", lambda: torchext.multi_hot(_labels, 3, weights=_weights[:1]), ValueError, r"weights: expected shape \(2, 2\) as of indices, got \(1, 2\)"),
        WrongCall("label", lambda: torchext.multi_hot(_labels, 2, weights=_weights), IndexError, r"label 2 at position \(1, 0\) is outside \[0, 2\)"),
        WrongCall("dtype", lambda: torchext.multi_hot(_labels, 3, weights=_weights, dtype=torch.int64), TypeError, "dtype: expected float16.* with weights, got torch.int64"),
        WrongCall("infinite", lambda: torchext.multi_hot(_labels, 3, weights=_weights, off_value=float("-inf")), ValueError, "off_value: expected a finite number with weights, got -inf"),
        WrongCall("out and grad", lambda: torchext.multi_hot(_labels, 3, weights=_weights.clone().requires_grad_(), out=torch.zeros(2, 3)), ValueError, "weights: .*require grad beside out"),
    ),
    launches=1,
)  # fmt: skip

_lam = torch.tensor(0.25)

MIXUP_ONE_HOT = Operation(
    name="mixup_one_hot",
    function=torchext.mixup_one_hot,
    reference=torchext.reference.mixup_one_hot,
    independent=mixup_by_one_hot,
    make=(make_labels, make_values),
    dtypes=LABELS_AND_VALUES,
    independent_dtypes=tuple(pair for pair in LABELS_AND_VALUES if pair[1] in (torch.float32, torch.float64)),
    default_dtype=(torch.int64, torch.float64),
    samples=(
        Sample("plain", ((7,), (7,)), {"num_classes": 5}),
        Sample("one share", ((7,), ()), {"num_classes": 5}),
        Sample("masks", ((3, 9, 11), (3,)), {"num_classes": 5, "dim": 1}),
        Sample("classes first", ((4, 9), (4,)), {"num_classes": 6, "dim": 0, "label_smoothing": 0.1}),
        Sample("classes last", ((4, 9), (4,)), {"num_classes": 6, "dtype": torch.float64}),
        Sample("beyond a block", ((2, 5000), (2,)), {"num_classes": 5, "dim": 1}),
        Sample("smoothed", ((6,), (6,)), {"num_classes": 5, "label_smoothing": 0.2}),
        Sample("smoothed, ignored", ((4, 5, 3), (4,)), {"num_classes": 5, "label_smoothing": 0.2, "ignore_index": 0, "dim": 1}),
        Sample("invalid zero", ((50,), (50,)), {"num_classes": 3, "invalid": "zero"}),
        Sample("empty", ((0, 3), (0,)), {"num_classes": 5, "dim": 1}),
    ),
    wrong=(
        WrongCall("list", lambda: torchext.mixup_one_hot([0, 1], 0.5, 2), TypeError, "labels: expected a tensor, got list"),
        WrongCall("no dimension", lambda: torchext.mixup_one_hot(torch.tensor(1), 0.5, 2), ValueError, "labels: expected a dimension of samples"),
        WrongCall("label", lambda: torchext.mixup_one_hot(_labels, 0.5, 2), IndexError, r"label 2 at position \(1, 0\) is outside \[0, 2\)"),
        WrongCall("lam", lambda: torchext.mixup_one_hot(_labels, 1.5, 3), ValueError, r"lam: expected a number in \[0, 1\], got 1.5"),
        WrongCall("lam type", lambda: torchext.mixup_one_hot(_labels, "half", 3), TypeError, "lam: expected a number or a tensor, got str"),
        WrongCall("lam dtype", lambda: torchext.mixup_one_hot(_labels, _labels[0], 3), TypeError, "lam: expected float16.*got torch.int64"),
        WrongCall("lam shape", lambda: torchext.mixup_one_hot(_labels, _lam.expand(3), 3), ValueError, r"lam: expected shape \(\) or \(2,\), one value a sample, got \(3,\)"),
        WrongCall("num_classes", lambda: torchext.mixup_one_hot(_labels, 0.5, -1), ValueError, "num_classes: expected a number of classes, got -1"),
        WrongCall("dtype", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, dtype=torch.int64), TypeError, "dtype: expected float16.*got torch.int64"),
        WrongCall("smoothing", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, label_smoothing=1.5), ValueError, r"label_smoothing: .*\[0, 1\], got 1.5"),
        WrongCall("dim", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, dim=3), ValueError, r"dim: expected a dimension in \[-3, 2\], got 3"),
        WrongCall("permutation type", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=[1, 0]), TypeError, "permutation: expected a tensor, got list"),
        WrongCall("permutation dtype", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=_labels[0] > 0), TypeError, "permutation: expected an integer dtype, got torch.bool"),
        WrongCall("permutation shape", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=_labels), ValueError, r"permutation: expected shape \(2,\), one entry a sample, got \(2, 2\)"),
        WrongCall("permutation entry", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=_labels[1]), IndexError, r"permutation: entry 2 at position \(0,\) is outside \[0, 2\)"),
    ),
    launches=1,
)  # fmt: skip


def _permuted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda labels, lam, permutation, **options: function(labels, lam, permutation=permutation, **options)


PERMUTED_MIXUP = Operation(
    name="permuted mixup_one_hot",
    function=_permuted(torchext.mixup_one_hot),
    reference=_permuted(torchext.reference.mixup_one_hot),
    independent=mixup_by_one_hot,
    make=(make_labels, make_values, make_permutation),
    dtypes=tuple((torch.int64, torch.float32, dtype) for dtype in INTEGERS),
    independent_dtypes=((torch.int64, torch.float32, torch.uint8),),
    default_dtype=(torch.int64, torch.float64, torch.int64),
    samples=(
        Sample("plain", ((7,), (7,), (7,)), {"num_classes": 5}),
        Sample("masks", ((5, 6, 7), (), (5,)), {"num_classes": 5, "dim": 1, "label_smoothing": 0.1}),
        Sample("classes first", ((4, 9), (4,), (4,)), {"num_classes": 6, "dim": 0}),
    ),
    wrong=(),
    launches=2,  # the permutation is checked by a kernel of its own
)  # fmt: skip

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
    # Planes beyond 128 KB, which the CPU kernels cut into blocks.
    ("cut apart", (4, 20000), {"kernel_size": 2, "stride": 2, "padding": 1}),
    (
        "cut apart, dilated",
        (5, 20000),
        {"kernel_size": (2, 4), "dilation": (1, 3), "padding": (1, 0), "stride": (1, 6)},
    ),
    ("cut overlapping", (130, 157), {"kernel_size": 3, "padding": 1}),
    ("cut long rows", (3, 30011), {"kernel_size": (2, 3), "padding": (1, 2), "stride": (1, 2)}),
    ("volume", (4, 5, 6), {"kernel_size": (2, 3, 2), "stride": (1, 2, 2), "padding": (1, 0, 1)}),
)


# In each padding mode a path of the kernels: windows that overlap, with a stride, one dimension and three, and apart.
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
        WrongCall("length", lambda: torchext.unfold(_image, (2, 2), stride=(1, 1, 1)), ValueError, "stride: expected an int or 2"),
        WrongCall("four", lambda: torchext.unfold(_image, (2, 2, 2, 2)), ValueError, "kernel_size: expected an int or 1 to 3"),
        WrongCall("float", lambda: torchext.unfold(_image, 2.0), TypeError, "kernel_size: expected an int or a sequence of ints, got float"),
        WrongCall("floats", lambda: torchext.unfold(_image, (2, 2.0)), TypeError, "kernel_size: expected an int, got float"),
        WrongCall("float in a tuple", lambda: [torchext.unfold(_image, (2, 2)), torchext.unfold(_image, (2.0, 2))], TypeError, "kernel_size: expected an int, got float"),
        WrongCall("huge", lambda: torchext.unfold(_image, 2, padding=2**62, stride=2**62), ValueError, "padding: expected at most"),
        WrongCall("bool value", lambda: torchext.unfold(_image, 2, value=False), TypeError, "value: expected a number, got bool"),
        WrongCall("mode", lambda: torchext.unfold(_image, 2, padding_mode="wrap"), ValueError, "padding_mode: expected one of 'constant', .*got 'wrap'"),
        WrongCall("wide reflection", lambda: torchext.unfold(_image, 2, padding=(1, 6), padding_mode="reflect"), ValueError, r"padding: expected at most its size less one in each dimension of input \(8, 6\) with padding_mode 'reflect', got \(1, 6\)"),
        WrongCall("two rounds", lambda: torchext.unfold(_image, 2, padding=9, padding_mode="circular"), ValueError, r"padding: expected .*'circular', got \(9, 9\)"),
        WrongCall("no channels", lambda: torchext.unfold(_image[:, :0], 2), ValueError, "input: expected channels"),
        WrongCall("value", lambda: torchext.unfold(_image.byte(), 2, padding=1, value=-1), ValueError, "value: torch.uint8 cannot hold -1"),
    ),
    launches=1,
    exact=True,
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
        WrongCall("length", lambda: torchext.fold(_columns, (4, 6), (2, 2, 2)), ValueError, "kernel_size: expected an int or 2"),
    ),
    launches=1,
)  # fmt: skip

_maps = torch.ones(2, 3, 4, 5)

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
        Sample("as they lie", ((2, 4, 14, 3),), {"size": (2, 7), "input_layout": "NHWC", "token_order": "PPC", **_RGB}),
        Sample("many channels", ((2, 20, 4, 4),), {"size": 2, "mean": tuple(range(20)), "std": 2.0}),
        Sample("cut into blocks", ((1, 3, 4, 4004),), {"size": (2, 13), "std": 0.25}),
        Sample("one channel", ((1, 5, 3),), {"size": 1, "scale": 3.0}, batched=False),
        Sample("empty batch", ((0, 3, 8, 12),), {"size": 4, **_RGB}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.patchify([1], 2), TypeError, "images: expected a tensor, got list"),
        WrongCall("dtype", lambda: torchext.patchify(_pixels.to(torch.complex64), 2), TypeError, "images: expected bool, an integer or .*got torch.complex64"),
        WrongCall("rank", lambda: torchext.patchify(_pixels[0, 0], 2), ValueError, r"images: expected 3 or 4 dimensions, got shape \(8, 6\)"),
        WrongCall("nothing", lambda: torchext.patchify(_pixels[:, :0], 2), ValueError, r"images: expected channels and pixels, got shape \(2, 0, 8, 6\)"),
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
        WrongCall("scale", lambda: torchext.patchify(_pixels, 2, scale=0), ValueError, "scale: expected another number than 0"),
        WrongCall("scales", lambda: torchext.patchify(_pixels, 2, scale=(1.0, 1.0, 1.0)), TypeError, "scale: expected a number, got tuple"),
        WrongCall("integer tokens", lambda: torchext.patchify(_pixels, 2, dtype=torch.uint8), TypeError, "dtype: expected float16, .* for tokens, got torch.uint8"),
        WrongCall("input_layout", lambda: torchext.patchify(_pixels, 2, input_layout="CHW"), ValueError, "input_layout: expected one of 'NCHW', 'NHWC', got 'CHW'"),
        WrongCall("token_order", lambda: torchext.patchify(_pixels, 2, token_order="PCP"), ValueError, "token_order: expected one of 'CPP', 'PPC', got 'PCP'"),
    ),
    launches=1,
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
        Sample("as they lie", ((2, 4, 42),), {"size": (2, 7), "grid": 2, "output_layout": "NHWC", "token_order": "PPC", "std": 2.0}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.unpatchify(1, 2, 2), TypeError, "tokens: expected a tensor, got int"),
        WrongCall("dtype", lambda: torchext.unpatchify(_tokens.int(), 2, (4, 3)), TypeError, "tokens: expected float16, .*got torch.int32"),
        WrongCall("rank", lambda: torchext.unpatchify(_tokens[0, 0], 2, (4, 3)), ValueError, r"tokens: expected 2 or 3 dimensions, got shape \(12,\)"),
        WrongCall("values", lambda: torchext.unpatchify(_tokens, 5, (4, 3)), ValueError, r"tokens: expected a multiple of 25 values for size \(5, 5\), got 12"),
        WrongCall("grid", lambda: torchext.unpatchify(_tokens, 2, 3), ValueError, r"tokens: expected 9 of them for grid \(3, 3\), got 12"),
        WrongCall("zero grid", lambda: torchext.unpatchify(_tokens, 2, (0, 3)), ValueError, "grid: expected at least 1"),
        WrongCall("std", lambda: torchext.unpatchify(_tokens, 2, (4, 3), std=(1.0, 2.0)), ValueError, "std: expected one number or 3"),
        WrongCall("negative", lambda: torchext.unpatchify(_tokens, 2, (4, 3), std=-1), ValueError, "std: expected positive numbers, got -1"),
        WrongCall("wide integers", lambda: torchext.unpatchify(_tokens, 2, (4, 3), dtype=torch.int64), TypeError, "dtype: expected a float dtype or an integer dtype of at most 32 bits, got torch.int64"),
        WrongCall("no dtype", lambda: torchext.unpatchify(_tokens, 2, (4, 3), dtype="uint8"), TypeError, "dtype: expected a torch.dtype, got str"),
        WrongCall("output_layout", lambda: torchext.unpatchify(_tokens, 2, (4, 3), output_layout=None), ValueError, "output_layout: expected one of 'NCHW', 'NHWC', got None"),
    ),
    launches=1,
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

CAM_POOL = Operation(
    name="cam_pool",
    function=cam_of,
    reference=cam_by_reference,
    independent=cam_by_einsum,
    make=(make_activations, make_values),
    dtypes=FLOATS,
    independent_dtypes=(torch.float32, torch.float64),
    default_dtype=torch.float64,
    samples=(
        Sample("plain", ((2, 5, 7, 7),) * 2),
        Sample("raw", ((2, 5, 4, 3),) * 2, {"relu": False, "normalize": None}),
        Sample("signed", ((2, 5, 4, 3),) * 2, {"relu": False}),
        Sample("minmax", ((2, 5, 4, 3),) * 2, {"relu": False, "normalize": "minmax"}),
        Sample("enlarged", ((2, 5, 4, 3),) * 2, {"size": (9, 14)}),
        Sample("reduced", ((2, 5, 8, 9),) * 2, {"size": (3, 4), "relu": False}),
        Sample("square", ((2, 5, 4, 3),) * 2, {"size": 6, "normalize": "minmax", "relu": False}),
        Sample("audio", ((2, 5, 23),) * 2, {"size": (40,)}),
        Sample("volume", ((2, 4, 3, 4, 5),) * 2, {"size": (5, 4, 7)}),
        Sample("one pixel", ((2, 5, 1, 1),) * 2, {"relu": False, "size": (2, 3)}),
        Sample("many channels", ((1, 700, 7, 7),) * 2, {"relu": False}),
        Sample("empty batch", ((0, 5, 4, 3),) * 2, {"size": (6, 6)}),
        Sample("targets", ((2, 5, 4, 3), (3, 2, 5, 4, 3)), {"size": (5, 6)}, batched=False),
        Sample("plus plus", ((2, 5, 4, 3),) * 2, {"method": "gradcam++", "relu": False, "normalize": None}),
        Sample("xgradcam", ((2, 4, 4, 3), (2, 2, 4, 4, 3)), {"method": "xgradcam", "relu": False}, batched=False),
        Sample("layercam", ((2, 4, 4, 3), (2, 2, 4, 4, 3)), {"method": "layercam", "normalize": None}, batched=False),
        Sample("tokens", ((2, 13, 4),) * 2, {"method": "gradcam++", "grid": (4, 3), "prefix_tokens": 1, "relu": False}),
        Sample("elementwise tokens", ((2, 6, 4),) * 2, {"method": "gradcam_elementwise", "grid": (2, 3)}),
        Sample("given weights", ((2, 5, 4, 3), (2, 5)), {"given": True, "relu": False, "normalize": "minmax"}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.cam_pool([1.0], _maps), TypeError, "activations: expected a tensor, got list"),
        WrongCall("dtype", lambda: torchext.cam_pool(_maps, _maps.int()), TypeError, "gradients: expected float16.*got torch.int32"),
        WrongCall("shape", lambda: torchext.cam_pool(_maps, _maps[:1]), ValueError, r"gradients: expected \(2, 3, 4, 5\) or \(T, 2, 3, 4, 5\), got \(1, 3, 4, 5\)"),
        WrongCall("neither", lambda: torchext.cam_pool(_maps), ValueError, "gradients: expected either gradients or weights, got neither"),
        WrongCall("both", lambda: torchext.cam_pool(_maps, _maps, weights=_maps[:, :, 0, 0]), ValueError, "gradients: expected either .*, got both"),
        WrongCall("weights", lambda: torchext.cam_pool(_maps, weights=_maps[0, 0]), ValueError, r"weights: expected \(2, 3\) or \(T, 2, 3\), got \(4, 5\)"),
        WrongCall("weights type", lambda: torchext.cam_pool(_maps, weights=[1.0]), TypeError, "weights: expected a tensor, got list"),
        WrongCall("method", lambda: torchext.cam_pool(_maps, _maps, method="scorecam"), ValueError, "method: expected one of 'gradcam', .*, got 'scorecam'"),
        WrongCall("no tokens", lambda: torchext.cam_pool(_maps, _maps, grid=(4, 5)), ValueError, r"activations: expected tokens \(B, N, C\) for a grid, got"),
        WrongCall("grid", lambda: torchext.cam_pool(_maps[0], _maps[0], grid=(2, 3)), ValueError, r"grid: expected 4 tokens \(4 of activations less 0 before them\), got 6 in \(2, 3\)"),
        WrongCall("grid type", lambda: torchext.cam_pool(_maps[0], _maps[0], grid=4), TypeError, "grid: expected a sequence of ints, got int"),
        WrongCall("prefix", lambda: torchext.cam_pool(_maps[0], _maps[0], grid=(5,), prefix_tokens=-1), ValueError, "prefix_tokens: expected a number of tokens, got -1"),
        WrongCall("prefix alone", lambda: torchext.cam_pool(_maps[0], _maps[0], prefix_tokens=1), ValueError, "prefix_tokens: expected 0 where there is no grid, got 1"),
        WrongCall("rank", lambda: torchext.cam_pool(_maps[0, 0], _maps[0, 0]), ValueError, r"activations: .*got \(4, 5\)"),
        WrongCall("normalize", lambda: torchext.cam_pool(_maps, _maps, normalize="mean"), ValueError, "normalize: expected one of None, 'max', 'minmax', got 'mean'"),
        WrongCall("relu", lambda: torchext.cam_pool(_maps, _maps, relu="no"), TypeError, "relu: expected a bool, got str"),
        WrongCall("size", lambda: torchext.cam_pool(_maps, _maps, size=(2, 3, 4)), ValueError, "size: expected an int or 2 of them"),
        WrongCall("size zero", lambda: torchext.cam_pool(_maps, _maps, size=0), ValueError, "size: expected at least 1"),
        WrongCall("empty map", lambda: torchext.cam_pool(_maps[:, :, :0], _maps[:, :, :0], size=3), ValueError, "activations: expected a map to resize"),
    ),
    launches=3,
)  # fmt: skip

_probs = torch.full((2, 3, 4), 0.5)
_classes = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])


CLASS_OVERLAP = Operation(
    name="class_overlap",
    function=torchext.class_overlap,
    reference=torchext.reference.class_overlap,
    independent=class_overlap_by_loop,
    make=(make_eighths, make_labels),
    dtypes=VALUES_AND_LABELS,
    independent_dtypes=((torch.float32, torch.int64), (torch.float64, torch.uint8)),
    default_dtype=(torch.float64, torch.int64),
    samples=(
        Sample("plain", ((2, 5, 7), (2, 7))),
        Sample("masks", ((3, 6, 9, 11), (3, 9, 11))),
        Sample("ignored", ((2, 5, 4, 6), (2, 4, 6)), {"ignore_index": 2}),
        Sample("invalid zero", ((2, 3, 50), (2, 50)), {"invalid": "zero"}),
        Sample("one class", ((2, 1, 40), (2, 40)), {"invalid": "zero"}),
        Sample("no place", ((2, 5, 0, 3), (2, 0, 3))),
        Sample("no sample", ((0, 5, 3), (0, 3))),
        Sample("one place a sample", ((4, 5), (4,))),
        Sample("one place", ((5,), ()), {"dim": 0}, batched=False),
        Sample("no samples", ((5, 4, 6), (4, 6)), {"dim": 0}, batched=False),
        Sample("classes last", ((3, 4, 9, 6), (3, 4, 9)), {"dim": -1}),
        Sample("classes amid", ((2, 4, 7, 5), (2, 4, 5)), {"dim": 2}),
        Sample("many classes", ((1, 300, 21), (1, 21))),
        Sample("blocks", ((2, 5, 4111), (2, 4111)), {"ignore_index": 1}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.class_overlap([0.5], _classes), TypeError, "probs: expected a tensor, got list"),
        WrongCall("dtype", lambda: torchext.class_overlap(_probs.int(), _classes), TypeError, "probs: expected float16.*got torch.int32"),
        WrongCall("labels", lambda: torchext.class_overlap(_probs, _probs[:, 0]), TypeError, "labels: .*got torch.float32"),
        WrongCall("shape", lambda: torchext.class_overlap(_probs, _classes[:1]), ValueError, r"labels: expected shape \(2, 4\), that of probs without dim, got \(1, 4\)"),
        WrongCall("dim", lambda: torchext.class_overlap(_probs, _classes, dim=3), ValueError, r"dim: expected a dimension in \[-3, 2\], got 3"),
        WrongCall("scalar", lambda: torchext.class_overlap(_probs[0, 0, 0], _classes), ValueError, "probs: expected at least 1 dimension"),
        WrongCall("vector", lambda: torchext.class_overlap(_probs[0, 0], _classes), ValueError, r"dim: expected a dimension in \[-1, 0\], got 1"),
        WrongCall("label", lambda: torchext.class_overlap(_probs[:, :2], _classes), IndexError, r"label 2 at position \(0, 2\) is outside \[0, 2\)"),
        WrongCall("negative", lambda: torchext.class_overlap(_probs, _classes - 1), IndexError, r"label -1 at position \(0, 0\) is outside \[0, 3\)"),
        WrongCall("no class", lambda: torchext.class_overlap(_probs[:, :0], _classes), IndexError, r"label 0 at position \(0, 0\) is outside \[0, 0\)"),
        WrongCall("invalid", lambda: torchext.class_overlap(_probs, _classes, invalid="skip"), ValueError, "invalid: expected one of 'raise', 'zero', got 'skip'"),
        WrongCall("ignore", lambda: torchext.class_overlap(_probs, _classes, ignore_index="no"), TypeError, "ignore_index: expected an int, got str"),
        WrongCall("device", lambda: torchext.class_overlap(_probs, _classes.to("meta")), ValueError, "labels: expected device cpu as of probs, got meta"),
    ),
    launches=2,
)  # fmt: skip

# The same operation through an activation, with the sum of squares as total.
_OVERLAP_OF_SCORES = tuple(
    replace(
        CLASS_OVERLAP,
        name=f"class_overlap_of_{name}",
        function=overlap_of_scores,
        reference=overlap_of_scores_by_reference,
        samples=tuple(
            replace(sample, options={"activation": activation, "squared": squared, **sample.options})
            for sample in CLASS_OVERLAP.samples
            if sample.name in ("plain", "ignored", "invalid zero", "no place", "one place", "classes amid", "blocks")
        ),
        wrong=(),
    )
    for name, activation, squared in (
        ("softmax", "softmax", False),
        ("softmax_squared", "softmax", True),
        ("sigmoid", "sigmoid", False),
        ("sigmoid_squared", "sigmoid", True),
        ("squares", None, True),
    )
)

_marks = torch.tensor([[0, 1, 1], [2, 255, 0]])
_features = torch.ones(2, 3, 4)


def _one_hot_rows(labels: Tensor, num_classes: int, ignore_index: int | None, dtype: torch.dtype) -> Tensor:
    """(N, C), rows of zeros for what is no class."""
    flat = labels.to(torch.int64).flatten()
    classes = torch.arange(num_classes, device=labels.device)
    return ((flat[:, None] == classes) & (flat[:, None] != (-1 if ignore_index is None else ignore_index))).to(dtype)


def class_counts_by_one_hot(
    labels: Tensor, num_classes: int, *, ignore_index: int | None = None, invalid: str = "raise"
) -> Tensor:
    return _one_hot_rows(labels, num_classes, ignore_index, torch.int64).sum(0)


def class_sums_by_product(
    values: Tensor, labels: Tensor, num_classes: int, *, ignore_index: int | None = None, invalid: str = "raise"
) -> Tensor:
    """The product that the sums stand for."""
    hot = _one_hot_rows(labels, num_classes, ignore_index, values.dtype)
    features = values.shape[labels.dim() :]
    rows = values.reshape(labels.numel(), features.numel())
    return (hot.T @ rows).reshape(num_classes, *features)


def class_means_by_product(values: Tensor, labels: Tensor, num_classes: int, **options: Any) -> Tensor:
    sums = class_sums_by_product(values, labels, num_classes, **options)
    counts = class_counts_by_one_hot(labels, num_classes, **options)
    return sums / counts.clamp(min=1).reshape(-1, *[1] * (sums.dim() - 1))


def weighted_counts(labels: Tensor, weights: Tensor, **options: Any) -> Tensor:
    return torchext.class_counts(labels, weights=weights, **options)


def weighted_counts_by_reference(labels: Tensor, weights: Tensor, **options: Any) -> Tensor:
    return torchext.reference.class_counts(labels, weights=weights, **options)


def confusion_by_definition(
    predicted: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    normalize: str | None = None,
    ignore_index: int | None = None,
    invalid: str = "raise",
) -> Tensor:
    """Sums over the one-hot targets times the one-hot predictions; normalised as scikit-learn says, NaN to 0."""
    rows = _one_hot_rows(target, num_classes, ignore_index, torch.float64)
    counts = rows.T @ _one_hot_rows(predicted, num_classes, None, torch.float64)
    if normalize is None:
        return counts.to(torch.int64)
    total = {"true": counts.sum(1, keepdim=True), "pred": counts.sum(0, keepdim=True), "all": counts.sum()}[normalize]
    return torch.nan_to_num(counts / total).to(torch.get_default_dtype())


def make_quarters(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Numbers whose sums are exact in float32, whatever the order."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return make_values(shape, dtype, device, generator)
    quarters = torch.randint(-16, 17, (*shape, 2), generator=generator) / 4
    numbers = torch.view_as_complex(quarters) if dtype.is_complex else quarters[..., 0]
    return numbers.to(dtype).contiguous().to(device)


_SUMMED = (*FLOATS, *COMPLEX, *INTEGERS)
_LABELLED: tuple[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ("plain", (9,), (3,), {"num_classes": 5}),
    ("rows of vectors", (2, 9), (37,), {"num_classes": 5}),
    ("features of two dimensions", (11,), (4, 3), {"num_classes": 6}),
    ("no features", (13,), (), {"num_classes": 5}),
    ("ignored", (4, 6), (2,), {"num_classes": 5, "ignore_index": 1}),
    ("invalid zero", (50,), (3,), {"num_classes": 3, "invalid": "zero"}),
    ("nothing", (0, 3), (4,), {"num_classes": 5}),
    ("no width", (7,), (0,), {"num_classes": 5}),
    # Beyond what is summed in tables: in the order of the labels.
    ("ordered", (70,), (1100,), {"num_classes": 300}),
    ("ordered, long classes", (2600,), (1000,), {"num_classes": 140}),
    ("blocks", (3, 6000), (), {"num_classes": 5, "ignore_index": 3}),
)
_FEW = tuple(row for row in _LABELLED if math.prod(row[1]) * math.prod(row[2]) < 5000)

CLASS_COUNTS = Operation(
    name="class_counts",
    function=torchext.class_counts,
    reference=torchext.reference.class_counts,
    independent=class_counts_by_one_hot,
    make=make_labels,
    dtypes=LABELS,
    independent_dtypes=LABELS,
    default_dtype=torch.int64,
    samples=(
        *(Sample(name, (labels,), options) for name, labels, _, options in _FEW if name != "no features"),
        Sample("one label", ((),), {"num_classes": 5}),
        Sample("more classes than labels", ((4,),), {"num_classes": 70000}),
        Sample("masks", ((2, 70, 61),), {"num_classes": 5, "ignore_index": 4}),
        Sample("blocks", ((3, 90000),), {"num_classes": 5}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.class_counts([0], 2), TypeError, "labels: expected a tensor, got list"),
        WrongCall("float labels", lambda: torchext.class_counts(torch.zeros(2), 2), TypeError, "labels: .*got torch.float32"),
        WrongCall("label", lambda: torchext.class_counts(_marks, 3), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("byte", lambda: torchext.class_counts(_marks.to(torch.uint8).repeat(1, 1000), 3), IndexError, r"label 255 at position \(1, 1\) is outside"),
        WrongCall("no class", lambda: torchext.class_counts(_marks, 0), IndexError, r"label 0 at position \(0, 0\) is outside \[0, 0\)"),
        WrongCall("weighted label", lambda: torchext.class_counts(_marks, 3, weights=_marks), IndexError, r"label 255 at position \(1, 1\)"),
        WrongCall("num_classes", lambda: torchext.class_counts(_marks, -1), ValueError, "num_classes: expected a number of classes, got -1"),
        WrongCall("float num_classes", lambda: torchext.class_counts(_marks, 3.0), TypeError, "num_classes: expected an int, got float"),
        WrongCall("weights", lambda: torchext.class_counts(_marks, 3, weights=_features), ValueError, r"weights: expected shape \(2, 3\) as of labels, got \(2, 3, 4\)"),
        WrongCall("bool weights", lambda: torchext.class_counts(_marks, 3, weights=_marks.bool()), TypeError, "weights: expected an integer, float or complex dtype, got torch.bool"),
        WrongCall("invalid", lambda: torchext.class_counts(_marks, 3, invalid="skip"), ValueError, "invalid: expected one of 'raise', 'zero', got 'skip'"),
        WrongCall("ignore", lambda: torchext.class_counts(_marks, 3, ignore_index=1.0), TypeError, "ignore_index: expected an int, got float"),
    ),
    launches=2,
    differentiable=False,
    exact=True,
)  # fmt: skip

WEIGHTED_COUNTS = Operation(
    name="weighted_counts",
    function=weighted_counts,
    reference=weighted_counts_by_reference,
    independent=lambda labels, weights, **options: class_sums_by_product(weights, labels, **options),
    make=(make_labels, make_quarters),
    dtypes=tuple((torch.int64, dtype) for dtype in _SUMMED),
    independent_dtypes=((torch.int64, torch.float32), (torch.int64, torch.float64)),
    default_dtype=(torch.int64, torch.float64),
    samples=tuple(Sample(name, (labels, labels), options) for name, labels, features, options in _LABELLED if not features),
    wrong=(),
    launches=5,
)  # fmt: skip

CLASS_SUMS = Operation(
    name="class_sums",
    function=torchext.class_sums,
    reference=torchext.reference.class_sums,
    independent=class_sums_by_product,
    make=(make_quarters, make_labels),
    dtypes=tuple(dict.fromkeys([*((dtype, torch.int64) for dtype in _SUMMED), *VALUES_AND_LABELS])),
    independent_dtypes=((torch.float32, torch.int64), (torch.float64, torch.int64), (torch.complex64, torch.int64), (torch.int64, torch.uint8)),
    default_dtype=(torch.float64, torch.int64),
    samples=tuple(Sample(name, (labels + features, labels), options) for name, labels, features, options in _LABELLED),
    wrong=(
        WrongCall("type", lambda: torchext.class_sums(1.0, _marks, 3), TypeError, "values: expected a tensor, got float"),
        WrongCall("bool", lambda: torchext.class_sums(_features.bool(), _marks, 3), TypeError, "values: expected an integer, float or complex dtype, got torch.bool"),
        WrongCall("shape", lambda: torchext.class_sums(_features[:1], _marks, 3), ValueError, r"values: expected shape \(2, 3, ...\), that of labels first, got \(1, 3, 4\)"),
        WrongCall("rank", lambda: torchext.class_sums(_features[0, 0], _marks, 3), ValueError, r"values: expected shape .*got \(4,\)"),
        WrongCall("labels", lambda: torchext.class_sums(_features, _features, 3), TypeError, "labels: .*got torch.float32"),
        WrongCall("label", lambda: torchext.class_sums(_features, _marks, 3), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("ordered label", lambda: torchext.class_sums(_features.repeat(1, 1, 9000), _marks, 4), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 4\)"),
        WrongCall("empty rows", lambda: torchext.class_sums(_features[..., :0], _marks, 3), IndexError, r"label 255 at position \(1, 1\)"),
        WrongCall("num_classes", lambda: torchext.class_sums(_features, _marks, -2), ValueError, "num_classes: expected a number of classes, got -2"),
    ),
    launches=5,  # labels are counted, started and sorted; pieces are summed and added
)  # fmt: skip

CLASS_MEANS = Operation(
    name="class_means",
    function=torchext.class_means,
    reference=torchext.reference.class_means,
    independent=class_means_by_product,
    make=(make_quarters, make_labels),
    dtypes=(*VALUES_AND_LABELS, *((dtype, torch.int64) for dtype in COMPLEX)),
    independent_dtypes=((torch.float32, torch.int64), (torch.float64, torch.int64)),
    default_dtype=(torch.float64, torch.int64),
    samples=tuple(Sample(name, (labels + features, labels), options) for name, labels, features, options in _FEW),
    wrong=(
        WrongCall("integers", lambda: torchext.class_means(_marks, _marks, 3), TypeError, "values: expected a float or complex dtype, got torch.int64"),
        WrongCall("label", lambda: torchext.class_means(_features, _marks, 3), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("shape", lambda: torchext.class_means(_features[:1], _marks, 3), ValueError, r"values: expected shape \(2, 3, ...\)"),
    ),
    launches=9,  # sums, counts and their zeros, a clamp and a division
)  # fmt: skip

CONFUSION_MATRIX = Operation(
    name="confusion_matrix",
    function=torchext.confusion_matrix,
    reference=torchext.reference.confusion_matrix,
    independent=confusion_by_definition,
    make=make_labels,
    dtypes=(*LABELS, (torch.int64, torch.uint8), (torch.bool, torch.int16)),
    independent_dtypes=(*LABELS, (torch.uint8, torch.int64)),
    default_dtype=torch.int64,
    samples=(
        Sample("plain", ((7,), (7,)), {"num_classes": 5}),
        Sample("one pair", ((), ()), {"num_classes": 5}),
        Sample("masks", ((2, 9, 11), (2, 9, 11)), {"num_classes": 6, "ignore_index": 3}),
        Sample("rows", ((3, 8), (3, 8)), {"num_classes": 7, "normalize": "true"}),
        Sample("columns", ((3, 8), (3, 8)), {"num_classes": 7, "normalize": "pred"}),
        Sample("all", ((3, 8), (3, 8)), {"num_classes": 7, "normalize": "all"}),
        Sample("nothing", ((0, 8), (0, 8)), {"num_classes": 7, "normalize": "all"}),
        Sample("invalid zero", ((50,), (50,)), {"num_classes": 3, "invalid": "zero"}),
        Sample("many classes", ((60,), (60,)), {"num_classes": 300}),
        Sample("blocks", ((3, 40000), (3, 40000)), {"num_classes": 5}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.confusion_matrix([0], _marks, 3), TypeError, "predicted: expected a tensor, got list"),
        WrongCall("dtype", lambda: torchext.confusion_matrix(_marks, _features, 3), TypeError, "target: .*got torch.float32"),
        WrongCall("shape", lambda: torchext.confusion_matrix(_marks[:1], _marks, 3), ValueError, r"predicted: expected shape \(2, 3\) as of target, got \(1, 3\)"),
        WrongCall("predicted", lambda: torchext.confusion_matrix(_marks, _marks % 3, 3), IndexError, r"predicted: label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("target", lambda: torchext.confusion_matrix(_marks % 3, _marks, 3), IndexError, r"target: label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("the first of both", lambda: torchext.confusion_matrix(_marks, _marks.view(-1).roll(-1).view(2, 3), 3), IndexError, r"target: label 255 at position \(1, 0\)"),
        WrongCall("ignored prediction", lambda: torchext.confusion_matrix(_marks, _marks % 3, 3, ignore_index=255), IndexError, "predicted: label 255"),
        WrongCall("no class", lambda: torchext.confusion_matrix(_marks, _marks, 0), IndexError, "predicted: label 0 at position"),
        WrongCall("normalize", lambda: torchext.confusion_matrix(_marks, _marks, 3, normalize="rows"), ValueError, "normalize: expected one of None, 'true', 'pred', 'all', got 'rows'"),
        WrongCall("num_classes", lambda: torchext.confusion_matrix(_marks, _marks, True), TypeError, "num_classes: expected an int, got bool"),
    ),
    launches=2,
    differentiable=False,
    exact=True,
)  # fmt: skip


def _starts(image: int, k: int, s: int, d: int, p: int, partial: str) -> list[int]:
    """Where the windows of a dimension start, found by walking along it."""
    reach, starts = d * (k - 1) + 1, [-p]
    while starts[-1] + reach < image + p:
        starts.append(starts[-1] + s)
    if starts[-1] + reach > image + p:
        if partial == "drop":
            starts.pop()
        if partial == "shift":
            starts[-1] = image + p - reach if len(starts) > 1 else -p - (reach - image - 2 * p) // 2
    return starts


def _tiles(image: Sequence[int], size: Any, stride: Any = None, dilation: Any = 1, padding: Any = 0,
           partial: str = "drop") -> tuple[tuple[int, ...], list[tuple[np.ndarray[Any, Any], ...]]]:  # fmt: skip
    """The grid, and of each window the positions of its taps along each dimension."""
    each = [[v] * len(image) if isinstance(v, int) else list(v) for v in (size, stride or size, dilation, padding)]
    starts = [_starts(*axis, partial) for axis in zip(image, *each, strict=True)]
    taps = [np.arange(k) * d for k, d in zip(each[0], each[2], strict=True)]
    windows = itertools.product(*starts)
    return tuple(map(len, starts)), [tuple(map(operator.add, window, taps)) for window in windows]


_NUMPY_PADS = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap",
               "symmetric": "symmetric"}  # fmt: skip


def extract_by_numpy(input: Tensor, size: Any, stride: Any = None, *, padding_mode: str = "constant",
                     value: float = 0.0, **geometry: Any) -> Tensor:  # fmt: skip
    """Window by window out of a padded array."""
    image = input.shape[2:]
    grid, windows = _tiles(image, size, stride, **geometry)
    margin = max(max(abs(at.min()), at.max() - s + 1) for w in windows for at, s in zip(w, image, strict=True))
    margin = min(int(margin), *(s - 1 for s in image)) if padding_mode != "constant" else int(margin)
    options = {"constant_values": value} if padding_mode == "constant" else {}
    pads = [(0, 0)] * 2 + [(margin, margin)] * len(image)
    padded = np.pad(input.cpu().numpy(), pads, mode=_NUMPY_PADS[padding_mode], **options)
    cut = [padded[(slice(None), slice(None), *np.ix_(*(at + margin for at in w)))] for w in windows]
    stacked = torch.from_numpy(np.stack(cut, axis=1))
    return stacked.unflatten(1, grid).to(input.device)


def _weights_by_definition(size: Sequence[int], weight: str | None) -> np.ndarray[Any, Any]:
    one = {
        None: lambda i, n: np.ones(n),
        "linear": lambda i, n: np.minimum(i + 1, n - i),
        "hann": lambda i, n: np.sin(np.pi * (i + 0.5) / n) ** 2,
        "gaussian": lambda i, n: np.exp(-((i - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)),
    }[weight]
    product = functools.reduce(np.multiply.outer, [one(np.arange(n), n) for n in size])
    return np.maximum(product, 1e-3) if weight == "gaussian" else product


def _join_by_numpy(
    windows: Tensor,
    places: Sequence[tuple[int, tuple[np.ndarray[Any, Any], ...]]],
    shape: tuple[int, ...],
    weight: str | None,
    normalize: bool,
) -> Tensor:
    """The windows (L, C, *size) added up one after the other, each in a sample of an image (N, C, *S)."""
    array, size = windows.cpu().numpy(), windows.shape[2:]
    of_window = _weights_by_definition(size, weight)
    sums, totals = np.zeros(shape, array.dtype), np.zeros((shape[0], *shape[2:]))
    for window, (sample, at) in zip(array, places, strict=True):
        if not 0 <= sample < shape[0]:
            continue
        inside = [np.flatnonzero((x >= 0) & (x < s)) for x, s in zip(at, shape[2:], strict=True)]
        there = np.ix_(*(x[i] for x, i in zip(at, inside, strict=True)))
        taps = np.ix_(*inside)
        sums[sample][(slice(None), *there)] += of_window[taps] * window[(slice(None), *taps)]
        totals[sample][there] += of_window[taps]
    if normalize:
        sums = np.where(totals[:, None] > 0, sums / np.where(totals > 0, totals, 1)[:, None], 0)
    return torch.from_numpy(sums.astype(array.dtype)).to(windows.device)


def merge_by_numpy(windows: Tensor, output_size: Sequence[int], stride: Any = None, *, weight: str | None = None,
                   normalize: bool = True, **geometry: Any) -> Tensor:  # fmt: skip
    rank = len(output_size)
    _, places = _tiles(output_size, windows.shape[2 + rank :], stride, **geometry)
    shape = (windows.shape[0], windows.shape[1 + rank], *output_size)
    joined = [
        _join_by_numpy(one.flatten(0, rank - 1), [(0, at) for at in places], (1, *shape[1:]), weight, normalize)
        for one in windows
    ]
    return torch.cat([windows.new_empty(0, *shape[1:]), *joined])


def _offset_places(offsets: Tensor, size: Sequence[int]) -> list[tuple[int, tuple[np.ndarray[Any, Any], ...]]]:
    rows = offsets.cpu().to(torch.int64).numpy()
    named = rows.shape[1] > len(size)
    return [
        (int(row[0]) if named else 0, tuple(start + np.arange(k) for start, k in zip(row[named:], size, strict=True)))
        for row in rows
    ]


def gather_by_numpy(input: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    margin = 16  # beyond all offsets of the samples
    image = np.pad(input.cpu().numpy(), [(0, 0)] * 2 + [(margin, margin)] * len(size))
    cut = []
    for sample, at in _offset_places(offsets, size):
        there = np.ix_(*(x + margin for x in at))
        if offsets.shape[1] == len(size):
            cut.append(image[(slice(None), slice(None), *there)])
        else:
            known = 0 <= sample < len(image)
            cut.append(image[sample if known else 0][(slice(None), *there)] * known)
    return torch.from_numpy(np.stack(cut, axis=cut[0].ndim - len(size) - 1)).to(input.device)


def scatter_by_numpy(windows: Tensor, offsets: Tensor, output_size: Sequence[int], *, weight: str | None = None,
                     normalize: bool = True) -> Tensor:  # fmt: skip
    rank = windows.dim() - 2 if offsets.shape[1] == windows.dim() - 1 else offsets.shape[1]
    size, channels = windows.shape[-rank:], windows.shape[-rank - 1]
    places = _offset_places(offsets, size)
    if offsets.shape[1] > rank:
        shape = (output_size[0], channels, *output_size[1:])
        return _join_by_numpy(windows, places, shape, weight, normalize)
    joined = [_join_by_numpy(one, places, (1, channels, *output_size), weight, normalize) for one in windows]
    return torch.cat(joined)


def make_offsets(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Inside, across the edges and outside; unsigned ones far outside where they wrap. The first column is a sample."""
    offsets = torch.randint(-4, 10, shape, generator=generator)
    offsets[:, 0] = torch.randint(-1, 3, shape[:1], generator=generator)
    return offsets.to(dtype).to(device)


_pixels = torch.zeros(2, 3, 8, 6)
_tiles_of_pixels = torch.zeros(2, 2, 2, 3, 4, 3)
_corners = torch.tensor([[0, 0], [4, 3]])
_two_windows = torch.zeros(2, 2, 3, 4, 3)

EXTRACT_WINDOWS = Operation(
    name="extract_windows",
    function=torchext.extract_windows,
    reference=torchext.reference.extract_windows,
    independent=extract_by_numpy,
    make=make_values,
    dtypes=(*FLOATS, *COMPLEX, *LABELS, *MOVED),
    independent_dtypes=(torch.float32, torch.float64, torch.complex64),
    default_dtype=torch.float64,
    samples=(
        Sample("plain", ((2, 3, 8, 6),), {"size": 3}),
        Sample("shifted", ((2, 3, 9, 11),), {"size": (4, 3), "stride": (3, 3), "partial": "shift"}),
        Sample("reflected, dilated", ((2, 2, 6, 7),), {"size": (3, 2), "stride": (2, 1), "dilation": (1, 2), "padding": (2, 1), "padding_mode": "reflect", "partial": "pad"}),
        Sample("small, circular", ((2, 3, 6),), {"size": (5,), "stride": (3,), "padding": (2,), "padding_mode": "circular"}),
        Sample("volume", ((1, 2, 4, 5, 6),), {"size": (2, 3, 2), "stride": (1, 2, 2), "padding": 1, "value": 1.0}),
        Sample("large", ((1, 3, 200, 150),), {"size": (180, 120), "stride": 20, "partial": "shift"}),
        Sample("empty batch", ((0, 3, 5, 6),), {"size": 3}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.extract_windows(3, 2), TypeError, "input: expected a tensor, got int"),
        WrongCall("rank", lambda: torchext.extract_windows(_pixels[0, 0], 2), ValueError, r"input: expected 3 or 4 dimensions, got shape \(8, 6\)"),
        WrongCall("too large", lambda: torchext.extract_windows(_pixels, 9), ValueError, r"size: .*fit into input \(8, 6\).*got \(9, 9\)"),
        WrongCall("zero size", lambda: torchext.extract_windows(_pixels, (3, 0)), ValueError, "size: expected at least 1"),
        WrongCall("float size", lambda: torchext.extract_windows(_pixels, 2.0), TypeError, "size: expected an int or a sequence of ints, got float"),
        WrongCall("zero stride", lambda: torchext.extract_windows(_pixels, 2, 0), ValueError, "stride: expected at least 1"),
        WrongCall("length", lambda: torchext.extract_windows(_pixels, 2, (1, 1, 1)), ValueError, "stride: expected an int or 2"),
        WrongCall("negative padding", lambda: torchext.extract_windows(_pixels, 2, padding=-1), ValueError, "padding: expected at least 0"),
        WrongCall("mode", lambda: torchext.extract_windows(_pixels, 2, padding_mode="mirror"), ValueError, "padding_mode: expected one of 'constant'"),
        WrongCall("reflection", lambda: torchext.extract_windows(_pixels, 2, padding=(1, 6), padding_mode="reflect"), ValueError, "padding: expected at most its size less one"),
        WrongCall("partial", lambda: torchext.extract_windows(_pixels, 2, partial="keep"), ValueError, "partial: expected one of 'drop', 'pad', 'shift', got 'keep'"),
        WrongCall("value", lambda: torchext.extract_windows(_pixels.byte(), 2, padding=1, value=-1), ValueError, "value: torch.uint8 cannot hold -1"),
        WrongCall("no channels", lambda: torchext.extract_windows(_pixels[:, :0], 2), ValueError, "input: expected channels"),
    ),
    launches=1,
    exact=True,
)  # fmt: skip

MERGE_WINDOWS = Operation(
    name="merge_windows",
    function=torchext.merge_windows,
    reference=torchext.reference.merge_windows,
    independent=merge_by_numpy,
    make=make_values,
    dtypes=(*FLOATS, *COMPLEX, *INTEGERS),
    independent_dtypes=(torch.float32, torch.float64, torch.complex128),
    default_dtype=torch.float64,
    samples=(
        Sample("apart", ((2, 2, 2, 3, 3, 4),), {"output_size": (7, 8)}),
        Sample("blended", ((2, 3, 3, 2, 4, 4),), {"output_size": (10, 10), "stride": 3, "weight": "hann"}),
        Sample("shifted", ((1, 3, 3, 2, 4, 5),), {"output_size": (9, 11), "stride": (3, 4), "partial": "shift", "weight": "linear"}),
        Sample("weighted sum, dilated", ((2, 5, 3, 4),), {"output_size": (19,), "stride": (3,), "dilation": 2, "padding": 1, "weight": "gaussian", "normalize": False}),
        Sample("volume", ((1, 3, 2, 3, 2, 2, 3, 2),), {"output_size": (4, 5, 6), "stride": (1, 2, 2)}),
        Sample("large", ((1, 3, 3, 1, 80, 90),), {"output_size": (200, 210), "stride": (60, 60), "weight": "gaussian"}),
        Sample("empty batch", ((0, 2, 2, 3, 3, 4),), {"output_size": (6, 8)}),
    ),
    wrong=(
        WrongCall("type", lambda: torchext.merge_windows(3, 2), TypeError, "windows: expected a tensor, got int"),
        WrongCall("dtype", lambda: torchext.merge_windows(_tiles_of_pixels.to(torch.float8_e5m2), 8), TypeError, "windows: expected bool, an integer dtype, float16"),
        WrongCall("rank", lambda: torchext.merge_windows(torch.zeros(2, 2), 2), ValueError, r"windows: expected \(N, \*grid, C, \*size\)"),
        WrongCall("grid", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 9)), ValueError, r"windows: expected a grid of \(2, 3\) windows for output_size \(8, 9\), got \(2, 2\)"),
        WrongCall("output", lambda: torchext.merge_windows(_tiles_of_pixels, (8,)), ValueError, "output_size: expected an int or 2 of them"),
        WrongCall("weight name", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight="box"), ValueError, "weight: expected one of None, 'linear', 'hann', 'gaussian', got 'box'"),
        WrongCall("weight type", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=2), TypeError, "weight: expected None, a str or a tensor, got int"),
        WrongCall("weight dtype", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(4, 3).long()), TypeError, "weight: expected float16.*got torch.int64"),
        WrongCall("weight layout", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(4, 3).to_sparse()), TypeError, "weight: expected a dense tensor, got torch.sparse_coo"),
        WrongCall("flag", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), normalize="no"), TypeError, "normalize: expected a bool, got str"),
        WrongCall("weight shape", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(3, 4)), ValueError, r"weight: expected shape \(4, 3\), that of a window, got \(3, 4\)"),
        WrongCall("weight grad", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(4, 3, requires_grad=True)), ValueError, "weight: expected a constant"),
        WrongCall("bool", lambda: torchext.merge_windows(_tiles_of_pixels.bool(), (8, 6), weight="hann"), TypeError, "weight: expected None for windows of torch.bool"),
        WrongCall("empty", lambda: torchext.merge_windows(_tiles_of_pixels[:, :0], (8, 6)), ValueError, "windows: expected no empty dimension but the batch"),
    ),
    launches=1,
)  # fmt: skip

_OFFSET_DTYPES = ((torch.float32, torch.int32), (torch.float32, torch.uint8))

GATHER_WINDOWS = Operation(
    name="gather_windows",
    function=torchext.gather_windows,
    reference=torchext.reference.gather_windows,
    independent=gather_by_numpy,
    make=(make_values, make_offsets),
    dtypes=(*((dtype, torch.int64) for dtype in (*FLOATS, *COMPLEX, *LABELS, *MOVED)), *_OFFSET_DTYPES),
    independent_dtypes=((torch.float32, torch.int64), (torch.complex128, torch.int16)),
    default_dtype=(torch.float64, torch.int64),
    samples=(
        Sample("plain", ((2, 3, 8, 6), (5, 2)), {"size": (3, 4)}, batched=False),
        Sample("samples", ((2, 3, 9), (7, 2)), {"size": (4,)}),
        Sample("volume", ((1, 2, 4, 5, 6), (3, 4)), {"size": (2, 3, 2)}),
        Sample("empty batch", ((0, 3, 5, 6), (4, 2)), {"size": (2, 2)}, batched=False),
    ),
    wrong=(
        WrongCall("offsets type", lambda: torchext.gather_windows(_pixels, [[0, 0]], 2), TypeError, "offsets: expected a tensor, got list"),
        WrongCall("offsets dtype", lambda: torchext.gather_windows(_pixels, _corners.float(), 2), TypeError, "offsets: expected an integer dtype, got torch.float32"),
        WrongCall("offsets shape", lambda: torchext.gather_windows(_pixels, _corners[:, :1], 2), ValueError, r"offsets: expected shape \(L, 2\), or \(L, 3\).*got \(2, 1\)"),
        WrongCall("one sample", lambda: torchext.gather_windows(_pixels[0], torch.zeros(2, 3).long(), 2), ValueError, "offsets: .*for an input of one sample"),
        WrongCall("size", lambda: torchext.gather_windows(_pixels, _corners, (2, 0)), ValueError, "size: expected at least 1"),
        WrongCall("rank", lambda: torchext.gather_windows(_pixels, _corners, (2, 2, 2, 2)), ValueError, "size: expected an int or 1 to 3"),
        WrongCall("device", lambda: torchext.gather_windows(_pixels, _corners.to("meta"), 2), ValueError, "offsets: expected device cpu as of input, got meta"),
    ),
    launches=1,
    exact=True,
)  # fmt: skip

SCATTER_WINDOWS = Operation(
    name="scatter_windows",
    function=torchext.scatter_windows,
    reference=torchext.reference.scatter_windows,
    independent=scatter_by_numpy,
    make=(make_values, make_offsets),
    dtypes=(*((dtype, torch.int64) for dtype in (*FLOATS, *COMPLEX, *INTEGERS)), *_OFFSET_DTYPES),
    independent_dtypes=((torch.float32, torch.int64), (torch.complex128, torch.int16)),
    default_dtype=(torch.float64, torch.int64),
    samples=(
        Sample("blended", ((2, 5, 2, 3, 4), (5, 2)), {"output_size": (8, 6), "weight": "hann"}, batched=False),
        Sample("samples", ((7, 2, 4), (7, 2)), {"output_size": (2, 9)}),
        Sample("volume, sum", ((3, 2, 2, 3, 2), (3, 4)), {"output_size": (2, 4, 5, 6), "weight": "linear", "normalize": False}),
        Sample("no windows", ((1, 0, 2, 3, 4), (0, 2)), {"output_size": (8, 6)}, batched=False),
    ),
    wrong=(
        WrongCall("rank", lambda: torchext.scatter_windows(torch.zeros(2), _corners, (8, 6)), ValueError, r"offsets: expected shape \(L, D\).*got \(2, 2\) for \(2,\)"),
        WrongCall("rows", lambda: torchext.scatter_windows(_two_windows, _corners[:1], (8, 6)), ValueError, "offsets: expected 2 rows, one a window, got 1"),
        WrongCall("output", lambda: torchext.scatter_windows(_two_windows, _corners, (2, 8, 6)), ValueError, "output_size: expected an int or 2 of them"),
        WrongCall("flag", lambda: torchext.scatter_windows(_two_windows, _corners, (8, 6), normalize=[]), TypeError, "normalize: expected a bool, got list"),
        WrongCall("weight", lambda: torchext.scatter_windows(_two_windows, _corners, (8, 6), weight=torch.ones(3, 4)), ValueError, r"weight: expected shape \(4, 3\)"),
        WrongCall("dtype", lambda: torchext.scatter_windows(_two_windows.to(torch.complex32), _corners, (8, 6)), TypeError, "windows: expected bool, an integer dtype, float16"),
    ),
    launches=6,  # bins are zeroed, counted, started, filled and sorted
)  # fmt: skip

OPERATIONS = (
    ONE_HOT, MULTI_HOT, WEIGHTED_MULTI_HOT, MIXUP_ONE_HOT, PERMUTED_MIXUP,
    CLASS_COUNTS, WEIGHTED_COUNTS, CLASS_SUMS, CLASS_MEANS, CONFUSION_MATRIX, CLASS_OVERLAP, *_OVERLAP_OF_SCORES,
    UNFOLD, FOLD, PATCHIFY, UNPATCHIFY, UNPATCHIFY_BYTES,
    EXTRACT_WINDOWS, MERGE_WINDOWS, GATHER_WINDOWS, SCATTER_WINDOWS, CAM_POOL,
)  # fmt: skip
