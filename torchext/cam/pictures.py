"""Photos in and pictures out, through Pillow, which is imported when first needed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def pillow(module: str = "Image") -> ModuleType:
    """One of Pillow's modules.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import PIL
    except ImportError as error:
        raise ImportError("photos are read and written by Pillow; pip install 'torchext[image]'") from error
    import importlib

    return importlib.import_module(f"{PIL.__name__}.{module}")


def readable_endings() -> set[str]:
    """The file endings that Pillow reads, in lower case with their dot."""
    image = pillow()
    known: dict[str, str] = image.registered_extensions()  # first, since it loads the formats
    return {ending for ending, format in known.items() if format in image.OPEN}


def can_write(ending: str) -> bool:
    """Whether Pillow writes pictures in RGB under this file ending, in lower case with its dot."""
    image = pillow()
    format = image.registered_extensions().get(ending)
    try:  # some are registered for other kinds of pictures, or for a program that writes them
        image.new("RGB", (1, 1)).save(io.BytesIO(), format=format)
    except Exception:  # each format raises its own kinds
        return False
    return True


def as_path(name: str, value: Any) -> Path:
    """The argument `name` as a path."""
    try:
        return Path(value)
    except TypeError:
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}") from None


def read_photo(name: str, path: str | os.PathLike[str]) -> Image:
    """A photo in RGB, upright, on white where it is transparent.

    Args:
        name: the argument that the path was given as, for errors.
        path: a file that Pillow reads.

    Raises:
        FileNotFoundError: no such file.
        TypeError: no path.
        ValueError: not an image, or a broken one.
    """
    image, ops = pillow(), pillow("ImageOps")
    path = as_path(name, path)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file {str(path)!r}")
    try:
        with image.open(path) as opened:
            return _in_rgb(ops.exif_transpose(opened))
    except Exception as error:  # for a broken file each format raises its own kinds
        raise ValueError(f"{name}: Pillow cannot read {str(path)!r} ({type(error).__name__}: {error})") from error


def _in_rgb(photo: Any) -> Image:
    image = pillow()
    if photo.mode.startswith("I") or photo.mode == "F":
        photo = _eight_bits(photo)
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = image.alpha_composite(image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def _eight_bits(photo: Any) -> Any:
    """Grey levels of more than 8 bits, which Pillow's own conversion would clip, stretched over 8."""
    low, high = photo.getextrema()
    scale = 255 / (high - low) if high > low else 0.0
    return photo.convert("F").point(lambda value: value * scale + -low * scale).convert("L")


def to_tensor(photo: Image) -> Tensor:
    """An RGB image as ``(3, H, W)`` uint8."""
    flat = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8)
    return flat.view(photo.height, photo.width, 3).movedim(-1, 0)


def to_image(pixels: Tensor) -> Image:
    """``(3, H, W)`` uint8 as an RGB image."""
    height, width = pixels.shape[1:]
    data = bytes(pixels.movedim(0, -1).contiguous().cpu().flatten().untyped_storage())
    return pillow().frombytes("RGB", (width, height), data)


def side_by_side(pictures: Sequence[tuple[str, Image]], columns: int) -> Image:
    """Pictures of one size in rows, each under its title."""
    margin, head = 8, 24
    width, height = pictures[0][1].size
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    size = (columns * (width + margin) + margin, rows * (height + head) + margin)
    sheet: Image = pillow().new("RGB", size, "white")
    draw = pillow("ImageDraw").Draw(sheet)
    font = pillow("ImageFont").load_default(size=14)
    for index, (title, picture) in enumerate(pictures):
        left, top = margin + index % columns * (width + margin), index // columns * (height + head)
        draw.text((left, top + head / 2), title, "black", font, anchor="lm")
        sheet.paste(picture, (left, top + head))
    return sheet
