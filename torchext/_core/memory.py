"""Which elements of tensors share memory."""

from __future__ import annotations

import torch
from torch import Tensor


def is_expanded(value: Tensor) -> bool:
    """Whether elements of `value` share memory, as in a result of `torch.Tensor.expand`."""
    if value.layout != torch.strided:
        return False
    return any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True))
