"""Windows extracted and merged: extract_windows and merge_windows, gather_windows and scatter_windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from torchext.windows.weight import Kind

from ..harness import floors
from ..harness.workload import Fn, Replaced, Workload, optional, register

einops = optional("einops")
TINY = 1e-12


@dataclass(frozen=True)
class Geometry:
    """Windows of size `k` along each of the last dimensions of `(N, C, *S)`, which they cover."""

    name: str
    shape: tuple[int, ...]
    k: int
    stride: int

    @property
    def image(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def size(self) -> tuple[int, ...]:
        return (self.k,) * len(self.image)

    @property
    def strides(self) -> tuple[int, ...]:
        return (self.stride,) * len(self.image)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple((s - self.k) // self.stride + 1 for s in self.image)

    def slices(self) -> Iterator[tuple[slice, ...]]:
        starts = (range(0, g * self.stride, self.stride) for g in self.grid)
        for start in itertools.product(*starts):
            yield tuple(slice(s, s + self.k) for s in start)


def extract_by_slices(g: Geometry) -> Fn:
    def extract(x: Tensor) -> Tensor:
        return torch.stack([x[(..., *at)] for at in g.slices()], 1).unflatten(1, g.grid)

    return extract


def extract_by_tensor_unfold(g: Geometry) -> Fn:
    rank = len(g.image)

    def extract(x: Tensor) -> Tensor:
        for axis in range(rank):
            x = x.unfold(2 + axis, g.k, g.stride)
        return x.permute(0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank)).contiguous()

    return extract


def as_image(x: Tensor) -> Tensor:
    return x if x.dim() == 4 else x.unsqueeze(2)


def in_two_dimensions(g: Geometry) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The sizes of image and window and the stride, as F.unfold and F.fold expect them."""
    one = () if len(g.image) == 2 else (1,)
    return one + g.image, one + g.size, one + g.strides


