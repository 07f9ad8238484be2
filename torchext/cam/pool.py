"""Class activation maps: gradient-weighted pooling of activations."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from torchext._core import checks
from torchext._core.dtypes import accumulation_dtype
from torchext._core.library import Derivative, Kernel, define, to_front
from torchext._core.sharding import REPLICATE, Option, replicated_like
from torchext.cam import methods

__all__ = ["cam_pool"]

Method = Literal["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam_elementwise"]
Maps = tuple[Tensor, Tensor, Tensor]


def _flat(tensor: Tensor, rank: int) -> Tensor:
    """Flatten the `rank` spatial dimensions to one, in the dtype of the computation."""
    # Tensor.flatten has no batching rule for batched derivatives in forward mode.
    leading = tensor.shape[: tensor.dim() - rank]
    return tensor.to(accumulation_dtype(tensor.dtype)).reshape(*leading, prod(tensor.shape[len(leading) :]))


def _inputs(activations: Tensor, gradients: Tensor, method: int) -> tuple[Tensor, Tensor]:
    rank = activations.dim() - 2
    return _flat(activations, rank), gradients if method == methods.WEIGHTS_GIVEN else _flat(gradients, rank)


def _cam_pool_reference(
    activations: Tensor, gradients: Tensor, method: int, relu: bool, normalize: int, size: list[int] | None
) -> Maps:
    a, g = _inputs(activations, gradients, method)
    if methods.weighs_channels(method):
        weights = methods.channel_weights(a, g, method)
        raw = methods.weighted_sum(a, weights).contiguous()
    else:
        raw = methods.sum_of_products(a, g, method).contiguous()
    if not methods.keeps_weights(method):
        weights = raw.new_empty(*raw.shape[:-1], 0)
    maps = methods.normalized(raw.relu() if relu else raw, normalize)
    out = methods.resized(maps, activations.shape[2:], size).to(activations.dtype)
    # The results of an operation must not share memory.
    return out.clone() if maps is raw else out, raw, weights.contiguous()


def _cam_pool_fake(
    activations: Tensor, gradients: Tensor, method: int, relu: bool, normalize: int, size: list[int] | None
) -> Maps:
    spatial = activations.shape[2:]
    leading = gradients.shape[: gradients.dim() - (1 if method == methods.WEIGHTS_GIVEN else len(spatial) + 1)]
    channels = activations.shape[1] if methods.keeps_weights(method) else 0
    dtype = accumulation_dtype(activations.dtype)
    return (
        activations.new_empty(*leading, *(spatial if size is None else size)),
        activations.new_empty(*leading, prod(spatial), dtype=dtype),
        activations.new_empty(*leading, channels, dtype=dtype),
    )


def _cam_pool_vmap(
    call: Kernel, batch_size: int, in_dims: Any, activations: Tensor, gradients: Tensor, method: int, *options: Any
) -> tuple[Maps, int]:
    shared = in_dims[0] is None
    rank = 2 if method == methods.WEIGHTS_GIVEN else activations.dim() - (not shared)
    activations, gradients = (
        activations if shared else to_front(activations, in_dims[0], batch_size),
        to_front(gradients, in_dims[1], batch_size),
    )
    several = gradients.dim() - 1 > rank
    if shared:  # the mapped dimension is one of targets for the same activations
        merged = gradients.flatten(0, 1) if several else gradients
        outputs = call(activations, merged, method, *options)
        at, sizes = 0, gradients.shape[: 1 + several]
    else:
        at, sizes = int(several), activations.shape[:2]
        merged = gradients.movedim(0, at).flatten(at, at + 1)
        outputs = call(activations.flatten(0, 1), merged, method, *options)
    return tuple(out.unflatten(at, sizes) for out in outputs), at


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: Maps) -> None:
    ctx.options = inputs[2:]
    # Maps and weights are results of the operation, so that double backward can differentiate through them.
    ctx.save_for_backward(inputs[0], inputs[1], outputs[1], outputs[2])
    ctx.save_for_forward(inputs[0], inputs[1])


def _over_targets(grad: Tensor, activations: Tensor) -> Tensor:
    return grad.sum(0) if grad.dim() > activations.dim() else grad


def _added(grad: Tensor, other: Tensor) -> Tensor:
    """The sum of both; if a result was not used, autograd passes plain zeros as `other`, which DTensors cannot add."""
    if type(other) is Tensor and type(grad).__name__ == "DTensor":
        return grad
    return grad + other


def _channel_sums(activations: Tensor, weights: Tensor) -> Tensor:
    """Sum ``(B, C, S)`` over channels with weights ``(…, B, C)`` to ``(…, B, S)``.

    It calls the operation itself, which adds in a fixed order.
    """
    sums: Tensor = _cam_pool(activations, weights, methods.WEIGHTS_GIVEN, False, 0, None)[1]
    return sums


# On a GPU, products of matrices and PyTorch's gradient of an interpolation are not used: in deterministic mode, cuBLAS
# requires CUBLAS_WORKSPACE_CONFIG, and that gradient raises because it adds with atomics.


def _may_multiply(tensor: Tensor) -> bool:
    """Whether products of matrices are deterministic in every mode."""
    return tensor.device.type == "cpu"


def _resized_transpose(grad: Tensor, spatial: Sequence[int], size: Sequence[int] | None) -> Tensor:
    """The transpose of `methods.resized`, ``(…, *size)`` to ``(…, S)``, one axis after the other."""
    rank = len(spatial)
    leading = grad.shape[: grad.dim() - rank]
    if size is not None:
        for axis, (inner, outer) in enumerate(zip(spatial, size, strict=True)):
            dim = axis - rank
            matrix = replicated_like(methods.interpolation(inner, outer, grad), grad)
            grad = _product(grad.movedim(dim, -1), matrix).movedim(-1, dim)
    return grad.reshape(*leading, prod(spatial))


def _product(values: Tensor, matrix: Tensor) -> Tensor:
    """``(…, i) @ (i, j)``."""
    if type(values).__name__ == "DTensor":  # matmul flattens (…), which raises for DTensors with uneven shards
        return (values.unsqueeze(-1) * matrix).sum(-2)
    if _may_multiply(values):
        return values @ matrix
    leading, (outer, inner) = values.shape[:-1], matrix.shape
    rows = values.reshape(1, prod(leading), outer)
    sums = _channel_sums(rows.transpose(1, 2), matrix.t().unsqueeze(1))
    return sums.squeeze(1).t().reshape(*leading, inner)


_TARGETS_AT_ONCE = 8  # a limit to the memory for products


def _sum_over_targets(weights: Tensor, grad: Tensor) -> Tensor:
    """``(B, C, S)``, the sum over targets of ``(T, B, C)`` times ``(T, B, S)``."""
    if _may_multiply(grad):
        return weights.permute(1, 2, 0) @ grad.transpose(0, 1)
    at_once = weights.shape[0] if type(weights).__name__ == "DTensor" else _TARGETS_AT_ONCE
    parts = zip(weights.split(at_once), grad.split(at_once), strict=True)
    sums = [(weights_part.unsqueeze(-1) * grad_part.unsqueeze(-2)).sum(0) for weights_part, grad_part in parts]
    return sum(sums[1:], sums[0])


def _grad_of_maps(ctx: Any, maps: Tensor, spatial: Sequence[int], grad_out: Tensor) -> Tensor:
    """The gradient of the raw maps, from the gradient of the rectified, normalised and resized maps."""
    _, relu, normalize, size = ctx.options
    grad = _resized_transpose(grad_out.to(maps.dtype), spatial, size)
    grad = methods.normalized_transpose(maps.relu() if relu else maps, grad, normalize)
    return torch.where(maps > 0, grad, 0.0) if relu else grad


def _backward(ctx: Any, grad_out: Tensor, grad_maps: Tensor, grad_weights: Tensor) -> tuple[Any, ...]:
    activations, gradients, maps, weights = ctx.saved_tensors
    method = ctx.options[0]
    grad = _added(_grad_of_maps(ctx, maps, activations.shape[2:], grad_out), grad_maps)
    needs_activations, needs_gradients = ctx.needs_input_grad[:2]
    if methods.weighs_channels(method):
        weights = weights if methods.keeps_weights(method) else gradients
        grad_a, grad_g = _weighted_backward(ctx, activations, gradients, weights, grad, grad_weights)
    else:
        a, g = _inputs(activations, gradients, method)
        by_a, by_g = methods.product_slopes(a, g, method)
        grad = grad.unsqueeze(-2)
        grad_a = _over_targets(grad * by_a, a) if needs_activations else None
        grad_g = grad * by_g if needs_gradients else None
    return (
        None if grad_a is None else grad_a.to(activations.dtype).reshape(activations.shape),
        None if grad_g is None else grad_g.to(gradients.dtype).reshape(gradients.shape),
        *[None] * 4,
    )


def _weighted_backward(
    ctx: Any, activations: Tensor, gradients: Tensor, weights: Tensor, grad: Tensor, grad_weights: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients with respect to flat activations, and to `gradients` or given weights."""
    method = ctx.options[0]
    needs_activations, needs_gradients = ctx.needs_input_grad[:2]
    grad_a: Tensor | None = None
    grad_g: Tensor | None = None
    if needs_activations:
        several = weights.dim() > 2
        grad_a = _sum_over_targets(weights, grad) if several else weights.unsqueeze(-1) * grad.unsqueeze(-2)
    if needs_gradients or method in (methods.XGRADCAM, methods.GRADCAM_PLUS_PLUS):
        # A weight's gradient is the sum over positions of its channel's activations times the map's gradient: the
        # operation itself with channels and positions exchanged.
        flat = activations.reshape(*activations.shape[:2], prod(activations.shape[2:]))
        grad_w = _channel_sums(flat.transpose(1, 2), grad)
        if method == methods.WEIGHTS_GIVEN:
            return grad_a, grad_w
        a, g = _inputs(activations, gradients, method)
        grad_w = _added(grad_w, grad_weights)
        through_a, grad_g = methods.channel_weights_transpose(a, g, weights, grad_w, method)
        if grad_a is not None and through_a is not None:
            grad_a = grad_a + _over_targets(through_a, a)
    return grad_a, grad_g


