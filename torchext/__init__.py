"""Fused one-hot, sliding windows and class activation maps for PyTorch."""

from torchext import _native
from torchext.onehot import check_errors, debug, one_hot

__all__ = ["check_errors", "debug", "one_hot"]

_native.load_all()
