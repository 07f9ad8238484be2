"""Overlap of predicted probabilities with labels, from which Dice and IoU are computed."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import accumulation_dtype
from torchext._core.library import (
    Derivative,
    call_arguments,
    define,
    derivative_of,
    in_onnx_export,
    is_readable,
    vmap_in_front,
)
from torchext.onehot.class_sums import count_by_key, sum_by_key
from torchext.onehot.labels import bins_in_onnx, checked, class_indices, classes_of, keys_of, label_rule
from torchext.onehot.values import compare

__all__ = ["ClassOverlap", "class_overlap"]


class ClassOverlap(NamedTuple):
    """The result of `class_overlap`, for each sample and class.

    Attributes:
        intersection: the sum of the class's probability where it is the label.
        total: the sum of the class's probability everywhere.
        support: the number of labels of the class, int64.
    """

    intersection: Tensor
    total: Tensor
    support: Tensor


# The operations read scores and apply the activation to each as it is read, so that no probabilities are stored.
_ACTIVATIONS = {None: 0, "softmax": 1, "sigmoid": 2}


def _probabilities(scores: Tensor, kept: Tensor | None, dim: int, activation: int) -> Tensor:
    """The activation of scores; those that are not kept count as 0, and None keeps all."""
    scores = scores.to(accumulation_dtype(scores.dtype))
    if kept is not None:  # positions that are left out may hold any value, including NaN, and NaN times 0 is NaN
        scores = torch.where(kept, scores, 0)
    if activation == 1:
        # Computed along the last dimension: along another, the last bit depends on the number of threads.
        return scores.movedim(dim, -1).softmax(-1).movedim(-1, dim)
    return scores.sigmoid() if activation == 2 else scores


def _through_activation(probabilities: Tensor, tangent: Tensor, dim: int, activation: int) -> Tensor:
    """The activation's Jacobian, which is symmetric, times a tangent or a gradient."""
    if activation == 1:
        return probabilities * (tangent - (probabilities * tangent).sum(dim, keepdim=True))
    return probabilities * (1 - probabilities) * tangent if activation == 2 else tangent