def _jvp(ctx: Any, tangent_a: Tensor | None, tangent_g: Tensor | None, *_: Any) -> Maps:
    activations, gradients = ctx.saved_tensors
    method, relu, normalize, size = ctx.options
    a, g = _inputs(activations, gradients, method)
    rank = activations.dim() - 2
    if tangent_a is not None:
        tangent_a = _flat(tangent_a, rank)
    if tangent_g is not None and method != methods.WEIGHTS_GIVEN:
        tangent_g = _flat(tangent_g, rank)
    if methods.weighs_channels(method):
        weights = methods.channel_weights(a, g, method)
        weights_tangent = methods.channel_weights_tangent(a, g, tangent_a, tangent_g, method)
        maps, tangent = methods.weighted_sum(a, weights), methods.weighted_sum(a, weights_tangent)
        if tangent_a is not None:
            tangent = tangent + methods.weighted_sum(tangent_a, weights)
    else:
        maps = methods.sum_of_products(a, g, method)
        by_a, by_g = methods.product_slopes(a, g, method)
        tangent = torch.zeros_like(maps)
        if tangent_a is not None:
            tangent = tangent + (by_a * tangent_a).sum(-2)
        if tangent_g is not None:
            tangent = tangent + (by_g * tangent_g).sum(-2)
    if not methods.keeps_weights(method):
        weights_tangent = maps.new_zeros(*maps.shape[:-1], 0)
    out = torch.where(maps > 0, tangent, 0.0) if relu else tangent
    out = methods.normalized_tangent(maps.relu() if relu else maps, out, normalize)
    out = methods.resized(out, activations.shape[2:], size).to(activations.dtype)
    return out, tangent, weights_tangent


