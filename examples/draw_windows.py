"""Draw a photo, the windows that cover it, their weights, and photos merged from windows: docs/images/windows.png."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from torch import Tensor

import torchext

SIZE = 168, 240
COLUMNS = 2
WINDOW = 72
STRIDE = 48
SHADE = 45  # the largest change of a window's brightness


def photo() -> Tensor:
    """A cup of coffee as ``(3, H, W)`` in [0, 255]."""
    image = torch.from_numpy(data.coffee()).movedim(-1, 0)[None].float()
    return F.interpolate(image, SIZE, mode="bilinear", antialias=True)[0].clamp(0, 255)


def outlined(image: Tensor) -> Tensor:
    """The photo with the outlines of its windows."""
    outline = torch.zeros(3, WINDOW, WINDOW)
    outline[:, [0, -1]] = 1
    outline[..., [0, -1]] = 1
    grid = torchext.extract_windows(image, (WINDOW, WINDOW), STRIDE).shape[:2]
    covered = [(count - 1) * STRIDE + WINDOW for count in grid]
    outlines = torchext.merge_windows(outline.expand(*grid, -1, -1, -1), covered, STRIDE, normalize=False)
    outlines = F.pad(outlines.clamp(max=1), (0, SIZE[1] - covered[1], 0, SIZE[0] - covered[0]))
    return image * (1 - outlines) + torch.tensor([255.0, 220.0, 0.0])[:, None, None] * outlines


def shaded(image: Tensor, weight: str | None, stride: int) -> Tensor:
    """The photo merged from windows that were made lighter or darker."""
    windows = torchext.extract_windows(image, (WINDOW, WINDOW), stride, partial="shift")
    shade = torch.rand(windows.shape[:2], generator=torch.Generator().manual_seed(1)) * 2 - 1
    windows = windows + SHADE * shade[..., None, None, None]
    return torchext.merge_windows(windows, SIZE, stride, partial="shift", weight=weight)


def weights() -> Tensor:
    """The weights linear, hann and gaussian side by side."""
    pictures = []
    for kind in ("linear", "hann", "gaussian"):
        weight = torchext.window_weight((WINDOW, WINDOW), kind)
        pictures.append(255 * weight / weight.max())
    gap = torch.full((WINDOW, 12), 255.0)
    row = torch.cat([pictures[0], gap, pictures[1], gap, pictures[2]], 1)
    above = (SIZE[0] - WINDOW) // 2
    return F.pad(row, (0, 0, above, SIZE[0] - WINDOW - above), value=255).expand(3, -1, -1)


def sheet(panels: list[tuple[str, Tensor]]) -> Image.Image:
    """Pictures ``(3, H, W)`` in rows, each with its title, which is large enough for a phone."""
    margin, head = 10, 34
    height, width = SIZE
    rows = -(-len(panels) // COLUMNS)
    page = Image.new("RGB", (margin + COLUMNS * (width + margin), margin + rows * (height + head)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    for index, (title, picture) in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        left, top = margin + column * (width + margin), row * (height + head)
        draw.text((left, top + head / 2), title, "black", font, anchor="lm")
        pixels = picture.round().clamp(0, 255).to(torch.uint8).movedim(0, -1).contiguous()
        page.paste(Image.fromarray(pixels.numpy()), (left, top + head))
    return page


def draw() -> Image.Image:
    image = photo()
    return sheet(
        [
            ("extract_windows(photo, 72, 48)", outlined(image)),
            ("weight: linear, hann, gaussian", weights()),
            ("merged without overlap", shaded(image, None, WINDOW)),
            ('merged with weight="hann"', shaded(image, "hann", STRIDE // 2)),
        ]
    )


if __name__ == "__main__":
    path = Path(__file__).resolve().parent.parent / "docs" / "images" / "windows.png"
    draw().quantize(160).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KB")
