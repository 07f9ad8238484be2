"""Sliding windows, tiles and patches of tensors with one to three spatial dimensions."""

from torchext.windows.merger import WindowMerger, window_grid
from torchext.windows.patches import patchify, unpatchify
from torchext.windows.sliding import sliding_window
from torchext.windows.tiles import extract_windows, gather_windows, merge_windows, scatter_windows
from torchext.windows.unfold import fold, unfold
from torchext.windows.weight import window_weight

__all__ = [
    "WindowMerger",
    "extract_windows",
    "fold",
    "gather_windows",
    "merge_windows",
    "patchify",
    "scatter_windows",
    "sliding_window",
    "unfold",
    "unpatchify",
    "window_grid",
    "window_weight",
]
