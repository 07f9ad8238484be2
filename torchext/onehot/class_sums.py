"""Statistics of classes: counts, sums and means of what is labelled, and how predictions and targets meet."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import COMPLEX_DTYPES, FLOAT_DTYPES, INTEGER_DTYPES, accumulation_dtype
from torchext._core.library import Derivative, define, to_front
from torchext._core.sharding import PARTIAL, REPLICATE, Option
from torchext.onehot.labels import (
    PREDICTED,
    TARGET,
    as_int64,
    checked,
    class_indices,
    first_bad,
    label_rule,
    refuse_bad,
)

__all__ = ["class_counts", "class_means", "class_sums", "confusion_matrix"]

_AVERAGED = FLOAT_DTYPES | COMPLEX_DTYPES
_SUMMED = _AVERAGED | INTEGER_DTYPES

# The operations keep the first `samples` dimensions of the labels apart and sum over the others. The public functions
# have no such dimension; vmap adds them.


def _keys(classes: Tensor, num_classes: int, samples: int) -> Tensor:
    """int64 classes of all samples as one row of bins: in each sample one a class, and a last one for what has none."""
    count, inner = math.prod(classes.shape[:samples]), math.prod(classes.shape[samples:])
    bins = torch.where(classes < 0, num_classes, classes).reshape(count, inner)
    first = torch.arange(count, device=classes.device) * (num_classes + 1)
    return (bins + first.unsqueeze(1)).reshape(-1)


def _sum_by_key(keys: Tensor, rows: Tensor, batch: tuple[int, ...], num_classes: int) -> Tensor:
    """Rows summed by their bins, to (*batch, classes, *features)."""
    sums = rows.new_zeros((math.prod(batch) * (num_classes + 1), *rows.shape[1:])).index_add(0, keys, rows)
    return sums.reshape(*batch, num_classes + 1, *rows.shape[1:]).narrow(len(batch), 0, num_classes)


def _class_counts_reference(
    labels: Tensor, num_classes: int, samples: int, ignore_index: int | None, raises: bool
) -> Tensor:
    keys = _keys(class_indices(labels, num_classes, ignore_index, raises), num_classes, samples)
    return _sum_by_key(keys, torch.ones_like(keys), labels.shape[:samples], num_classes).contiguous()


def _class_counts_vmap(
    batch_size: int, in_dims: Any, labels: Tensor, num_classes: int, samples: int, *rest: Any
) -> tuple[Tensor, int]:
    return _class_counts(to_front(labels, in_dims[0], batch_size), num_classes, samples + 1, *rest), 0


def _sums_sharding(label_dims: int, samples: int, tensors: int) -> list[Option]:
    """Of what is summed over labels: what a shard of a sample's labels gives is a part of the whole sum."""
    return [(d if d < samples else PARTIAL, [d] * tensors) for d in range(label_dims)]


def _class_counts_sharding(labels: Tensor, _num_classes: int, samples: int, *_: Any) -> list[Option]:
    return _sums_sharding(labels.ndim, samples, 1)


_class_counts = define(
    "class_counts(Tensor labels, SymInt num_classes, int samples, SymInt? ignore_index, bool raises) -> Tensor",
    reference=_class_counts_reference,
    fake=lambda labels, num_classes, samples, *_: labels.new_empty(
        (*labels.shape[:samples], num_classes), dtype=torch.int64
    ),
    vmap=_class_counts_vmap,
    sharding=_class_counts_sharding,
)


def _class_sums_reference(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    samples: int,
    wide: bool,
    ignore_index: int | None,
    raises: bool,
) -> Tensor:
    keys = _keys(class_indices(labels, num_classes, ignore_index, raises), num_classes, samples)
    rows = values.to(accumulation_dtype(values.dtype)).reshape(math.prod(labels.shape), *values.shape[labels.dim() :])
    sums = _sum_by_key(keys, rows, labels.shape[:samples], num_classes)
    return (sums if wide else sums.to(values.dtype)).contiguous()


def _class_sums_fake(values: Tensor, labels: Tensor, num_classes: int, samples: int, wide: bool, *_: Any) -> Tensor:
    shape = (*labels.shape[:samples], num_classes, *values.shape[labels.dim() :])
    return values.new_empty(shape, dtype=accumulation_dtype(values.dtype) if wide else values.dtype)


def _class_sums_vmap(
    batch_size: int, in_dims: Any, values: Tensor, labels: Tensor, num_classes: int, samples: int, *rest: Any
) -> tuple[Tensor, int]:
    if in_dims[1] is None:  # one more dimension of features
        values = values.movedim(in_dims[0], labels.dim())
        return _class_sums(values, labels, num_classes, samples, *rest), samples + 1
    values, labels = to_front(values, in_dims[0], batch_size), to_front(labels, in_dims[1], batch_size)
    return _class_sums(values, labels, num_classes, samples + 1, *rest), 0


