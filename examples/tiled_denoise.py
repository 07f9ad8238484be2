"""Denoise a photo of several megapixels in tiles, without a seam, and compare with the whole photo in one call.

The saved picture shows a position where four tiles meet: noisy, denoised without overlap, denoised in blended tiles,
and the differences of the last two from the photo denoised in one call, enlarged many times.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch import Tensor

import torchext

TILE = 512
RADIUS = 4
REACH = 2 * RADIUS  # the radius of the filter, which applies two means one after the other
NOISE = 0.08
ENLARGED = 30


class Differences(NamedTuple):
    """The largest differences from the photo denoised in one call, for values in [0, 1]."""

    edge_to_edge: float
    blended: float
    blended_away_from_edges: float


def photo(size: int = 2048) -> Tensor:
    """An image of a retina as ``(1, 3, size, size)``, continued by mirroring."""
    image = torch.from_numpy(data.retina().copy()).movedim(-1, 0)[None].float() / 255
    image = torch.cat([image, image.flip(-1)], -1)
    return torch.cat([image, image.flip(-2)], -2)[..., :size, :size].contiguous()


def mean(image: Tensor) -> Tensor:
    """The mean over a square around each pixel, or the part of it that is inside the image."""
    for k in ((2 * RADIUS + 1, 1), (1, 2 * RADIUS + 1)):
        image = F.avg_pool2d(image, k, 1, (k[0] // 2, k[1] // 2), count_include_pad=False)
    return image


def denoise(image: Tensor) -> Tensor:
    """The guided filter (He et al., 2010) with the image itself as guide: smooths flat areas and keeps edges."""
    average = mean(image)
    variance = mean(image * image) - average * average
    kept = variance / (variance + NOISE**2)
    return mean(kept) * image + mean(average - kept * average)


def away_from_edges(windows: Tensor) -> Tensor:
    """1 where the filter only reads pixels inside the window."""
    inside = torch.zeros_like(windows[:, :1])
    inside[..., REACH:-REACH, REACH:-REACH] = 1
    return inside


def picture(noisy: Tensor, whole: Tensor, results: list[Tensor]) -> Image.Image:
    at = slice(TILE - 120, TILE + 120)
    panels = [noisy, *results, *((ENLARGED * (result - whole)).abs() for result in results)]
    row = torch.cat([panel[0, :, at, at] for panel in panels], 2)
    pixels = (row.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.movedim(0, -1).contiguous().numpy())


@torch.inference_mode()
def main(path: Path = Path("demo_output/tiled_denoise.png")) -> Differences:
    torch.manual_seed(0)
    clean = photo()
    noisy = clean + NOISE * torch.randn_like(clean)
    whole = denoise(noisy)
    edge_to_edge = torchext.sliding_window(denoise, noisy, TILE, overlap=0)
    # No Gaussian weight is below a thousandth, as in MONAI. If all weights of a window at the edge of the photo are
    # that small, two windows have the same weight up to their edges.
    blended = torchext.sliding_window(denoise, noisy, TILE, overlap=0.25, weight="hann")
    # Without weights the mean is 1 where it is 1 in all windows.
    safe = (torchext.sliding_window(away_from_edges, noisy, TILE, overlap=0.25, weight=None) == 1).expand_as(whole)
    difference = (blended - whole).abs()
    found = Differences(
        float((edge_to_edge - whole).abs().max()), float(difference.max()), float(difference[safe].max())
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(noisy, whole, [edge_to_edge, blended]).save(path)
    height, width = clean.shape[2:]
    print(f"{height}×{width}, {height * width / 1e6:.1f} megapixels, in tiles of {TILE}×{TILE}")
    print(f"noise left: {float((blended - clean).std()):.3f} of {float((noisy - clean).std()):.3f}")
    print("largest difference from the photo denoised in one call, in 255ths:")
    print(f"  tiles without overlap        {255 * found.edge_to_edge:.2f}")
    print(f"  blended                      {255 * found.blended:.2f}")
    print(f"  blended, {REACH} or more from edges {255 * found.blended_away_from_edges:.6f}")
    print(f"picture: {path}")
    return found


if __name__ == "__main__":
    main()
