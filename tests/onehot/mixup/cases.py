"""The rows of mixup_one_hot in the conformance table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import (
    FLOATS,
    INTEGERS,
    LABELS_AND_VALUES,
    Operation,
    Sample,
    WrongCall,
    make_labels,
    make_values,
)
from tests.onehot.one_hot.cases import one_hot_by_loop


def mixup_by_one_hot(labels: Tensor, lam: Tensor | float, permutation: Tensor | None = None, *, num_classes: int,
                     **options: Any) -> Tensor:  # fmt: skip
    """timm's mixup_target, extended by a weight for each sample and a permutation."""
    dim, dtype = options.pop("dim", -1), options.pop("dtype", None)
    hot = one_hot_by_loop(labels, num_classes, dtype=torch.float64, **options)
    if isinstance(lam, Tensor):
        dtype, lam = dtype or lam.dtype, lam.to(torch.float64).view(-1, *[1] * labels.dim())
    other = hot.flip(0) if permutation is None else hot[permutation.long()]
    return (hot * lam + other * (1 - lam)).movedim(-1, dim).to(dtype or torch.get_default_dtype())


def make_permutation(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    return torch.randperm(shape[0], generator=generator).to(dtype).to(device)


def _permuted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda labels, lam, permutation, **options: function(labels, lam, permutation=permutation, **options)


def random_mixup_one_hot(draw: Draw) -> Call:
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


_labels = torch.tensor([[0, 1], [2, 1]])
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
        Sample("several blocks", ((2, 5000), (2,)), {"num_classes": 5, "dim": 1}),
        Sample("smoothed", ((6,), (6,)), {"num_classes": 5, "label_smoothing": 0.2}),
        Sample("smoothed, ignored", ((4, 5, 3), (4,)), {"num_classes": 5, "label_smoothing": 0.2, "ignore_index": 0, "dim": 1}),
        Sample("invalid zero", ((50,), (50,)), {"num_classes": 3, "invalid": "zero"}),
        Sample("empty", ((0, 3), (0,)), {"num_classes": 5, "dim": 1}),
    ),
    wrong=(
        WrongCall("entries", lambda: torchext.mixup_one_hot(_labels, 0.5, 2**62), ValueError, "num_classes: expected at most 2.59"),
        WrongCall("list", lambda: torchext.mixup_one_hot([0, 1], 0.5, 2), TypeError, "labels: expected a tensor, got list"),
        WrongCall("no dimension", lambda: torchext.mixup_one_hot(torch.tensor(1), 0.5, 2), ValueError, "labels: expected at least 1 dimension"),
        WrongCall("label", lambda: torchext.mixup_one_hot(_labels, 0.5, 2), IndexError, r"label 2 at position \(1, 0\) is outside \[0, 2\)"),
        WrongCall("lam", lambda: torchext.mixup_one_hot(_labels, 1.5, 3), ValueError, r"lam: expected a number in \[0, 1\], got 1.5"),
        WrongCall("lam type", lambda: torchext.mixup_one_hot(_labels, "half", 3), TypeError, "lam: expected a number or a tensor, got str"),
        WrongCall("lam dtype", lambda: torchext.mixup_one_hot(_labels, _labels[0], 3), TypeError, "lam: expected float16.*got torch.int64"),
        WrongCall("lam shape", lambda: torchext.mixup_one_hot(_labels, _lam.expand(3), 3), ValueError, r"lam: expected shape \(\) or \(2,\), one value for each sample, got \(3,\)"),
        WrongCall("num_classes", lambda: torchext.mixup_one_hot(_labels, 0.5, -1), ValueError, "num_classes: expected a number of classes, got -1"),
        WrongCall("dtype", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, dtype=torch.int64), TypeError, "dtype: expected float16.*got torch.int64"),
        WrongCall("smoothing", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, label_smoothing=1.5), ValueError, r"label_smoothing: .*\[0, 1\], got 1.5"),
        WrongCall("dim", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, dim=3), ValueError, r"dim: expected a dimension in \[-3, 2\], got 3"),
        WrongCall("permutation type", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=[1, 0]), TypeError, "permutation: expected a tensor, got list"),
        WrongCall("permutation dtype", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=_labels[0] > 0), TypeError, "permutation: expected an integer dtype, got torch.bool"),
        WrongCall("permutation shape", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=_labels), ValueError, r"permutation: expected shape \(2,\), one entry for each sample, got \(2, 2\)"),
        WrongCall("permutation entry", lambda: torchext.mixup_one_hot(_labels, 0.5, 3, permutation=_labels[1]), IndexError, r"permutation: entry 2 at position \(0,\) is outside \[0, 2\)"),
    ),
    launches=1,
    random_call=random_mixup_one_hot,
)  # fmt: skip

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
    launches=2,  # another kernel checks the permutation
)  # fmt: skip

OPERATIONS = (MIXUP_ONE_HOT, PERMUTED_MIXUP)
