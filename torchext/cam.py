"""Class activation maps: gradient-weighted pooling of activations, and the map laid over the image."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext import _checks, _colormaps
from torchext._dtypes import accumulation_dtype
from torchext._library import call_arguments, define, derivative_of, to_front

__all__ = ["cam_pool", "overlay"]

_NORMALIZE = {None: 0, "max": 1, "minmax": 2}
_RESIZE = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _raw_maps(activations: Tensor, gradients: Tensor) -> Tensor:
    """Σ_c mean_s(G[c, s])·A[c], as ``(B, S)``."""
    # Not flatten, which has no batching rule when derivatives are batched in forward mode.
    flat = (*activations.shape[:2], prod(activations.shape[2:]))
    return (gradients.reshape(flat).mean(2, keepdim=True) * activations.reshape(flat)).sum(1)


def _normalize(maps: Tensor, normalize: int) -> Tensor:
    """Scale each sample's map ``(B, S)``; a map without contrast is 0, and so is its gradient."""
    if normalize == 0 or maps.shape[1] == 0:
        return maps
    if normalize == 1:
        span = maps.abs().amax(1, keepdim=True)
    else:
        lowest = maps.amin(1, keepdim=True)
        span, maps = maps.amax(1, keepdim=True) - lowest, maps - lowest
    flat = span == 0
    return torch.where(flat, 0.0, maps / torch.where(flat, 1.0, span))


def _normalize_tangent(maps: Tensor, tangent: Tensor, normalize: int) -> Tensor:
    if normalize == 0 or maps.shape[1] == 0:
        return tangent

    def at_extreme(values: Tensor, extreme: Tensor, tangents: Tensor) -> Tensor:
        ties = (values == extreme).to(tangents.dtype)
        return (ties * tangents).sum(1, keepdim=True) / ties.sum(1, keepdim=True)

    if normalize == 1:
        span = maps.abs().amax(1, keepdim=True)
        span_tangent = at_extreme(maps.abs(), span, maps.sign() * tangent)
    else:
        lowest, highest = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
        lowest_tangent = at_extreme(maps, lowest, tangent)
        span, span_tangent = highest - lowest, at_extreme(maps, highest, tangent) - lowest_tangent
        maps, tangent = maps - lowest, tangent - lowest_tangent
    flat = span == 0
    safe = torch.where(flat, 1.0, span)
    return torch.where(flat, 0.0, (tangent - maps / safe * span_tangent) / safe)


def _resize(maps: Tensor, spatial: Sequence[int], size: list[int] | None) -> Tensor:
    maps = maps.reshape(maps.shape[0], *spatial)
    if size is None:
        return maps
    return F.interpolate(maps.unsqueeze(1), size, mode=_RESIZE[len(size)], align_corners=False).squeeze(1)


def _cam_pool_reference(
    activations: Tensor, gradients: Tensor, relu: bool, normalize: int, size: list[int] | None
) -> Tensor:
    compute = accumulation_dtype(activations.dtype)
    maps = _raw_maps(activations.to(compute), gradients.to(compute))
    maps = _normalize(maps.relu() if relu else maps, normalize)
    return _resize(maps, activations.shape[2:], size).to(activations.dtype)


def _cam_pool_jvp(ctx: Any, activations_tangent: Tensor | None, gradients_tangent: Tensor | None, *_: Any) -> Tensor:
    activations, gradients, relu, normalize, size = call_arguments(ctx)
    dtype, compute = activations.dtype, accumulation_dtype(activations.dtype)
    activations, gradients = activations.to(compute), gradients.to(compute)
    maps = _raw_maps(activations, gradients)
    tangent = torch.zeros_like(maps)
    if activations_tangent is not None:
        tangent = tangent + _raw_maps(activations_tangent.to(compute), gradients)
    if gradients_tangent is not None:
        tangent = tangent + _raw_maps(activations, gradients_tangent.to(compute))
    if relu:
        tangent, maps = torch.where(maps > 0, tangent, 0.0), maps.relu()
    tangent = _normalize_tangent(maps, tangent, normalize)
    return _resize(tangent, activations.shape[2:], size).to(dtype)


def _cam_pool_fake(
    activations: Tensor, gradients: Tensor, relu: bool, normalize: int, size: list[int] | None
) -> Tensor:
    return activations.new_empty(activations.shape[0], *(activations.shape[2:] if size is None else size))


def _cam_pool_vmap(
    batch_size: int, in_dims: Any, activations: Tensor, gradients: Tensor, *rest: Any
) -> tuple[Tensor, int]:
    activations = to_front(activations, in_dims[0], batch_size)
    gradients = to_front(gradients, in_dims[1], batch_size)
    maps = _cam_pool(activations.flatten(0, 1), gradients.flatten(0, 1), *rest)
    return maps.unflatten(0, activations.shape[:2]), 0


_cam_pool = define(
    "cam_pool(Tensor activations, Tensor gradients, bool relu, int normalize, SymInt[]? size) -> Tensor",
    reference=_cam_pool_reference,
    fake=_cam_pool_fake,
    vmap=_cam_pool_vmap,
    derivative=derivative_of(_cam_pool_reference, _cam_pool_jvp),
)


