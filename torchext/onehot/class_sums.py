"""Statistics of classes: counts, sums and means of labelled values, and the confusion matrix."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import COMPLEX_DTYPES, FLOAT_DTYPES, LABEL_DTYPES, accumulation_dtype, widest_float
from torchext._core.library import Derivative, Kernel, define, in_onnx_export, is_readable, is_recorded, vmap_in_front
from torchext._core.sharding import PARTIAL, REPLICATE, Option
from torchext.onehot.labels import (
    PREDICTED,
    TARGET,
    as_int64,
    check_values,
    checked,
    clamped_in_onnx,
    classes_of,
    first_bad,
    keys_of,
    known_classes,
    label_rule,
    refuse_bad,
    refuse_bad_in_graph,
    vmap_values,
)

__all__ = ["class_counts", "class_means", "class_sums", "confusion_matrix"]

_MEAN_DTYPES = FLOAT_DTYPES | COMPLEX_DTYPES
_SUM_DTYPES = _MEAN_DTYPES | LABEL_DTYPES  # bool and integers
_SUM_DTYPE = "bool, an integer, float or complex dtype"


def _default_sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the sums of a dtype, as in `torch.sum`: the same, but int64 for integers and bool."""
    return dtype if dtype in _MEAN_DTYPES else torch.int64


def _accumulation_argument(values: Tensor, dtype: torch.dtype) -> torch.dtype | None:
    """The argument `dtype` of the operation class_sums for which its sums convert to `dtype` with a single rounding."""
    if values.dtype in _MEAN_DTYPES:
        wide = torch.promote_types(accumulation_dtype(values.dtype), dtype)
        return None if dtype == values.dtype or wide == values.dtype else wide
    # int64 sums of narrower integers are exact. Sums of 64-bit integers may overflow int64, but not a float.
    return widest_float(values.device) if dtype.is_floating_point and values.dtype.itemsize == 8 else None


# The operations sum over all dimensions of the labels but the first `samples`. The public functions have no such
# dimensions; vmap adds them.


def _keys(labels: Tensor, num_classes: int, samples: int, *rule: Any) -> tuple[Tensor, int]:
    """The bin of each label, flattened, and the number of bins of a sample."""
    if samples == 0 and in_onnx_export():  # -1 is the last bin there, so that fewer passes over the labels are enough
        return clamped_in_onnx(labels, num_classes, *rule).reshape(-1).to(torch.int64), num_classes + 1
    return keys_of(*classes_of(labels, num_classes, *rule), num_classes, samples)


_PIECE_BITS = 12
_PIECE = 1 << _PIECE_BITS  # rows that are added one after the other


def sum_by_key(keys: Tensor, rows: Tensor, batch: tuple[int, ...], count: int, num_classes: int) -> Tensor:
    """Sum rows by their bins, of which a sample has `count`, to (*batch, classes, *features)."""
    bins = math.prod(batch) * count
    if is_readable(keys) and not is_recorded(rows):
        sums = _sum_on_cpu(keys, rows, bins)
    else:
        if rows.dtype != torch.int64 and not in_onnx_export():
            keys, rows = _sum_pieces(keys, rows, bins)
        sums = _sum_rows(keys, rows, bins)
    return sums.reshape(*batch, count, *rows.shape[1:]).narrow(len(batch), 0, num_classes)


def _sum_on_cpu(keys: Tensor, rows: Tensor, bins: int) -> Tensor:
    """Sum rows by their bins. Only where a bin has many rows of floats, they are summed in parts."""
    sums, count = rows.new_zeros((bins, *rows.shape[1:])), keys.shape[0]
    if count <= _PIECE or rows.dtype == torch.int64:
        return sums.index_add_(0, keys, rows)
    if count <= bins * _PIECE // 2 and int(torch.bincount(keys, minlength=bins).max()) <= _PIECE:
        return sums.index_add_(0, keys, rows)
    if bins * 4 > _PIECE:
        return sums.index_add_(0, *_sum_pieces(keys, rows, bins))
    for key, part in zip(keys.split(_PIECE), rows.split(_PIECE), strict=True):  # the pieces of _sum_pieces
        sums += torch.zeros_like(sums).index_add_(0, key, part)
    return sums