def _cam_pool_sharding(activations: Tensor, gradients: Tensor, method: int, *_: Any) -> list[Option]:
    # A dimension of targets is before that of the samples. All targets have the same activations.
    several = gradients.ndim > (2 if method == methods.WEIGHTS_GIVEN else activations.ndim)
    by_sample: list[Option] = [(int(several), [0, int(several)])]
    return [*by_sample, (0, [REPLICATE, 0])] if several else by_sample


# In addition to the result, the operation returns the maps (…, S) before they are rectified and, for methods that
# compute channel weights from gradients, these weights (…, C). With them the derivative reads each input once.
_cam_pool = define(
    "cam_pool(Tensor activations, Tensor gradients, int method, bool relu, int normalize, SymInt[]? size)"
    " -> (Tensor, Tensor, Tensor)",
    reference=_cam_pool_reference,
    fake=_cam_pool_fake,
    vmap=_cam_pool_vmap,
    sharding=_cam_pool_sharding,
    derivative=Derivative(_save, _backward, _jvp),
)


@register_flop_formula(torch.ops.torchext.cam_pool)
def _cam_pool_flops(activations: Sequence[int], gradients: Sequence[int], method: int, *_: Any, **__: Any) -> int:
    """A product and a sum for each channel, position, sample and target."""
    targets = gradients[0] if len(gradients) > (2 if method == methods.WEIGHTS_GIVEN else len(activations)) else 1
    return 2 * targets * prod(activations)


