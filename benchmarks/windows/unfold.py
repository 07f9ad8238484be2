"""Sliding windows copied to columns and back: torchext.unfold and torchext.fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.overhead import differentiable
from ..harness.workload import Fn, Replaced, Workload, optional, register

Setup = Callable[[torch.device], tuple[Tensor, ...]]

einops, unfold_nd = optional("einops"), optional("unfoldNd")


@dataclass(frozen=True)
class Geometry:
    """Square windows of size `k` over images `(N, C, H, H)`."""

    name: str
    shape: tuple[int, int, int, int]
    k: int
    dilation: int = 1
    padding: int = 0
    stride: int = 1

    @property
    def options(self) -> tuple[int, int, int, int]:
        return self.k, self.dilation, self.padding, self.stride

    @property
    def disjoint(self) -> bool:
        return self.stride == self.k and self.padding == 0 and self.dilation == 1

    @property
    def grid(self) -> int:
        return (self.shape[-1] + 2 * self.padding - self.dilation * (self.k - 1) - 1) // self.stride + 1

    @property
    def columns_shape(self) -> tuple[int, int, int]:
        n, c = self.shape[:2]
        return n, c * self.k**2, self.grid**2


def by_view(g: Geometry) -> Fn:
    def unfold(x: Tensor) -> Tensor:
        n, c = g.shape[:2]
        tiles = x.view(n, c, g.grid, g.k, g.grid, g.k).permute(0, 1, 3, 5, 2, 4)
        return tiles.reshape(g.columns_shape)

    return unfold


def by_tensor_unfold(g: Geometry) -> Fn:
    def unfold(x: Tensor) -> Tensor:
        x = F.pad(x, (g.padding,) * 4) if g.padding else x
        windows = x.unfold(2, g.k, g.stride).unfold(3, g.k, g.stride)
        return windows.permute(0, 1, 4, 5, 2, 3).reshape(g.columns_shape)

    return unfold


def fold_by_view(g: Geometry) -> Fn:
    def fold(columns: Tensor) -> Tensor:
        n, c = g.shape[:2]
        tiles = columns.view(n, c, g.k, g.k, g.grid, g.grid).permute(0, 1, 4, 2, 5, 3)
        return tiles.reshape(g.shape)

    return fold


def unfold_peers(g: Geometry) -> dict[str, Fn]:
    peers: dict[str, Fn] = {"F.unfold": lambda x: F.unfold(x, *g.options)}
    # Tensor.unfold has no dilation.
    if g.dilation == 1:
        peers["Tensor.unfold"] = by_tensor_unfold(g)
    if g.disjoint:
        peers["view + permute"] = by_view(g)
    if einops and g.disjoint:
        cut = "n c (h p) (w q) -> n (c p q) (h w)"
        peers["einops"] = lambda x: einops.rearrange(x, cut, p=g.k, q=g.k)
    if unfold_nd:
        peers["unfoldNd"] = lambda x: unfold_nd.unfoldNd(x, *g.options)
    return peers


def fold_peers(g: Geometry) -> dict[str, Fn]:
    peers: dict[str, Fn] = {"F.fold": lambda columns: F.fold(columns, g.shape[2:], *g.options)}
    if g.disjoint:
        peers["view + permute"] = fold_by_view(g)
    if einops and g.disjoint:
        join = "n (c p q) (h w) -> n c (h p) (w q)"
        peers["einops"] = lambda columns: einops.rearrange(columns, join, p=g.k, q=g.k, h=g.grid, w=g.grid)
    if unfold_nd:
        peers["unfoldNd"] = lambda columns: unfold_nd.foldNd(columns, g.shape[2:], *g.options)
    return peers


def compilable(peers: dict[str, Fn]) -> dict[str, Fn]:
    """The implementations that are also compiled; those in libraries are equivalent to one of these."""
    return {name: peers[name] for name in ("F.unfold", "F.fold", "view + permute") if name in peers}


def unfold(g: Geometry, floor: floors.Floor, max_floor: float | None, max_peer: float, **how: Any) -> Workload:
    peers = unfold_peers(g)
    return Workload(
        name=g.name,
        family="unfold",
        setup=lambda device: (torch.randn(g.shape, device=device),),
        ours=lambda x: torchext.unfold(x, *g.options),
        peers=peers,
        compiled=compilable(peers),
        floor=floor,
        max_floor=max_floor,
        max_peer=max_peer,
        **how,
    )


def fold(g: Geometry, **how: Any) -> Workload:
    peers = fold_peers(g)
    return Workload(
        name=g.name,
        family="fold",
        setup=lambda device: (torch.randn(g.columns_shape, device=device),),
        ours=lambda columns: torchext.fold(columns, g.shape[2:], *g.options),
        peers=peers,
        compiled=compilable(peers),
        floor=floors.READ_FRESH,
        max_floor=1.5,
        max_peer=0.5,
        **how,
    )


LAYER = Geometry("32×64×56², k3 p1", (32, 64, 56, 56), 3, padding=1)
PHOTOS = Geometry("16×3×512², k8 s4", (16, 3, 512, 512), 8, stride=4)
DILATED = Geometry("4×32×64², k7 d2 p6", (4, 32, 64, 64), 7, dilation=2, padding=6)
IMAGE = Geometry("1×3×224², k4 s4", (1, 3, 224, 224), 4, stride=4)
MAPS = Geometry("4×96×64², k8 s8", (4, 96, 64, 64), 8, stride=8)
F_UNFOLD, F_FOLD = Replaced("F.unfold"), Replaced("F.fold")

register(
    unfold(LAYER, floors.READ_FILL, None, 0.3, replaces=F_UNFOLD, in_short_run=True, profiled=True),
    unfold(PHOTOS, floors.READ_FILL, None, 0.3, replaces=F_UNFOLD),
    unfold(DILATED, floors.READ_FILL, None, 0.3),
    unfold(MAPS, floors.COPY, 2.5, 0.35, replaces=F_UNFOLD),
    unfold(IMAGE, floors.COPY, 2.5, 0.6, replaces=F_UNFOLD, in_short_run=True),
)


def trained(g: Geometry) -> Setup:
    def setup(device: torch.device) -> tuple[Tensor, ...]:
        x = torch.randn(g.shape, device=device, requires_grad=True)
        return x, torch.randn(g.columns_shape, device=device)

    return setup


TRAINED = Geometry("8×64×56², k3 p1, forward + backward", (8, 64, 56, 56), 3, padding=1)

register(
    Workload(
        name=TRAINED.name,
        family="unfold",
        setup=trained(TRAINED),
        ours=lambda x: torchext.unfold(x, *TRAINED.options),
        backward=True,
        floor=floors.READ_FILL,
        peers={"F.unfold": lambda x: F.unfold(x, *TRAINED.options)},
        compiled={"F.unfold": lambda x: F.unfold(x, *TRAINED.options)},
    )
)


def by_reflection(x: Tensor) -> Tensor:
    return F.unfold(F.pad(x, (TRAINED.padding,) * 4, mode="reflect"), TRAINED.k)


def reflected(x: Tensor) -> Tensor:
    return torchext.unfold(x, *TRAINED.options, padding_mode="reflect")


def by_tensor_unfold_of_all(x: Tensor, size: int, stride: int) -> Tensor:
    """Windows of this many elements along each spatial dimension, copied into columns."""
    rank = x.dim() - 2
    for axis in range(2, x.dim()):
        x = x.unfold(axis, size, stride)
    x = x.permute(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return x.reshape(x.shape[0], x.shape[1] * size**rank, -1)


def nd_peers(size: int, stride: int) -> dict[str, Fn]:
    peers: dict[str, Fn] = {"Tensor.unfold + permute": lambda x: by_tensor_unfold_of_all(x, size, stride)}
    if unfold_nd:
        peers["unfoldNd"] = lambda x: unfold_nd.unfoldNd(x, size, stride=stride)
    return peers


def volume(size: int, stride: int, max_peer: float) -> Workload:
    return Workload(
        name=f"1×1×128³, k{size} s{stride}",
        family="unfold",
        setup=lambda device: (torch.randn(1, 1, 128, 128, 128, device=device),),
        ours=lambda x: torchext.unfold(x, size, stride=stride),
        peers=nd_peers(size, stride),
        floor=floors.READ_FILL,
        max_peer=max_peer,
    )


FRAME, HOP = 400, 160

register(
    Workload(
        name="8×64×56², k3 p1 reflect",
        family="unfold",
        setup=lambda device: (torch.randn(TRAINED.shape, device=device),),
        ours=reflected,
        peers={"F.pad + F.unfold": by_reflection},
        compiled={"F.pad + F.unfold": by_reflection},
        floor=floors.READ_FILL,
        max_peer=0.3,
        replaces=Replaced("F.pad + F.unfold", "`F.pad` and `F.unfold`", "`unfold` 8×64×56², k3 p1, reflected"),
    ),
    Workload(
        name="8×64×56², k3 p1 reflect, forward + backward",
        family="unfold",
        setup=trained(TRAINED),
        ours=reflected,
        backward=True,
        floor=floors.READ_FILL,
        peers={"F.pad + F.unfold": by_reflection},
        compiled={"F.pad + F.unfold": by_reflection},
    ),
    volume(3, 1, 0.3),
    volume(2, 2, 0.6),
    Workload(
        name="audio 8×2×16000, k400 s160",
        family="unfold",
        setup=lambda device: (torch.randn(8, 2, 16000, device=device),),
        ours=lambda x: torchext.unfold(x, (FRAME,), stride=HOP),
        peers={
            "F.unfold": lambda x: F.unfold(x.unsqueeze(2), (1, FRAME), stride=HOP),
            **nd_peers(FRAME, HOP),
        },
        compiled={"Tensor.unfold + permute": lambda x: by_tensor_unfold_of_all(x, FRAME, HOP)},
        floor=floors.COPY,
        max_peer=0.6,
    ),
)

register(
    fold(LAYER, replaces=F_FOLD, in_short_run=True, profiled=True),
    fold(PHOTOS, replaces=F_FOLD, in_short_run=True),
    *(fold(g) for g in (DILATED, IMAGE, MAPS)),
    *differentiable(
        "unfold 1×1×4², k2",
        (1, 1, 4, 4),
        ours=lambda x: torchext.unfold(x, 2),
        peers={"F.unfold": lambda x: F.unfold(x, 2)},
    ),
    *differentiable(
        "fold 1×4×9, k2",
        (1, 4, 9),
        ours=lambda columns: torchext.fold(columns, (4, 4), 2),
        peers={"F.fold": lambda columns: F.fold(columns, (4, 4), 2)},
    ),
)
