"""Tiled inference with a model that takes very little time: a convolution of 1×1."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.workload import Fn, Workload, optional, register

monai = optional("monai.inferers")

Setup = Callable[[torch.device], tuple[Tensor, ...]]
Model = Callable[[Tensor], Tensor]


BATCH = 4
CONVOLUTIONS = {4: F.conv2d, 5: F.conv3d}


def pointwise(kernel: Tensor) -> Model:
    return lambda windows: CONVOLUTIONS[windows.dim()](windows, kernel)


def image_and_kernel(channels: int, *spatial: int, classes: int) -> Setup:
    return lambda device: (
        torch.randn(1, channels, *spatial, device=device),
        torch.randn(classes, channels, *[1] * len(spatial), device=device),
    )


def by_loop(size: int, as_model: Callable[[Any], Model] = pointwise) -> Fn:
    """The usual loop: sums of outputs and of weights in two images, with the batches that sliding_window uses."""

    def run(image: Tensor, kernel: Any) -> Tensor:
        model, rank = as_model(kernel), image.dim() - 2
        weight = torchext.window_weight((size,) * rank, "gaussian", device=image.device)
        total: Tensor | None = None
        weights = image.new_zeros(image.shape[2:])
        starts = [(*range(0, extent - size, size * 3 // 4), extent - size) for extent in image.shape[2:]]
        corners = list(product(*starts))
        for first in range(0, len(corners), BATCH):
            batch = corners[first : first + BATCH]
            places = [(..., *(slice(start, start + size) for start in corner)) for corner in batch]
            results = model(torch.cat([image[place] for place in places]))
            if total is None:
                total = image.new_zeros(results.shape[1], *image.shape[2:])
            for place, result in zip(places, results, strict=True):
                total[place] += result * weight
                weights[place] += weight
        assert total is not None
        return (total / weights).unsqueeze(0)

    return run


def by_monai(size: int, as_model: Callable[[Any], Model] = pointwise) -> Fn:
    def run(image: Tensor, kernel: Any) -> Tensor:
        assert monai is not None
        return monai.sliding_window_inference(
            image, (size,) * (image.dim() - 2), BATCH, as_model(kernel), mode="gaussian"
        )

    return run


def labels(scores: Fn) -> Fn:
    return lambda *inputs: scores(*inputs).argmax(1)


def row(name: str, setup: Setup, size: int, *, argmax: bool = False) -> Workload:
    peers = {"loop": by_loop(size), **({"MONAI": by_monai(size)} if monai else {})}
    return Workload(
        name=f"{name}, k{size}{', argmax' * argmax}",
        family="sliding",
        setup=setup,
        ours=lambda image, kernel: torchext.sliding_window(
            pointwise(kernel), image, size, batch_size=BATCH, argmax=argmax
        ),
        peers={peer: labels(fn) if argmax else fn for peer, fn in peers.items()},
        floor=floors.custom("the model, untiled", lambda image, kernel: pointwise(kernel)(image)),
        max_peer=1.0,
    )


PHOTO = "1×3×2048²", image_and_kernel(3, 2048, 2048, classes=3), 512
VOLUME = "1×1×128³", image_and_kernel(1, 128, 128, 128, classes=1), 64
SCAN = "1×1×128³ to 14 classes", image_and_kernel(1, 128, 128, 128, classes=14), 64

register(row(*PHOTO), row(*VOLUME), row(*SCAN), row(*SCAN, argmax=True))
