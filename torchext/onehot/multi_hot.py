"""Multi-hot encoding of rows of labels."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import DTYPES, FLOAT_DTYPES, accumulation_dtype
from torchext._core.library import Derivative, define, in_onnx_export, is_readable, vmap_in_front
from torchext.onehot.labels import bins_in_onnx, bins_of, checked, class_indices, classes_of, label_rule
from torchext.onehot.values import check_out, define_out, entries, scattered, write

__all__ = ["multi_hot"]


def _multi_hot_reference(
    indices: Tensor,
    weights: Tensor | None,
    num_classes: int,
    dim: int,
    dtype: torch.dtype,
    hot: float,
    cold: float,
    *rule: Any,
) -> Tensor:
    if weights is None and in_onnx_export() and num_classes > 0 and indices.shape[-1] > 0:
        # Without an additional class, whose removal would be a copy of the result.
        bins, is_class = bins_in_onnx(indices, num_classes, *rule)
        zeros = torch.zeros((*indices.shape[:-1], num_classes), device=indices.device)
        hits = zeros.scatter_reduce(-1, bins, is_class.to(torch.float32), "amax")
        return entries(hits.movedim(-1, dim), dtype, hot, cold)
    classes, are_classes = classes_of(indices, num_classes, *rule)
    shape = (*indices.shape[:-1], num_classes)
    if weights is None:
        out = scattered(classes, are_classes, shape, len(shape) - 1, dtype, hot, cold)
        return out.movedim(-1, dim).contiguous()
    bins, count = bins_of(classes, are_classes, num_classes)
    weights = weights.to(accumulation_dtype(dtype))
    zeros = weights.new_zeros(*shape[:-1], count)
    sums = (zeros.scatter_add_ if is_readable(zeros) else zeros.scatter_add)(-1, bins, weights)
    sums = sums.narrow(-1, 0, num_classes).movedim(-1, dim)
    if (hot, cold) != (1, 0):
        sums = cold + (hot - cold) * sums
    return sums.to(dtype).contiguous()


def _multi_hot_fake(
    indices: Tensor, weights: Tensor | None, num_classes: int, dim: int, dtype: torch.dtype, *_: Any
) -> Tensor:
    rows = indices.shape[:-1]
    return indices.new_empty((*rows[:dim], num_classes, *rows[dim:]), dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    indices, weights, *ctx.options = inputs
    ctx.weights_dtype = None if weights is None else weights.dtype
    ctx.save_for_backward(indices)
    ctx.save_for_forward(indices)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (indices,) = ctx.saved_tensors
    num_classes, dim, _, hot, cold, ignore_index, _ = ctx.options
    if num_classes == 0:
        gathered = grad.new_zeros(indices.shape)
    else:
        classes = class_indices(indices, num_classes, ignore_index, False)
        gathered = grad.movedim(dim, -1).gather(-1, classes.clamp(min=0))
        gathered = torch.where(classes < 0, 0, gathered)
    return (None, ((hot - cold) * gathered).to(ctx.weights_dtype), *[None] * 7)


def _jvp(ctx: Any, _: None, tangent: Tensor, *__: None) -> Tensor:
    (indices,) = ctx.saved_tensors
    num_classes, dim, dtype, hot, cold, ignore_index, _raises = ctx.options
    out: Tensor = _multi_hot(indices, tangent, num_classes, dim, dtype, hot - cold, 0.0, ignore_index, False)
    return out


_multi_hot = define(
    "multi_hot(Tensor indices, Tensor? weights, SymInt num_classes, int dim, ScalarType dtype, float hot, float cold, "
    "SymInt? ignore_index, bool raises) -> Tensor",
    reference=_multi_hot_reference,
    fake=_multi_hot_fake,
    vmap=vmap_in_front(3),
    sharding=lambda indices, weights, num_classes, dim, *_: [(d + (d >= dim), [d, d]) for d in range(indices.ndim - 1)],
    derivative=Derivative(_save, _backward, _jvp),
)


_multi_hot_out = define_out(
    "multi_hot_out(Tensor indices, Tensor? weights, SymInt num_classes, int dim, float hot, float cold, "
    "SymInt? ignore_index, bool raises, Tensor(a!) out) -> ()",
    _multi_hot_reference,
    dtype_at=4,
)


def multi_hot(
    indices: Tensor,
    num_classes: int,
    *,
    dim: int = -1,
    weights: Tensor | None = None,
    dtype: torch.dtype | None = None,
    on_value: float = 1.0,
    off_value: float = 0.0,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
    out: Tensor | None = None,
) -> Tensor:
    """Encode rows of K labels each as vectors that are `on_value` at all of the row's labels and `off_value` elsewhere.

    A label that occurs twice in a row counts once. With weights, an entry is ``off + (on - off)·Σw``, where the sum is
    over all of the row's labels of that class. Examples of rows are the experts of a token, the labels of a multi-label
    target and the words of a text. The time of a row grows with C + K.

    Args:
        indices: ``(*, K)``, bool or any integer dtype, any strides; read in place. K may be 0.
        num_classes: C, the number of classes.
        dim: the position of the class dimension in the output: -1 for ``(*, C)``, 0 for ``(C, *)``.
        weights: ``(*, K)``, a float dtype, any strides: the weight of each label.
        dtype: dtype of the output: bool, any integer, float (including 8-bit) or complex dtype; with weights float16,
            bfloat16, float32 or float64. None is the dtype of `out`, else that of the weights, else PyTorch's default
            float dtype.
        on_value: entry at the row's labels.
        off_value: entry elsewhere.
        ignore_index: a label that is left out of its row.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the
            label is left out and `check_errors` raises. With ``"zero"`` it is left out and there is no error.
        out: write into this tensor and return it. On the CPU it is not written if a label is invalid.

    Returns:
        Row-major tensor of the shape of `indices` without K, with C inserted at `dim`.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option, or a value that `dtype` cannot hold.

    Note:
        Deterministic: weights are added in the order of the row's labels, in float64 for a float64 output and otherwise
        in float32. Differentiable in the weights. The result is that of `torch.Tensor.scatter_`, or with weights of
        `torch.Tensor.scatter_add_`, on a tensor of zeros.

    Examples:
        >>> torchext.multi_hot(torch.tensor([[0, 2], [1, 1]]), 3)
        tensor([[1., 0., 1.],
                [0., 1., 0.]])
        >>> torchext.multi_hot(torch.tensor([[0, 2], [1, 1]]), 3, weights=torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
        tensor([[0.7500, 0.0000, 0.2500],
                [0.0000, 1.0000, 0.0000]])
    """
    rank = checks.labels("indices", indices)
    if rank == 0:
        raise ValueError("indices: expected at least 1 dimension, that of a row's labels, got none")
    if out is not None:
        checks.tensor("out", out)
    axis = checks.dimension("dim", dim, rank)
    num_classes = checks.classes("num_classes", num_classes, indices.shape)
    if weights is not None:
        _check_weights(weights, indices, out)
    if dtype is None:
        like = out if out is not None else weights
        dtype = torch.get_default_dtype() if like is None else like.dtype
    if weights is None:
        checks.dtype(dtype, DTYPES, checks.ANY_DTYPE)
    else:
        checks.dtype(dtype, FLOAT_DTYPES, f"{checks.FLOAT_DTYPE} with weights")
    if type(on_value) is not float or type(off_value) is not float or on_value != 1 or off_value != 0:
        on_value = checks.holds("on_value", on_value, dtype)
        off_value = checks.holds("off_value", off_value, dtype)
        if weights is not None:
            _check_finite("on_value", on_value)
            _check_finite("off_value", off_value)
    ignore_index, raises = label_rule(ignore_index, invalid)
    options = (on_value, off_value, ignore_index, raises)
    if out is None:
        out = _multi_hot(indices, weights, num_classes, axis, dtype, *options)
    else:
        rows = indices.shape[:-1]
        inputs = {"indices": indices} if weights is None else {"indices": indices, "weights": weights}
        check_out(out, (*rows[:axis], num_classes, *rows[axis:]), dtype, inputs)
        write(out, _multi_hot, _multi_hot_out, (indices, weights, num_classes, axis), options)
    return checked(out, indices)


def _check_finite(name: str, value: float) -> None:
    if not abs(value) < math.inf:
        raise ValueError(f"{name}: expected a finite number with weights, got {value}")


def _check_weights(weights: Any, indices: Tensor, out: Tensor | None) -> None:
    checks.floats("weights", weights)
    if weights.shape != indices.shape:
        expected, got = tuple(indices.shape), tuple(weights.shape)
        raise ValueError(f"weights: expected shape {expected} as of indices, got {got}")
    checks.same_device("weights", weights, "indices", indices)
    if out is not None and weights.requires_grad and torch.is_grad_enabled():
        raise ValueError("weights: expected a tensor that does not require grad when out is given, got one that does")
