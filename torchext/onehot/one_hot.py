"""One-hot encoding of labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import DTYPES
from torchext._core.library import define, in_onnx_export, in_transform, vmap_in_front
from torchext._core.sharding import largest_on_all_ranks, whole
from torchext.onehot.labels import as_int64, checked, class_indices, classes_of, label_rule, refuse_bad, warn_of_onnx
from torchext.onehot.values import (
    check_out,
    check_smoothing,
    compare,
    define_out,
    entries,
    is_fused,
    is_zero,
    scattered,
    values,
    write,
)

__all__ = ["one_hot"]

_MOST_DIMS = checks.MAX_DIMS - 1  # of the labels; the result has one more, the class dimension


def _one_hot_reference(
    labels: Tensor, num_classes: int, dim: int, dtype: torch.dtype | None, hot: float, cold: float, *rule: Any
) -> Tensor:
    classes, are_classes = classes_of(labels, num_classes, *rule)
    if not are_classes and not (labels.is_cpu and is_zero(cold)):
        return _compared(classes, num_classes, dim, dtype, hot, cold)
    shape = (*labels.shape[:dim], num_classes, *labels.shape[dim:])
    return scattered(classes.unsqueeze(dim), are_classes, shape, dim, dtype or torch.float32, hot, cold)


def _compared(
    classes: Tensor, num_classes: int, dim: int, dtype: torch.dtype | None, hot: float, cold: float
) -> Tensor:
    is_hot, has_no_class = compare(classes, num_classes, dim), classes.unsqueeze(dim) < 0
    return entries(is_hot, dtype or torch.float32, hot, cold, has_no_class)


def _one_hot_traced(
    labels: Tensor, num_classes: int, dim: int, dtype: torch.dtype | None, hot: float, cold: float, *rule: Any
) -> Tensor:
    """The same by a comparison with all classes, which compilers fuse with the code that reads the encoding."""
    if in_onnx_export() and (hot, cold, rule[0]) == (1, 0, None) and labels.dtype.itemsize < 4:
        if rule[1]:
            warn_of_onnx()
        return entries(compare(labels, num_classes, dim), dtype or torch.float32, hot, cold)
    # This calls the operation, not its reference, so that a compiler that traces this keeps the check of labels.
    return _compared(class_indices(labels, num_classes, *rule), num_classes, dim, dtype, hot, cold)


def _one_hot_fake(labels: Tensor, num_classes: int, dim: int, dtype: torch.dtype | None, *_: Any) -> Tensor:
    return labels.new_empty((*labels.shape[:dim], num_classes, *labels.shape[dim:]), dtype=dtype or torch.float32)


_one_hot = define(
    "one_hot(Tensor labels, SymInt num_classes, int dim, ScalarType? dtype, float hot, float cold, "
    "SymInt? ignore_index, bool raises) -> Tensor",
    reference=_one_hot_reference,
    fake=_one_hot_fake,
    vmap=vmap_in_front(2),
    sharding=lambda labels, num_classes, dim, *_: [(d + (d >= dim), [d]) for d in range(labels.ndim)],
    decomposition=_one_hot_traced,
)


_one_hot_out = define_out(
    "one_hot_out(Tensor labels, SymInt num_classes, int dim, float hot, float cold, "
    "SymInt? ignore_index, bool raises, Tensor(a!) out) -> ()",
    _one_hot_reference,
    dtype_at=3,
)


def one_hot(
    labels: Tensor,
    num_classes: int = -1,
    *,
    dim: int = -1,
    dtype: torch.dtype | None = None,
    on_value: float = 1.0,
    off_value: float = 0.0,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
    out: Tensor | None = None,
) -> Tensor:
    """Encode labels as vectors that are `on_value` at the label's class and `off_value` elsewhere.

    With label smoothing ε an entry is ``off + (on - off)·((1 - ε)·hot + ε/C)``, where hot is 1 at the label's class and
    0 elsewhere: the target that ``F.cross_entropy(label_smoothing=ε)`` uses. The vectors of ignored labels are all 0.

    Args:
        labels: ``(*)``, bool or any integer dtype, any strides; read in place.
        num_classes: C, the number of classes. -1 is the largest label that is not ignored plus 1, which requires a
            synchronisation with the labels' device. For a DTensor it is the largest label on all ranks, and each rank
            waits for the others.
        dim: the position of the class dimension in the output: -1 for ``(*, C)``, 1 for segmentation targets
            ``(N, C, H, W)``.
        dtype: dtype of the output: bool, any integer, float (including 8-bit) or complex dtype. None is the dtype of
            `out`, or without it PyTorch's default float dtype.
        on_value: entry at the label's class; for an integer `dtype`, an integer that float64 holds exactly.
        off_value: entry at every other class, with the same limits.
        label_smoothing: ε in [0, 1]; requires a float `dtype`.
        ignore_index: a label whose vectors are all 0.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the vector
            is 0 and `check_errors` raises the error. ``"zero"`` is a vector of zeros and no error.
        out: write into this tensor and return it. On the CPU it is not written if a label is invalid. If it is not
            row-major, a temporary tensor of its size is allocated.

    Returns:
        Row-major tensor of shape ``labels.shape`` with C inserted at `dim`.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option, or a value that `dtype` cannot hold.

    Note:
        Deterministic. With ``dtype=torch.int64`` and no other options, the result is that of
        `torch.nn.functional.one_hot`.

    Examples:
        >>> torchext.one_hot(torch.tensor([0, 2]), 3)
        tensor([[1., 0., 0.],
                [0., 0., 1.]])
        >>> mask = torch.tensor([[0, 1], [255, 1]], dtype=torch.uint8)
        >>> torchext.one_hot(mask, 2, dim=0, ignore_index=255, dtype=torch.int64)
        tensor([[[1, 0],
                 [0, 0]],
        <BLANKLINE>
                [[0, 1],
                 [0, 1]]])
    """
    rank = checks.labels("labels", labels, _MOST_DIMS)
    if out is not None:
        checks.tensor("out", out)
    axis = checks.dimension("dim", dim, rank + 1)
    if dtype is None:
        dtype = torch.get_default_dtype() if out is None else out.dtype
    checks.dtype(dtype, DTYPES, checks.ANY_DTYPE)
    are_floats = type(on_value) is type(off_value) is type(label_smoothing) is float
    if not are_floats or (on_value, off_value, label_smoothing) != (1, 0, 0):
        on_value, off_value, label_smoothing = _check_values(on_value, off_value, label_smoothing, dtype)
    ignore_index, raises = label_rule(ignore_index, invalid)
    num_classes = checks.integer("num_classes", num_classes)
    if num_classes < 0:
        _check_is_minus_one(num_classes)
        num_classes = _count_classes(labels, ignore_index)
    if num_classes > 2**31:
        num_classes = checks.classes("num_classes", num_classes, labels.shape)
    hot, cold = on_value, off_value
    if label_smoothing != 0:
        hot, cold = values(num_classes, on_value, off_value, label_smoothing)
    if out is not None:
        check_out(out, (*labels.shape[:axis], num_classes, *labels.shape[axis:]), dtype, {"labels": labels})
        write(out, _one_hot, _one_hot_out, (labels, num_classes, axis), (hot, cold, ignore_index, raises))
    else:
        # None means float32: converting a torch.dtype for the dispatcher would take a quarter of a call's time.
        dtype_or_none = None if dtype is torch.float32 else dtype
        # An opaque kernel would keep a compiler from fusing the encoding into its consumer.
        encode = _one_hot_traced if is_fused(labels) else _one_hot
        out = encode(labels, num_classes, axis, dtype_or_none, hot, cold, ignore_index, raises)
    return checked(out, labels)


def check_options(
    num_classes: int,
    dtype: torch.dtype,
    on_value: float,
    off_value: float,
    label_smoothing: float,
    ignore_index: int | None,
    invalid: str,
) -> None:
    """Raise the errors of `one_hot` that do not depend on the labels."""
    checks.dtype(dtype, DTYPES, checks.ANY_DTYPE)
    _check_values(on_value, off_value, label_smoothing, dtype)
    label_rule(ignore_index, invalid)
    if checks.integer("num_classes", num_classes) < 0:
        _check_is_minus_one(num_classes)


def _check_values(
    on_value: float, off_value: float, label_smoothing: float, dtype: torch.dtype
) -> tuple[float, float, float]:
    on_value = checks.holds("on_value", on_value, dtype)
    off_value = checks.holds("off_value", off_value, dtype)
    return on_value, off_value, check_smoothing(label_smoothing, dtype)


def _check_is_minus_one(num_classes: int) -> None:
    if num_classes != -1:
        raise ValueError(f"num_classes: expected -1 or a number of classes, got {num_classes}")


_NO_CLASS, _NO_LABEL = -1, -2


def _largest(labels: Tensor, ignore_index: int | None) -> Tensor:
    """The largest label of a rank's labels, -1 if all are negative, and -2 if there is none that is not ignored."""
    kept = as_int64(labels)
    if ignore_index is not None and (ignore_index >= 0 or labels.dtype.is_signed):
        kept = kept[kept != ignore_index]
    return kept.max().clamp(min=_NO_CLASS) if kept.numel() else kept.new_full((), _NO_LABEL)


def _count_classes(labels: Tensor, ignore_index: int | None) -> int:
    if labels.is_meta:
        raise ValueError("num_classes: expected a number of classes for labels on meta, which have no values, got -1")
    if torch.compiler.is_compiling():
        raise ValueError("num_classes: expected a number of classes in compiled or exported code, got -1")
    try:
        largest = largest_on_all_ranks(labels, lambda local: _largest(local, ignore_index))
    except RuntimeError:
        if not in_transform():
            raise
        raise ValueError("num_classes: expected a number of classes under vmap, got -1") from None
    if largest == _NO_LABEL:
        raise ValueError("num_classes: expected a number of classes if there are no labels or all are ignored, got -1")
    if largest == torch.iinfo(torch.int64).max:
        labels = whole(labels)
        refuse_bad(labels, as_int64(labels) == largest, largest)
    return largest + 1  # the kernel raises for negative labels