def cam_pool(
    activations: Tensor,
    gradients: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    method: Method = "gradcam",
    relu: bool = True,
    normalize: Literal["max", "minmax"] | None = "max",
    size: int | Sequence[int] | None = None,
    grid: Sequence[int] | None = None,
    prefix_tokens: int = 0,
) -> Tensor:
    """Pool activations into a class activation map, by Grad-CAM or a related method.

    The map is a sum over channels, which is then rectified, normalised and resized. `method` defines the term of each
    channel, computed from its activations A and the gradients G of the score with respect to A. Sums and means over s'
    are over all positions:

    - ``"gradcam"``: ``mean_s'(G) · A`` (Selvaraju et al., "Grad-CAM", ICCV 2017).
    - ``"gradcam++"``: ``Σ_s'(G² / (2·G² + Σ A·G³) · relu(G)) · A``, Σ A over positions (Chattopadhay et al.,
      "Grad-CAM++", WACV 2018, equations 12 and 19).
    - ``"xgradcam"``: ``(Σ_s' G·A / Σ_s' A) · A`` (Fu et al., "Axiom-based Grad-CAM", BMVC 2020).
    - ``"layercam"``: ``relu(G) · A`` (Jiang et al., "LayerCAM", IEEE TIP 2021).
    - ``"hirescam"``: ``G · A`` (Draelos and Carin, "Use HiResCAM instead of Grad-CAM", 2020).
    - ``"gradcam_elementwise"``: ``relu(G · A)`` (the variant of that name in pytorch-grad-cam).
    - `weights` instead of gradients: ``weights · A``, for CAM (Zhou et al., CVPR 2016), Score-CAM and Ablation-CAM.

    A quotient whose denominator is 0 is 0.

    Args:
        activations: ``(B, C, *S)`` with one to three spatial dimensions, a float dtype, any strides; with `grid`,
            tokens ``(B, N, C)``. Channels-last maps and tokens are read in place.
        gradients: the same shape, or ``(T, B, C, *S)`` or ``(T, B, N, C)`` for T targets, for which activations are
            read once; mixed float dtypes are promoted.
        weights: ``(B, C)`` or ``(T, B, C)`` instead of gradients; `method` is then not used.
        method: one of the methods above.
        relu: set negative values of the map to 0. A map that is 0 everywhere then means that no position raises the
            score.
        normalize: ``"max"`` divides by the map's largest absolute value, ``"minmax"`` scales it to [0, 1], None
            does not normalise. A zero map, and with ``"minmax"`` a constant map, is 0 in every dtype.
        size: spatial size of the result; None keeps S. The map is resized linearly after it is normalised, as
            `torch.nn.functional.interpolate` does with ``align_corners=False``, so that the maximum of a resized map
            may be less than 1.
        grid: the spatial size S of the tokens, which are in row-major order.
        prefix_tokens: the number of class and register tokens before the tokens of the grid.

    Returns:
        Row-major ``(B, *S)`` or ``(B, *size)``, with T targets ``(T, B, …)``, of the tensors' promoted dtype; half
        precision is computed in float32.

    Raises:
        TypeError: a wrong type, or not a float dtype.
        ValueError: a wrong shape or option, or not exactly one of `gradients` and `weights`.

    Note:
        Deterministic: the same bits in every run and for any number of threads. NaN passes through. Differentiable
        any number of times in all tensors; where several positions share the largest value, they share its gradient.

    Examples:
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[1.0, 1.0]], [[-1.0, 0.0]]]])
        >>> torchext.cam_pool(activations, gradients)
        tensor([[[0., 1.]]])
        >>> torchext.cam_pool(activations, weights=torch.tensor([[1.0, 0.5]]), normalize=None)
        tensor([[[3., 2.]]])
    """
    checks.floats("activations", activations)
    name, source = _source(gradients, weights)
    checks.option("method", method, _METHODS)
    checks.flag("relu", relu)
    checks.option("normalize", normalize, _NORMALIZE)
    if activations.device != source.device:
        raise ValueError(f"{name}: expected device {activations.device} as of activations, got {source.device}")
    expected = activations.shape if weights is None else _channels(activations, grid)
    if source.shape != expected and source.shape[1:] != expected:
        several = ", ".join(map(str, ("T", *expected)))
        raise ValueError(f"{name}: expected {tuple(expected)} or ({several}), got {tuple(source.shape)}")
    if grid is not None or prefix_tokens != 0:
        tokens = _token_grid(activations, grid, prefix_tokens)
        activations = _maps_of_tokens(activations, tokens)
        source = source if weights is not None else _maps_of_tokens(source, tokens)
    rank = activations.dim() - 2
    if not 1 <= rank <= 3:
        raise ValueError(f"activations: expected (B, C, *S) with 3 to 5 dimensions, got {tuple(activations.shape)}")
    shape = None if size is None else checks.sizes("size", size, rank, least=1)
    if shape is not None:
        checks.fits("size", size, shape)
    if shape is not None and 0 in activations.shape[2:]:
        raise ValueError(f"activations: expected a map to resize, got an empty one {tuple(activations.shape)}")
    if activations.dtype != source.dtype:
        dtype = torch.promote_types(activations.dtype, source.dtype)
        activations, source = activations.to(dtype), source.to(dtype)
    code = methods.METHODS[method]
    if weights is not None:
        code, source = methods.WEIGHTS_GIVEN, source.to(accumulation_dtype(source.dtype))
    maps: Tensor = _cam_pool(activations, source, code, relu, methods.NORMALIZE[normalize], shape)[0]
    return maps


