"""Images to normalised patch tokens and back: torchext.patchify and torchext.unpatchify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.workload import Fn, Replaced, Workload, optional, register

Setup = Callable[[torch.device], tuple[Tensor, ...]]

einops = optional("einops")

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Patches:
    """Square images of three channels with square patches of size `p`."""

    name: str
    batch: int
    image: int
    p: int
    layout: str = "NCHW"
    order: str = "CPP"
    dtype: torch.dtype = torch.uint8
    tokens: torch.dtype = torch.float32

    @property
    def grid(self) -> int:
        return self.image // self.p

    @property
    def layouts(self) -> dict[str, Any]:
        return {"input_layout": self.layout, "token_order": self.order}

    def images(self, device: torch.device) -> Tensor:
        n, h = self.batch, self.image
        shape = (n, 3, h, h) if self.layout == "NCHW" else (n, h, h, 3)
        if self.dtype == torch.uint8:
            return torch.randint(256, shape, dtype=torch.uint8, device=device)
        return torch.randn(shape, dtype=self.dtype, device=device)


def normalised(x: Tensor, g: Patches) -> Tensor:
    """Normalise bytes as data loaders do; floats are only converted."""
    if g.dtype != torch.uint8:
        return x.to(g.tokens)
    shape = (3, 1, 1) if g.layout == "NCHW" else (3,)
    mean, std = (torch.tensor(IMAGENET[name], device=x.device).view(shape) for name in ("mean", "std"))
    return ((x.float() / 255 - mean) / std).to(g.tokens)


def ours(g: Patches) -> Fn:
    statistics = IMAGENET if g.dtype == torch.uint8 else {}
    return lambda x: torchext.patchify(x, g.p, dtype=g.tokens, **statistics, **g.layouts)


def by_view(g: Patches) -> Fn:
    n, h, p = g.batch, g.grid, g.p
    first = (n, 3, h, p, h, p) if g.layout == "NCHW" else (n, h, p, h, p, 3)
    axes = dict(zip("nchpwq" if g.layout == "NCHW" else "nhpwqc", range(6), strict=True))
    order = [axes[a] for a in ("nhwcpq" if g.order == "CPP" else "nhwpqc")]

    def patchify(x: Tensor) -> Tensor:
        return normalised(x, g).view(first).permute(order).reshape(n, h * h, 3 * p * p)

    return patchify


def by_einops(g: Patches) -> Fn:
    images = "n c (h p) (w q)" if g.layout == "NCHW" else "n (h p) (w q) c"
    tokens = "n (h w) (c p q)" if g.order == "CPP" else "n (h w) (p q c)"
    assert einops is not None
    return lambda x: einops.rearrange(normalised(x, g), f"{images} -> {tokens}", p=g.p, q=g.p)


def peers(g: Patches) -> dict[str, Fn]:
    return {"view + permute": by_view(g), **({"einops": by_einops(g)} if einops else {})}


def row(g: Patches, max_peer: float, suffix: str = "", **how: Any) -> Workload:
    return Workload(
        name=g.name + suffix,
        family="patchify",
        setup=lambda device: (g.images(device),),
        ours=ours(g),
        floor=floors.FILL,
        max_peer=max_peer,
        rtol=1e-2 if g.tokens == torch.bfloat16 else 1e-4,
        atol=1e-2 if g.tokens == torch.bfloat16 else 1e-5,
        **how,
    )


VIT = Patches("32×224²×3 uint8 NHWC, p16", 32, 224, 16, "NHWC")
LOADED = (
    VIT,
    Patches("32×3×224² uint8 NCHW, p16", 32, 224, 16),
    Patches("32×224²×3 uint8 NHWC, p16, PPC", 32, 224, 16, "NHWC", "PPC"),
    Patches("4×518²×3 uint8 NHWC, p14", 4, 518, 14, "NHWC"),
    Patches("32×224²×3 uint8 NHWC, p16, bfloat16", 32, 224, 16, "NHWC", tokens=torch.bfloat16),
    Patches("1×224²×3 uint8 NHWC, p16", 1, 224, 16, "NHWC"),
)
FLOATS = (
    Patches("32×3×224² float32, p16, PPC", 32, 224, 16, order="PPC", dtype=torch.float32),
    Patches("32×3×224² float32, p4", 32, 224, 4, dtype=torch.float32),
)

COMPILED_CHAIN = row(VIT, 1.0, ", against the compiled chain", compiled={"view + permute": by_view(VIT)})
REPLACED = Replaced(
    "view + permute",
    "to float, normalise, view and permute",
    "`patchify` 32×224²×3 uint8, p16",
    [COMPILED_CHAIN.title],
)

# The target is for the chain of operations as data loaders run it. The compiled chain has a row of its own.
register(
    row(VIT, 0.15, peers=peers(VIT), replaces=REPLACED, profiled=True),
    COMPILED_CHAIN,
    *(row(g, 1.0, peers=peers(g), compiled={"view + permute": by_view(g)}) for g in LOADED if g is not VIT),
    *(row(g, 1.0, peers=peers(g), compiled={"view + permute": by_view(g)}) for g in FLOATS),
)


def embed(patchify: Fn) -> Fn:
    return lambda x, weight: patchify(x) @ weight


EMBEDDED = Patches("32×224²×3 uint8 NHWC, p16, then a product, compiled", 32, 224, 16, "NHWC")

register(
    Workload(
        name=EMBEDDED.name,
        family="patchify",
        setup=lambda device: (EMBEDDED.images(device), torch.randn(768, 192, device=device)),
        ours=embed(ours(EMBEDDED)),
        compile_ours=True,
        compiled={"view + permute": embed(by_view(EMBEDDED))},
        max_peer=1.0,
        atol=1e-2,
    )
)

TRAINED = Patches("32×3×224² float32, p16, forward + backward", 32, 224, 16, dtype=torch.float32)


def with_gradient(device: torch.device) -> tuple[Tensor, ...]:
    images = TRAINED.images(device)
    return images.requires_grad_(), torch.randn(TRAINED.batch, TRAINED.grid**2, 3 * TRAINED.p**2, device=device)


register(
    Workload(
        name=TRAINED.name,
        family="patchify",
        setup=with_gradient,
        ours=ours(TRAINED),
        backward=True,
        floor=floors.FILL,
        peers=peers(TRAINED),
        max_peer=1.0,
    )
)


def shown(tokens: Tensor) -> Tensor:
    """Convert reconstructed tokens to images by hand."""
    mean, std = (torch.tensor(IMAGENET[name], device=tokens.device).view(3, 1, 1) for name in ("mean", "std"))
    n, h, p = VIT.batch, VIT.grid, VIT.p
    planes = tokens.view(n, h, h, p, p, 3).permute(0, 5, 1, 3, 2, 4).reshape(n, 3, h * p, h * p)
    images = ((planes * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous()


register(
    Workload(
        name="32×196×768 PPC to uint8 NHWC, p16",
        family="unpatchify",
        setup=lambda device: (torch.randn(VIT.batch, VIT.grid**2, 768, device=device),),
        ours=lambda tokens: torchext.unpatchify(
            tokens, VIT.p, VIT.grid, dtype=torch.uint8, output_layout="NHWC", token_order="PPC", **IMAGENET
        ),
        peers={"view + permute": shown},
        compiled={"view + permute": shown},
        floor=floors.READ,
        max_peer=1.0,
        atol=1.0,  # halves may be rounded in either direction
    )
)
