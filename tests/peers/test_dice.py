"""DiceLoss compared with MONAI's: values, gradients, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor

import torchext
from tests.memory import peak_megabytes

Loss = Callable[[Tensor, Tensor], Tensor]


def _both(**options: Any) -> tuple[Loss, Loss]:
    return torchext.nn.DiceLoss(**options), DiceLoss(to_onehot_y=True, **options)


def _scores_and_labels(channels: int, *spatial: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, channels, *spatial, dtype=dtype, generator=generator)
    return scores, torch.randint(max(channels, 2), (3, 1, *spatial), generator=generator)


def _assert_equal(options: dict[str, Any], scores: Tensor, labels: Tensor) -> None:
    if not options.get("softmax") and not options.get("sigmoid"):
        scores = scores.abs()  # probabilities
    results = []
    for loss, target in zip(
        _both(**options), (labels, labels if scores.shape[1] > 1 else labels.double()), strict=True
    ):
        leaf = scores.detach().requires_grad_()
        value = loss(leaf, target)
        (gradient,) = torch.autograd.grad((value * torch.arange(1, value.numel() + 1).view(value.shape)).sum(), leaf)
        results.append((value.detach(), gradient))
    torch.testing.assert_close(*results)


_OPTIONS = {
    "activation": ({}, {"softmax": True}, {"sigmoid": True}),
    "reduction": ("mean", "sum", "none"),
    "batch": (False, True),
    "jaccard": (False, True),
    "squared_pred": (False, True),
    "include_background": (False, True),
}


@pytest.mark.parametrize("options", [dict(zip(_OPTIONS, o, strict=True)) for o in product(*_OPTIONS.values())], ids=str)
def test_equals_monai_under_every_option(options: dict[str, Any]) -> None:
    activation, options = options["activation"], {k: v for k, v in options.items() if k != "activation"}
    weight = torch.arange(1.0, 6.0 if options["include_background"] else 5.0)
    for more in ({}, {"weight": weight}, {"weight": 0.3, "smooth_nr": 0.0, "smooth_dr": 1.0}):
        _assert_equal({**activation, **options, **more}, *_scores_and_labels(5, 6, 7))


@pytest.mark.parametrize("shape", [(2, 9), (7, 4, 5, 6), (1, 6, 7)], ids=["signal", "volume", "one channel"])
def test_equals_monai_for_every_rank(shape: tuple[int, ...]) -> None:
    _assert_equal({"sigmoid": True}, *_scores_and_labels(*shape))
    _assert_equal({"softmax": shape[0] > 1, "squared_pred": True}, *_scores_and_labels(*shape))


@pytest.mark.parametrize("label", [0, 2, 255])
def test_equals_monai_with_an_ignored_label(label: int) -> None:
    scores, labels = _scores_and_labels(5, 6, 7)
    labels[:, :, 2:4] = label
    for reduction in ("mean", "none"):
        _assert_equal({"softmax": True, "ignore_index": label, "reduction": reduction}, scores, labels)


_PREPARE = """
import torch, torchext
from monai.losses import DiceLoss
scores = torch.randn(2, 14, 96, 96, 96, requires_grad=True)
labels = torch.randint(14, (2, 1, 96, 96, 96))
small = scores.detach()[:, :, :8, :8, :8].contiguous().requires_grad_(), labels[..., :8, :8, :8]
loss = {"ours": torchext.nn.DiceLoss(softmax=True), "monai": DiceLoss(to_onehot_y=True, softmax=True)}[sys.argv[1]]
loss(*small).backward()
"""


def test_a_weight_counts_also_for_a_single_class_where_monai_ignores_it() -> None:
    for channels, options in ((2, {"softmax": True, "include_background": False}), (1, {"sigmoid": True})):
        scores, labels = _scores_and_labels(channels, 6, 7)
        ours, monai = _both(weight=[3.0], **options)
        torch.testing.assert_close(ours(scores, labels), 3 * monai(scores, labels))


def _seconds(loss: Loss, scores: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    torch.autograd.grad(loss(scores, labels), scores)
    return time.perf_counter() - start


def test_takes_less_time_and_memory_than_monai(capsys: pytest.CaptureFixture[str]) -> None:
    scores, labels = torch.randn(2, 14, 96, 96, 96, requires_grad=True), torch.randint(14, (2, 1, 96, 96, 96))
    ours, monai = _both(softmax=True)
    rounds = [(_seconds(ours, scores, labels), _seconds(monai, scores, labels)) for _ in range(3)]
    times = [min(seconds) for seconds in zip(*rounds, strict=True)]
    memory = [peak_megabytes(_PREPARE, "loss(scores, labels).backward()", which) for which in ("ours", "monai")]
    with capsys.disabled():
        print("\nDiceLoss 2×14×96³, forward and backward")
        for name, seconds, megabytes in zip(("torchext", "MONAI"), times, memory, strict=True):
            print(f"  {name:8} {1e3 * seconds:6.0f} ms {megabytes:6.0f} MB")
    assert times[0] < times[1]
    # The gradient of the scores has 99 MB, and nothing else is as large as the scores.
    assert memory[0] < 1.5 * scores.nbytes / 2**20
    assert memory[0] < memory[1] / 2
