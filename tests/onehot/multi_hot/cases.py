"""The rows of multi_hot in the conformance table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import (
    COMPLEX,
    FLOATS,
    INTEGERS,
    LABELS,
    LABELS_AND_VALUES,
    Operation,
    Sample,
    WrongCall,
    make_labels,
    make_values,
)
from tests.onehot.one_hot.cases import one_hot_by_loop


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


def _weighted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda indices, weights, **options: function(indices, weights=weights, **options)


def random_multi_hot(draw: Draw) -> Call:
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


_labels = torch.tensor([[0, 1], [2, 1]])
_weights = torch.ones(2, 2)

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
        Sample("one label in each row", ((6, 1),), {"num_classes": 5}),
        Sample("no labels", ((6, 0),), {"num_classes": 5, "off_value": 2.0, "on_value": 3.0}),
        Sample("no labels, planes", ((6, 2, 0),), {"num_classes": 5, "dim": 0}),
        Sample("experts first", ((300, 3),), {"num_classes": 130, "dim": 0, "dtype": torch.bfloat16}),
        Sample("masks", ((2, 9, 11, 3),), {"num_classes": 7, "dim": 1, "dtype": torch.bool}),
        Sample("wide rows", ((3, 5),), {"num_classes": 33000, "dtype": torch.uint8}),
        Sample("long rows", ((3, 700),), {"num_classes": 40, "dtype": torch.int32}),
        Sample("several blocks", ((2, 5000, 2),), {"num_classes": 5, "dim": 1, "dtype": torch.uint8}),
        Sample("values", ((4, 5, 2),), {"num_classes": 6, "on_value": 0.75, "off_value": -2.0, "dim": -2}),
        Sample("infinite", ((4, 2),), {"num_classes": 5, "on_value": 0.0, "off_value": float("-inf")}),
        Sample("complex", ((4, 2),), {"num_classes": 5, "dtype": torch.complex128, "off_value": 1.5, "dim": 0}),
        Sample("ignored", ((4, 5),), {"num_classes": 5, "ignore_index": 1, "off_value": 3.0, "on_value": 4}),
        Sample("invalid zero", ((50, 3),), {"num_classes": 3, "invalid": "zero"}),
        Sample("invalid zero planes", ((2, 50, 2),), {"num_classes": 3, "invalid": "zero", "off_value": 1, "on_value": 2, "dim": 1}),
        Sample("empty", ((0, 3, 2),), {"num_classes": 5, "dim": 1}),
    ),
    wrong=(
        WrongCall("entries", lambda: torchext.multi_hot(_labels, 2**62), ValueError, "num_classes: expected at most 2.59"),
        WrongCall("list", lambda: torchext.multi_hot([[0, 1]], 2), TypeError, "indices: expected a tensor, got list"),
        WrongCall("float indices", lambda: torchext.multi_hot(torch.zeros(2, 2), 2), TypeError, "indices: .*got torch.float32"),
        WrongCall("no dimension", lambda: torchext.multi_hot(torch.tensor(1), 2), ValueError, "indices: expected at least 1 dimension"),
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
    random_call=random_multi_hot,
)  # fmt: skip

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
        WrongCall("out and grad", lambda: torchext.multi_hot(_labels, 3, weights=_weights.clone().requires_grad_(), out=torch.zeros(2, 3)), ValueError, "weights: .*does not require grad when out is given"),
    ),
    launches=1,
)  # fmt: skip

OPERATIONS = (MULTI_HOT, WEIGHTED_MULTI_HOT)
