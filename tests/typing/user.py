"""User code that `make lint` checks with strict mypy; it is not run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from typing_extensions import assert_type

import torchext
from torchext.nn import DiceLoss

labels = torch.zeros(4, 4, dtype=torch.int64)
image = torch.zeros(1, 3, 8, 8)

assert_type(torchext.one_hot(labels, 3, dim=1, dtype=torch.float16, ignore_index=255), Tensor)
assert_type(torchext.class_sums(image, labels, 3), Tensor)
assert_type(torchext.unfold(image, (3, 2), padding=1), Tensor)
assert_type(torchext.fold(image, (8, 8), 2), Tensor)
assert_type(torchext.cam_pool(image, image, size=224), Tensor)
assert_type(torchext.class_overlap(image, labels), torchext.ClassOverlap)
assert_type(torchext.reference.class_sums(image, labels, 3), Tensor)
assert_type(torchext.doctor().libraries[0].name, str)
assert_type(torchext.include_dir(), str)
assert_type(torchext.metrics.average_drop(torch.nn.Flatten(), image, image[0], (1,)), Tensor)


def heads(windows: Tensor) -> dict[str, Tensor]:
    return {"a": windows}


assert_type(
    torchext.sliding_window(heads, image, 4, halo=1, scale=0.5, skip=lambda window: window.any()), dict[str, Tensor]
)
assert_type(torchext.sliding_window(torch.sin, image, 4, overlap=(1, 0.5)), Tensor)
assert_type(torchext.sliding_window(heads, np.zeros((1, 3, 8, 8)), 4, out={"a": image}), dict[str, Tensor])
loss: torch.nn.Module = DiceLoss(softmax=True)

# Each line must be an error: strict mypy reports a `type: ignore` comment that ignores nothing.
torchext.one_hot([1, 2], 3)  # type: ignore[arg-type]  # a list is not a tensor
torchext.unfold(image, "3")  # type: ignore[arg-type]  # a size is an int or ints
torchext.one_hot(labels, 3, axis=1)  # type: ignore[call-arg]  # the name is dim
torchext.reference.one_hot([1, 2], 3)  # type: ignore[arg-type]  # references have the signature of the operation
torchext.sliding_window(image, heads, 4)  # type: ignore[call-overload]  # the model comes first
torchext.sliding_window(heads, image, 4, halo=0.5)  # type: ignore[call-overload]  # positions are ints
torchext.jit_build("yes")  # type: ignore[arg-type]  # expects a bool