def cam_pool(
    activations: Tensor,
    gradients: Tensor,
    *,
    relu: bool = True,
    normalize: Literal["max", "minmax"] | None = "max",
    size: int | Sequence[int] | None = None,
) -> Tensor:
    """Pool activations into a map, each channel weighted by the mean of its gradients: Grad-CAM.

    With activations A and gradients G of a class score, the map is ``relu(Σ_c mean_s(G[c, s])·A[c])``, normalised,
    then resized (Selvaraju et al., "Grad-CAM", ICCV 2017).

    Args:
        activations: ``(B, C, *S)`` with one to three spatial dimensions, a float dtype, any strides.
        gradients: the same shape; mixed float dtypes promote.
        relu: keep positive evidence only.
        normalize: ``"max"`` divides by the map's largest absolute value, ``"minmax"`` stretches it to [0, 1], None
            leaves it as it is. A zero map, and a constant one under ``"minmax"``, is 0 in every dtype.
        size: spatial size of the result; None keeps S. The map is resized linearly after it is normalised, as
            `torch.nn.functional.interpolate` does with ``align_corners=False``, so that a resized map peaks at 1 or
            a little less.

    Returns:
        Row-major ``(B, *S)`` or ``(B, *size)`` of the tensors' promoted dtype; half precision is computed in float32.

    Raises:
        TypeError: a wrong type, or not a float dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic: the same bits in every run and for any number of threads. NaN passes through. Differentiable
        any number of times in both tensors; where several places share the largest value, they share its gradient.

    Example:
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[1.0, 1.0]], [[-1.0, 0.0]]]])
        >>> torchext.cam_pool(activations, gradients)
        tensor([[[0., 1.]]])
    """
    _checks.floats("activations", activations)
    _checks.floats("gradients", gradients)
    if activations.shape != gradients.shape:
        raise ValueError(
            f"gradients: expected the shape of activations {tuple(activations.shape)}, got {tuple(gradients.shape)}"
        )
    rank = activations.dim() - 2
    if not 1 <= rank <= 3:
        raise ValueError(f"activations: expected (B, C, *S) with 3 to 5 dimensions, got {tuple(activations.shape)}")
    if activations.device != gradients.device:
        raise ValueError(f"gradients: expected device {activations.device}, got {gradients.device}")
    if not isinstance(relu, bool):
        raise TypeError(f"relu: expected a bool, got {type(relu).__name__}")
    _checks.option("normalize", normalize, tuple(_NORMALIZE))
    shape = None if size is None else _checks.sizes("size", size, rank, least=1)
    if shape is not None and 0 in activations.shape[2:]:
        raise ValueError(f"activations: expected a map to resize, got an empty one {tuple(activations.shape)}")
    if activations.dtype != gradients.dtype:
        dtype = torch.promote_types(activations.dtype, gradients.dtype)
        activations, gradients = activations.to(dtype), gradients.to(dtype)
    return _cam_pool(activations, gradients, relu, _NORMALIZE[normalize], shape)  # type: ignore[no-any-return]


def overlay(
    images: Tensor,
    cams: Tensor,
    *,
    alpha: float = 0.4,
    colormap: Literal["jet", "turbo", "viridis", "magma"] = "jet",
    blend: Literal["add", "mix"] = "add",
) -> Tensor:
    """Lay maps over their images as colours.

    Args:
        images: ``(B, 3, H, W)``, uint8 or float in [0, 1].
        cams: ``(B, h, w)``, float in [0, 1]; resized linearly to the images' size.
        alpha: weight of the colours, 0 to 1.
        colormap: ``"jet"``, ``"turbo"``, ``"viridis"`` or ``"magma"``, equal to OpenCV's to the byte.
        blend: ``"add"`` is ``alpha·heat + image``, clipped; ``"mix"`` is ``alpha·heat + (1 - alpha)·image``.

    Returns:
        ``(B, 3, H, W)`` uint8 on the images' device.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option, or `alpha` outside [0, 1].

    Note:
        Values of a map outside [0, 1] take the nearest colour, NaN that of 0. Deterministic.

    Example:
        >>> image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        >>> torchext.overlay(image, torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), alpha=1.0)[0, :, 0]
        tensor([[  0, 128],
                [  0,   0],
                [128,   0]], dtype=torch.uint8)
    """
    _checks.tensor("images", images)
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise TypeError(f"images: expected uint8 or a float dtype, got {images.dtype}")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected (B, 3, H, W), got {tuple(images.shape)}")
    _checks.floats("cams", cams)
    if 0 in images.shape[2:]:
        raise ValueError(f"images: expected pixels, got {tuple(images.shape)}")
    if cams.device != images.device:
        raise ValueError(f"cams: expected device {images.device} as of images, got {cams.device}")
    if cams.dim() != 3 or cams.shape[0] != images.shape[0] or 0 in cams.shape[1:]:
        raise ValueError(f"cams: expected ({images.shape[0]}, h, w), got {tuple(cams.shape)}")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"alpha: expected a number, got {type(alpha).__name__}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
    _checks.option("colormap", colormap, tuple(_colormaps.TABLES))
    _checks.option("blend", blend, ("add", "mix"))
    maps = cams.detach().float().unsqueeze(1)
    if maps.shape[2:] != images.shape[2:]:
        maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)
    levels = (maps.squeeze(1).nan_to_num() * 255).clamp(0, 255).to(torch.int64)
    table = torch.tensor(_colormaps.TABLES[colormap], dtype=torch.uint8, device=images.device)
    heat = table[levels].movedim(-1, 1)
    photo = images.detach().float() * (1 if images.dtype == torch.uint8 else 255)
    if blend == "mix":
        photo = photo * (1 - alpha)
    return (alpha * heat + photo).round().clamp(0, 255).to(torch.uint8)