_METHODS, _NORMALIZE = tuple(methods.METHODS), tuple(methods.NORMALIZE)


def _source(gradients: Tensor | None, weights: Tensor | None) -> tuple[str, Tensor]:
    """The argument that weights the activations, and its name."""
    if (gradients is None) == (weights is None):
        given = "neither" if weights is None else "both"
        raise ValueError(f"gradients: expected either gradients or weights, got {given}")
    name, source = ("gradients", gradients) if weights is None else ("weights", weights)
    checks.floats(name, source)
    return name, source  # type: ignore[return-value]  # checks.floats raises for None


def _channels(activations: Tensor, grid: Any) -> tuple[int, ...]:
    """The shape of one weight for each channel."""
    return (activations.shape[0], activations.shape[1 if grid is None else -1]) if activations.dim() > 1 else (0, 0)


def _token_grid(tokens: Tensor, grid: Sequence[int] | None, prefix_tokens: int) -> tuple[int, ...]:
    """Check the grid of tokens (B, N, C); returns (prefix_tokens, *grid)."""
    if grid is None:
        raise ValueError(f"prefix_tokens: expected 0 without a grid, got {prefix_tokens}")
    if not isinstance(grid, (tuple, list)):
        raise TypeError(f"grid: expected a sequence of ints, got {type(grid).__name__}")
    if not 1 <= len(grid) <= 3:
        raise ValueError(f"grid: expected 1 to 3 sizes, got {tuple(grid)}")
    if tokens.dim() != 3:
        raise ValueError(f"activations: expected tokens (B, N, C) for a grid, got {tuple(tokens.shape)}")
    sizes = checks.sizes("grid", grid, len(grid), least=1)
    prefix = checks.integer("prefix_tokens", prefix_tokens)
    if prefix < 0:
        raise ValueError(f"prefix_tokens: expected a number of tokens, got {prefix}")
    if prefix + prod(sizes) != tokens.shape[1]:
        raise ValueError(
            f"grid: expected {tokens.shape[1] - prefix} tokens ({tokens.shape[1]} in activations minus {prefix} prefix "
            f"tokens), got {prod(sizes)} in {sizes}"
        )
    return prefix, *sizes


def _maps_of_tokens(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """View tokens (…, N, C) as maps (…, C, *grid)."""
    prefix, *sizes = grid
    maps: Tensor = tokens[..., prefix:, :].transpose(-1, -2).unflatten(-1, sizes)
    return maps