def count_by_key(keys: Tensor, batch: tuple[int, ...], count: int, num_classes: int) -> Tensor:
    """Count the labels of each bin, to (*batch, classes)."""
    bins = math.prod(batch) * count
    counts = torch.bincount(keys, minlength=bins) if is_readable(keys) else _sum_rows(keys, torch.ones_like(keys), bins)
    return counts.reshape(*batch, count).narrow(len(batch), 0, num_classes).contiguous()


def _sum_rows(keys: Tensor, rows: Tensor, bins: int) -> Tensor:
    zeros = rows.new_zeros((bins, *rows.shape[1:]))
    if rows.dim() == 1 and in_onnx_export():  # where index_add becomes an operator for rows, which is slower
        return zeros.scatter_add(0, keys, rows)
    return zeros.index_add(0, keys, rows)


def _sum_pieces(keys: Tensor, rows: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Sum pieces of at most `_PIECE` rows of one bin; returns the bin and the sum of each piece.

    The rounding error of adding floats one after the other grows with their number.
    """
    count = keys.shape[0]
    # A shift, not a division: PyTorch 2.13 compiles a quotient of arange to wrong values at the end.
    block = torch.arange(count, device=keys.device) >> _PIECE_BITS
    if bins * 4 <= _PIECE:  # each block of `_PIECE` rows has a piece for every bin
        pieces = (count // _PIECE + 1) * bins
        piece_keys = torch.arange(pieces, device=keys.device) % bins
        piece = block * bins + keys
    else:  # with rows in the order of their keys, a new piece starts where the key or the block changes
        pieces = bins + count // _PIECE
        ordered, order = keys.sort(stable=True)
        piece = torch.empty_like(keys).scatter(0, order, ordered + block)
        piece_keys = keys.new_zeros(pieces).scatter(0, piece, keys)
    return piece_keys, rows.new_zeros((pieces, *rows.shape[1:])).index_add(0, piece, rows)


def _narrow(classes: Tensor, num_classes: int) -> Tensor:
    """Convert classes to a small dtype, since `torch.bincount` reads them three times."""
    if num_classes > 2**15 or classes.dtype.itemsize <= 2:
        return classes
    return classes.to(torch.uint8 if num_classes <= 2**8 else torch.int16)


def _class_counts_reference(labels: Tensor, num_classes: int, samples: int, *rule: Any) -> Tensor:
    known = known_classes(labels, num_classes, rule[0]) if samples == 0 else None
    if known is not None:
        return torch.bincount(_narrow(known, num_classes).reshape(-1), minlength=num_classes)
    keys, count = _keys(labels, num_classes, samples, *rule)
    return count_by_key(keys, labels.shape[:samples], count, num_classes)


def _sums_sharding(label_dims: int, samples: int, tensors: int) -> list[Option]:
    """The options of an operation that sums over labels: the result of a shard of labels is a summand of the whole."""
    return [(d if d < samples else PARTIAL, [d] * tensors) for d in range(label_dims)]


_class_counts = define(
    "class_counts(Tensor labels, SymInt num_classes, int samples, SymInt? ignore_index, bool raises) -> Tensor",
    reference=_class_counts_reference,
    fake=lambda labels, num_classes, samples, *_: labels.new_empty(
        (*labels.shape[:samples], num_classes), dtype=torch.int64
    ),
    vmap=vmap_in_front(2),
    sharding=lambda labels, num_classes, samples, *_: _sums_sharding(labels.ndim, samples, 1),
)


def _class_sums_reference(
    values: Tensor, labels: Tensor, num_classes: int, samples: int, dtype: torch.dtype | None, *rule: Any
) -> Tensor:
    keys, count = _keys(labels, num_classes, samples, *rule)
    dtype = dtype or _default_sum_dtype(values.dtype)
    rows = values.to(accumulation_dtype(dtype)).reshape(math.prod(labels.shape), *values.shape[labels.dim() :])
    return sum_by_key(keys, rows, labels.shape[:samples], count, num_classes).to(dtype).contiguous()


def _class_sums_fake(
    values: Tensor, labels: Tensor, num_classes: int, samples: int, dtype: torch.dtype | None, *_: Any
) -> Tensor:
    shape = (*labels.shape[:samples], num_classes, *values.shape[labels.dim() :])
    return values.new_empty(shape, dtype=dtype or _default_sum_dtype(values.dtype))


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


# The operation class_sums: without a dtype, sums have the dtype of the values, int64 for integers and bool. With a
# dtype, which is a result of `_accumulation_argument`, they are accumulated and returned in it.
_class_sums = define(
    "class_sums(Tensor values, Tensor labels, SymInt num_classes, int samples, ScalarType? dtype, "
    "SymInt? ignore_index, bool raises) -> Tensor",
    reference=_class_sums_reference,
    fake=_class_sums_fake,
    vmap=vmap_values,
    sharding=_class_sums_sharding,
    derivative=Derivative(_class_sums_save, _class_sums_backward, _class_sums_jvp),
)


def _class_rows_reference(sums: Tensor, labels: Tensor, samples: int, ignore_index: int | None) -> Tensor:
    num_classes, features = sums.shape[samples], sums.shape[samples + 1 :]
    keys, count = _keys(labels, num_classes, samples, ignore_index, False)
    nothing = sums.new_zeros((*sums.shape[:samples], count - num_classes, *features))
    rows = torch.cat([sums, nothing], samples)
    rows = rows.reshape(math.prod(rows.shape[: samples + 1]), *features)
    return rows.index_select(0, keys).reshape(*labels.shape, *features)


def _class_rows_vmap(call: Kernel, batch_size: int, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
    if in_dims[1] is not None:
        return vmap_in_front(2)(call, batch_size, in_dims, *args)
    sums, labels, samples, *_ = args
    return call(sums.movedim(in_dims[0], samples + 1), *args[1:]), labels.dim()


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
    sums = _class_sums(grad, labels, ctx.num_classes, ctx.samples, None, ctx.ignore_index, False)
    return sums, None, None, None


def _class_rows_jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
    rows: Tensor = _class_rows(tangent, *ctx.saved_tensors, ctx.samples, ctx.ignore_index)
    return rows


# The operation class_rows: for each label the row of its class, zeros for a label without class. It is the transpose of
# class_sums.
_class_rows = define(
    "class_rows(Tensor sums, Tensor labels, int samples, SymInt? ignore_index) -> Tensor",
    reference=_class_rows_reference,
    fake=lambda sums, labels, samples, *_: sums.new_empty((*labels.shape, *sums.shape[samples + 1 :])),
    vmap=_class_rows_vmap,
    sharding=_class_rows_sharding,
    derivative=Derivative(_class_rows_save, _class_rows_backward, _class_rows_jvp),
)


def _pairs(
    predicted: Tensor, target: Tensor, num_classes: int, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The number of each pair, -1 for a pair that is left out; and which predictions and which targets are bad."""
    columns, rows = as_int64(predicted), as_int64(target)
    bad_columns, bad_rows = ((c < 0) | (c >= num_classes) for c in (columns, rows))
    left_out = bad_columns | bad_rows
    if ignore_index is not None and (ignore_index >= 0 or target.dtype.is_signed):
        ignored = rows == ignore_index
        left_out, bad_columns, bad_rows = left_out | ignored, bad_columns & ~ignored, bad_rows & ~ignored
    return torch.where(left_out, -1, rows * num_classes + columns), bad_columns, bad_rows


def _count_pairs(pairs: Tensor, are_pairs: bool, num_classes: int, samples: int) -> Tensor:
    batch, (keys, count) = pairs.shape[:samples], keys_of(pairs, are_pairs, num_classes**2, samples)
    return count_by_key(keys, batch, count, num_classes**2).reshape(*batch, num_classes, num_classes)


def _confusion_counts_reference(
    predicted: Tensor, target: Tensor, num_classes: int, samples: int, ignore_index: int | None, raises: bool
) -> Tensor:
    columns, rows = known_classes(predicted, num_classes, None), known_classes(target, num_classes, ignore_index)
    if columns is not None and rows is not None:
        dtype = torch.int16 if num_classes**2 <= 2**15 else torch.int64
        pairs = (rows.to(dtype) * num_classes).add_(columns.to(dtype))
        return _count_pairs(pairs, True, num_classes, samples)
    pairs, bad_columns, bad_rows = _pairs(predicted, target, num_classes, ignore_index)
    if raises:
        # Of two bad labels, the error names the one at the lower position, as the kernels' errors do.
        both = ((predicted, bad_columns, PREDICTED), (target, bad_rows, TARGET))
        for labels, bad, argument in sorted(both, key=lambda entry: first_bad(entry[1])):
            refuse_bad(labels, bad, num_classes, argument)
    return _count_pairs(pairs, False, num_classes, samples)


def _confusion_counts_traced(
    predicted: Tensor, target: Tensor, num_classes: int, samples: int, ignore_index: int | None, raises: bool
) -> Tensor:
    if samples == 0 and in_onnx_export():
        return _confusion_counts_in_onnx(predicted, target, num_classes, ignore_index, raises)
    pairs, bad_columns, bad_rows = _pairs(predicted, target, num_classes, ignore_index)
    if raises:
        refuse_bad_in_graph(bad_columns, PREDICTED)
        refuse_bad_in_graph(bad_rows, TARGET)
    return _count_pairs(pairs, False, num_classes, samples)


def _confusion_counts_in_onnx(
    predicted: Tensor, target: Tensor, num_classes: int, ignore_index: int | None, raises: bool
) -> Tensor:
    """The same for onnxruntime, where each pass over the labels counts.

    The matrix has two more rows and columns, which are dropped. A pair with a label that is not a class is counted in
    one of them: num_classes is the first, and -1 the last of the previous row. A negative position is counted from the
    end, which is in a dropped row.
    """
    columns = clamped_in_onnx(predicted, num_classes, None, raises, PREDICTED)
    rows = clamped_in_onnx(target, num_classes, ignore_index, raises, TARGET)
    width = num_classes + 2
    pairs = (rows * width + columns).reshape(-1).to(torch.int64)
    counts = _sum_rows(pairs, torch.ones_like(pairs), width**2).reshape(width, width)
    return counts[:num_classes, :num_classes].contiguous()


_confusion_counts = define(
    "confusion_counts(Tensor predicted, Tensor target, SymInt num_classes, int samples, SymInt? ignore_index, "
    "bool raises) -> Tensor",
    reference=_confusion_counts_reference,
    fake=lambda _, target, num_classes, samples, *__: target.new_empty(
        (*target.shape[:samples], num_classes, num_classes), dtype=torch.int64
    ),
    vmap=vmap_in_front(3),
    sharding=lambda predicted, target, num_classes, samples, *_: _sums_sharding(target.ndim, samples, 2),
    decomposition=_confusion_counts_traced,
    traceable=False,  # it raises, with the argument's name
)


def class_counts(
    labels: Tensor,
    num_classes: int,
    *,
    weights: Tensor | None = None,
    dtype: torch.dtype | None = None,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Count the labels of each class, or sum up their weights.

    Args:
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C, the number of classes.
        weights: ``(*)`` as `labels`, bool, an integer, float (16 to 64 bits) or complex (64 or 128 bits) dtype, any
            strides. If None, each label counts 1.
        dtype: dtype of the sums of weights, as in `class_sums`; has to be None without weights.
        ignore_index: a label that is not counted.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the label
            is not counted and `check_errors` raises. With ``"zero"`` it is not counted.

    Returns:
        ``(C,)``, int64; with weights in the dtype that `class_sums` returns.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits for any number of threads. Differentiable in `weights`. The result is that of
        `torch.bincount`, but with a fixed length and without a synchronisation.

    Examples:
        >>> torchext.class_counts(torch.tensor([0, 2, 2, 255]), 3, ignore_index=255)
        tensor([1, 0, 2])
        >>> torchext.class_counts(torch.tensor([0, 2, 2]), 3, weights=torch.tensor([0.5, 1.0, 2.0]))
        tensor([0.5000, 0.0000, 3.0000])
    """
    checks.labels("labels", labels)
    if weights is not None:
        checks.tensor_of("weights", weights, _SUM_DTYPES, _SUM_DTYPE)
        if weights.shape != labels.shape:
            raise ValueError(f"weights: expected shape {tuple(labels.shape)} as of labels, got {tuple(weights.shape)}")
        dtype = _check_dtype("weights", weights, dtype)
        return _sums("weights", weights, labels, num_classes, dtype, ignore_index, invalid).to(dtype)
    if dtype is not None:
        raise ValueError(f"dtype: expected None without weights, whose counts are int64, got {dtype}")
    num_classes = checks.classes("num_classes", num_classes)
    ignore_index, raises = label_rule(ignore_index, invalid)
    return checked(_class_counts(labels, num_classes, 0, ignore_index, raises), labels)


def class_sums(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    dtype: torch.dtype | None = None,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Sum up the values of each class: ``one_hot(labels).T @ values`` without storing the one-hot encoding.

    Args:
        values: ``(*, *F)``: the shape of `labels`, then any shape of features, which may be empty. bool, an integer,
            float (16 to 64 bits) or complex (64 or 128 bits) dtype, any strides; read in place.
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C, the number of classes.
        dtype: dtype of the sums, as in `torch.sum`: any float dtype of 16 to 64 bits for floats, complex64 or
            complex128 for complex numbers, int64 or any of those float dtypes for integers and bool. None is the dtype
            of `values`, for integers and bool int64.
        ignore_index: a label whose values are left out.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the values
            are left out and `check_errors` raises. With ``"zero"`` they are left out.

    Returns:
        ``(C, *F)`` in `dtype`. Floats are accumulated in the widest of `dtype`, the dtype of `values` and float32, and
        rounded once. Integers are accumulated in int64; 64-bit integers with a float `dtype` in float64, or in float32
        on a device without float64.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits in every run and for any number of threads. Differentiable in `values`. In addition
        to the result, 4 bytes of memory for each label are allocated, for the order of the labels. The result is that
        of `torch.Tensor.index_add` on a tensor of zeros.

    Examples:
        >>> values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> torchext.class_sums(values, torch.tensor([0, 2, 0]), 3)
        tensor([[ 4., 40.],
                [ 0.,  0.],
                [ 2., 20.]])
    """
    checks.tensor_of("values", values, _SUM_DTYPES, _SUM_DTYPE)
    dtype = _check_dtype("values", values, dtype)
    return _sums("values", values, labels, num_classes, dtype, ignore_index, invalid).to(dtype)


def class_means(
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    dtype: torch.dtype | None = None,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Average the values of each class, for example to compute prototypes, superpixels or the centres of clusters.

    Args:
        values: ``(*, *F)``: the shape of `labels`, then any shape of features, which may be empty. A float (16 to 64
            bits) or complex (64 or 128 bits) dtype, or with a float `dtype` bool or an integer dtype, any strides; read
            in place.
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C, the number of classes.
        dtype: dtype of the means, as in `torch.mean`: complex64 or complex128 for complex numbers, otherwise any float
            dtype of 16 to 64 bits. None is the dtype of `values`.
        ignore_index: a label whose values are left out.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the values
            are left out and `check_errors` raises. With ``"zero"`` they are left out.

    Returns:
        ``(C, *F)`` in `dtype`, 0 for classes without a label. Sums are accumulated as in `class_sums`, half precision
        in float32, and each mean is rounded to `dtype` at the end.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits in every run and for any number of threads. Differentiable in `values`.

    Examples:
        >>> values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> torchext.class_means(values, torch.tensor([0, 2, 0]), 3)
        tensor([[ 2., 20.],
                [ 0.,  0.],
                [ 2., 20.]])
    """
    checks.tensor("values", values)
    is_averaged = values.dtype in _MEAN_DTYPES
    if not is_averaged and (dtype is None or values.dtype not in _SUM_DTYPES):
        raise TypeError(f"values: expected a float or complex dtype, or integers and a float dtype, got {values.dtype}")
    dtype = _check_dtype("values", values, dtype, to_int64=False)
    sums = _sums("values", values, labels, num_classes, accumulation_dtype(dtype), ignore_index, invalid)
    counts = class_counts(labels, num_classes, ignore_index=ignore_index, invalid="zero")
    if not is_averaged:
        sums = sums.to(widest_float(values.device))
    means = sums / counts.clamp(min=1).reshape(counts.shape[0], *[1] * (sums.dim() - 1))
    return means.to(dtype)


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
        target: ``(*)``, bool or any integer dtype, which may differ from that of `predicted`, any strides; read in
            place.
        num_classes: C, the number of classes.
        normalize: divide each count by the number of pairs with the same target (``"true"``: rows sum to 1), with the
            same prediction (``"pred"``: columns sum to 1) or by the number of all pairs (``"all"``). None returns the
            counts.
        ignore_index: a target whose pairs are left out, for any prediction.
        invalid: how pairs with a label outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU that
            names the argument; on CUDA the pair is left out and `check_errors` raises. With ``"zero"`` it is left out.

    Returns:
        ``(C, C)``, rows are targets, columns predictions. The dtype is int64, or if normalised the default float dtype,
        where a division by 0 has the result 0.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic. The result is that of ``sklearn.metrics.confusion_matrix(target, predicted, labels=range(C))``.

    Examples:
        >>> torchext.confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2]), 3)
        tensor([[1, 1, 0],
                [0, 1, 0],
                [0, 0, 1]])
    """
    checks.labels("predicted", predicted)
    checks.labels("target", target)
    if predicted.shape != target.shape:
        raise ValueError(f"predicted: expected shape {tuple(target.shape)} as of target, got {tuple(predicted.shape)}")
    checks.same_device("predicted", predicted, "target", target)
    num_classes = checks.classes("num_classes", num_classes)
    checks.fits("num_classes", num_classes, (num_classes, num_classes))
    checks.option("normalize", normalize, (None, "true", "pred", "all"))
    ignore_index, raises = label_rule(ignore_index, invalid)
    counts = checked(_confusion_counts(predicted, target, num_classes, 0, ignore_index, raises), target)
    if normalize is None:
        return counts
    over = {"true": [1], "pred": [0], "all": [0, 1]}[normalize]
    # A count may overflow float16, so that the division is in a wide dtype.
    shares = counts.to(widest_float(counts.device)) / counts.sum(over, keepdim=True).clamp(min=1)
    return shares.to(torch.get_default_dtype())


def _check_dtype(name: str, values: Tensor, dtype: Any, *, to_int64: bool = True) -> torch.dtype:
    """Check the dtype of sums or means and return it; None is the default.

    Floats require a float dtype and complex numbers a complex dtype, so that no part of a value is lost.
    """
    if dtype is None:
        return _default_sum_dtype(values.dtype)
    if values.dtype in COMPLEX_DTYPES:
        allowed, expected = COMPLEX_DTYPES, "complex64 or complex128"
    else:
        allowed, expected = FLOAT_DTYPES, checks.FLOAT_DTYPE
        if to_int64 and values.dtype in LABEL_DTYPES:
            allowed, expected = FLOAT_DTYPES | {torch.int64}, f"int64, {expected}"
    checks.dtype(dtype, allowed, f"{expected} for {name} of {values.dtype}")
    return dtype


def _sums(
    name: str,
    values: Tensor,
    labels: Tensor,
    num_classes: int,
    dtype: torch.dtype,
    ignore_index: int | None,
    invalid: str,
) -> Tensor:
    """Check the arguments and compute sums in a dtype that is at least as wide as `dtype`."""
    num_classes = check_values(name, values, labels, num_classes)
    ignore_index, raises = label_rule(ignore_index, invalid)
    sums = _class_sums(values, labels, num_classes, 0, _accumulation_argument(values, dtype), ignore_index, raises)
    return checked(sums, labels)
