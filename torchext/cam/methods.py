"""The arithmetic of cam_pool's methods in PyTorch: values, tangents and transposes.

Activations are ``(B, C, S)`` here, gradients ``(B, C, S)`` or ``(T, B, C, S)``, channel weights ``(…, C)`` and maps
``(…, S)``: a dimension of targets is before the batch, and activations are broadcast over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext._core.library import in_onnx_export, is_readable

METHODS = {"gradcam": 0, "gradcam++": 1, "xgradcam": 2, "layercam": 3, "hirescam": 4, "gradcam_elementwise": 5}
GRADCAM, GRADCAM_PLUS_PLUS, XGRADCAM, LAYERCAM, HIRESCAM, ELEMENTWISE = METHODS.values()
WEIGHTS_GIVEN = 6
"""The argument `gradients` holds the weights of channels, not gradients."""

NORMALIZE = {None: 0, "max": 1, "minmax": 2}
_RESIZE = {1: "linear", 2: "bilinear", 3: "trilinear"}


def weighs_channels(method: int) -> bool:
    """Whether the method multiplies each channel by one weight, not each activation by its own gradient."""
    return method not in (LAYERCAM, HIRESCAM, ELEMENTWISE)


def keeps_weights(method: int) -> bool:
    """Whether the operation returns channel weights: whether it computes them from gradients."""
    return weighs_channels(method) and method != WEIGHTS_GIVEN


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, which is 0 if the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def _inverse_denominators(activations: Tensor, gradients: Tensor) -> Tensor:
    """1 / (2 + ΣA·G) if G > 0, else 0.

    It is the alpha of Grad-CAM++, G² / (2·G² + ΣA·G³), without powers, which could underflow or overflow.
    """
    denominators = 2 + activations.sum(-1, keepdim=True) * gradients
    return torch.where(gradients <= 0, 0.0, _ratio(torch.ones_like(denominators), denominators))


def channel_weights(activations: Tensor, gradients: Tensor, method: int) -> Tensor:
    """The weight of each channel, for methods that weight channels."""
    if method == WEIGHTS_GIVEN:
        return gradients
    if method == GRADCAM:
        return gradients.sum(-1) / max(gradients.shape[-1], 1)
    if method == XGRADCAM:
        return _ratio((gradients * activations).sum(-1), activations.sum(-1))
    if in_onnx_export():  # the same in fewer passes: the quotient by infinity is 0
        positive = gradients.relu()
        denominators = 2 + activations.sum(-1, keepdim=True) * positive
        return (positive / torch.where(denominators == 0, torch.inf, denominators)).sum(-1)
    return (gradients * _inverse_denominators(activations, gradients)).sum(-1)


def channel_weights_tangent(
    activations: Tensor, gradients: Tensor, tangent_a: Tensor | None, tangent_g: Tensor | None, method: int
) -> Tensor:
    """The forward derivative of `channel_weights`; an argument without a tangent has None."""
    if method in (WEIGHTS_GIVEN, GRADCAM):
        return torch.zeros_like(gradients) if tangent_g is None else channel_weights(activations, tangent_g, method)
    by_sum, by_gradient = _channel_weights_slopes(activations, gradients, method)
    tangent = torch.zeros_like(by_sum)
    if tangent_a is not None:
        tangent = tangent + by_sum * tangent_a.sum(-1)
        if method == XGRADCAM:
            tangent = tangent + _ratio((gradients * tangent_a).sum(-1), activations.sum(-1))
    if tangent_g is not None:
        tangent = tangent + (by_gradient * tangent_g).sum(-1)
    return tangent


def _channel_weights_slopes(activations: Tensor, gradients: Tensor, method: int) -> tuple[Tensor, Tensor]:
    """Derivatives of the channel weights with respect to each channel's sum of activations, and to the gradients."""
    if method == XGRADCAM:
        sums = activations.sum(-1, keepdim=True)
        by_gradient = _ratio(activations, sums)
        return _ratio(-(gradients * by_gradient).sum(-1), sums.squeeze(-1)), by_gradient
    inverse = _inverse_denominators(activations, gradients)
    return -(gradients * inverse).square().sum(-1), 2 * inverse.square()


