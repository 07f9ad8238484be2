"""The largest and the smallest value of each class, and where they stand."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import FLOAT_DTYPES, LABEL_DTYPES
from torchext._core.library import Derivative, define, to_front
from torchext._core.sharding import REPLICATE, Option
from torchext.onehot.labels import checked, class_indices, label_rule

__all__ = ["ClassExtremes", "class_max", "class_min"]


class ClassExtremes(NamedTuple):
    """What `class_max` and `class_min` find, for each class and feature.

    Attributes:
        values: the largest or the smallest value.
        indices: where it stands among the labels, int64.
    """

    values: Tensor
    indices: Tensor


# The operation keeps the first `samples` dimensions of the labels apart, as class_sums does.


_SIGN = torch.iinfo(torch.int64).min


def _comparable(values: Tensor) -> Tensor:
    """Floats as they are, everything else as int64 of the same order: PyTorch compares few of the unsigned dtypes."""
    if values.dtype in FLOAT_DTYPES:
        return values
    return values.view(torch.int64) ^ _SIGN if values.dtype == torch.uint64 else values.to(torch.int64)


def _restored(values: Tensor, dtype: torch.dtype) -> Tensor:
    return (values ^ _SIGN).view(dtype) if dtype == torch.uint64 else values.to(dtype)


def _worst(dtype: torch.dtype, largest: bool) -> float | int:
    """What a class without a value has, as `_comparable` has it: every value is as good."""
    if dtype in FLOAT_DTYPES:
        return -math.inf if largest else math.inf
    if dtype == torch.bool:
        return int(not largest)
    limits = torch.iinfo(torch.int64 if dtype == torch.uint64 else dtype)
    return limits.min if largest else limits.max


def _class_extremes_reference(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    samples: int,
    largest: bool,
    ignore_index: int | None,
    raises: bool,
) -> tuple[Tensor, Tensor]:
    classes = class_indices(labels, num_classes, ignore_index, raises)
    batch, features = labels.shape[:samples], values.shape[labels.dim() :]
    outer, inner, width = math.prod(batch), math.prod(labels.shape[samples:]), math.prod(features)
    # All samples as one row of bins: in each sample one a class, and a last one for what has none.
    bins, count, reduce = num_classes + 1, outer * inner, "amax" if largest else "amin"
    sample = torch.arange(outer, device=labels.device).unsqueeze(1)
    keys = (torch.where(classes < 0, num_classes, classes).reshape(outer, inner) + sample * bins).reshape(count, 1)
    keys = keys.expand(count, width)
    rows, worst = _comparable(values).reshape(count, width), _worst(values.dtype, largest)
    best = rows.new_full((outer * bins, width), worst).scatter_reduce(0, keys, rows, reduce)
    # Where there is a NaN the best is one too, which nothing equals.
    is_best = (rows == best.gather(0, keys)) | (rows != rows)
    place = torch.arange(count, device=labels.device).unsqueeze(1)
    first = torch.full_like(best, count, dtype=torch.int64)
    first = first.scatter_reduce(0, keys, torch.where(is_best, place, count), "amin")
    first = first.reshape(outer, bins, width).narrow(1, 0, num_classes)
    indices = torch.where(first < count, first - sample.unsqueeze(2) * inner, -1)
    # Of zeros of both signs the first one; where there is no value the row behind the last.
    rows = torch.cat([rows, rows.new_full((1, width), worst)])
    found = _restored(rows.gather(0, first.reshape(outer * num_classes, width)), values.dtype)
    shape = (*batch, num_classes, *features)
    return found.reshape(shape), indices.reshape(shape)


def _class_extremes_fake(
    values: Tensor, labels: Tensor, num_classes: int, samples: int, *_: Any
) -> tuple[Tensor, Tensor]:
    shape = (*labels.shape[:samples], num_classes, *values.shape[labels.dim() :])
    return values.new_empty(shape), values.new_empty(shape, dtype=torch.int64)


def _class_extremes_vmap(
    batch_size: int, in_dims: Any, values: Tensor, labels: Tensor, num_classes: int, samples: int, *rest: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    if in_dims[1] is None:  # one more dimension of features
        values = values.movedim(in_dims[0], labels.dim())
        return _class_extremes(values, labels, num_classes, samples, *rest), (samples + 1, samples + 1)
    values, labels = to_front(values, in_dims[0], batch_size), to_front(labels, in_dims[1], batch_size)
    return _class_extremes(values, labels, num_classes, samples + 1, *rest), (0, 0)


def _class_extremes_sharding(values: Tensor, labels: Tensor, _num_classes: int, samples: int, *_: Any) -> list[Option]:
    # Where a shard of a sample's labels begins its rank does not know, nor what stands there in the others.
    rank = labels.ndim
    by_feature: list[Option] = [(d - rank + samples + 1, [d, REPLICATE]) for d in range(rank, values.ndim)]
    return [(d, [d, d]) for d in range(samples)] + by_feature


# Of the derivative: values as (samples, labels and one more for classes without a value, features), and for each class
# and feature the label that it has its value from.


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, Tensor]) -> None:
    values, labels, ctx.num_classes, samples, *_ = inputs
    ctx.shape = values.shape
    ctx.sizes = [math.prod(values.shape[a:b]) for a, b in ((0, samples), (samples, labels.dim()), (labels.dim(), None))]
    ctx.mark_non_differentiable(outputs[1])
    ctx.save_for_backward(outputs[1])
    ctx.save_for_forward(outputs[1])


def _places(ctx: Any) -> Tensor:
    (indices,) = ctx.saved_tensors
    outer, inner, width = ctx.sizes
    return torch.where(indices < 0, inner, indices).reshape(outer, ctx.num_classes, width)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    outer, inner, width = ctx.sizes
    places = _places(ctx)
    gradients = grad.new_zeros((outer, inner + 1, width)).scatter(1, places, grad.reshape(places.shape))
    return gradients.narrow(1, 0, inner).reshape(ctx.shape), *[None] * 6


def _jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
    outer, inner, width = ctx.sizes
    tangents = torch.cat([tangent.reshape(outer, inner, width), tangent.new_zeros((outer, 1, width))], 1)
    return tangents.gather(1, _places(ctx)).reshape(ctx.saved_tensors[0].shape), None


_class_extremes = define(
    "class_extremes(Tensor values, Tensor labels, SymInt num_classes, int samples, bool largest, "
    "SymInt? ignore_index, bool raises) -> (Tensor, Tensor)",
    reference=_class_extremes_reference,
    fake=_class_extremes_fake,
    vmap=_class_extremes_vmap,
    sharding=_class_extremes_sharding,
    derivative=Derivative(_save, _backward, _jvp),
)


def class_max(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> ClassExtremes:
    """Find the largest value of each class, feature by feature, and where it stands.

    Args:
        values: ``(*, *F)``: the shape of `labels`, then any shape of features, also none. bool, an integer or a float
            (16 to 64 bits) dtype, any strides; read in place.
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C.
        ignore_index: a label whose values take no part.
        invalid: what becomes of labels outside ``[0, C)``. ``"raise"`` is an IndexError on the CPU; on CUDA the values
            take no part and `check_errors` raises. With ``"zero"`` they take no part.

    Returns:
        `ClassExtremes`, a tuple of two tensors ``(C, *F)``. Values have the dtype of `values`; NaN is larger than
        everything, as in `torch.max`. Indices are int64: the position of the value's label in ``labels.flatten()``, so
        that ``values.reshape(-1, *F)[indices]`` at the same feature is the value; the lowest one where several are
        equal. A class without a label has index -1, and as its value -inf, of integers the lowest one, of bool False.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits in every run and for any number of threads. Differentiable in `values`: the
        gradient goes to the element at the index. As `torch.Tensor.scatter_reduce` with ``"amax"``, with indices.

    Examples:
        >>> values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 5.0]])
        >>> largest = torchext.class_max(values, torch.tensor([0, 2, 0]), 3)
        >>> largest.values
        tensor([[ 3., 10.],
                [-inf, -inf],
                [ 2., 20.]])
        >>> largest.indices
        tensor([[ 2,  0],
                [-1, -1],
                [ 1,  1]])
    """
    return _extremes(values, labels, num_classes, True, ignore_index, invalid)


def class_min(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> ClassExtremes:
    """Find the smallest value of each class, feature by feature, and where it stands.

    Args:
        values: as that of `class_max`.
        labels: as those of `class_max`.
        num_classes: C.
        ignore_index: a label whose values take no part.
        invalid: what becomes of labels outside ``[0, C)``, as in `class_max`.

    Returns:
        `ClassExtremes` as `class_max` gives it, of the smallest values; NaN is smaller than everything, as in
        `torch.min`. A class without a label has index -1, and as its value inf, of integers the highest one, of bool
        True.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic, and differentiable in `values`, as `class_max`.

    Examples:
        >>> smallest = torchext.class_min(torch.tensor([4, 2, 2]), torch.tensor([0, 1, 1]), 2)
        >>> smallest.values, smallest.indices
        (tensor([4, 2]), tensor([0, 1]))
    """
    return _extremes(values, labels, num_classes, False, ignore_index, invalid)


def _extremes(
    values: Tensor, labels: Tensor, num_classes: int, largest: bool, ignore_index: int | None, invalid: str
) -> ClassExtremes:
    checks.tensor("values", values)
    if values.dtype not in FLOAT_DTYPES | LABEL_DTYPES:
        raise TypeError(f"values: expected bool, an integer or float dtype, got {values.dtype}")
    rank = checks.labels("labels", labels)
    full_shape = values.shape
    if full_shape[:rank] != labels.shape:
        shape = ", ".join([*map(str, labels.shape), "..."])
        raise ValueError(f"values: expected shape ({shape}), that of labels first, got {tuple(full_shape)}")
    dims, most = len(full_shape), checks.MAX_DIMS - (rank == 0)  # the result's dimension of classes is one more
    if dims > most:
        raise ValueError(f"values: expected at most {most} dimensions, got {dims}")
    if labels.device != values.device:
        raise ValueError(f"labels: expected device {values.device} as of values, got {labels.device}")
    num_classes = checks.classes("num_classes", num_classes, full_shape[rank:])
    ignore_index, raises = label_rule(ignore_index, invalid)
    extremes = _class_extremes(values, labels, num_classes, 0, largest, ignore_index, raises)
    checked(extremes[0], labels)
    return ClassExtremes(*extremes)
