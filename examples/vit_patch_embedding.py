"""Embed the patches of a photo as in a vision transformer: by a convolution, and by patchify and a matrix product.

Both have the same weights. The convolution requires normalised floats with the channels first; patchify reads the bytes
of the photo as they are in a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor, nn

import torchext

PATCH, WIDTH, BATCH = 16, 192, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo() -> Tensor:
    """A cat, cropped to whole patches: ``(H, W, 3)``, uint8."""
    image = torch.from_numpy(data.chelsea())
    height, width = (size // PATCH * PATCH for size in image.shape[:2])
    return image[:height, :width]


def by_convolution(embedding: nn.Conv2d, photos: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    images = ((photos.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    return embedding(images).flatten(2).transpose(1, 2)


def by_patchify(embedding: nn.Conv2d, photos: Tensor) -> Tensor:
    tokens = torchext.patchify(photos, PATCH, mean=MEAN, std=STD, input_layout="NHWC")
    return F.linear(tokens, embedding.weight.flatten(1), embedding.bias)


def milliseconds(embed: Callable[[nn.Conv2d, Tensor], Tensor], embedding: nn.Conv2d, photos: Tensor) -> float:
    times = []
    for _ in range(9):
        start = time.perf_counter()
        embed(embedding, photos)
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 2]


@torch.no_grad()
def main() -> float:
    torch.manual_seed(0)
    embedding = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
    photos = photo().expand(BATCH, -1, -1, -1).contiguous()
    expected, tokens = by_convolution(embedding, photos), by_patchify(embedding, photos)
    difference = float((tokens - expected).abs().max() / expected.abs().max())
    print(f"{BATCH} photos of {tuple(photos.shape[1:3])} to {tokens.shape[1]} tokens of {WIDTH} each")
    print(f"largest difference {difference:.1e} of the largest value")
    for name, embed in (("convolution", by_convolution), ("patchify and product", by_patchify)):
        print(f"{name:21} {milliseconds(embed, embedding, photos):6.2f} ms")
    return difference


if __name__ == "__main__":
    main()
