"""Maps as colours over images, and the explanation of a photo as a picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchext._core import checks
from torchext.cam import colormaps, pictures, probe
from torchext.cam.explain import CAM, Method
from torchext.cam.inputs import check_not_nan, check_unit_range
from torchext.cam.layers import Layer
from torchext.cam.targets import Targets

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_cam", "overlay"]

Transform = Callable[["Image"], Tensor]

_SIZE = (224, 224)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHOWN_ON = ("DISPLAY", "WAYLAND_DISPLAY")


def overlay(
    images: Tensor,
    cams: Tensor,
    *,
    alpha: float = 0.4,
    colormap: Literal["jet", "turbo", "viridis", "magma"] = "jet",
    blend: Literal["add", "mix"] = "mix",
) -> Tensor:
    """Draw maps over their images as colours.

    Args:
        images: ``(B, 3, H, W)``, uint8, or float in [0, 1]; not the normalised input of a model.
        cams: ``(B, h, w)``, float in [0, 1]; resized linearly to the images' size. A map that is 0 everywhere, which
            means that no position of the layer raises the score, is drawn in the colour of 0.
        alpha: weight of the colours, 0 to 1.
        colormap: ``"jet"``, ``"turbo"``, ``"viridis"`` or ``"magma"``, with exactly the colours of OpenCV.
        blend: ``"mix"`` is ``alpha·heat + (1 - alpha)·image``, which is also visible on white pixels; ``"add"`` is
            ``alpha·heat + image``, clipped, which leaves white pixels white.

    Returns:
        ``(B, 3, H, W)`` uint8 on the images' device.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option, or `alpha`, a map or a float image that is not in [0, 1].

    Note:
        Deterministic. Values of maps and of float images may be outside [0, 1] by 1/255, for rounding errors. Their
        check synchronises with the device. It is left out in compiled functions and in transforms of ``torch.func``.
        Values outside then have the nearest colour, and NaN in a map that of 0.

    Examples:
        >>> image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        >>> torchext.overlay(image, torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), alpha=1.0)[0, :, 0]
        tensor([[  0, 128],
                [  0,   0],
                [128,   0]], dtype=torch.uint8)
    """
    checks.tensor("images", images)
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise TypeError(f"images: expected uint8 or a float dtype, got {images.dtype}")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected (B, 3, H, W), got {tuple(images.shape)}")
    checks.floats("cams", cams)
    if 0 in images.shape[2:]:
        raise ValueError(f"images: expected pixels, got {tuple(images.shape)}")
    if cams.device != images.device:
        raise ValueError(f"cams: expected device {images.device} as of images, got {cams.device}")
    if cams.dim() != 3 or cams.shape[0] != images.shape[0] or 0 in cams.shape[1:]:
        raise ValueError(f"cams: expected ({images.shape[0]}, h, w), got {tuple(cams.shape)}")
    alpha = checks.number("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
    checks.option("colormap", colormap, tuple(colormaps.TABLES))
    checks.option("blend", blend, ("add", "mix"))
    photo, maps = images.detach().float(), cams.detach().float()
    if images.dtype != torch.uint8:
        check_unit_range("images", photo, "undo the normalisation of the model's input, or divide by 255")
        photo = photo * 255
    check_unit_range("cams", maps, 'CAM(…, normalize="minmax") returns such maps')
    maps = maps.unsqueeze(1)
    if maps.shape[2:] != images.shape[2:]:
        maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)
    levels = (maps.squeeze(1).nan_to_num() * 255).clamp(0, 255).to(torch.int64)
    table = torch.tensor(colormaps.TABLES[colormap], dtype=torch.uint8, device=images.device)
    heat = table[levels].movedim(-1, 1)
    if blend == "mix":
        photo = photo * (1 - alpha)
    return (alpha * heat + photo).round().clamp(0, 255).to(torch.uint8)


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
    """Explain a photo: draw its class activation map over it and save the picture.

    The picture is 0.4 times the map's colours plus the photo, clipped. White parts of the photo stay white.

    Args:
        model: a classifier of images. It is run in eval mode, and its mode is restored afterwards.
        img_path: a photo in a format that Pillow reads.
        save_path: the file of the picture; its ending defines the format.
        transform: a function that converts the PIL image to the model's input, ``(3, H, W)`` or ``(1, 3, H, W)``. None
            resizes to 224×224, divides by 255, and normalises by ImageNet's mean and standard deviation; for a model of
            timm, its own size, mean and standard deviation are used. A network for other sizes or for grey photos
            requires a function. It must not crop, since the map is resized to the whole photo.
        visual_heatmap: also show the heat map without the photo; without a display it is saved next to the picture, as
            ``NAME_heatmap``.
        layer, targets, method: as in `torchext.CAM`; one target.

    Returns:
        The picture, a PIL image of the photo's size. If no position of the layer raises the score, the map is 0
        everywhere, and the colour of 0 is drawn over the whole photo.

    Raises:
        ImportError: Pillow is not installed (``torchext-ops[image]``).
        FileNotFoundError: no such photo, or no folder for the picture.
        TypeError: a wrong type.
        ValueError: a photo that Pillow cannot read, a file ending for which Pillow writes no format, a model whose
            output is not scores or whose map is NaN, a layer without spatial dimensions, or several targets.

    Note:
        See `torchext.cam_pool`, `torchext.CAM` and `torchext.overlay` for the steps.

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
        raise ValueError(f"targets: expected one target, got maps of shape {tuple(maps.shape)}")
    heat = maps.view(1, photo.height, photo.width).float().cpu()
    check_not_nan(heat)
    pixels = pictures.to_tensor(photo).unsqueeze(0)
    picture = pictures.to_image(overlay(pixels, heat, alpha=0.4, blend="add")[0])
    picture.save(save_path)
    if visual_heatmap:
        heatmap = pictures.to_image(overlay(torch.zeros_like(pixels), heat, alpha=1.0)[0])
        if _has_display():
            heatmap.show(title=save_path.name)
        else:
            heatmap.save(save_path.with_name(f"{save_path.stem}_heatmap{save_path.suffix}"))
    return picture


def _checked_save_path(save_path: str | os.PathLike[str]) -> Path:
    path = pictures.as_path("save_path", save_path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save_path: expected a file in an existing folder, got {str(path)!r}")
    if not pictures.can_write(path.suffix.lower()):
        raise ValueError(f"save_path: expected the ending of an image format such as .png, got {path.name!r}")
    return path


def model_input(model: nn.Module, photo: Image, transform: Transform | None = None) -> Tensor:
    """The model's input for a photo, a batch of size 1 on the model's device and in its dtype."""
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
    """The transform of a model of timm, or that for ImageNet, without cropping."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not isinstance(config, dict):
        config = {}
    height, width = tuple(config.get("input_size") or _SIZE)[-2:]
    mean, std = (
        torch.tensor(config.get(key) or default).view(-1, 1, 1) for key, default in (("mean", _MEAN), ("std", _STD))
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