def _class_sums_sharding(values: Tensor, labels: Tensor, _num_classes: int, samples: int, *_: Any) -> list[Option]:
    rank = labels.ndim
    by_feature: list[Option] = [(d - rank + samples + 1, [d, REPLICATE]) for d in range(rank, values.ndim)]
    return _sums_sharding(rank, samples, 2) + by_feature


def _class_sums_save(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    values, labels, *ctx.options, _ = inputs
    ctx.dtype = values.dtype
    ctx.save_for_backward(labels)
    ctx.save_for_forward(labels)


def _class_sums_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    _, samples, _, ignore_index = ctx.options
    return (_class_rows(grad.to(ctx.dtype), *ctx.saved_tensors, samples, ignore_index), *[None] * 6)


def _class_sums_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    sums: Tensor = _class_sums(tangent, *ctx.saved_tensors, *ctx.options, False)
    return sums


# class_sums: `wide` leaves the sums of half precision in float32, in which they were accumulated.
_class_sums = define(
    "class_sums(Tensor values, Tensor labels, SymInt num_classes, int samples, bool wide, SymInt? ignore_index, "
    "bool raises) -> Tensor",
    reference=_class_sums_reference,
    fake=_class_sums_fake,
    vmap=_class_sums_vmap,
    sharding=_class_sums_sharding,
    derivative=Derivative(_class_sums_save, _class_sums_backward, _class_sums_jvp),
)


def _class_rows_reference(sums: Tensor, labels: Tensor, samples: int, ignore_index: int | None) -> Tensor:
    num_classes, features = sums.shape[samples], sums.shape[samples + 1 :]
    keys = _keys(class_indices(labels, num_classes, ignore_index, False), num_classes, samples)
    nothing = sums.new_zeros((*sums.shape[:samples], 1, *features))
    rows = torch.cat([sums, nothing], samples)
    rows = rows.reshape(math.prod(rows.shape[: samples + 1]), *features)
    return rows.index_select(0, keys).reshape(*labels.shape, *features)


def _class_rows_vmap(
    batch_size: int, in_dims: Any, sums: Tensor, labels: Tensor, samples: int, *rest: Any
) -> tuple[Tensor, int]:
    if in_dims[1] is None:
        return _class_rows(sums.movedim(in_dims[0], samples + 1), labels, samples, *rest), labels.dim()
    sums, labels = to_front(sums, in_dims[0], batch_size), to_front(labels, in_dims[1], batch_size)
    return _class_rows(sums, labels, samples + 1, *rest), 0


def _class_rows_sharding(sums: Tensor, labels: Tensor, samples: int, *_: Any) -> list[Option]:
    rank = labels.ndim
    by_label: list[Option] = [(d, [d if d < samples else REPLICATE, d]) for d in range(rank)]
    by_feature: list[Option] = [(d - samples - 1 + rank, [d, REPLICATE]) for d in range(samples + 1, sums.ndim)]
    return by_label + by_feature


def _class_rows_save(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    sums, labels, ctx.samples, ctx.ignore_index = inputs
    ctx.num_classes = sums.shape[ctx.samples]
    ctx.save_for_backward(labels)
    ctx.save_for_forward(labels)


def _class_rows_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (labels,) = ctx.saved_tensors
    sums = _class_sums(grad, labels, ctx.num_classes, ctx.samples, False, ctx.ignore_index, False)
    return sums, None, None, None


def _class_rows_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    rows: Tensor = _class_rows(tangent, *ctx.saved_tensors, ctx.samples, ctx.ignore_index)
    return rows


# class_rows: for each label its class's row, zeros for what has no class: the transpose of class_sums.
_class_rows = define(
    "class_rows(Tensor sums, Tensor labels, int samples, SymInt? ignore_index) -> Tensor",
    reference=_class_rows_reference,
    fake=lambda sums, labels, samples, *_: sums.new_empty((*labels.shape, *sums.shape[samples + 1 :])),
    vmap=_class_rows_vmap,
    sharding=_class_rows_sharding,
    derivative=Derivative(_class_rows_save, _class_rows_backward, _class_rows_jvp),
)


def _confusion_counts_reference(
    predicted: Tensor, target: Tensor, num_classes: int, samples: int, ignore_index: int | None, raises: bool
) -> Tensor:
    columns, rows = as_int64(predicted), as_int64(target)
    left_out = torch.zeros_like(rows, dtype=torch.bool)
    if ignore_index is not None and (ignore_index >= 0 or target.dtype.is_signed):
        left_out = rows == ignore_index
    bad_columns, bad_rows = (((c < 0) | (c >= num_classes)) & ~left_out for c in (columns, rows))
    if raises:
        # The one at the lower position, as the kernels do.
        both = ((predicted, bad_columns, PREDICTED), (target, bad_rows, TARGET))
        for labels, bad, argument in sorted(both, key=lambda one: first_bad(one[1])):
            refuse_bad(labels, bad, num_classes, argument)
    pairs = torch.where(left_out | bad_columns | bad_rows, -1, rows * num_classes + columns)
    keys = _keys(pairs, num_classes**2, samples)
    counts = _sum_by_key(keys, torch.ones_like(keys), target.shape[:samples], num_classes**2)
    return counts.reshape(*target.shape[:samples], num_classes, num_classes).contiguous()


def _confusion_counts_vmap(
    batch_size: int, in_dims: Any, predicted: Tensor, target: Tensor, num_classes: int, samples: int, *rest: Any
) -> tuple[Tensor, int]:
    predicted, target = to_front(predicted, in_dims[0], batch_size), to_front(target, in_dims[1], batch_size)
    return _confusion_counts(predicted, target, num_classes, samples + 1, *rest), 0


def _confusion_counts_sharding(
    _predicted: Tensor, target: Tensor, _num_classes: int, samples: int, *_: Any
) -> list[Option]:
    return _sums_sharding(target.ndim, samples, 2)


_confusion_counts = define(
    "confusion_counts(Tensor predicted, Tensor target, SymInt num_classes, int samples, SymInt? ignore_index, "
    "bool raises) -> Tensor",
    reference=_confusion_counts_reference,
    fake=lambda _, target, num_classes, samples, *__: target.new_empty(
        (*target.shape[:samples], num_classes, num_classes), dtype=torch.int64
    ),
    vmap=_confusion_counts_vmap,
    sharding=_confusion_counts_sharding,
    traceable=False,  # it raises, with the argument's name
)


def class_counts(
    labels: Tensor,
    num_classes: int,
    *,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Count the labels of each class, or sum up their weights.

    Args:
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C.
        weights: ``(*)`` as `labels`, an integer, float or complex dtype, any strides; counts 1 each if None.
        ignore_index: a label that is not counted.
        invalid: what becomes of labels outside ``[0, C)``. ``"raise"`` is an IndexError on the CPU; on CUDA the label
            is not counted and `check_errors` raises. With ``"zero"`` it is not counted.

    Returns:
        ``(C,)``, int64 or the dtype of `weights`.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits for any number of threads. Differentiable in `weights`. As `torch.bincount`, of a
        fixed length and without a synchronisation.

    Example:
        >>> torchext.class_counts(torch.tensor([0, 2, 2, 255]), 3, ignore_index=255)
        tensor([1, 0, 2])
        >>> torchext.class_counts(torch.tensor([0, 2, 2]), 3, weights=torch.tensor([0.5, 1.0, 2.0]))
        tensor([0.5000, 0.0000, 3.0000])
    """
    checks.labels("labels", labels)
    if weights is not None:
        _check_summed("weights", weights)
        if weights.shape != labels.shape:
            raise ValueError(f"weights: expected shape {tuple(labels.shape)} as of labels, got {tuple(weights.shape)}")
        return _sums("weights", weights, labels, num_classes, False, ignore_index, invalid)
    num_classes = checks.classes("num_classes", num_classes)
    ignore_index, raises = label_rule(ignore_index, invalid)
    return checked(_class_counts(labels, num_classes, 0, ignore_index, raises), labels)


def class_sums(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Sum up the values of each class: ``one_hot(labels).T @ values`` with no one-hot in memory.

    Args:
        values: ``(*, *F)``: the shape of `labels`, then any shape of features, also none. An integer, float (16 to 64
            bits) or complex (64 or 128 bits) dtype, any strides.
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C.
        ignore_index: a label whose values take no part.
        invalid: what becomes of labels outside ``[0, C)``. ``"raise"`` is an IndexError on the CPU; on CUDA the values
            take no part and `check_errors` raises. With ``"zero"`` they take no part.

    Returns:
        ``(C, *F)`` in `values`'s dtype. Half precision is accumulated in float32, integers in int64, which wraps.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits in every run and for any number of threads. Differentiable in `values`. Beside the
        result there is memory for an order of the labels, 4 bytes each. As `torch.Tensor.index_add` into zeros.

    Example:
        >>> values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> torchext.class_sums(values, torch.tensor([0, 2, 0]), 3)
        tensor([[ 4., 40.],
                [ 0.,  0.],
                [ 2., 20.]])
    """
    _check_summed("values", values)
    return _sums("values", values, labels, num_classes, False, ignore_index, invalid)


def class_means(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Average the values of each class: prototypes, superpixels, clusters.

    Args:
        values: ``(*, *F)``: the shape of `labels`, then any shape of features, also none. A float (16 to 64 bits) or
            complex (64 or 128 bits) dtype, any strides.
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C.
        ignore_index: a label whose values take no part.
        invalid: what becomes of labels outside ``[0, C)``. ``"raise"`` is an IndexError on the CPU; on CUDA the values
            take no part and `check_errors` raises. With ``"zero"`` they take no part.

    Returns:
        ``(C, *F)`` in `values`'s dtype, 0 for classes without a label. Half precision is rounded once, at the end.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits in every run and for any number of threads. Differentiable in `values`.

    Example:
        >>> values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> torchext.class_means(values, torch.tensor([0, 2, 0]), 3)
        tensor([[ 2., 20.],
                [ 0.,  0.],
                [ 2., 20.]])
    """
    checks.tensor("values", values)
    if values.dtype not in _AVERAGED:
        raise TypeError(f"values: expected a float or complex dtype, got {values.dtype}")
    sums = _sums("values", values, labels, num_classes, True, ignore_index, invalid)
    counts = class_counts(labels, num_classes, ignore_index=ignore_index, invalid="zero")
    means = sums / counts.clamp(min=1).reshape(counts.shape[0], *[1] * (sums.dim() - 1))
    return means.to(values.dtype)


def confusion_matrix(
    predicted: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    normalize: Literal["true", "pred", "all"] | None = None,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Count for each class of the targets how often each class was predicted.

    Args:
        predicted: ``(*)``, bool or any integer dtype, any strides; read in place.
        target: ``(*)``, the same; its dtype may be another.
        num_classes: C.
        normalize: divides by what there is of the target's class (``"true"``: rows sum to 1), of the predicted class
            (``"pred"``: columns sum to 1) or of all pairs (``"all"``).
        ignore_index: a target whose pairs are left out, whatever was predicted there.
        invalid: what becomes of pairs with a label outside ``[0, C)``. ``"raise"`` is an IndexError on the CPU that
            names the argument; on CUDA the pair is left out and `check_errors` raises. With ``"zero"`` it is left out.

    Returns:
        ``(C, C)``, rows are targets, columns predictions: int64, or the default float dtype if normalised, with 0 for
        what had to be divided by 0.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic. As ``sklearn.metrics.confusion_matrix(target, predicted, labels=range(C))``.

    Example:
        >>> torchext.confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2]), 3)
        tensor([[1, 1, 0],
                [0, 1, 0],
                [0, 0, 1]])
    """
    checks.labels("predicted", predicted)
    checks.labels("target", target)
    if predicted.shape != target.shape:
        raise ValueError(f"predicted: expected shape {tuple(target.shape)} as of target, got {tuple(predicted.shape)}")
    _check_device("predicted", predicted, "target", target)
    num_classes = checks.classes("num_classes", num_classes)
    if num_classes >= 2**30:  # the bytes of the matrix would not be an int64
        raise ValueError(f"num_classes: expected less than 2**30, got {num_classes}")
    checks.option("normalize", normalize, (None, "true", "pred", "all"))
    ignore_index, raises = label_rule(ignore_index, invalid)
    counts = checked(_confusion_counts(predicted, target, num_classes, 0, ignore_index, raises), target)
    if normalize is None:
        return counts
    over = {"true": [1], "pred": [0], "all": [0, 1]}[normalize]
    # In float16 a count can be infinite.
    shares = counts.to(torch.float64) / counts.sum(over, keepdim=True).clamp(min=1)
    return shares.to(torch.get_default_dtype())


def _check_summed(name: str, values: Any) -> None:
    checks.tensor(name, values)
    if values.dtype not in _SUMMED:
        raise TypeError(f"{name}: expected an integer, float or complex dtype, got {values.dtype}")


def _check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name}: expected device {other.device} as of {other_name}, got {tensor.device}")


def _sums(
    name: str,
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    wide: bool,
    ignore_index: int | None,
    invalid: str,
) -> Tensor:
    rank = checks.labels("labels", labels)
    full_shape = values.shape
    if full_shape[:rank] != labels.shape:
        shape = ", ".join([*map(str, labels.shape), "..."])
        raise ValueError(f"{name}: expected shape ({shape}), that of labels first, got {tuple(full_shape)}")
    dims = len(full_shape)
    if dims > checks.MAX_DIMS or dims - rank == checks.MAX_DIMS:
        most = checks.MAX_DIMS - (rank == 0)  # the sums' dimension of classes is one more
        raise ValueError(f"{name}: expected at most {most} dimensions, got {dims}")
    _check_device("labels", labels, name, values)
    num_classes = checks.classes("num_classes", num_classes)
    ignore_index, raises = label_rule(ignore_index, invalid)
    return checked(_class_sums(values, labels, num_classes, 0, wide, ignore_index, raises), labels)
