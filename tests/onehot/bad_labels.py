"""Checks of bad labels for every encoding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchext._core.library import reference_only


def assert_raises_on_every_path(encode: Callable[[Tensor], Tensor]) -> None:
    """Check an encoding with three classes: eager, by the reference, compiled and under vmap, for several layouts."""
    labels = torch.tensor([[0, 1, 2], [1, 7, 9]])
    message = r"label 7 at position \(1, 1\) is outside \[0, 3\)"
    for bad in (labels, labels.to(torch.uint8), labels.T.contiguous().T):
        with pytest.raises(IndexError, match=message):
            encode(bad)
    with pytest.raises(IndexError, match=message), reference_only():
        encode(labels)
    compiled = torch.compile(encode, fullgraph=True)
    torch.testing.assert_close(compiled(labels % 3), encode(labels % 3))
    with pytest.raises(IndexError, match=message):
        compiled(labels)
    with pytest.raises(IndexError, match=r"label 7 at position \(1, 1, 1\) is outside \[0, 3\)"):
        torch.vmap(encode)(torch.stack([labels % 3, labels]))


def assert_names_the_lowest(encode: Callable[[Tensor], Tensor]) -> None:
    """Check an encoding with 21 classes, for several numbers of threads."""
    labels = torch.zeros(9000, 40, dtype=torch.int64)
    labels[700, 7] = 21
    labels[4000:] = -1
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(IndexError, match=r"label 21 at position \(700, 7\) is outside \[0, 21\)"):
            encode(labels)
