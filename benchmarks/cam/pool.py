"""Gradient-weighted pooling of activations: torchext.cam_pool and the chain of PyTorch operations that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.overhead import differentiable
from ..harness.workload import Fn, Replaced, Workload, register

Size = tuple[int, ...]
Setup = Callable[[torch.device], tuple[Tensor, ...]]
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
TINY = torch.finfo(torch.float32).tiny


def maps(*shape: int) -> Setup:
    """Activations after a ReLU, as a convolution block outputs them, and gradients of both signs."""
    return lambda device: (torch.randn(shape, device=device).relu_(), torch.randn(shape, device=device))


def tokens(batch: int, channels: int, *grid: int) -> Setup:
    """Tokens (B, N, C) viewed as maps (B, C, *grid), with the channels last in memory."""

    def view(device: torch.device) -> Tensor:
        return torch.randn(batch, *grid, channels, device=device).movedim(-1, 1)

    return lambda device: (view(device), view(device))


def finish(cams: Tensor, size: Size | None) -> Tensor:
    spatial = tuple(range(1, cams.ndim))
    cams = cams.relu()
    cams = cams / cams.amax(spatial, keepdim=True).clamp_min(TINY)
    if size is None:
        return cams
    mode = MODES[len(size)]
    return F.interpolate(cams.unsqueeze(1), size=size, mode=mode, align_corners=False).squeeze(1)


def chain(size: Size | None = None) -> Fn:
    def peer(activations: Tensor, gradients: Tensor) -> Tensor:
        weights = gradients.mean(tuple(range(2, gradients.ndim)), keepdim=True)
        return finish((weights * activations).sum(1), size)

    return peer


def by_einsum(size: Size | None = None) -> Fn:
    def peer(activations: Tensor, gradients: Tensor) -> Tensor:
        weights = gradients.mean(tuple(range(2, gradients.ndim)))
        return finish(torch.einsum("bc,bc...->b...", weights, activations), size)

    return peer


def cam_pool(name: str, setup: Setup, size: Size | None = None, **how: Any) -> Workload:
    resized = size is not None
    peers = {"chain": chain(size), "einsum": by_einsum(size)}
    return Workload(
        name=name,
        family="cam_pool",
        setup=setup,
        ours=lambda activations, gradients: torchext.cam_pool(activations, gradients, size=size),
        peers=peers,
        compiled=peers,
        floor=floors.READ_FILL if resized else floors.READ,
        max_floor=2.0 if resized else 1.3,
        max_peer=0.5 if resized else None,
        # Sums of thousands of terms of both signs; the largest value of a map is 1.
        atol=1e-4,
        **how,
    )


CHAIN = Replaced("chain", "mean, multiply, sum, ReLU, divide, interpolate")

register(
    cam_pool("256×2048×7²", maps(256, 2048, 7, 7), replaces=CHAIN),
    cam_pool("8×512×56²", maps(8, 512, 56, 56), replaces=CHAIN, in_short_run=True, profiled=True),
    cam_pool("tokens 32×768×14²", tokens(32, 768, 14, 14)),
    cam_pool("volume 4×256×16×28²", maps(4, 256, 16, 28, 28)),
    cam_pool("32×2048×7² to 224²", maps(32, 2048, 7, 7), (224, 224), replaces=CHAIN, in_short_run=True),
    cam_pool("1×2048×7² to 224²", maps(1, 2048, 7, 7), (224, 224)),
)


def for_targets(targets: int, *shape: int) -> Setup:
    return lambda device: (*maps(*shape)(device)[:1], torch.randn(targets, *shape, device=device))


def given(*shape: int) -> Setup:
    return lambda device: (*maps(*shape)(device)[:1], torch.randn(shape[:2], device=device))


def plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    squares = gradients.square()
    sums = activations.sum((2, 3), keepdim=True)
    alpha = squares / (2 * squares + sums * squares * gradients + TINY)
    return finish(((alpha * gradients.relu()).sum((2, 3), keepdim=True) * activations).sum(1), None)


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    weights = (gradients * activations).sum((2, 3), keepdim=True) / (activations.sum((2, 3), keepdim=True) + TINY)
    return finish((weights * activations).sum(1), None)


def multiplied(activations: Tensor, gradients: Tensor) -> Tensor:
    return finish((gradients * activations).sum(1), None)


def multiplied_by_einsum(activations: Tensor, gradients: Tensor) -> Tensor:
    return finish(torch.einsum("bchw,bchw->bhw", gradients, activations), None)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    return finish((gradients.relu() * activations).sum(1), None)


def elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    return finish((gradients * activations).relu().sum(1), None)


def of_method(method: str, peers: dict[str, Fn], *, profiled: bool = False) -> Workload:
    return Workload(
        name=f"{method} 32×1024×14²",
        family="cam_pool",
        setup=maps(32, 1024, 14, 14),
        ours=lambda activations, gradients: torchext.cam_pool(activations, gradients, method=method),
        peers=peers,
        compiled=peers,
        floor=floors.READ,
        max_floor=1.3,
        max_peer=1.0,
        atol=1e-4,
        rtol=1e-3,
        profiled=profiled,
    )


def each_target(activations: Tensor, gradients: Tensor) -> Tensor:
    return torch.stack([chain()(activations, one) for one in gradients])


def targets_by_einsum(activations: Tensor, gradients: Tensor) -> Tensor:
    cams = torch.einsum("tbc,bc...->tb...", gradients.flatten(3).mean(3), activations)
    return finish(cams.flatten(0, 1), None).unflatten(0, cams.shape[:2])


def of_targets(name: str, setup: Setup) -> Workload:
    peers = {"each target": each_target, "einsum": targets_by_einsum}
    return Workload(
        name=name,
        family="cam_pool",
        setup=setup,
        ours=torchext.cam_pool,
        peers=peers,
        compiled=peers,
        floor=floors.READ,
        max_floor=1.3,
        atol=1e-4,
    )


def weighed(activations: Tensor, weights: Tensor) -> Tensor:
    return finish((weights[:, :, None, None] * activations).sum(1), None)


register(
    of_targets("10 targets 32×2048×7²", for_targets(10, 32, 2048, 7, 7)),
    of_targets("10 targets 4×512×28²", for_targets(10, 4, 512, 28, 28)),
    of_method("gradcam++", {"chain": plus_plus}),
    of_method("xgradcam", {"chain": xgradcam}),
    of_method("layercam", {"chain": layercam}, profiled=True),
    of_method("hirescam", {"chain": multiplied, "einsum": multiplied_by_einsum}),
    of_method("gradcam_elementwise", {"chain": elementwise}),
    Workload(
        name="given weights 32×1024×14²",
        family="cam_pool",
        setup=given(32, 1024, 14, 14),
        ours=lambda activations, weights: torchext.cam_pool(activations, weights=weights),
        peers={"chain": weighed},
        compiled={"chain": weighed},
        floor=floors.READ,
        max_floor=1.3,
        atol=1e-4,
    ),
)


def trained(*shape: int) -> Setup:
    def setup(device: torch.device) -> tuple[Tensor, ...]:
        activations, gradients = (x.requires_grad_() for x in maps(*shape)(device))
        return activations, gradients, torch.randn(shape[:1] + shape[2:], device=device)

    return setup


register(
    Workload(
        name="32×2048×7², forward + backward",
        family="cam_pool",
        setup=trained(32, 2048, 7, 7),
        ours=lambda activations, gradients: torchext.cam_pool(activations, gradients),
        backward=True,
        floor=floors.READ_FILL,
        peers={"chain": chain(), "einsum": by_einsum()},
        compiled={"chain": chain()},
        rtol=1e-3,
        atol=1e-3,
    ),
    *differentiable(
        "cam_pool 1×2×2²",
        (1, 2, 2, 2),
        (1, 2, 2, 2),
        ours=lambda activations, gradients: torchext.cam_pool(activations, gradients),
        peers={"chain": chain()},
    ),
)
