"""Conversion of labels to class indices, and the handling of bad labels, which are outside of [0, num_classes).

With `invalid="raise"`, a bad label is an IndexError on the CPU, in compiled code too. A CUDA kernel cannot raise: it
writes zeros and records the bad label at the lowest position, and `check_errors` raises.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchext._core import checks as _checks
from torchext._core.library import Kernel, define, in_onnx_export, is_captured, is_readable, vmap_in_front
from torchext._native import load

__all__ = ["check_errors", "debug"]


# The names of bad labels in errors, the same as in csrc/onehot/labels/bad_label.cpp. The prefix is the argument; most
# operations have labels in only one argument, and no prefix. Kernels and records use the index in this list.
_NAMES = ("label", "predicted: label", "target: label", "permutation: entry")
LABELS, PREDICTED, TARGET, PERMUTATION = range(4)


def _raise_bad_label(label: int, position: int, shape: Sequence[int], num_classes: int, argument: int) -> None:
    index: list[int] = []
    for size in reversed(shape):
        index.insert(0, position % size)
        position //= size
    raise IndexError(f"{_NAMES[argument]} {label} at position {tuple(index)} is outside [0, {num_classes})")


def first_bad(bad: Tensor) -> int:
    """The position of the first bad label, or the number of labels if none is bad."""
    return int(bad.reshape(-1).to(torch.uint8).argmax()) if bool(bad.any()) else bad.numel()


def refuse_bad(labels: Tensor, bad: Tensor, num_classes: int, argument: int = LABELS) -> None:
    """Raise an IndexError for the first bad label, if there is one; tensors on meta have none."""
    if bad.is_meta:
        return
    position = first_bad(bad)
    if position < bad.numel():
        label = int(labels.reshape(-1)[position].item())
        _raise_bad_label(label, position, labels.shape, num_classes, argument)


def refuse_bad_in_graph(bad: Tensor, argument: int) -> None:
    """Add a check to a program that is traced. For a program of ONNX, which has no errors, warn instead."""
    name = _NAMES[argument]
    if in_onnx_export():
        warn_of_onnx(name)
    else:
        torch._assert_async(~bad.any(), f"{name} is outside [0, num_classes)")


def warn_of_onnx(name: str = _NAMES[LABELS]) -> None:
    """Warn that a program of ONNX does not raise an error."""
    warnings.warn(
        f"a program of ONNX cannot raise an error: where {name} is outside [0, num_classes), it has the result of "
        "invalid='zero'; pass invalid='zero' if that is intended",
        stacklevel=2,
    )


warn_of_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in library.py


# The operation class_indices converts labels to int64 classes, and ignored and bad labels to -1. In compiled code it
# checks the labels, and the compiler fuses the comparison with the classes into the code that reads the one-hot.


def as_int64(labels: Tensor) -> Tensor:
    # uint64 labels of 2^63 or more become negative, and negative labels are not classes either.
    return labels.view(torch.int64) if labels.dtype == torch.uint64 else labels.to(torch.int64)


def _classified(labels: Tensor, num_classes: int, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """The class of each label, -1 for a label without a class; and which labels are bad."""
    indices = as_int64(labels)
    bad = zero = (indices < 0) | (indices >= num_classes)
    if ignore_index is not None and (ignore_index >= 0 or labels.dtype.is_signed):
        ignored = indices == ignore_index
        bad, zero = bad & ~ignored, zero | ignored
    return torch.where(zero, -1, indices), bad


def bins_in_onnx(labels: Tensor, num_classes: int, ignore_index: int | None, raises: bool) -> tuple[Tensor, Tensor]:
    """A class for each label, and whether it is that of the label, in the fewest operations; num_classes is not 0."""
    if raises:
        warn_of_onnx()
    indices = as_int64(labels)
    bins = indices.clamp(0, num_classes - 1)
    is_class = bins == indices
    if ignore_index is not None and (ignore_index >= 0 or labels.dtype.is_signed):
        is_class = is_class & (indices != ignore_index)
    return bins, is_class


def clamped_in_onnx(
    labels: Tensor, num_classes: int, ignore_index: int | None, raises: bool, argument: int = LABELS
) -> Tensor:
    """The class of each label, and -1 or num_classes for a label without a class.

    The result is int32 for narrower labels, since onnxruntime computes with it in half the time, and int64 for others.
    int32 labels are converted to int64: the exporter writes an invalid program if a model clamps an int32 input twice.
    """
    if raises:
        warn_of_onnx(_NAMES[argument])
    is_narrow = labels.dtype.itemsize < 4 and num_classes < 2**15  # so that num_classes² is less than 2^31
    indices = labels.to(torch.int32) if is_narrow else as_int64(labels)
    if ignore_index is not None and 0 <= ignore_index < num_classes:
        indices = torch.where(indices == ignore_index, -1, indices)
    return indices.clamp(-1, num_classes)


def _class_indices_reference(
    labels: Tensor, num_classes: int, ignore_index: int | None, raises: bool, argument: int = LABELS
) -> Tensor:
    classes, bad = _classified(labels, num_classes, ignore_index)
    if raises:
        refuse_bad(labels, bad, num_classes, argument)
    return classes


def _class_indices_traced(
    labels: Tensor, num_classes: int, ignore_index: int | None, raises: bool, argument: int = LABELS
) -> Tensor:
    classes, bad = _classified(labels, num_classes, ignore_index)
    if raises:
        refuse_bad_in_graph(bad, argument)
    return classes


class_indices = define(
    "class_indices(Tensor labels, SymInt num_classes, SymInt? ignore_index, bool raises, int argument=0) -> Tensor",
    reference=_class_indices_reference,
    fake=lambda labels, *_: labels.new_empty(labels.shape, dtype=torch.int64),
    vmap=vmap_in_front(),
    sharding=lambda labels, *_: [(d, [d]) for d in range(labels.ndim)],
    decomposition=_class_indices_traced,
    traceable=False,
)


def _are_classes(labels: Tensor, num_classes: int, ignore_index: int | None) -> bool:
    """Whether all labels are classes. It may be wrong only for an ignored class."""
    if labels.numel() == 0:
        return True
    low, high = (int(extreme) for extreme in labels.aminmax())
    return low >= 0 and high < num_classes and (ignore_index is None or not low <= ignore_index <= high)


_NARROW_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32)


def known_classes(labels: Tensor, num_classes: int, ignore_index: int | None) -> Tensor | None:
    """The labels in a dtype with more functions, if it is known that all are classes. They may share their memory."""
    if not is_readable(labels):
        return None
    classes = labels if labels.dtype in _NARROW_DTYPES else as_int64(labels)
    return classes if _are_classes(classes, num_classes, ignore_index) else None


def classes_of(labels: Tensor, num_classes: int, ignore_index: int | None, raises: bool) -> tuple[Tensor, bool]:
    """The classes of labels as from `class_indices`, and whether it is known that each label has a class.

    If so, the classes may share the memory of the labels.
    """
    classes = known_classes(labels, num_classes, ignore_index)
    if classes is not None:
        return classes.to(torch.int64), True
    return class_indices(labels, num_classes, ignore_index, raises), False


def bins_of(classes: Tensor, are_classes: bool, num_classes: int) -> tuple[Tensor, int]:
    """The bin of each label and the number of bins, from the result of `classes_of`.

    There is one bin for each class, and a last one for labels without a class unless it is known that there are none.
    """
    if are_classes:
        return classes, num_classes
    return torch.where(classes < 0, num_classes, classes), num_classes + 1


def keys_of(classes: Tensor, are_classes: bool, num_classes: int, samples: int) -> tuple[Tensor, int]:
    """The bin of each label, flattened, and the number of bins of a sample, which are those of `bins_of`."""
    if samples == 0 and in_onnx_export():  # -1 is the last bin there, so that fewer passes over the labels are enough
        return classes.reshape(-1), num_classes + 1
    bins, count = bins_of(classes, are_classes, num_classes)
    if samples:
        outer, inner = math.prod(bins.shape[:samples]), math.prod(bins.shape[samples:])
        first = torch.arange(outer, device=bins.device) * count
        bins = bins.reshape(outer, inner) + first.unsqueeze(1)
    return bins.reshape(-1), count


# The operation take_bad_label returns the record of a device's first bad label as an int64 tensor (label, position,
# num_classes, argument, whether the labels are uint64, *shape of the labels) on the CPU, empty if there is no record.
# It synchronises with the device and clears the record. Only kernels that cannot raise write a record.
_take_bad_label = define(
    "take_bad_label(Tensor device_of) -> Tensor",
    reference=lambda device_of: torch.empty(0, dtype=torch.int64),
    fake=lambda device_of: torch.empty(0, dtype=torch.int64),
    vmap=None,
    sharding=None,
    traceable=False,
)


def check_errors(device: torch.device | str | int | None = None) -> None:
    """Raise an error if a CUDA kernel has recorded a label outside the classes since the last check.

    A CUDA kernel cannot raise an error. It writes zeros for such a label, and records the one at the lowest position.
    This function raises the error and clears the record. On other devices each call raises its own errors, and this
    function does nothing.

    Args:
        device: one device; None checks every CUDA device on which this process has read labels.

    Raises:
        IndexError: a label was recorded. The error names the label, its position and the number of classes.
        TypeError: `device` has a type that cannot be a device.
        ValueError: `device` is not the name of a device, or is a CUDA device although PyTorch finds none.
        RuntimeError: the current stream of a device is being captured into a CUDA graph. Its kernels have not run yet,
            and a synchronisation would invalidate the capture. Check after the capture, or after a replay.

    Note:
        Synchronises with the device.

    Examples:
        >>> torchext.check_errors()
    """
    for checked_device in _devices_to_check(device):
        if is_captured(checked_device):
            raise RuntimeError(
                f"check_errors: expected no capture of a CUDA graph on the current stream of {checked_device}; "
                "check after the capture, or after a replay"
            )
        _check_device(checked_device)


def _devices_to_check(device: torch.device | str | int | None) -> list[torch.device]:
    if device is not None:
        given = _checks.device("device", device)
        if given.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device: expected an available device, got {given}: PyTorch finds no CUDA device")
        return [given] if given.type in ("cpu", "cuda") else []  # on others the references run, which raise
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        # Only devices with labels: a check would create a CUDA context on any other device.
        return [torch.device("cuda", index) for index in load.devices_with_labels(torch.cuda.device_count())]
    return []


def _check_device(device: torch.device) -> None:
    record = _record_of(device)
    if record:
        label, position, num_classes, argument, is_uint64, *shape = record
        _raise_bad_label(label % 2**64 if is_uint64 else label, position, shape, num_classes, argument)


def _record_of(device: torch.device) -> list[int]:
    record: list[int] = _take_bad_label(torch.empty(0, device=device)).tolist()
    return record


_debug_depth = 0


@contextmanager
def debug() -> Iterator[None]:
    """Inside this context, call `check_errors` after every call that reads labels on a CUDA device.

    Each of these calls then synchronises with its device. Compiled code and replays of CUDA graphs are checked at the
    end of the block. If a CUDA graph is being captured at that time, its device is not checked, since the captured
    kernels have not run yet.

    Examples:
        >>> with torchext.debug():
        ...     _ = torchext.one_hot(torch.tensor([0, 2]), 3)
    """
    global _debug_depth
    _debug_depth += 1
    try:
        yield
        for device in _devices_to_check(None):
            if not is_captured(device):
                _check_device(device)
    finally:
        _debug_depth -= 1


def label_rule(ignore_index: int | None, invalid: str) -> tuple[int | None, bool]:
    """Check the options for labels that are not classes; returns the label to ignore, and whether others are errors.

    References receive both as ``*rule`` and pass them on to `class_indices`.
    """
    if ignore_index is not None:
        ignore_index = _checks.integer("ignore_index", ignore_index)
    if type(invalid) is not str or invalid != "raise":
        _checks.option("invalid", invalid, ("raise", "zero"))
    return ignore_index, invalid == "raise"


def check_values(name: str, values: Tensor, labels: Tensor, num_classes: int) -> int:
    """Check the values of labels, of the labels' shape followed by features; returns the number of classes."""
    rank = _checks.labels("labels", labels)
    full_shape = values.shape
    if full_shape[:rank] != labels.shape:
        shape = ", ".join([*map(str, labels.shape), "..."])
        raise ValueError(f"{name}: expected shape ({shape}), that of labels first, got {tuple(full_shape)}")
    dims, most = len(full_shape), _checks.MAX_DIMS - (rank == 0)  # the result adds one of classes
    if dims > most:
        raise ValueError(f"{name}: expected at most {most} dimensions, got {dims}")
    _checks.same_device("labels", labels, name, values)
    return _checks.classes("num_classes", num_classes, full_shape[rank:])


def vmap_values(call: Kernel, batch_size: int, in_dims: Any, *args: Any) -> tuple[Any, int]:
    """The vmap rule of an operation with the arguments values, labels, num_classes and samples, and any others."""
    if in_dims[1] is not None:
        return vmap_in_front(3)(call, batch_size, in_dims, *args)
    # The mapped dimension is another dimension of features.
    values, labels, _, samples, *_ = args
    return call(values.movedim(in_dims[0], labels.dim()), *args[1:]), samples + 1


def checked(out: Tensor, labels: Tensor) -> Tensor:
    """Return `out`, the output of an operation that reads labels; inside `debug`, check the labels' device first."""
    if _debug_depth and labels.is_cuda and not torch.compiler.is_compiling() and not is_captured(labels.device):
        _check_device(labels.device)
    return out
