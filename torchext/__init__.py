"""Fused one-hot, sliding windows and class activation maps for PyTorch."""

import os

from torchext import _jit, _library, _native, metrics, nn, reference
from torchext._doctor import doctor
from torchext._jit import compile_flags, include_dir, jit_build
from torchext._labels import check_errors, debug
from torchext._version import __version__ as __version__
from torchext.cam import cam_pool, overlay
from torchext.classes import class_counts, class_means, class_sums, confusion_matrix
from torchext.draw import draw_cam
from torchext.explain import CAM
from torchext.mixup import mixup_one_hot
from torchext.multihot import multi_hot
from torchext.onehot import one_hot
from torchext.overlap import ClassOverlap, class_overlap
from torchext.patches import patchify, unpatchify
from torchext.sliding import sliding_window
from torchext.tiles import extract_windows, gather_windows, merge_windows, scatter_windows
from torchext.window_weight import window_weight
from torchext.windows import fold, unfold

__all__ = [
    "CAM",
    "ClassOverlap",
    "cam_pool",
    "check_errors",
    "class_counts",
    "class_means",
    "class_overlap",
    "class_sums",
    "compile_flags",
    "confusion_matrix",
    "debug",
    "doctor",
    "draw_cam",
    "extract_windows",
    "fold",
    "gather_windows",
    "include_dir",
    "jit_build",
    "merge_windows",
    "metrics",
    "mixup_one_hot",
    "multi_hot",
    "nn",
    "one_hot",
    "overlay",
    "patchify",
    "reference",
    "scatter_windows",
    "sliding_window",
    "unfold",
    "unpatchify",
    "window_weight",
]

_native.load_all()
if os.environ.get("TORCHEXT_JIT") == "1" and os.environ.get("TORCHEXT_DISABLE_NATIVE") != "1":
    _jit.build_at_import()
if not _native.is_loaded("_C"):
    _library.trace_references()
