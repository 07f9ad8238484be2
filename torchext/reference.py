"""The pure-PyTorch references, under the names and signatures of the operations that they stand for.

They are what the tests compare the kernels with, and what runs where no compiled kernel is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torchext import cam, classes, mixup, multihot, onehot, overlap, patches, tiles, windows
from torchext._library import reference_only

__all__ = [
    "cam_pool",
    "class_counts",
    "class_means",
    "class_overlap",
    "class_sums",
    "confusion_matrix",
    "extract_windows",
    "fold",
    "gather_windows",
    "merge_windows",
    "mixup_one_hot",
    "multi_hot",
    "one_hot",
    "patchify",
    "scatter_windows",
    "unfold",
    "unpatchify",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _by_reference(function: Callable[_P, _T]) -> Callable[_P, _T]:
    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with reference_only():
            return function(*args, **kwargs)

    return run


cam_pool = _by_reference(cam.cam_pool)
class_counts = _by_reference(classes.class_counts)
class_means = _by_reference(classes.class_means)
class_overlap = _by_reference(overlap.class_overlap)
class_sums = _by_reference(classes.class_sums)
confusion_matrix = _by_reference(classes.confusion_matrix)
extract_windows = _by_reference(tiles.extract_windows)
fold = _by_reference(windows.fold)
gather_windows = _by_reference(tiles.gather_windows)
merge_windows = _by_reference(tiles.merge_windows)
mixup_one_hot = _by_reference(mixup.mixup_one_hot)
multi_hot = _by_reference(multihot.multi_hot)
one_hot = _by_reference(onehot.one_hot)
scatter_windows = _by_reference(tiles.scatter_windows)
patchify = _by_reference(patches.patchify)
unfold = _by_reference(windows.unfold)
unpatchify = _by_reference(patches.unpatchify)
