"""Checks of models and of values that several functions share."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from torchext._core.library import in_transform

# One level of 8 bits: rounding errors, such as those of bfloat16, are smaller, and clipping such a value changes no
# pixel by more than that.
_TOLERANCE = 1 / 255


def warn_in_training_mode(model: nn.Module, stacklevel: int) -> None:
    """Warn if a model is in training mode; `stacklevel` is that of `warnings.warn` in the caller of this function."""
    if model.training:
        warnings.warn("the model is in training mode; call model.eval() first", stacklevel=stacklevel + 1)


def check_unit_range(name: str, values: Tensor, remedy: str) -> None:
    """Check that all values of a float tensor are in [0, 1], with a tolerance for rounding, and that none is NaN.

    The check synchronises with the device. It is left out where values cannot be read: under a compiler, in transforms
    of ``torch.func``, on the meta device and for subclasses of tensors.

    Raises:
        ValueError: a value outside; `remedy` ends the text.
    """
    if torch.compiler.is_compiling() or values.is_meta or type(values) is not Tensor or in_transform():
        return
    if values.numel() == 0:
        return
    low, high = torch.stack(values.aminmax()).tolist()
    if math.isnan(low):
        raise ValueError(f"{name}: expected values in [0, 1], got NaN")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(f"{name}: expected values in [0, 1], got values from {low:g} to {high:g}; {remedy}")


def check_not_nan(maps: Tensor) -> None:
    """Check that no value of a model's maps is NaN.

    Raises:
        ValueError: there is one.
    """
    if maps.isnan().any():
        raise ValueError("model: expected scores and activations that are numbers, got a map with NaN")
