"""One-hot encoding of mixed labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import FLOAT_DTYPES, INTEGER_DTYPES, accumulation_dtype
from torchext._core.library import Derivative, Kernel, define, in_onnx_export, is_readable, to_front
from torchext._core.sharding import REPLICATE
from torchext.onehot.labels import PERMUTATION, checked, class_indices, classes_of, label_rule
from torchext.onehot.values import check_smoothing, compare, is_fused, values

__all__ = ["mixup_one_hot"]

# The operation computes first·row(y) + (total - first)·row(y[partners]), where first is the tensor `lam` or, without
# it, the number `share`. The encoding has total 1, its tangent total 0. A partner outside [0, N) has a row of zeros.


def _partners_of(indices: Tensor, partners: Tensor | None) -> Tensor:
    """The classes of each sample's partner."""
    if partners is None:
        return indices.flip(0)
    samples = indices.shape[0]
    if samples == 0:
        return indices
    is_sample = (partners >= 0) & (partners < samples)
    theirs = indices[torch.where(is_sample, partners, 0)]
    return torch.where(is_sample.view(-1, *[1] * (indices.dim() - 1)), theirs, -1)


def _mixup_reference(
    labels: Tensor,
    partners: Tensor | None,
    lam: Tensor | None,
    share: float,
    total: float,
    num_classes: int,
    dim: int,
    dtype: torch.dtype,
    hot: float,
    cold: float,
    *rule: Any,
) -> Tensor:
    if not is_readable(labels) or num_classes == 0:
        return _mixup_traced(labels, partners, lam, share, total, num_classes, dim, dtype, hot, cold, *rule)
    mine, are_classes = classes_of(labels, num_classes, *rule)
    theirs = _partners_of(mine, partners)
    compute = accumulation_dtype(dtype)
    first: Any = share if lam is None else lam.to(compute).view(-1, *[1] * (labels.dim() - 1))
    on, off = (torch.full((), value, dtype=compute) for value in (hot, cold))
    my_off, their_off = off * first, off * (total - first)
    if not are_classes or partners is not None:
        my_off, their_off = torch.where(mine < 0, 0, my_off), torch.where(theirs < 0, 0, their_off)
    elsewhere = (my_off + their_off).to(dtype).expand(labels.shape).unsqueeze(dim)
    at_mine = on * first + torch.where(mine == theirs, on * (total - first), their_off)
    at_theirs = my_off + on * (total - first)
    # A label without a class writes what is at its index in any case.
    at_theirs = torch.where(theirs < 0, elsewhere.squeeze(dim), at_theirs.to(dtype))
    theirs = theirs.clamp(min=0)
    at_mine, mine = torch.where(mine < 0, at_theirs, at_mine.to(dtype)), torch.where(mine < 0, theirs, mine)
    out = elsewhere.expand(*labels.shape[:dim], num_classes, *labels.shape[dim:]).contiguous()
    return out.scatter_(dim, theirs.unsqueeze(dim), at_theirs.unsqueeze(dim)).scatter_(
        dim, mine.unsqueeze(dim), at_mine.unsqueeze(dim)
    )


def _mixup_traced(
    labels: Tensor,
    partners: Tensor | None,
    lam: Tensor | None,
    share: float,
    total: float,
    num_classes: int,
    dim: int,
    dtype: torch.dtype,
    hot: float,
    cold: float,
    *rule: Any,
) -> Tensor:
    """The same by comparisons with all classes, which compilers fuse with the code that reads the encoding."""
    indices = class_indices(labels, num_classes, *rule)
    compute = accumulation_dtype(dtype)
    on, off, zero = (torch.full((), value, dtype=compute, device=indices.device) for value in (hot, cold, 0.0))

    def rows(classes: Tensor, weight: Any) -> Tensor:
        elsewhere = torch.where(classes.unsqueeze(dim) < 0, zero, off) if cold != 0 else zero
        return torch.where(compare(classes, num_classes, dim), on * weight, elsewhere * weight)

    if lam is None:
        first: Any = share
    else:
        shape = [1] * (indices.dim() + 1)
        shape[1 if dim == 0 else 0] = -1
        first = lam.to(compute).view(shape)
    if num_classes > 0 and in_onnx_export():  # two entries of each row, instead of passes over all
        shape = [*indices.shape[:dim], num_classes, *indices.shape[dim:]]
        classes = torch.stack([indices, _partners_of(indices, partners)], dim)
        weights = [torch.ones_like(on) * weight for weight in (first, total - first)]
        shares = torch.cat([weight.expand(classes.narrow(dim, 0, 1).shape) for weight in weights], dim)
        shares = torch.where(classes < 0, zero, shares)
        elsewhere = (off * shares.sum(dim, keepdim=True) if cold != 0 else zero).expand(shape)
        return elsewhere.scatter_add(dim, classes.clamp(min=0), (on - off) * shares).to(dtype)
    mixed = rows(indices, first) + rows(_partners_of(indices, partners), total - first)
    return mixed.to(dtype).contiguous()


