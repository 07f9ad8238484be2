"""A photo in, a picture of what the model saw in it out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchext._core import checks
from torchext.cam import pictures, probe
from torchext.cam.explain import CAM, Method
from torchext.cam.layers import Layer
from torchext.cam.pool import overlay
from torchext.cam.targets import Targets

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_cam"]

Transform = Callable[["Image"], Tensor]

_SIZE = (224, 224)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHOWN_ON = ("DISPLAY", "WAYLAND_DISPLAY")


def draw_cam(
    model: nn.Module,
    img_path: str | os.PathLike[str],
    save_path: str | os.PathLike[str],
    transform: Transform | None = None,
    visual_heatmap: bool = False,
    *,
    layer: Layer | Sequence[Layer] | None = None,
    targets: Targets = None,
    method: Method = "gradcam",
) -> Image:
    """Explain a photo: its class activation map, laid over it in colours.

    Args:
        model: a classifier of images; it is explained in eval mode and is as it was afterwards.
        img_path: a photo in a format that Pillow reads.
        save_path: where the picture goes; its ending names the format.
        transform: makes the model's input, ``(3, H, W)`` or ``(1, 3, H, W)``, of the PIL image. None resizes to
            224×224, divides by 255, and normalises by ImageNet's mean and standard deviation; of a model of timm, size,
            mean and deviation are its own. A network that takes another size, or grey photos, needs one. The map is
            stretched over the whole photo, so do not crop.
        visual_heatmap: show the bare heat map as well; without a display it is saved next to the picture, as
            ``NAME_heatmap``.
        layer, targets, method: as in `torchext.CAM`; one target.

    Returns:
        The picture, a PIL image of the photo's size.

    Raises:
        ImportError: Pillow is not installed (``torchext[image]``).
        FileNotFoundError: no such photo, or no folder for the picture.
        TypeError: a wrong type.
        ValueError: a photo that Pillow cannot read, an ending of no format that Pillow writes, a model whose output is
            not scores, a layer without spatial extent, several targets.

    Note:
        The method is Grad-CAM's; see `torchext.cam_pool`, `torchext.CAM` and `torchext.overlay` for the parts.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30), "teal").save(f"{folder}/photo.png")
        ...     torchext.draw_cam(model, f"{folder}/photo.png", f"{folder}/seen.jpg").size
        (40, 30)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if transform is not None and not callable(transform):
        raise TypeError(f"transform: expected a function of a PIL image, got {type(transform).__name__}")
    checks.flag("visual_heatmap", visual_heatmap)
    save_path = _checked_save_path(save_path)
    photo = pictures.read_photo("img_path", img_path)
    input = model_input(model, photo, transform)
    cam = CAM(model, layer, method=method, size=(photo.height, photo.width))
    with probe.in_eval_mode(model):
        maps = cam(input, targets)
    if maps.shape[:-2].numel() != 1:
        raise ValueError(f"targets: expected one for one picture, got maps of shape {tuple(maps.shape)}")
    heat = maps.view(1, photo.height, photo.width).float().cpu()
    pixels = pictures.to_tensor(photo).unsqueeze(0)
    picture = pictures.to_image(overlay(pixels, heat)[0])
    picture.save(save_path)
    if visual_heatmap:
        bare = pictures.to_image(overlay(torch.zeros_like(pixels), heat, alpha=1.0)[0])
        if _has_display():
            bare.show(title=save_path.name)
        else:
            bare.save(save_path.with_name(f"{save_path.stem}_heatmap{save_path.suffix}"))
    return picture


def _checked_save_path(save_path: str | os.PathLike[str]) -> Path:
    path = pictures.as_path("save_path", save_path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save_path: no folder {str(path.parent)!r}")
    if not pictures.can_write(path.suffix.lower()):
        raise ValueError(f"save_path: expected the ending of an image format such as .png, got {path.name!r}")
    return path


def model_input(model: nn.Module, photo: Image, transform: Transform | None = None) -> Tensor:
    """The batch of one that a model takes for a photo, where the model is and in its dtype."""
    pixels = (transform or default_transform(model))(photo)
    if not isinstance(pixels, Tensor):
        raise TypeError(f"transform: expected a function that returns a tensor, got {type(pixels).__name__}")
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(0)
    if pixels.dim() != 4 or pixels.shape[0] != 1:
        raise ValueError(f"transform: expected (3, H, W) or (1, 3, H, W), got {tuple(pixels.shape)}")
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    return pixels if like is None else pixels.to(like.device, like.dtype)


def default_transform(model: nn.Module) -> Transform:
    """What a model of timm was trained with, or the usual for ImageNet; the whole photo, without a crop."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not isinstance(config, dict):
        config = {}
    height, width = tuple(config.get("input_size") or _SIZE)[-2:]
    mean, std = (
        torch.tensor(config.get(key) or usual).view(-1, 1, 1) for key, usual in (("mean", _MEAN), ("std", _STD))
    )
    resampling = pictures.pillow().Resampling
    filters = {"bicubic": resampling.BICUBIC, "lanczos": resampling.LANCZOS, "nearest": resampling.NEAREST}
    resample = filters.get(config.get("interpolation", "bilinear"), resampling.BILINEAR)

    def transform(photo: Image) -> Tensor:
        pixels = pictures.to_tensor(photo.resize((width, height), resample))
        return (pixels / 255 - mean) / std

    return transform


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in _SHOWN_ON)