def _read(
    scores: Tensor, labels: Tensor, dim: int, activation: int, ignore_index: int | None, raises: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a class is the label, in the scores' shape; which positions have a class; and the probabilities."""
    classes = class_indices(labels, scores.shape[dim], ignore_index, raises)
    kept = classes.unsqueeze(dim) >= 0
    return compare(classes, scores.shape[dim], dim), kept, _probabilities(scores, kept, dim, activation)


def _sum(values: Tensor, dim: int, samples: int) -> Tensor:
    """Sum over all dimensions except those of the samples and the classes."""
    summed = [d for d in range(values.dim()) if d >= samples and d != dim]
    return (values.sum(summed) if summed else values).contiguous()


def _class_overlap_reference(
    scores: Tensor, labels: Tensor, dim: int, samples: int, activation: int, squared: bool, *rule: Any
) -> tuple[Tensor, Tensor, Tensor]:
    if in_onnx_export() and labels.dim() > samples and scores.shape[dim] > 0:
        return _class_overlap_in_onnx(scores, labels, dim, samples, activation, squared, *rule)
    if is_readable(scores) and is_readable(labels) and scores.shape[dim] > 0:
        return _class_overlap_on_cpu(scores, labels, dim, samples, activation, squared, *rule)
    hot, kept, values = _read(scores, labels, dim, activation, *rule)
    intersection = _sum(torch.where(hot, values, 0), dim, samples)
    total = _sum(torch.where(kept, values * values if squared else values, 0), dim, samples)
    return intersection, total, _sum(hot.to(torch.int64), dim, samples)


def _class_overlap_on_cpu(
    scores: Tensor, labels: Tensor, dim: int, samples: int, activation: int, squared: bool, *rule: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by reading the value at each label, instead of comparing each label with all classes."""
    num_classes, batch = scores.shape[dim], labels.shape[:samples]
    classes, are_classes = classes_of(labels, num_classes, *rule)
    kept = None if are_classes else classes.unsqueeze(dim) >= 0
    values = _probabilities(scores, kept, dim, activation)
    # One value after the other is added, so that a sum of floats in their own dtype would be less accurate than others.
    at_label = values.gather(dim, classes.clamp(min=0).unsqueeze(dim)).reshape(-1).to(torch.float64)
    keys, count = keys_of(classes, are_classes, num_classes, samples)
    intersection = sum_by_key(keys, at_label, batch, count, num_classes).to(values.dtype).contiguous()
    summands = values * values if squared else values
    total = _sum(summands if kept is None else torch.where(kept, summands, 0), dim, samples)
    total = total.clone() if total is scores else total  # the result of an operation must not be its argument
    return intersection, total, count_by_key(keys, batch, count, num_classes)


def _class_overlap_in_onnx(
    scores: Tensor, labels: Tensor, dim: int, samples: int, activation: int, squared: bool, *rule: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for onnxruntime, where each pass over all scores counts, and sums of integers and Where are slow."""
    bins, kept = bins_in_onnx(labels, scores.shape[dim], *rule)
    wide = scores.to(accumulation_dtype(scores.dtype))
    ignored, raises = rule
    if ignored is None and raises:  # no label is left out that PyTorch accepts, and a product is faster than Where
        values = wide.movedim(dim, -1).softmax(-1).movedim(-1, dim) if activation == 1 else wide
        values = (wide.sigmoid() if activation == 2 else values) * kept.to(wide.dtype).unsqueeze(dim)
    else:
        values = _probabilities(scores, kept.unsqueeze(dim), dim, activation)
        values = values if activation == 0 else torch.where(kept.unsqueeze(dim), values, 0)
    total = _sum(values * values if squared else values, dim, samples)
    # The last dimension is added to bins, and the others as rows of bins, which are few.
    at_label = values.gather(dim, bins.unsqueeze(dim)).squeeze(dim)
    zeros = wide.new_zeros((*labels.shape[:-1], scores.shape[dim]))
    intersection = zeros.scatter_add(-1, bins, at_label)
    support = zeros.to(torch.int32).scatter_add(-1, bins, kept.to(torch.int32)).to(torch.int64)
    rank = labels.dim() - 1
    return _sum(intersection, rank, samples), total, _sum(support, rank, samples)


def _class_overlap_fake(
    scores: Tensor, labels: Tensor, dim: int, samples: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*scores.shape[:samples], scores.shape[dim])
    dtype = accumulation_dtype(scores.dtype)
    new = scores.new_empty
    return new(shape, dtype=dtype), new(shape, dtype=dtype), new(shape, dtype=torch.int64)


def _broadcastable(sums: Tensor, scores: Tensor, dim: int, samples: int) -> Tensor:
    """Reshape one value for each sample and class so that it broadcasts to the scores."""
    shape = [size if d < samples or d == dim else 1 for d, size in enumerate(scores.shape)]
    return sums.reshape(shape)


def _gradient(
    grad_intersection: Tensor, grad_total: Tensor, hot: Tensor, kept: Tensor, values: Tensor, squared: bool
) -> Tensor:
    """The gradient with respect to the probabilities."""
    grad = torch.where(hot, grad_intersection, 0) + (2 * values * grad_total if squared else grad_total)
    return torch.where(kept, grad, 0)


def _class_overlap_backward_reference(
    grad_intersection: Tensor,
    grad_total: Tensor,
    scores: Tensor,
    labels: Tensor,
    dim: int,
    samples: int,
    activation: int,
    squared: bool,
    ignore_index: int | None,
) -> Tensor:
    hot, kept, values = _read(scores, labels, dim, activation, ignore_index)
    grad_intersection = _broadcastable(grad_intersection, scores, dim, samples)
    grad_total = _broadcastable(grad_total, scores, dim, samples)
    grad = _gradient(grad_intersection, grad_total, hot, kept, values, squared)
    grad = _through_activation(values, grad, dim, activation)
    return grad.to(scores.dtype).contiguous()


def _class_overlap_backward_jvp(
    ctx: Any, intersection_tangent: Tensor | None, total_tangent: Tensor | None, tangent: Tensor | None, *_: Any
) -> Tensor:
    grad_intersection, grad_total, scores, labels, dim, samples, activation, squared, ignore_index = call_arguments(ctx)
    hot, kept, values = _read(scores, labels, dim, activation, ignore_index)
    zeros = torch.zeros_like(grad_intersection)

    def broadcast(sums: Tensor | None) -> Tensor:
        return _broadcastable(zeros if sums is None else sums, scores, dim, samples)

    out = _gradient(broadcast(intersection_tangent), broadcast(total_tangent), hot, kept, values, squared)
    out = _through_activation(values, out, dim, activation)
    if tangent is not None:
        change = _through_activation(values, torch.where(kept, tangent.to(values.dtype), 0), dim, activation)
        grad = _gradient(broadcast(grad_intersection), broadcast(grad_total), hot, kept, values, squared)
        if squared:
            out = out + _through_activation(values, 2 * broadcast(grad_total) * change, dim, activation)
        if activation == 1:
            out = out + change * (grad - (values * grad).sum(dim, keepdim=True))
            out = out - values * (change * grad).sum(dim, keepdim=True)
        elif activation == 2:
            out = out + (1 - 2 * values) * change * grad
    return out.to(scores.dtype).contiguous()


_class_overlap_backward = define(
    "class_overlap_backward(Tensor grad_intersection, Tensor grad_total, Tensor scores, Tensor labels, int dim, "
    "int samples, int activation, bool squared, SymInt? ignore_index) -> Tensor",
    reference=_class_overlap_backward_reference,
    fake=lambda grad_intersection, grad_total, scores, *_: scores.new_empty(scores.shape),
    vmap=vmap_in_front(4, 5),
    sharding=lambda *args: [(d, [d] * 4) for d in range(args[5])],
    derivative=derivative_of(_class_overlap_backward_reference, _class_overlap_backward_jvp),
)


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    scores, labels, *ctx.options, _ = inputs
    ctx.mark_non_differentiable(outputs[2])
    ctx.save_for_backward(scores, labels)
    ctx.save_for_forward(scores, labels)


def _backward(ctx: Any, grad_intersection: Tensor, grad_total: Tensor, _: Tensor) -> tuple[Any, ...]:
    grad = _class_overlap_backward(grad_intersection, grad_total, *ctx.saved_tensors, *ctx.options)
    return (grad, *[None] * 7)


def _jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
    scores, labels = ctx.saved_tensors
    dim, samples, activation, squared, ignore_index = ctx.options
    hot, kept, values = _read(scores, labels, dim, activation, ignore_index)
    change = _through_activation(values, torch.where(kept, tangent.to(values.dtype), 0), dim, activation)
    total = 2 * values * change if squared else change
    return _sum(torch.where(hot, change, 0), dim, samples), _sum(total, dim, samples), None


_class_overlap = define(
    "class_overlap(Tensor scores, Tensor labels, int dim, int samples, int activation, bool squared, "
    "SymInt? ignore_index, bool raises) -> (Tensor, Tensor, Tensor)",
    reference=_class_overlap_reference,
    fake=_class_overlap_fake,
    vmap=vmap_in_front(2, 3),
    # Each sum is over the positions of one sample; without samples, over all positions.
    sharding=lambda scores, labels, dim, samples, *_: [(d, [d, d]) for d in range(samples)],
    derivative=Derivative(_save, _backward, _jvp),
)


def class_overlap(
    probs: Tensor,
    labels: Tensor,
    *,
    dim: int = 1,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> ClassOverlap:
    """Compute the sums from which Dice and IoU are calculated, for each sample and class, reading each input once.

    The intersection is ``(probs * one_hot(labels, C, dim=dim)).sum(S)``, the total ``probs.sum(S)`` and the support
    ``one_hot(labels, C, dim=dim).sum(S)`` over all spatial dimensions S. The one-hot encoding is not stored. Dice is
    ``2·intersection / (total + support)``, IoU ``intersection / (total + support - intersection)``.

    Args:
        probs: ``(N, C, *S)`` with the classes at `dim`, a float dtype, any strides. With the classes at dimension 0
            there is no dimension of samples, and all others are summed over.
        labels: the shape of `probs` without `dim`, bool or any integer dtype, any strides; read in place.
        dim: the class dimension of `probs`.
        ignore_index: a label whose positions are left out of all sums, including the total.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the
            position is left out and `check_errors` raises. With ``"zero"`` the position is left out.

    Returns:
        `ClassOverlap`, a tuple of three tensors ``(N, C)`` (``(C,)`` without a dimension of samples). Intersection and
        total have the dtype of `probs`, but float32 for half precision, which could overflow; support is int64.

    Raises:
        IndexError: a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic, and differentiable in `probs`.

    Examples:
        >>> probs = torch.tensor([[[0.9, 0.2, 0.4], [0.1, 0.8, 0.6]]])
        >>> overlap = torchext.class_overlap(probs, torch.tensor([[0, 1, 1]]))
        >>> 2 * overlap.intersection / (overlap.total + overlap.support)
        tensor([[0.7200, 0.8000]])
    """
    checks.floats("probs", probs)
    return overlap_of_scores("probs", probs, labels, None, False, dim=dim, ignore_index=ignore_index, invalid=invalid)


def overlap_of_scores(
    name: str,
    scores: Tensor,
    labels: Tensor,
    activation: Literal["softmax", "sigmoid"] | None,
    squared: bool,
    *,
    dim: int,
    ignore_index: int | None,
    invalid: str,
    labels_name: str = "labels",
) -> ClassOverlap:
    """`class_overlap` of the activation of float scores; with `squared`, the total is the sum of squares."""
    checks.labels(labels_name, labels, checks.MAX_DIMS - 1)
    if scores.dim() == 0:
        raise ValueError(f"{name}: expected at least 1 dimension, got none")
    axis = checks.dimension("dim", dim, scores.dim())
    shape = (*scores.shape[:axis], *scores.shape[axis + 1 :])
    if labels.shape != shape:
        raise ValueError(
            f"{labels_name}: expected shape {shape}, that of {name} without dim, got {tuple(labels.shape)}"
        )
    checks.same_device(labels_name, labels, name, scores)
    ignore_index, raises = label_rule(ignore_index, invalid)
    samples = min(axis, 1)
    sums = _class_overlap(scores, labels, axis, samples, _ACTIVATIONS[activation], squared, ignore_index, raises)
    checked(sums[2], labels)
    return ClassOverlap(*sums)