def channel_weights_transpose(
    activations: Tensor, gradients: Tensor, weights: Tensor, grad: Tensor, method: int
) -> tuple[Tensor | None, Tensor]:
    """Gradients with respect to activations (None if the weights do not depend on them) and to gradients."""
    if method == GRADCAM:
        positions = gradients.shape[-1]
        return None, (grad / max(positions, 1)).unsqueeze(-1).expand(*grad.shape, positions)
    if method == XGRADCAM:
        scale = _ratio(grad, activations.sum(-1)).unsqueeze(-1)
        return scale * (gradients - weights.unsqueeze(-1)), scale * activations
    by_sum, by_gradient = _channel_weights_slopes(activations, gradients, method)
    return (grad * by_sum).unsqueeze(-1).expand(*grad.shape, gradients.shape[-1]), grad.unsqueeze(-1) * by_gradient


def products(activations: Tensor, gradients: Tensor, method: int) -> Tensor:
    """The terms of an element-wise method, before the sum over channels."""
    if method == LAYERCAM:
        return gradients.relu() * activations
    product = gradients * activations
    return product.relu() if method == ELEMENTWISE else product


def product_slopes(activations: Tensor, gradients: Tensor, method: int) -> tuple[Tensor, Tensor]:
    """Derivatives of `products` with respect to activations and to gradients."""
    if method == HIRESCAM:
        return gradients, activations
    if method == LAYERCAM:
        return gradients.relu(), torch.where(gradients > 0, activations, 0.0)
    positive = gradients * activations > 0
    return torch.where(positive, gradients, 0.0), torch.where(positive, activations, 0.0)


# PyTorch's sum over channels adds them in another order for some positions, unless they are the last dimension, and a
# constant map would not stay constant. On the CPU, blocks of channels are therefore added element by element, which
# is as fast as a sum. Otherwise channels are moved to the last dimension, except for onnxruntime, which always adds in
# the same order, and where the copy would take longer than the sum.


def weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    """The sum over channels of weights times activations, ``(…, S)``."""
    if in_onnx_export():
        if weights.dim() > 2:  # of several targets, whose products would be stored
            return (weights.transpose(0, 1) @ activations).transpose(0, 1)
        return (weights.unsqueeze(-1) * activations).sum(-2)
    if not _is_added_in_blocks(activations):
        return (weights.unsqueeze(-2) * activations.transpose(-1, -2).contiguous()).sum(-1)
    size = _block_size(activations)
    (weight, block), *rest = zip(weights.unsqueeze(-1).split(size, -2), activations.split(size, -2), strict=True)
    total = weight * block
    for weight, block in rest:
        total.narrow(-2, 0, block.shape[-2]).addcmul_(weight, block)
    return _sum_in_halves(total)


def sum_of_products(activations: Tensor, gradients: Tensor, method: int) -> Tensor:
    """The sum over channels of the terms of an element-wise method, ``(…, S)``."""
    if not _is_added_in_blocks(activations):
        terms = products(activations, gradients, method)
        return terms.sum(-2) if in_onnx_export() else terms.transpose(-1, -2).contiguous().sum(-1)
    size = _block_size(activations)
    (a, g), *rest = zip(activations.split(size, -2), gradients.split(size, -2), strict=True)
    total = products(a, g, method)
    for a, g in rest:
        total.narrow(-2, 0, a.shape[-2]).add_(products(a, g, method))
    return _sum_in_halves(total)


def _is_added_in_blocks(activations: Tensor) -> bool:
    are_last = activations.transpose(-1, -2).is_contiguous()
    return is_readable(activations) and activations.shape[-2] > 0 and not are_last


