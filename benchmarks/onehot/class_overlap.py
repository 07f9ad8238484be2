"""The sums of segmentation losses and metrics: class_overlap and DiceLoss, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.workload import Fn, Replaced, Workload, optional, register

Setup = Callable[[torch.device], tuple[Tensor, ...]]


def scores_and_labels(*shape: int, dtype: torch.dtype = torch.int64) -> Setup:
    return lambda device: (
        torch.randn(shape, device=device),
        torch.randint(shape[1], (shape[0], *shape[2:]), dtype=dtype, device=device),
    )


def for_backward(setup: Setup) -> Setup:
    def prepare(device: torch.device) -> tuple[Tensor, ...]:
        scores, labels = setup(device)
        return scores.requires_grad_(), labels, torch.ones((), device=device)

    return prepare


def by_one_hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels.long(), classes).movedim(-1, 1).float()


def by_comparison(labels: Tensor, classes: int) -> Tensor:
    every = torch.arange(classes, device=labels.device).view(-1, *[1] * (labels.dim() - 1))
    return (labels.unsqueeze(1) == every).float()


def sums(encode: Fn) -> Fn:
    def peer(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hot, dims = encode(labels, probs.shape[1]), tuple(range(2, probs.dim()))
        return (probs * hot).sum(dims), probs.sum(dims), hot.sum(dims).long()

    return peer


def dice(encode: Fn) -> Fn:
    def peer(scores: Tensor, labels: Tensor) -> Tensor:
        intersection, total, support = sums(encode)(scores.softmax(1), labels)
        return (1 - (2 * intersection + 1e-5) / (total + support + 1e-5)).mean()

    return peer


PEERS: dict[str, Fn] = {"F.one_hot": by_one_hot, "labels == arange": by_comparison}
SHOWN: dict[str, Any] = {
    "replaces": Replaced("labels == arange", "one-hot, product, sums", "`class_overlap` 8×21×256², uint8"),
    "in_short_run": True,
    "profiled": True,
}

register(
    *(
        Workload(
            name=f"class_overlap {name}",
            family="overlap",
            setup=scores_and_labels(*shape, dtype=dtype),
            ours=lambda probs, labels: tuple(torchext.class_overlap(probs, labels)),
            peers={peer: sums(encode) for peer, encode in PEERS.items()},
            compiled={peer: sums(encode) for peer, encode in PEERS.items()},
            floor=floors.READ,
            max_peer=1.0,
            rtol=1e-3,
            atol=1e-1,  # sums of a hundred thousand signed numbers
            **how,
        )
        for name, shape, dtype, how in (
            ("2×14×96³", (2, 14, 96, 96, 96), torch.int64, {}),
            ("8×21×256², uint8", (8, 21, 256, 256), torch.uint8, SHOWN),
        )
    )
)

monai = optional("monai.losses")


def dice_row(name: str, setup: Setup, **how: Any) -> Workload:
    return Workload(
        name=f"DiceLoss {name}{', compiled' * ('compiled' in how)}, with backward",
        family="overlap",
        setup=for_backward(setup),
        ours=torchext.nn.DiceLoss(softmax=True),
        floor=floors.custom("read + fill of the scores", lambda scores, *_: scores.detach().clone().fill_(1)),
        max_peer=1.0,
        backward=True,
        rtol=1e-3,
        atol=1e-9,
        **how,
    )


def monai_dice(scores: Tensor, labels: Tensor) -> Tensor:
    assert monai is not None
    return monai.DiceLoss(to_onehot_y=True, softmax=True)(scores, labels.unsqueeze(1))


LOSSES = {peer: dice(encode) for peer, encode in PEERS.items()}
EAGER: dict[str, Any] = {"peers": {**LOSSES, **({"MONAI": monai_dice} if monai else {})}}
COMPILED: dict[str, Any] = {"compile_ours": True, "compiled": LOSSES}
VOLUME = "2×14×96³", scores_and_labels(2, 14, 96, 96, 96)
PHOTO = "8×21×256²", scores_and_labels(8, 21, 256, 256)
REPLACED = Replaced(
    "labels == arange",
    "softmax, one-hot, product, sums",
    "`nn.DiceLoss` 2×14×96³, with backward",
    ["overlap: DiceLoss 2×14×96³, compiled, with backward"],
)

register(
    dice_row(*VOLUME, replaces=REPLACED, **EAGER),
    dice_row(*VOLUME, **COMPILED),
    dice_row(*PHOTO, **EAGER),
    dice_row(*PHOTO, **COMPILED),
)