def _mixup_fake(*args: Any) -> Tensor:
    labels, _, _, _, _, num_classes, dim, dtype, *_ = args
    return labels.new_empty((*labels.shape[:dim], num_classes, *labels.shape[dim:]), dtype=dtype)


def _mixup_vmap(
    call: Kernel, batch_size: int, in_dims: Any, labels: Tensor, partners: Tensor | None, lam: Tensor | None, *args: Any
) -> tuple[Tensor, int]:
    """Flatten the batch and the samples to one dimension; partners are in the same element of the batch."""
    _, _, num_classes, dim, _, _, _, *rule = args
    # Labels are checked before they are flattened: an error names the position in the given labels.
    labels = class_indices(to_front(labels, in_dims[0], batch_size), num_classes, *rule)
    samples = labels.shape[1]
    if partners is None:
        theirs = torch.arange(samples, device=labels.device).flip(0).expand(batch_size, samples)
    else:
        theirs = to_front(partners, in_dims[1], batch_size)
    first_sample = torch.arange(batch_size, device=labels.device).unsqueeze(1) * samples
    theirs = torch.where((theirs >= 0) & (theirs < samples), theirs + first_sample, -1)
    if lam is not None:
        lam = to_front(lam, in_dims[2], batch_size)
        lam = (lam if lam.dim() == 2 else lam.unsqueeze(1)).expand(batch_size, samples).flatten()
    out = call(labels.flatten(0, 1), theirs.flatten(), lam, *args[:-2], None, False)
    at = 1 if dim == 0 else 0
    return out.unflatten(at, (batch_size, samples)), at


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    labels, partners, lam, *ctx.options = inputs
    ctx.lam_dim, ctx.lam_dtype = (None, None) if lam is None else (lam.dim(), lam.dtype)
    ctx.save_for_backward(labels, partners)
    ctx.save_for_forward(labels, partners)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    labels, partners = ctx.saved_tensors
    _, _, num_classes, dim, dtype, hot, cold, ignore_index, _ = ctx.options
    indices = class_indices(labels, num_classes, ignore_index, False)
    grad = grad.to(accumulation_dtype(dtype)).movedim(dim, 0)

    def weight_gradient(classes: Tensor) -> Tensor:
        """The gradient of the weight that each row is multiplied by."""
        if num_classes == 0:
            return grad.new_zeros(classes.shape)
        at_class = grad.gather(0, classes.clamp(min=0).unsqueeze(0)).squeeze(0)
        rows = (hot - cold) * at_class + (cold * grad.sum(0) if cold != 0 else 0)
        return torch.where(classes < 0, 0, rows)

    lam_gradient = weight_gradient(indices) - weight_gradient(_partners_of(indices, partners))
    summed = list(range(ctx.lam_dim, lam_gradient.dim()))
    lam_gradient = lam_gradient.sum(summed) if summed else lam_gradient
    return (None, None, lam_gradient.to(ctx.lam_dtype), *[None] * 9)


def _jvp(ctx: Any, _: None, __: None, tangent: Tensor, *___: None) -> Tensor:
    labels, partners = ctx.saved_tensors
    share, _total, num_classes, dim, dtype, hot, cold, ignore_index, _raises = ctx.options
    out: Tensor = _mixup(labels, partners, tangent, share, 0.0, num_classes, dim, dtype, hot, cold, ignore_index, False)
    return out


_mixup = define(
    "mixup_one_hot(Tensor labels, Tensor? partners, Tensor? lam, float share, float total, SymInt num_classes, "
    "int dim, ScalarType dtype, float hot, float cold, SymInt? ignore_index, bool raises) -> Tensor",
    reference=_mixup_reference,
    fake=_mixup_fake,
    vmap=_mixup_vmap,
    # Samples are mixed with each other, so that each rank needs all of them.
    sharding=lambda labels, partners, lam, share, total, num_classes, dim, *_: [
        (d + (d >= dim), [d, REPLICATE, REPLICATE]) for d in range(1, labels.ndim)
    ],
    derivative=Derivative(_save, _backward, _jvp),
    decomposition=_mixup_traced,
)


