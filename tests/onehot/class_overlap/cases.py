"""The rows of class_overlap in the conformance table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import (
    FLOATS,
    VALUES_AND_LABELS,
    Operation,
    Sample,
    WrongCall,
    make_eighths,
    make_labels,
)
from torchext._core.library import reference_only
from torchext.onehot.class_overlap import overlap_of_scores as fused_overlap_of_scores


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
    """Sums over the positions that are not ignored, one sample and one class after the other."""
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
    """class_overlap with an activation inside the kernel, as losses call it."""
    options = {"dim": 1, "ignore_index": None, "invalid": "raise", **options}
    return fused_overlap_of_scores("scores", scores, labels, activation, squared, **options)


def overlap_of_scores_by_reference(*args: Any, **options: Any) -> torchext.ClassOverlap:
    with reference_only():
        return overlap_of_scores(*args, **options)


def random_class_overlap(draw: Draw) -> Call:
    classes = draw.one_of(1, 2, 3, 5, 31, 32, 33, 70)
    places = draw.sizes(draw.between(0, 2), 1, 2, 8, 33, 40)
    batch = draw.between(1, 3)
    scores = draw.values((batch, classes, *places), draw.one_of(*FLOATS), 0, 3)
    return Call(
        "class_overlap", (scores, draw.labels((batch, *places), classes, bad=True)), draw.label_options(classes)
    )


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
        Sample("no positions", ((2, 5, 0, 3), (2, 0, 3))),
        Sample("no sample", ((0, 5, 3), (0, 3))),
        Sample("one position in each sample", ((4, 5), (4,))),
        Sample("one position", ((5,), ()), {"dim": 0}, batched=False),
        Sample("no samples", ((5, 4, 6), (4, 6)), {"dim": 0}, batched=False),
        Sample("classes last", ((3, 4, 9, 6), (3, 4, 9)), {"dim": -1}),
        Sample("classes in the middle", ((2, 4, 7, 5), (2, 4, 5)), {"dim": 2}),
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
    random_call=random_class_overlap,
    pieces_follow_index_width=True,
)  # fmt: skip

# The same operation with an activation, and with the sum of squares as total.
OVERLAP_OF_SCORES = tuple(
    replace(
        CLASS_OVERLAP,
        name=f"class_overlap_of_{name}",
        function=overlap_of_scores,
        reference=overlap_of_scores_by_reference,
        samples=tuple(
            replace(sample, options={"activation": activation, "squared": squared, **sample.options})
            for sample in CLASS_OVERLAP.samples
            if sample.name
            in ("plain", "ignored", "invalid zero", "no positions", "one position", "classes in the middle", "blocks")
        ),
        wrong=(),
        random_call=None,
    )
    for name, activation, squared in (
        ("softmax", "softmax", False),
        ("softmax_squared", "softmax", True),
        ("sigmoid", "sigmoid", False),
        ("sigmoid_squared", "sigmoid", True),
        ("squares", None, True),
    )
)

OPERATIONS = (CLASS_OVERLAP, *OVERLAP_OF_SCORES)
