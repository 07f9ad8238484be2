"""The rows of class_max and class_min in the conformance table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import (
    FLOATS,
    LABELS,
    VALUES_AND_LABELS,
    Operation,
    Sample,
    Sharded,
    WrongCall,
    make_labels,
    make_values,
)


def extremes_by_class(largest: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """One class after the other, as `torch.max` and `torch.min` do, with the first of equal values."""

    def independent(
        values: Tensor, labels: Tensor, num_classes: int, *, ignore_index: int | None = None, invalid: str = "raise"
    ) -> tuple[Tensor, Tensor]:
        flat, features = labels.to(torch.int64).flatten(), values.shape[labels.dim() :]
        rows = values.reshape(labels.numel(), *features)
        if values.is_floating_point():
            limits = (-torch.inf, torch.inf)
        else:
            rows = rows.to(torch.int64)
            info = torch.iinfo(torch.uint8 if values.dtype == torch.bool else values.dtype)
            limits = (info.min, -1 if values.dtype == torch.uint64 else info.max)
        found = rows.new_full((num_classes, *features), limits[not largest])
        indices = torch.full_like(found, -1, dtype=torch.int64)
        for label in set(flat.tolist()).intersection(range(num_classes)) - {ignore_index}:
            of_class = torch.where(flat == label)[0]
            mine = rows[of_class]
            best = found[label] = mine.amax(0) if largest else mine.amin(0)
            is_best = (mine == best) | (mine.isnan() & best.isnan())
            indices[label] = of_class[is_best.to(torch.uint8).argmax(0)]
        return found.to(values.dtype), indices  # -1 is the largest uint64

    return independent


def make_every_label(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Labels in which every class occurs if there are enough: extremes are finite, and their differences not NaN."""
    labels = make_labels(shape, dtype, device, generator)
    labels.view(-1)[:5] = (torch.arange(5) % (2 if dtype == torch.bool else 5)).to(dtype)[: labels.numel()]
    return labels


def random_extremes(name: str) -> Callable[[Draw], Call]:
    def draw_call(draw: Draw) -> Call:
        classes = draw.one_of(1, 2, 5, 31, 300, 9000)
        shape = draw.sizes(draw.between(0, 2), 0, 1, 2, 33, 70)
        features = draw.sizes(draw.between(0, 2), 1, 2, 3, 7, 8, 33) if classes < 9000 else ()
        values = draw.values((*shape, *features), draw.one_of(*FLOATS, *LABELS))  # many values are equal
        if values.is_floating_point():
            odd = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, *[1.0] * draw.one_of(1, 5, 50)])
            chosen = odd[torch.randint(len(odd), values.shape, generator=draw.generator)].to(values.dtype)
            values = draw.laid_out(torch.where(chosen == 1, values, chosen))
        elif values.dtype != torch.bool and draw.flip():
            limits = torch.iinfo(values.dtype)
            mask = torch.randint(2, values.shape, generator=draw.generator).bool()
            values = draw.laid_out(torch.where(mask, values, values.new_full((), draw.one_of(limits.min, limits.max))))
        return Call(name, (values, draw.labels(shape, classes, bad=True), classes), draw.label_options(classes))

    return draw_call


_marks = torch.tensor([[0, 1, 1], [2, 255, 0]])
_features = torch.ones(2, 3, 4)

_LABELLED: tuple[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ("plain", (9,), (3,), {"num_classes": 5}),
    ("rows of vectors", (2, 9), (37,), {"num_classes": 5}),
    ("features of two dimensions", (11,), (4, 3), {"num_classes": 5}),
    ("no features", (13,), (), {"num_classes": 5}),
    ("invalid zero", (50,), (3,), {"num_classes": 3, "invalid": "zero"}),
    ("no labels", (0, 3), (4,), {"num_classes": 5}),
    ("no width", (7,), (0,), {"num_classes": 5}),
    ("parts", (3, 9000), (), {"num_classes": 5}),
    ("groups of columns", (30,), (300,), {"num_classes": 5}),
)
# Some classes have no label.
_EMPTY: tuple[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ("few labels", (3,), (2,), {"num_classes": 7}),
    ("ignored", (4, 6), (2,), {"num_classes": 5, "ignore_index": 1}),
    ("one label", (), (), {"num_classes": 5}),
    ("one label with a vector", (), (4,), {"num_classes": 5}),
    ("more classes than labels", (4,), (), {"num_classes": 70000}),
    ("parts", (9000, 2), (), {"num_classes": 8, "ignore_index": 3}),
    ("parts of rows", (9000,), (3,), {"num_classes": 8}),
)


