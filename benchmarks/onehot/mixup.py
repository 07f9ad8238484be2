"""Rows of two mixed labels, which torchext.mixup_one_hot writes in one pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.workload import Fn, Replaced, Workload, register
from .one_hot import GRADIENT, labels, with_logits

LAM, CLASSES, SMOOTHING = 0.3, 1000, 0.1


def ours_mixup(y: Tensor) -> Tensor:
    return torchext.mixup_one_hot(y, LAM, CLASSES, label_smoothing=SMOOTHING)


def timm_mixup(y: Tensor) -> Tensor:
    """The formula of timm.data.mixup.mixup_target."""
    off = SMOOTHING / CLASSES
    on = 1.0 - SMOOTHING + off

    def one_hot(x: Tensor) -> Tensor:
        return torch.full((x.shape[0], CLASSES), off, device=x.device).scatter_(1, x.view(-1, 1), on)

    return one_hot(y) * LAM + one_hot(y.flip(0)) * (1 - LAM)


def equals_mixup(y: Tensor) -> Tensor:
    """The same by comparison with all classes, which compilers fuse."""
    off = SMOOTHING / CLASSES
    classes = torch.arange(CLASSES, device=y.device)

    def one_hot(x: Tensor) -> Tensor:
        return torch.where(x.unsqueeze(1) == classes, 1.0 - SMOOTHING + off, off)

    return one_hot(y) * LAM + one_hot(y.flip(0)) * (1 - LAM)


def mixup(samples: int, **how: Any) -> Workload:
    return Workload(
        name=f"{samples}×{CLASSES}",
        family="mixup_one_hot",
        setup=labels((samples,), CLASSES),
        ours=ours_mixup,
        peers={"timm": timm_mixup},
        compiled={"timm": timm_mixup, "labels == arange": equals_mixup},
        floor=floors.FILL,
        max_peer=1.0,
        **how,
    )


def cross_entropy(target: Fn) -> Fn:
    return lambda y, logits: F.cross_entropy(logits, target(y))


# In compiled code both are fused into the loss, so the target only allows for noise.
register(
    mixup(256, in_short_run=True),
    mixup(4096, replaces=Replaced("timm", "timm's `mixup_target`"), profiled=True),
    Workload(
        name=f"4096×{CLASSES}, compiled cross entropy, with backward",
        family="mixup_one_hot",
        setup=with_logits(labels((4096,), CLASSES), 4096, CLASSES),
        ours=cross_entropy(ours_mixup),
        compile_ours=True,
        compiled={"timm": cross_entropy(timm_mixup), "labels == arange": cross_entropy(equals_mixup)},
        floor=GRADIENT,
        backward=True,
        atol=1e-9,
        max_peer=1.05,
    ),
)