def mixup_one_hot(
    labels: Tensor,
    lam: float | Tensor,
    num_classes: int,
    *,
    permutation: Tensor | None = None,
    label_smoothing: float = 0.0,
    dim: int = -1,
    dtype: torch.dtype | None = None,
    ignore_index: int | None = None,
    invalid: Literal["raise", "zero"] = "raise",
) -> Tensor:
    """Encode the labels of samples that were mixed with each other: ``lam·one_hot(y) + (1 - lam)·one_hot(y[perm])``.

    Args:
        labels: ``(N, *)``, bool or any integer dtype, any strides; read in place.
        lam: the weight of a sample's own label: a number in [0, 1], or a float tensor with one value ``()`` or one
            value for each sample ``(N,)``. The values of a tensor are not checked.
        num_classes: C, the number of classes.
        permutation: ``(N,)``, any integer dtype: the index of the sample with which each sample is mixed. None is the
            reversed batch.
        label_smoothing: ε in [0, 1], in both encodings as in `one_hot`.
        dim: the position of the class dimension in the output: -1 for ``(*, C)``, 1 for masks ``(N, C, H, W)``.
        dtype: dtype of the output: float16, bfloat16, float32 or float64. None is the dtype of a tensor `lam`, for a
            number PyTorch's default float dtype.
        ignore_index: a label whose encoding is all 0; the encoding of the other label of the pair stays.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the
            label's encoding is 0 and `check_errors` raises. With ``"zero"`` it is 0 and there is no error.

    Returns:
        Row-major tensor of shape ``labels.shape`` with C inserted at `dim`.

    Raises:
        IndexError: a label is outside ``[0, C)`` or an entry of `permutation` outside ``[0, N)``. On CUDA a sample
            with such an entry is mixed with zeros, and `check_errors` raises.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic, and differentiable in a tensor `lam`. Without options, the result is that of
        ``timm.data.mixup.mixup_target`` (`mixup: Beyond Empirical Risk Minimization
        <https://arxiv.org/abs/1710.09412>`_).

    Examples:
        >>> torchext.mixup_one_hot(torch.tensor([0, 2]), 0.75, 3)
        tensor([[0.7500, 0.0000, 0.2500],
                [0.2500, 0.0000, 0.7500]])
    """
    rank = checks.labels("labels", labels, checks.MAX_DIMS - 1)
    if rank == 0:
        raise ValueError("labels: expected at least 1 dimension, that of the samples, got none")
    axis = checks.dimension("dim", dim, rank + 1)
    num_classes = checks.classes("num_classes", num_classes, labels.shape)
    lams, share = _shares(lam, labels)
    if dtype is None:
        dtype = torch.get_default_dtype() if lams is None else lams.dtype
    checks.dtype(dtype, FLOAT_DTYPES, f"{checks.FLOAT_DTYPE} for mixed labels")
    if type(label_smoothing) is not float or label_smoothing != 0:
        label_smoothing = check_smoothing(label_smoothing, dtype)
    ignore_index, raises = label_rule(ignore_index, invalid)
    partners = None if permutation is None else _partners(permutation, labels)
    hot, cold = values(num_classes, 1.0, 0.0, label_smoothing)
    # An opaque kernel would keep a compiler from fusing the encoding into its consumer.
    mix = _mixup_traced if is_fused(labels) else _mixup
    out: Tensor = mix(labels, partners, lams, share, 1.0, num_classes, axis, dtype, hot, cold, ignore_index, raises)
    return checked(out, labels)


def _shares(lam: Any, labels: Tensor) -> tuple[Tensor | None, float]:
    """Check `lam` and return it as (tensor, 0.0) or as (None, number)."""
    if isinstance(lam, Tensor):
        checks.floats("lam", lam)
        if lam.shape not in ((), labels.shape[:1]):
            expected, got = tuple(labels.shape[:1]), tuple(lam.shape)
            raise ValueError(f"lam: expected shape () or {expected}, one value for each sample, got {got}")
        checks.same_device("lam", lam, "labels", labels)
        return lam, 0.0
    share = checks.number("lam", lam, "a number or a tensor")
    if not 0 <= share <= 1:
        raise ValueError(f"lam: expected a number in [0, 1], got {lam}")
    return None, share


def _partners(permutation: Any, labels: Tensor) -> Tensor:
    """The partners as int64, -1 for an invalid one. They are checked as labels are, with N as the number of classes."""
    checks.tensor_of("permutation", permutation, INTEGER_DTYPES, "an integer dtype")
    if permutation.shape != labels.shape[:1]:
        expected, got = tuple(labels.shape[:1]), tuple(permutation.shape)
        raise ValueError(f"permutation: expected shape {expected}, one entry for each sample, got {got}")
    checks.same_device("permutation", permutation, "labels", labels)
    partners: Tensor = class_indices(permutation, labels.shape[0], None, True, PERMUTATION)
    return partners