def _row(name: str, largest: bool, labelled: Any, differentiable: bool, wrong: tuple[WrongCall, ...]) -> Operation:
    function, suffix = "class_max" if largest else "class_min", "" if differentiable else "_of_few"
    return Operation(
        name=name + suffix,
        function=getattr(torchext, function),
        reference=getattr(torchext.reference, function),
        independent=extremes_by_class(largest),
        make=(make_values, make_every_label if differentiable else make_labels),
        dtypes=tuple(dict.fromkeys([*((dtype, torch.int64) for dtype in (*FLOATS, *LABELS)), *VALUES_AND_LABELS])),
        independent_dtypes=tuple((dtype, torch.int64) for dtype in (*FLOATS, *LABELS)),
        default_dtype=(torch.float64, torch.int64),
        samples=tuple(Sample(name, (labels + features, labels), options) for name, labels, features, options in labelled),
        wrong=wrong,
        launches=5,  # two fills, the values, the indices, and the remaining outputs
        differentiable=differentiable,
        exact=True,
        random_call=random_extremes(function) if differentiable else None,
        sharded=(Sharded(Sample("features", ((4, 6, 3), (4, 6)), {"num_classes": 5}), (2, None), 1),),
    )  # fmt: skip


_WRONG = (
    WrongCall("results", lambda: torchext.class_max(_features, _marks, 2**59), ValueError, "num_classes: expected at most 2.59"),
    WrongCall("type", lambda: torchext.class_max(1.0, _marks, 3), TypeError, "values: expected a tensor, got float"),
    WrongCall("complex", lambda: torchext.class_max(_features + 0j, _marks, 3), TypeError, "values: expected bool, an integer or float dtype, got torch.complex64"),
    WrongCall("8 bits", lambda: torchext.class_max(_features.to(torch.float8_e4m3fn), _marks, 3), TypeError, "values: .*got torch.float8_e4m3fn"),
    WrongCall("shape", lambda: torchext.class_max(_features[:1], _marks, 3), ValueError, r"values: expected shape \(2, 3, ...\), that of labels first, got \(1, 3, 4\)"),
    WrongCall("rank", lambda: torchext.class_max(_features[0, 0], _marks, 3), ValueError, r"values: expected shape .*got \(4,\)"),
    WrongCall("dimensions", lambda: torchext.class_max(torch.ones([1] * 64), torch.tensor(0), 3), ValueError, "values: expected at most 63 dimensions, got 64"),
    WrongCall("device", lambda: torchext.class_max(_features, _marks.to("meta"), 3), ValueError, "labels: expected device cpu as of values, got meta"),
    WrongCall("labels", lambda: torchext.class_max(_features, _features, 3), TypeError, "labels: .*got torch.float32"),
    WrongCall("label", lambda: torchext.class_max(_features, _marks, 3), IndexError, r"label 255 at position \(1, 1\) is outside \[0, 3\)"),
    WrongCall("columns' label", lambda: torchext.class_max(torch.ones(4, 3).T, _marks[0] + 9, 3), IndexError, r"label 9 at position \(0,\) is outside \[0, 3\)"),
    WrongCall("empty rows", lambda: torchext.class_max(_features[..., :0], _marks, 3), IndexError, r"label 255 at position \(1, 1\)"),
    WrongCall("no class", lambda: torchext.class_max(_features, _marks, 0), IndexError, r"label 0 at position \(0, 0\) is outside \[0, 0\)"),
    WrongCall("num_classes", lambda: torchext.class_max(_features, _marks, -2), ValueError, "num_classes: expected a number of classes, got -2"),
    WrongCall("invalid", lambda: torchext.class_max(_features, _marks, 3, invalid="skip"), ValueError, "invalid: expected one of 'raise', 'zero', got 'skip'"),
    WrongCall("ignore", lambda: torchext.class_max(_features, _marks, 3, ignore_index=1.0), TypeError, "ignore_index: expected an int, got float"),
)  # fmt: skip
_WRONG_MIN = (
    WrongCall("label", lambda: torchext.class_min(_features, _marks, 3), IndexError, r"label 255 at position \(1, 1\)"),
    WrongCall("complex", lambda: torchext.class_min(_features + 0j, _marks, 3), TypeError, "values: .*got torch.complex64"),
)  # fmt: skip

OPERATIONS = (
    _row("class_max", True, _LABELLED, True, _WRONG),
    _row("class_min", False, _LABELLED, True, _WRONG_MIN),
    _row("class_max", True, _EMPTY, False, ()),
    _row("class_min", False, _EMPTY, False, ()),
)
