"""Draw a photo, its segmentation mask and the planes of the mask's one-hot encoding: docs/images/mask.png."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from torch import Tensor

import torchext

NAMES = ("dark", "middle", "bright")
COLORS = torch.tensor([[38, 70, 83], [233, 156, 74], [244, 233, 205], [200, 200, 200]], dtype=torch.uint8)
IGNORED = 255
SIZE = 180, 240
COLUMNS = 3


def photo() -> Tensor:
    """A cat as ``(3, H, W)`` uint8."""
    image = torch.from_numpy(data.chelsea()).movedim(-1, 0)[None].float()
    return F.interpolate(image, SIZE, mode="bilinear", antialias=True)[0].round().to(torch.uint8)


def segment(image: Tensor) -> Tensor:
    """A uint8 mask of three classes by brightness; the edges between them are ignored."""
    smooth = F.avg_pool2d(image.float().mean(0)[None, None], 9, 1, 4, count_include_pad=False)[0, 0]
    thresholds = torch.quantile(smooth, torch.tensor([0.3, 0.75]))
    mask = torch.bucketize(smooth, thresholds).to(torch.uint8)
    classes = mask.float()[None, None]
    edge = F.max_pool2d(classes, 3, 1, 1) != -F.max_pool2d(-classes, 3, 1, 1)
    mask[edge[0, 0]] = IGNORED
    return mask


def paint(mask: Tensor) -> Tensor:
    return COLORS[mask.clamp(max=len(NAMES)).int()].movedim(-1, 0)


def sheet(panels: list[tuple[str, Tensor]]) -> Image.Image:
    """Pictures ``(3, H, W)`` in rows, each with its title, which is large enough for a phone."""
    margin, head = 10, 34
    height, width = SIZE
    rows = -(-len(panels) // COLUMNS)
    page = Image.new("RGB", (margin + COLUMNS * (width + margin), margin + rows * (height + head)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=20)
    for index, (title, picture) in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        left, top = margin + column * (width + margin), row * (height + head)
        draw.text((left, top + head / 2), title, "black", font, anchor="lm")
        pixels = picture.movedim(0, -1).contiguous()
        page.paste(Image.fromarray(pixels.numpy()), (left, top + head))
    return page


def draw() -> Image.Image:
    image = photo()
    mask = segment(image)
    planes = torchext.one_hot(mask, len(NAMES), dim=0, dtype=torch.uint8, on_value=255, ignore_index=IGNORED)
    titles = [f"class {at}, {name}" for at, name in enumerate(NAMES)]
    pictures = [plane.expand(3, -1, -1) for plane in planes]
    panels = list(zip(titles, pictures, strict=True))
    return sheet([("photo", image), ("mask (grey: no label)", paint(mask)), *panels])


if __name__ == "__main__":
    path = Path(__file__).resolve().parent.parent / "docs" / "images" / "mask.png"
    draw().quantize(128).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KB")