def _block_size(activations: Tensor) -> int:
    """The number of channels of a block: few enough that blocks fit in the cache, and that sums are accurate."""
    return max(32, min(128, 2**14 // max(activations.shape[-1], 1)))


def _sum_in_halves(total: Tensor) -> Tensor:
    """The sum over channels, ``(…, C, S)`` to ``(…, S)``; overwrites its argument."""
    channels = total.shape[-2]
    while channels > 1:
        half = (channels + 1) // 2
        total.narrow(-2, 0, channels - half).add_(total.narrow(-2, half, channels - half))
        channels = half
    return total.select(-2, 0).clone(memory_format=torch.contiguous_format)  # not a view of a larger tensor


def normalized(maps: Tensor, normalize: int) -> Tensor:
    """Scale each map. A map that would be divided by 0 is 0, and so is its gradient."""
    if normalize == 0 or maps.shape[-1] == 0:
        return maps
    offset, span = _offset_and_span(maps, normalize)
    return _ratio(maps - offset, span)


def _offset_and_span(maps: Tensor, normalize: int) -> tuple[Tensor | float, Tensor]:
    if normalize == 1:
        return 0.0, maps.abs().amax(-1, keepdim=True)
    lowest = maps.amin(-1, keepdim=True)
    return lowest, maps.amax(-1, keepdim=True) - lowest


def _extremes(maps: Tensor, normalize: int) -> tuple[Tensor, Tensor | None]:
    """Derivatives of the divisor and of the offset of `normalized` with respect to a map's entries.

    Entries with the same extreme value have equal shares of its derivative.
    """

    def shares(values: Tensor, extreme: Tensor) -> Tensor:
        ties = (values == extreme).to(values.dtype)
        return ties / ties.sum(-1, keepdim=True)

    if normalize == 1:
        size = maps.abs()
        return shares(size, size.amax(-1, keepdim=True)) * maps.sign(), None
    lowest = shares(maps, maps.amin(-1, keepdim=True))
    return shares(maps, maps.amax(-1, keepdim=True)) - lowest, lowest


def normalized_tangent(maps: Tensor, tangent: Tensor, normalize: int) -> Tensor:
    """The forward derivative of `normalized`."""
    if normalize == 0 or maps.shape[-1] == 0:
        return tangent
    offset, span = _offset_and_span(maps, normalize)
    to_span, to_offset = _extremes(maps, normalize)
    span_tangent = (to_span * tangent).sum(-1, keepdim=True)
    if to_offset is not None:
        tangent = tangent - (to_offset * tangent).sum(-1, keepdim=True)
    return _ratio(tangent - _ratio(maps - offset, span) * span_tangent, span)


def normalized_transpose(maps: Tensor, grad: Tensor, normalize: int) -> Tensor:
    """The gradient of the maps, from that of the normalised maps."""
    if normalize == 0 or maps.shape[-1] == 0:
        return grad
    offset, span = _offset_and_span(maps, normalize)
    to_span, to_offset = _extremes(maps, normalize)
    grad = _ratio(grad, span)
    out = grad - to_span * (grad * _ratio(maps - offset, span)).sum(-1, keepdim=True)
    return out if to_offset is None else out - to_offset * grad.sum(-1, keepdim=True)


def resized(maps: Tensor, spatial: Sequence[int], size: Sequence[int] | None) -> Tensor:
    """Resize flat maps ``(…, S)`` to ``(…, *size)``; a `size` of None keeps the spatial size."""
    leading = maps.shape[:-1]
    if size is None:
        return maps.reshape(*leading, *spatial)
    return interpolated(maps.reshape(prod(leading), 1, *spatial), size).reshape(*leading, *size)


def interpolated(planes: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate ``(N, C, *S)`` linearly to ``(N, C, *size)``."""
    return F.interpolate(planes, list(size), mode=_RESIZE[len(size)], align_corners=False)


def on_the_input(
    maps: Tensor,
    covered: Sequence[tuple[int, int, int]],
    size: Sequence[int],
    normalize: Literal["max", "minmax"] | None = None,
) -> Tensor:
    """The part of maps ``(…, *S)`` on which the input lies, normalised and resized to ``(…, *size)`` as by `cam_pool`.

    For each dimension, it is from a start to a stop, of a total. Other positions are left out before the maps are
    normalised.
    """
    leading, rank = maps.shape[: -len(covered)], len(covered)
    planes = maps.reshape(-1, 1, *maps.shape[-rank:])
    parts = []
    for dim, (start, stop, total) in enumerate(covered, 2):
        count = planes.shape[dim]
        first, last = start * count // total, -(-stop * count // total)
        planes = planes.narrow(dim, first, last - first)
        parts.append((start * count - first * total, stop * count - first * total, (last - first) * total))
    planes = normalized(planes.flatten(2), NORMALIZE[normalize]).view(planes.shape)
    wholes = [round(side * total / (stop - start)) for side, (start, stop, total) in zip(size, parts, strict=True)]
    planes = interpolated(planes, wholes)
    for dim, (side, whole, (start, _, total)) in enumerate(zip(size, wholes, parts, strict=True), 2):
        planes = planes.narrow(dim, min(start * whole // total, whole - side), side)
    return planes.reshape(*leading, *size)


def interpolation(inner: int, outer: int, like: Tensor) -> Tensor:
    """The matrix (outer, inner) of linear interpolation along one axis."""
    positions = torch.arange(outer, dtype=like.dtype, device=like.device)
    source = ((positions + 0.5) * (inner / outer) - 0.5).clamp(0, inner - 1)
    columns = torch.arange(inner, dtype=like.dtype, device=like.device)
    return (1 - (source.unsqueeze(1) - columns).abs()).clamp(min=0)
