"""The largest and the smallest value of each class, and their positions."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import FLOAT_DTYPES, LABEL_DTYPES
from torchext._core.library import Derivative, define, is_readable
from torchext._core.sharding import REPLICATE, Option
from torchext.onehot.labels import check_values, checked, classes_of, keys_of, label_rule, vmap_values

__all__ = ["ClassExtremes", "class_max", "class_min"]


class ClassExtremes(NamedTuple):
    """The result of `class_max` and `class_min`, for each class and feature.

    Attributes:
        values: the largest or the smallest value.
        indices: its position in the flattened labels, int64.
    """

    values: Tensor
    indices: Tensor


# The operation has one result for each index of the first `samples` dimensions of the labels, as class_sums has.


_SIGN = torch.iinfo(torch.int64).min


def _comparable(values: Tensor) -> Tensor:
    """Floats unchanged, other dtypes as int64 in the same order: PyTorch compares few of the unsigned dtypes."""
    if values.dtype in FLOAT_DTYPES:
        return values
    return values.view(torch.int64) ^ _SIGN if values.dtype == torch.uint64 else values.to(torch.int64)


def _restored(values: Tensor, dtype: torch.dtype) -> Tensor:
    return (values ^ _SIGN).view(dtype) if dtype == torch.uint64 else values.to(dtype)


def _worst(dtype: torch.dtype, largest: bool) -> float | int:
    """The value of a class without labels, as `_comparable` represents it: no value is worse."""
    if dtype in FLOAT_DTYPES:
        return -math.inf if largest else math.inf
    if dtype == torch.bool:
        return int(not largest)
    limits = torch.iinfo(torch.int64 if dtype == torch.uint64 else dtype)
    return limits.min if largest else limits.max


def _class_extremes_reference(
    values: Tensor, labels: Tensor, num_classes: int, samples: int, largest: bool, *rule: Any
) -> tuple[Tensor, Tensor]:
    classes = classes_of(labels, num_classes, *rule)
    batch, features = labels.shape[:samples], values.shape[labels.dim() :]
    outer, inner, width = math.prod(batch), math.prod(labels.shape[samples:]), math.prod(features)
    # All samples share one row of bins.
    keys, bins = keys_of(*classes, num_classes, samples)
    count, reduce = outer * inner, "amax" if largest else "amin"
    sample = torch.arange(outer, device=labels.device).unsqueeze(1)
    every_key = keys.unsqueeze(1).expand(count, width)
    rows, worst = _comparable(values).reshape(count, width), _worst(values.dtype, largest)
    best = rows.new_full((outer * bins, width), worst).scatter_reduce(0, every_key, rows, reduce)
    is_best = rows == best.index_select(0, keys)
    if rows.dtype.is_floating_point and not (is_readable(best) and not best.isnan().any()):
        is_best = is_best | (rows != rows)  # the best value of a class with a NaN is NaN, which is equal to nothing
    first = torch.full_like(best, count, dtype=torch.int64)
    if is_readable(is_best):  # only the positions of the best values are scattered, which are few
        position, feature = is_best.nonzero(as_tuple=True)
        first.view(-1).scatter_reduce_(0, keys[position] * width + feature, position, "amin")
    else:
        position = torch.arange(count, device=labels.device).unsqueeze(1)
        first = first.scatter_reduce(0, every_key, torch.where(is_best, position, count), "amin")
    first = first.reshape(outer, bins, width).narrow(1, 0, num_classes)
    indices = torch.where(first < count, first - sample.unsqueeze(2) * inner, -1)
    # Gathering by position returns the first of zeros of both signs. Entries without a value read one row more.
    rows = torch.cat([rows, rows.new_full((1, width), worst)])
    found = _restored(rows.gather(0, first.reshape(outer * num_classes, width)), values.dtype)
    shape = (*batch, num_classes, *features)
    return found.reshape(shape), indices.reshape(shape)


def _class_extremes_fake(
    values: Tensor, labels: Tensor, num_classes: int, samples: int, *_: Any
) -> tuple[Tensor, Tensor]:
    shape = (*labels.shape[:samples], num_classes, *values.shape[labels.dim() :])
    return values.new_empty(shape), values.new_empty(shape, dtype=torch.int64)


def _class_extremes_sharding(values: Tensor, labels: Tensor, _num_classes: int, samples: int, *_: Any) -> list[Option]:
    # A rank does not know the position at which its shard of a sample's labels begins.
    rank = labels.ndim
    by_feature: list[Option] = [(d - rank + samples + 1, [d, REPLICATE]) for d in range(rank, values.ndim)]
    return [(d, [d, d]) for d in range(samples)] + by_feature


# The derivative views values as (samples, labels, features), with one more label for classes without a value, and
# scatters and gathers by the position of the label whose value was found.


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, Tensor]) -> None:
    values, labels, ctx.num_classes, samples, *_ = inputs
    ctx.shape = values.shape
    ctx.sizes = [math.prod(values.shape[a:b]) for a, b in ((0, samples), (samples, labels.dim()), (labels.dim(), None))]
    ctx.mark_non_differentiable(outputs[1])
    ctx.save_for_backward(outputs[1])
    ctx.save_for_forward(outputs[1])


def _positions(ctx: Any) -> Tensor:
    (indices,) = ctx.saved_tensors
    outer, inner, width = ctx.sizes
    return torch.where(indices < 0, inner, indices).reshape(outer, ctx.num_classes, width)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    outer, inner, width = ctx.sizes
    positions = _positions(ctx)
    gradients = grad.new_zeros((outer, inner + 1, width)).scatter(1, positions, grad.reshape(positions.shape))
    return gradients.narrow(1, 0, inner).reshape(ctx.shape), *[None] * 6


def _jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
    outer, inner, width = ctx.sizes
    tangents = torch.cat([tangent.reshape(outer, inner, width), tangent.new_zeros((outer, 1, width))], 1)
    return tangents.gather(1, _positions(ctx)).reshape(ctx.saved_tensors[0].shape), None


_class_extremes = define(
    "class_extremes(Tensor values, Tensor labels, SymInt num_classes, int samples, bool largest, "
    "SymInt? ignore_index, bool raises) -> (Tensor, Tensor)",
    reference=_class_extremes_reference,
    fake=_class_extremes_fake,
    vmap=vmap_values,
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
    """Find the largest value of each class, feature by feature, and its position.

    Args:
        values: ``(*, *F)``, the shape of `labels` followed by any shape of features, which may be empty. bool, an
            integer or a float (16 to 64 bits) dtype, any strides; read in place.
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C, the number of classes.
        ignore_index: a label whose values are left out.
        invalid: how labels outside ``[0, C)`` are handled. With ``"raise"`` they are an IndexError on the CPU; on CUDA
            their values are left out and `check_errors` raises. With ``"zero"`` their values are left out.

    Returns:
        `ClassExtremes`, a tuple of two tensors ``(C, *F)``. Values have the dtype of `values`; NaN is larger than every
        number, as in `torch.max`. Indices are int64: the position of the value's label in ``labels.flatten()``, the
        lowest one if several values are equal. A class without a label has index -1; its value is -inf for floats, the
        lowest value of the dtype for integers, and False for bool.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits in every run and for any number of threads. Differentiable in `values`: the
        gradient goes to the element at the index. Values as in `torch.Tensor.scatter_reduce` with ``"amax"``.

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
    """Find the smallest value of each class, feature by feature, and its position.

    Args:
        values: as that of `class_max`.
        labels: as those of `class_max`.
        num_classes: C, the number of classes.
        ignore_index: a label whose values are left out.
        invalid: how labels outside ``[0, C)`` are handled, as in `class_max`.

    Returns:
        `ClassExtremes` of the smallest values, in the form of `class_max`. NaN is smaller than every number, as in
        `torch.min`. A class without a label has index -1; its value is inf for floats, the highest value of the dtype
        for integers, and True for bool.

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
    checks.tensor_of("values", values, FLOAT_DTYPES | LABEL_DTYPES, "bool, an integer or float dtype")
    num_classes = check_values("values", values, labels, num_classes)
    ignore_index, raises = label_rule(ignore_index, invalid)
    extremes = _class_extremes(values, labels, num_classes, 0, largest, ignore_index, raises)
    checked(extremes[0], labels)
    return ClassExtremes(*extremes)
