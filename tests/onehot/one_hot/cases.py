"""The rows of one_hot in the conformance table."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import (
    COMPLEX,
    FLOATS,
    INTEGERS,
    LABELS,
    Operation,
    Sample,
    Sharded,
    WrongCall,
    make_labels,
)


def one_hot_by_loop(labels: Tensor, num_classes: int = -1, **options: Any) -> Tensor:
    """F.one_hot if it supports the options, otherwise arithmetic."""
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


def random_one_hot(draw: Draw) -> Call:
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
        # Memory that begins up to 15 bytes after a multiple of 16.
        memory = torch.zeros(math.prod(full) + 3, dtype=dtype)
        options["out"] = memory[draw.between(0, 3) :][: math.prod(full)].view(full)
    else:
        options["dtype"] = dtype
    return Call("one_hot", (draw.labels(shape, classes, bad=True), classes), options)


_labels = torch.tensor([[0, 1], [2, 1]])

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
        Sample("several blocks", ((2, 70, 61),), {"num_classes": 5, "dim": 1, "dtype": torch.bfloat16}),
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
        WrongCall("entries", lambda: torchext.one_hot(_labels, 2**62), ValueError, "num_classes: expected at most 2.59"),
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
        WrongCall("out expanded", lambda: torchext.one_hot(_labels, 3, out=torch.zeros(1, 2, 3).expand(2, 2, 3)), ValueError, "out: .*do not share memory"),
        WrongCall("out grad", lambda: torchext.one_hot(_labels, 3, out=torch.zeros(2, 2, 3, requires_grad=True)), ValueError, "out: .*require grad"),
    ),
    launches=1,
    differentiable=False,
    exact=True,
    random_call=random_one_hot,
    sharded=(Sharded(Sample("rows", ((4, 6),), {"num_classes": 5, "dim": 1}), (1,), 2),),
)  # fmt: skip

OPERATIONS = (ONE_HOT,)
