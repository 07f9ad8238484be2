"""One-hot encodings, and counts, sums and extremes of classes that need none."""

from torchext.onehot.class_max import ClassExtremes, class_max, class_min
from torchext.onehot.class_overlap import ClassOverlap, class_overlap
from torchext.onehot.class_sums import class_counts, class_means, class_sums, confusion_matrix
from torchext.onehot.labels import check_errors, debug
from torchext.onehot.mixup import mixup_one_hot
from torchext.onehot.multi_hot import multi_hot
from torchext.onehot.one_hot import one_hot

__all__ = [
    "ClassExtremes",
    "ClassOverlap",
    "check_errors",
    "class_counts",
    "class_max",
    "class_means",
    "class_min",
    "class_overlap",
    "class_sums",
    "confusion_matrix",
    "debug",
    "mixup_one_hot",
    "multi_hot",
    "one_hot",
]