def extract_by_f_unfold(g: Geometry) -> Fn:
    _, size, stride = in_two_dimensions(g)

    def extract(x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        columns = F.unfold(as_image(x), size, stride=stride)
        return columns.view(n, c, *g.size, *g.grid).permute(*extract_order(len(g.image))).contiguous()

    return extract


def extract_order(rank: int) -> tuple[int, ...]:
    """The permutation from (N, C, *size, *grid) to (N, *grid, C, *size)."""
    return 0, *range(2 + rank, 2 + 2 * rank), 1, *range(2, 2 + rank)


def merge_by_f_fold(g: Geometry, weight: Tensor | None) -> Fn:
    image, size, stride = in_two_dimensions(g)
    rank = len(g.image)

    def fold(windows: Tensor) -> Tensor:
        n, c = windows.shape[0], windows.shape[1 + rank]
        columns = windows.permute(0, 1 + rank, *range(2 + rank, 2 + 2 * rank), *range(1, 1 + rank))
        columns = columns.reshape(n, c * g.k**rank, -1)
        return F.fold(columns, image, size, stride=stride).view(n, c, *g.image)

    def merge(windows: Tensor) -> Tensor:
        if weight is None:
            return fold(windows)
        return fold(windows * weight) / fold(weight.expand(1, *g.grid, 1, *g.size)).clamp_(min=TINY)

    return merge


def merge_by_slices(g: Geometry, weight: Tensor | None) -> Fn:
    """The usual loop: add windows and their weights to slices, then divide."""

    def merge(windows: Tensor) -> Tensor:
        out = windows.new_zeros(g.shape)
        total = windows.new_zeros(g.image)
        for at, window in zip(g.slices(), windows.flatten(1, len(g.image)).unbind(1), strict=True):
            if weight is None:
                out[(..., *at)] = window
            else:
                out[(..., *at)] += window * weight
                total[at] += weight
        # Positions without a window stay 0.
        return out if weight is None else out.div_(total.clamp_(min=TINY))

    return merge


def merge_by_crossfade(g: Geometry) -> Fn:
    """The method of diffusers' tiled VAE: each tile is blended with those above and to the left, and then cropped."""
    fade = g.k - g.stride
    ramp = torch.arange(fade) / fade

    def merge(windows: Tensor) -> Tensor:
        rows = []
        for i in range(g.grid[0]):
            row = []
            for j in range(g.grid[1]):
                tile = windows[:, i, j].clone()
                if i > 0:
                    down, above = ramp.to(tile.device).view(-1, 1), windows[:, i - 1, j]
                    tile[..., :fade, :] = above[..., -fade:, :] * (1 - down) + tile[..., :fade, :] * down
                if j > 0:
                    right, left = ramp.to(tile.device), windows[:, i, j - 1]
                    tile[..., :fade] = left[..., -fade:] * (1 - right) + tile[..., :fade] * right
                last = (i == g.grid[0] - 1, j == g.grid[1] - 1)
                row.append(tile[..., : g.k if last[0] else g.stride, : g.k if last[1] else g.stride])
            rows.append(torch.cat(row, dim=-1))
        return torch.cat(rows, dim=-2)

    return merge


def extract_by_einops(g: Geometry) -> Fn:
    return lambda x: einops.rearrange(x, "n c (h p) (w q) -> n h w c p q", p=g.k, q=g.k).contiguous()


def merge_by_view(g: Geometry) -> Fn:
    n, c = g.shape[:2]
    return lambda windows: windows.permute(0, 3, 1, 4, 2, 5).reshape(n, c, *g.image)


def extract(g: Geometry, max_peer: float, **how: Any) -> Workload:
    peers: dict[str, Fn] = {"loop of slices": extract_by_slices(g), "Tensor.unfold": extract_by_tensor_unfold(g)}
    compiled: dict[str, Fn] = {"Tensor.unfold": extract_by_tensor_unfold(g)}
    if len(g.image) < 3:
        peers["F.unfold"] = compiled["F.unfold"] = extract_by_f_unfold(g)
    if g.k == g.stride and einops:
        peers["einops"] = extract_by_einops(g)
    return Workload(
        name=f"extract, {g.name}",
        family="tiles",
        setup=lambda device: (torch.randn(g.shape, device=device),),
        ours=lambda x: torchext.extract_windows(x, g.size, g.strides),
        peers=peers,
        compiled=compiled,
        floor=floors.READ_FRESH,
        max_peer=max_peer,
        **how,
    )


def merge(g: Geometry, kind: Kind | None, max_peer: float, **how: Any) -> Workload:
    weight = None if kind is None else torchext.window_weight(g.size, kind)

    # Windows of one image, so that the result is this image for any weights.
    def setup(device: torch.device) -> tuple[Tensor, ...]:
        return (extract_by_tensor_unfold(g)(torch.randn(g.shape, device=device)),)

    def on_device(make: Callable[[Geometry, Tensor | None], Fn]) -> Fn:
        return lambda windows: make(g, None if weight is None else weight.to(windows.device))(windows)

    peers = {"loop of slices": on_device(merge_by_slices)}
    compiled: dict[str, Fn] = {}
    if len(g.image) < 3:
        peers["F.fold"] = compiled["F.fold"] = on_device(merge_by_f_fold)
    if len(g.image) == 2 and kind is not None:
        peers["crossfade"] = merge_by_crossfade(g)
    if kind is None:
        peers["permute + reshape"] = compiled["permute + reshape"] = merge_by_view(g)
    return Workload(
        name=f"merge, {g.name}" + ("" if kind is None else f", {kind}"),
        family="tiles",
        setup=setup,
        ours=lambda windows: torchext.merge_windows(windows, g.image, g.strides, weight=kind),
        peers=peers,
        compiled=compiled,
        floor=floors.READ_FRESH,
        max_peer=max_peer,
        **how,
    )


TILES = Geometry("1×3×4096², k512 s448", (1, 3, 4096, 4096), 512, 448)
VOLUME = Geometry("1×1×128³, k32 s24", (1, 1, 128, 128, 128), 32, 24)
AUDIO = Geometry("8×2×16000, k400 s160", (8, 2, 16000), 400, 160)
SIGNAL = Geometry("1×1×5M, k1024 s512", (1, 1, 5_000_192), 1024, 512)
SWIN = Geometry("8×96×56², k7 s7", (8, 96, 56, 56), 7, 7)


def in_place_of_a_loop(shown: str) -> dict[str, Any]:
    return {"replaces": Replaced("loop of slices", "a loop of slices", shown), "profiled": True}


register(
    extract(TILES, 0.33, **in_place_of_a_loop("`extract_windows` 1×3×4096², 512 every 448")),
    extract(SWIN, 1.0, replaces=Replaced("einops", "einops", "`extract_windows` 8×96×56², 7 every 7")),
    merge(TILES, "hann", 0.33, **in_place_of_a_loop("`merge_windows` 1×3×4096², 512 every 448, hann")),
    extract(VOLUME, 1.0),
    merge(VOLUME, "hann", 1.0),
    extract(AUDIO, 1.0),
    merge(AUDIO, "hann", 1.0),
    merge(SIGNAL, "hann", 1.0),
    merge(SWIN, None, 1.0),
)

SIDE, WINDOW = 4096, 64


def some_offsets(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, SIDE - WINDOW + 1, (count, 2), generator=generator).to(device)


def gather_by_slices(image: Tensor, offsets: Tensor) -> Tensor:
    return torch.stack([image[..., y : y + WINDOW, x : x + WINDOW] for y, x in offsets.tolist()], 1)


def scatter_by_slices(windows: Tensor, offsets: Tensor) -> Tensor:
    weight = torchext.window_weight((WINDOW, WINDOW), "gaussian", device=windows.device)
    out = windows.new_zeros(1, 1, SIDE, SIDE)
    total = windows.new_zeros(SIDE, SIDE)
    for (y, x), window in zip(offsets.tolist(), windows.unbind(1), strict=True):
        out[..., y : y + WINDOW, x : x + WINDOW] += window * weight
        total[y : y + WINDOW, x : x + WINDOW] += weight
    return torch.where(total > 0, out / total, 0)


def anywhere(count: int, **how: Any) -> tuple[Workload, Workload]:
    gather = Workload(
        name=f"gather {count} windows 64² of 4096²",
        family="tiles",
        setup=lambda device: (torch.randn(1, 1, SIDE, SIDE, device=device), some_offsets(count, device)),
        ours=lambda image, offsets: torchext.gather_windows(image, offsets, WINDOW),
        peers={"loop of slices": gather_by_slices},
        max_peer=1.0,
    )
    scatter = Workload(
        name=f"scatter {count} windows 64² into 4096²",
        family="tiles",
        setup=lambda device: (torch.randn(1, count, 1, WINDOW, WINDOW, device=device), some_offsets(count, device)),
        ours=lambda windows, offsets: torchext.scatter_windows(windows, offsets, SIDE, weight="gaussian"),
        peers={"loop of slices": scatter_by_slices},
        floor=floors.READ_FRESH,
        max_peer=0.2 if count > 1000 else 1.0,
        **how,
    )
    return gather, scatter


register(
    *anywhere(1000),
    *anywhere(10_000, **in_place_of_a_loop("`scatter_windows` 10000 of 64² into 4096²")),
)
