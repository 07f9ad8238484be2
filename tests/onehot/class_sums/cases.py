"""The rows of class_counts, class_sums, class_means and confusion_matrix in the conformance table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import (
    COMPLEX,
    FLOATS,
    LABELS,
    VALUES_AND_LABELS,
    Operation,
    Sample,
    Sharded,
    WrongCall,
    make_labels,
    make_quarters,
)


def one_hot_rows(labels: Tensor, num_classes: int, ignore_index: int | None, dtype: torch.dtype) -> Tensor:
    """The one-hot (N, C); rows of labels without a class are zeros."""
    flat = labels.to(torch.int64).flatten()
    classes = torch.arange(num_classes, device=labels.device)
    return ((flat[:, None] == classes) & (flat[:, None] != (-1 if ignore_index is None else ignore_index))).to(dtype)


def class_counts_by_one_hot(
    labels: Tensor, num_classes: int, *, ignore_index: int | None = None, invalid: str = "raise"
) -> Tensor:
    return one_hot_rows(labels, num_classes, ignore_index, torch.int64).sum(0)


def class_sums_by_product(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    dtype: torch.dtype | None = None,
    ignore_index: int | None = None,
    invalid: str = "raise",
) -> Tensor:
    """The same sums by a matrix product."""
    is_whole = not (values.is_floating_point() or values.is_complex())
    values = values.to(dtype or (torch.int64 if is_whole else values.dtype))
    hot = one_hot_rows(labels, num_classes, ignore_index, values.dtype)
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
    """The sums of one-hot targets times one-hot predictions; normalised as in scikit-learn, with 0 instead of NaN."""
    rows = one_hot_rows(target, num_classes, ignore_index, torch.float64)
    counts = rows.T @ one_hot_rows(predicted, num_classes, None, torch.float64)
    if normalize is None:
        return counts.to(torch.int64)
    total = {"true": counts.sum(1, keepdim=True), "pred": counts.sum(0, keepdim=True), "all": counts.sum()}[normalize]
    return torch.nan_to_num(counts / total).to(torch.get_default_dtype())


def random_class_counts(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 5, 31, 300, 9000)
    shape = draw.sizes(draw.between(0, 3), 0, 1, 2, 33, 70)
    return Call("class_counts", (draw.labels(shape, classes, bad=True), classes), draw.label_options(classes))


def random_confusion_matrix(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 5, 31, 120)
    shape = draw.sizes(draw.between(0, 3), 0, 1, 2, 33, 70)
    predicted, target = draw.labels(shape, classes, bad=True), draw.labels(shape, classes, bad=True)
    options = draw.label_options(classes)
    if "ignore_index" in options and predicted.dtype != torch.bool and draw.flip():
        # Predictions for ignored targets may have any value.
        anything = torch.where(target.to(torch.int64) == options["ignore_index"], 125, predicted.to(torch.int64))
        predicted = draw.laid_out(anything.to(predicted.dtype))
    return Call("confusion_matrix", (predicted, target, classes), options)


def random_class_sums(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 5, 31, 300, 9000)
    shape = draw.sizes(draw.between(0, 2), 0, 1, 2, 33, 70)
    features = draw.sizes(draw.between(0, 2), 1, 2, 3, 7, 8, 33) if classes < 9000 else ()
    values = draw.values((*shape, *features), draw.one_of(*FLOATS, *LABELS), 0, 3)
    options = draw.label_options(classes)
    if draw.flip():
        options["dtype"] = draw.one_of(*FLOATS, *(() if values.is_floating_point() else (torch.int64,)))
    return Call("class_sums", (values, draw.labels(shape, classes, bad=True), classes), options)


def random_class_means(draw: Draw) -> Call:
    call = random_class_sums(draw)
    if not call.args[0].is_floating_point() and call.options.get("dtype", torch.int64) == torch.int64:
        call.options["dtype"] = torch.float32
    return call._replace(name="class_means")


_marks = torch.tensor([[0, 1, 1], [2, 255, 0]])
_features = torch.ones(2, 3, 4)
_SUMMED = (*FLOATS, *COMPLEX, *LABELS)

_LABELLED: tuple[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ("plain", (9,), (3,), {"num_classes": 5}),
    ("rows of vectors", (2, 9), (37,), {"num_classes": 5}),
    ("features of two dimensions", (11,), (4, 3), {"num_classes": 6}),
    ("no features", (13,), (), {"num_classes": 5}),
    ("ignored", (4, 6), (2,), {"num_classes": 5, "ignore_index": 1}),
    ("invalid zero", (50,), (3,), {"num_classes": 3, "invalid": "zero"}),
    ("no labels", (0, 3), (4,), {"num_classes": 5}),
    ("no width", (7,), (0,), {"num_classes": 5}),
    # Too many classes for sums in tables: these sums are computed in the order of the labels.
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
        WrongCall("counts", lambda: torchext.class_counts(_marks, 2**62), ValueError, "num_classes: expected at most 2.59"),
        WrongCall("type", lambda: torchext.class_counts([0], 2), TypeError, "labels: expected a tensor, got list"),
        WrongCall("float labels", lambda: torchext.class_counts(torch.zeros(2), 2), TypeError, "labels: .*got torch.float32"),
        WrongCall("label", lambda: torchext.class_counts(_marks, 3), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("byte", lambda: torchext.class_counts(_marks.to(torch.uint8).repeat(1, 1000), 3), IndexError, r"label 255 at position \(1, 1\) is outside"),
        WrongCall("no class", lambda: torchext.class_counts(_marks, 0), IndexError, r"label 0 at position \(0, 0\) is outside \[0, 0\)"),
        WrongCall("weighted label", lambda: torchext.class_counts(_marks, 3, weights=_marks), IndexError, r"label 255 at position \(1, 1\)"),
        WrongCall("num_classes", lambda: torchext.class_counts(_marks, -1), ValueError, "num_classes: expected a number of classes, got -1"),
        WrongCall("float num_classes", lambda: torchext.class_counts(_marks, 3.0), TypeError, "num_classes: expected an int, got float"),
        WrongCall("weights", lambda: torchext.class_counts(_marks, 3, weights=_features), ValueError, r"weights: expected shape \(2, 3\) as of labels, got \(2, 3, 4\)"),
        WrongCall("8-bit weights", lambda: torchext.class_counts(_marks, 3, weights=_marks.to(torch.float8_e5m2)), TypeError, "weights: expected bool, an integer, float or complex dtype, got torch.float8_e5m2"),
        WrongCall("dtype alone", lambda: torchext.class_counts(_marks, 3, dtype=torch.float32), ValueError, "dtype: expected None without weights, whose counts are int64, got torch.float32"),
        WrongCall("fractions", lambda: torchext.class_counts(_marks, 3, weights=_marks.float(), dtype=torch.int64), TypeError, "dtype: expected float16, bfloat16, float32 or float64 for weights of torch.float32, got torch.int64"),
        WrongCall("invalid", lambda: torchext.class_counts(_marks, 3, invalid="skip"), ValueError, "invalid: expected one of 'raise', 'zero', got 'skip'"),
        WrongCall("ignore", lambda: torchext.class_counts(_marks, 3, ignore_index=1.0), TypeError, "ignore_index: expected an int, got float"),
    ),
    launches=2,
    differentiable=False,
    exact=True,
    random_call=random_class_counts,
    sharded=(Sharded(Sample("rows", ((4, 6),), {"num_classes": 5}), (1,), "partial"),),  # without gathering shards
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
    independent_dtypes=((torch.float32, torch.int64), (torch.float64, torch.int64), (torch.complex64, torch.int64), (torch.int64, torch.uint8), (torch.int8, torch.int64), (torch.bool, torch.int64)),
    default_dtype=(torch.float64, torch.int64),
    samples=tuple(Sample(name, (labels + features, labels), options) for name, labels, features, options in _LABELLED),
    wrong=(
        WrongCall("sums", lambda: torchext.class_sums(_features, _marks, 2**59), ValueError, "num_classes: expected at most 2.59"),
        WrongCall("type", lambda: torchext.class_sums(1.0, _marks, 3), TypeError, "values: expected a tensor, got float"),
        WrongCall("8 bits", lambda: torchext.class_sums(_features.to(torch.float8_e4m3fn), _marks, 3), TypeError, "values: expected bool, an integer, float or complex dtype, got torch.float8_e4m3fn"),
        WrongCall("no dtype", lambda: torchext.class_sums(_features, _marks, 3, dtype=float), TypeError, "dtype: expected a torch.dtype, got type"),
        WrongCall("fractions", lambda: torchext.class_sums(_features, _marks, 3, dtype=torch.int64), TypeError, "dtype: expected float16, bfloat16, float32 or float64 for values of torch.float32, got torch.int64"),
        WrongCall("imaginary parts", lambda: torchext.class_sums(_features + 0j, _marks, 3, dtype=torch.float64), TypeError, "dtype: expected complex64 or complex128 for values of torch.complex64, got torch.float64"),
        WrongCall("narrow", lambda: torchext.class_sums(_marks, _marks, 3, dtype=torch.int32), TypeError, "dtype: expected int64, float16, bfloat16, float32 or float64 for values of torch.int64, got torch.int32"),
        WrongCall("shape", lambda: torchext.class_sums(_features[:1], _marks, 3), ValueError, r"values: expected shape \(2, 3, ...\), that of labels first, got \(1, 3, 4\)"),
        WrongCall("rank", lambda: torchext.class_sums(_features[0, 0], _marks, 3), ValueError, r"values: expected shape .*got \(4,\)"),
        WrongCall("labels", lambda: torchext.class_sums(_features, _features, 3), TypeError, "labels: .*got torch.float32"),
        WrongCall("label", lambda: torchext.class_sums(_features, _marks, 3), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("ordered label", lambda: torchext.class_sums(_features.repeat(1, 1, 9000), _marks, 4), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 4\)"),
        WrongCall("empty rows", lambda: torchext.class_sums(_features[..., :0], _marks, 3), IndexError, r"label 255 at position \(1, 1\)"),
        WrongCall("num_classes", lambda: torchext.class_sums(_features, _marks, -2), ValueError, "num_classes: expected a number of classes, got -2"),
    ),
    launches=5,  # labels are counted, located and sorted; pieces are summed and added
    random_call=random_class_sums,
    sharded=tuple(
        Sharded(Sample("rows", ((4, 6, 3), (4, 6)), {"num_classes": 5}), arguments, result)
        for arguments, result in (((0, 0), "partial"), ((1, 1), "partial"), ((2, None), 1))
    ),
)  # fmt: skip

# Sums in another dtype than that of the values. Tests of their derivatives are in test_class_sums.py.
SUMS_IN_FLOAT64 = Operation(
    name="sums_in_float64",
    function=torchext.class_sums,
    reference=torchext.reference.class_sums,
    independent=class_sums_by_product,
    make=(make_quarters, make_labels),
    dtypes=tuple((dtype, torch.int64) for dtype in (*FLOATS, *LABELS)),
    independent_dtypes=tuple((dtype, torch.int64) for dtype in (*FLOATS, *LABELS)),
    default_dtype=(torch.float32, torch.int64),
    samples=tuple(Sample(name, (labels + features, labels), {**options, "dtype": torch.float64}) for name, labels, features, options in _LABELLED),
    wrong=(),
    launches=6,
    differentiable=False,
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
        WrongCall("integers", lambda: torchext.class_means(_marks, _marks, 3), TypeError, "values: expected a float or complex dtype, or integers and a float dtype, got torch.int64"),
        WrongCall("integer means", lambda: torchext.class_means(_marks, _marks, 3, dtype=torch.int64), TypeError, "dtype: expected float16, bfloat16, float32 or float64 for values of torch.int64, got torch.int64"),
        WrongCall("label", lambda: torchext.class_means(_features, _marks, 3), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 3\)"),
        WrongCall("shape", lambda: torchext.class_means(_features[:1], _marks, 3), ValueError, r"values: expected shape \(2, 3, ...\)"),
    ),
    launches=9,  # sums, counts and fills with zeros, a clamp and a division
    random_call=random_class_means,
    random_calls_round=True,
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
        Sample("no labels", ((0, 8), (0, 8)), {"num_classes": 7, "normalize": "all"}),
        Sample("invalid zero", ((50,), (50,)), {"num_classes": 3, "invalid": "zero"}),
        Sample("many classes", ((60,), (60,)), {"num_classes": 300}),
        Sample("blocks", ((3, 40000), (3, 40000)), {"num_classes": 5}),
    ),
    wrong=(
        WrongCall("pairs", lambda: torchext.confusion_matrix(_marks, _marks, 2**32), ValueError, "num_classes: expected at most 2.59"),
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
    random_call=random_confusion_matrix,
    result_has_wide_indices=True,
)  # fmt: skip

OPERATIONS = (CLASS_COUNTS, WEIGHTED_COUNTS, CLASS_SUMS, SUMS_IN_FLOAT64, CLASS_MEANS, CONFUSION_MATRIX)
