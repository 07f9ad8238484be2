"""Reading and writing of images with Pillow, which is imported when first needed."""

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
    """Import one of Pillow's modules.

    Raises:
        ImportError: Pillow is not installed.
    """
    try:
        import PIL
    except ImportError as error:
        raise ImportError("photos are read and written by Pillow; pip install 'torchext-ops[image]'") from error
    import importlib

    return importlib.import_module(f"{PIL.__name__}.{module}")


def readable_endings() -> set[str]:
    """The file endings that Pillow reads, in lower case with their dot."""
    image = pillow()
    extensions: dict[str, str] = image.registered_extensions()  # this call also fills image.OPEN
    return {ending for ending, format in extensions.items() if format in image.OPEN}


def can_write(ending: str) -> bool:
    """Whether Pillow writes RGB images with this file ending, in lower case with its dot."""
    image = pillow()
    format = image.registered_extensions().get(ending)
    try:  # some formats do not support RGB, or require an external program
        image.new("RGB", (1, 1)).save(io.BytesIO(), format=format)
    except Exception:  # which exception depends on the format
        return False
    return True


def as_path(name: str, value: Any) -> Path:
    """Return the argument `name` as a path."""
    try:
        return Path(value)
    except TypeError:
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}") from None


def read_photo(name: str, path: str | os.PathLike[str]) -> Image:
    """Read a photo as RGB, rotated as its EXIF data states, with white for transparency.

    Args:
        name: the name of the argument with the path, for errors.
        path: a file that Pillow reads.

    Raises:
        FileNotFoundError: no such file.
        TypeError: `path` is not a path.
        ValueError: the file is not an image, or a broken one.
    """
    image, ops = pillow(), pillow("ImageOps")
    path = as_path(name, path)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: expected an existing file, got {str(path)!r}")
    try:
        with image.open(path) as opened:
            return _in_rgb(ops.exif_transpose(opened))
    except Exception as error:  # which exception a broken file raises depends on the format
        raise ValueError(
            f"{name}: expected an image that Pillow reads, got {str(path)!r} ({type(error).__name__}: {error})"
        ) from error


def _in_rgb(photo: Any) -> Image:
    image = pillow()
    if photo.mode.startswith("I") or photo.mode == "F":
        photo = _eight_bits(photo)
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = image.alpha_composite(image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def _eight_bits(photo: Any) -> Any:
    """Scale grey levels of more than 8 bits to 8 bits. Pillow's own conversion would clip them."""
    levels = photo.convert("F")
    if not torch.frombuffer(bytearray(levels.tobytes()), dtype=torch.float32).isfinite().all():
        raise ValueError("its grey levels are not finite")
    low, high = photo.getextrema()
    scale = 255 / (high - low) if high > low else 0.0
    return levels.point(lambda value: value * scale + -low * scale).convert("L")


def to_tensor(photo: Image) -> Tensor:
    """Convert an RGB image to a uint8 tensor ``(3, H, W)``."""
    flat = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8)
    return flat.view(photo.height, photo.width, 3).movedim(-1, 0)


def to_image(pixels: Tensor) -> Image:
    """Convert a uint8 tensor ``(3, H, W)`` to an RGB image."""
    height, width = pixels.shape[1:]
    data = bytes(pixels.movedim(0, -1).contiguous().cpu().flatten().untyped_storage())
    return pillow().frombytes("RGB", (width, height), data)


def side_by_side(pictures: Sequence[tuple[str, Image]], columns: int) -> Image:
    """Arrange pictures of one size in rows, each below its title."""
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
