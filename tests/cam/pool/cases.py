"""The rows of cam_pool in the conformance table."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import FLOATS, Operation, Sample, WrongCall, make_values
from torchext._core.library import reference_only


def _channel_weights(a: Tensor, g: Tensor, method: str) -> Tensor:
    """The channel weights of one sample (C, S), with the formulas of the papers."""
    if method == "gradcam":
        return g.mean(1)
    if method == "xgradcam":
        return (g * a / a.sum(1, keepdim=True)).sum(1)
    alpha = g**2 / (2 * g**2 + a.sum(1, keepdim=True) * g**3)
    return (alpha * g.clamp(min=0)).sum(1)


def _raw_cam(a: Tensor, g: Tensor, method: str, given: bool) -> Tensor:
    """The map (*S) of one sample (C, *S)."""
    if method == "layercam":
        return torch.einsum("cs,cs->s", g.flatten(1).clamp(min=0), a.flatten(1)).view(a.shape[1:])
    if method == "hirescam":
        return torch.einsum("cs,cs->s", g.flatten(1), a.flatten(1)).view(a.shape[1:])
    if method == "gradcam_elementwise":
        return (g * a).clamp(min=0).sum(0)
    weights = g if given else _channel_weights(a.flatten(1), g.flatten(1), method)
    return torch.einsum("c,c...->...", weights, a)


def cam_by_einsum(activations: Tensor, source: Tensor, *, given: bool = False, method: str = "gradcam",
                  relu: bool = True, normalize: str | None = "max", size: Any = None, grid: Any = None,
                  prefix_tokens: int = 0) -> Tensor:  # fmt: skip
    """The maps, one target and one sample after the other; `source` is weights or gradients."""
    if source.dim() > (2 if given else activations.dim()):
        options = {"method": method, "relu": relu, "normalize": normalize, "size": size, "grid": grid}
        return torch.stack(
            [cam_by_einsum(activations, s, given=given, prefix_tokens=prefix_tokens, **options) for s in source]
        )
    if grid is not None:
        activations, source = (
            t if t.dim() == 2 else t[:, prefix_tokens:].mT.reshape(t.shape[0], t.shape[2], *grid)
            for t in (activations, source)
        )
    maps = []
    for a, g in zip(activations, source, strict=True):
        one = _raw_cam(a, g, method, given)
        one = one.relu() if relu else one
        if normalize == "max" and one.numel() and one.any():
            one = one / one.abs().max()
        if normalize == "minmax" and one.numel():
            low, high = one.min(), one.max()
            one = (one - low) / (high - low) if high > low else torch.zeros_like(one)
        maps.append(one)
    out = torch.stack(maps) if maps else activations[:, :0].sum(1)
    if size is None:
        return out
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[out.dim() - 1]
    return F.interpolate(out[:, None], size, mode=mode)[:, 0]


def cam_of(activations: Tensor, source: Tensor, *, given: bool = False, **options: Any) -> Tensor:
    """cam_pool with gradients, or with weights if `given`."""
    if given:
        return torchext.cam_pool(activations, weights=source, **options)
    return torchext.cam_pool(activations, source, **options)


def cam_by_reference(*args: Any, **options: Any) -> Tensor:
    with reference_only():
        return cam_of(*args, **options)


def make_activations(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Numbers of both signs whose sum over positions is not close to 0, where some methods have a pole."""
    return make_values(shape, dtype, device, generator) + 1.5


CAM_METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam_elementwise")


def random_cam_pool(draw: Draw) -> Call:
    grid = draw.sizes(draw.between(1, 3), 1, 2, 5, 9, 20)
    batch, channels = draw.between(1, 3), draw.between(1, 70)
    dtype = draw.one_of(*FLOATS)
    shape = (batch, channels, *grid)
    targets = draw.one_of((), (1,), (4,), (6,))

    kind = draw.one_of("random", "random", "random", "zero", "constant", "nan")

    def numbers(shape: tuple[int, ...], mean: float) -> Tensor:
        flat = {"zero": 0.0, "constant": 1.0}.get(kind)
        values = torch.randn(shape, generator=draw.generator) + mean if flat is None else torch.full(shape, flat)
        if kind == "nan" and mean:
            values[0, 0] = math.nan
        return draw.laid_out(values.to(dtype))

    # Values far from 0, since some methods divide by the sum of the activations.
    activations = numbers(shape, 3)
    options: dict[str, Any] = {"relu": draw.flip(), "normalize": draw.one_of("max", "minmax", None)}
    if draw.between(0, 6) == 0:
        options["weights"] = numbers((*targets, batch, channels), 0)
    else:
        options |= {"gradients": numbers((*targets, *shape), 0), "method": draw.one_of(*CAM_METHODS)}
    if draw.flip():
        options["size"] = draw.sizes(len(grid), 1, 7, 24)
    return Call("cam_pool", (activations,), options)


_maps = torch.ones(2, 3, 4, 5)

CAM_POOL = Operation(
    name="cam_pool",
    function=cam_of,
    reference=cam_by_reference,
    independent=cam_by_einsum,
    make=(make_activations, make_values),
    dtypes=FLOATS,
    independent_dtypes=(torch.float32, torch.float64),
    default_dtype=torch.float64,
    samples=(
        Sample("plain", ((2, 5, 7, 7),) * 2),
        Sample("raw", ((2, 5, 4, 3),) * 2, {"relu": False, "normalize": None}),
        Sample("signed", ((2, 5, 4, 3),) * 2, {"relu": False}),
        Sample("minmax", ((2, 5, 4, 3),) * 2, {"relu": False, "normalize": "minmax"}),
        Sample("enlarged", ((2, 5, 4, 3),) * 2, {"size": (9, 14)}),
        Sample("reduced", ((2, 5, 8, 9),) * 2, {"size": (3, 4), "relu": False}),
        Sample("square", ((2, 5, 4, 3),) * 2, {"size": 6, "normalize": "minmax", "relu": False}),
        Sample("audio", ((2, 5, 23),) * 2, {"size": (40,)}),
        Sample("volume", ((2, 4, 3, 4, 5),) * 2, {"size": (5, 4, 7)}),
        Sample("one pixel", ((2, 5, 1, 1),) * 2, {"relu": False, "size": (2, 3)}),
        Sample("many channels", ((1, 700, 7, 7),) * 2, {"relu": False}),
        Sample("empty batch", ((0, 5, 4, 3),) * 2, {"size": (6, 6)}),
        Sample("targets", ((2, 5, 4, 3), (3, 2, 5, 4, 3)), {"size": (5, 6)}, batched=False),
        Sample("plus plus", ((2, 5, 4, 3),) * 2, {"method": "gradcam++", "relu": False, "normalize": None}),
        Sample("xgradcam", ((2, 4, 4, 3), (2, 2, 4, 4, 3)), {"method": "xgradcam", "relu": False}, batched=False),
        Sample("layercam", ((2, 4, 4, 3), (2, 2, 4, 4, 3)), {"method": "layercam", "normalize": None}, batched=False),
        Sample("tokens", ((2, 13, 4),) * 2, {"method": "gradcam++", "grid": (4, 3), "prefix_tokens": 1, "relu": False}),
        Sample("elementwise tokens", ((2, 6, 4),) * 2, {"method": "gradcam_elementwise", "grid": (2, 3)}),
        Sample("given weights", ((2, 5, 4, 3), (2, 5)), {"given": True, "relu": False, "normalize": "minmax"}),
    ),
    wrong=(
        WrongCall("pixels", lambda: torchext.cam_pool(_maps, _maps, size=2**40), ValueError, "size: expected at most 2.59"),
        WrongCall("type", lambda: torchext.cam_pool([1.0], _maps), TypeError, "activations: expected a tensor, got list"),
        WrongCall("dtype", lambda: torchext.cam_pool(_maps, _maps.int()), TypeError, "gradients: expected float16.*got torch.int32"),
        WrongCall("shape", lambda: torchext.cam_pool(_maps, _maps[:1]), ValueError, r"gradients: expected \(2, 3, 4, 5\) or \(T, 2, 3, 4, 5\), got \(1, 3, 4, 5\)"),
        WrongCall("neither", lambda: torchext.cam_pool(_maps), ValueError, "gradients: expected either gradients or weights, got neither"),
        WrongCall("both", lambda: torchext.cam_pool(_maps, _maps, weights=_maps[:, :, 0, 0]), ValueError, "gradients: expected either .*, got both"),
        WrongCall("weights", lambda: torchext.cam_pool(_maps, weights=_maps[0, 0]), ValueError, r"weights: expected \(2, 3\) or \(T, 2, 3\), got \(4, 5\)"),
        WrongCall("weights type", lambda: torchext.cam_pool(_maps, weights=[1.0]), TypeError, "weights: expected a tensor, got list"),
        WrongCall("method", lambda: torchext.cam_pool(_maps, _maps, method="scorecam"), ValueError, "method: expected one of 'gradcam', .*, got 'scorecam'"),
        WrongCall("no tokens", lambda: torchext.cam_pool(_maps, _maps, grid=(4, 5)), ValueError, r"activations: expected tokens \(B, N, C\) for a grid, got"),
        WrongCall("grid", lambda: torchext.cam_pool(_maps[0], _maps[0], grid=(2, 3)), ValueError, r"grid: expected 4 tokens \(4 in activations minus 0 prefix tokens\), got 6 in \(2, 3\)"),
        WrongCall("grid type", lambda: torchext.cam_pool(_maps[0], _maps[0], grid=4), TypeError, "grid: expected a sequence of ints, got int"),
        WrongCall("prefix", lambda: torchext.cam_pool(_maps[0], _maps[0], grid=(5,), prefix_tokens=-1), ValueError, "prefix_tokens: expected a number of tokens, got -1"),
        WrongCall("prefix alone", lambda: torchext.cam_pool(_maps[0], _maps[0], prefix_tokens=1), ValueError, "prefix_tokens: expected 0 without a grid, got 1"),
        WrongCall("rank", lambda: torchext.cam_pool(_maps[0, 0], _maps[0, 0]), ValueError, r"activations: .*got \(4, 5\)"),
        WrongCall("normalize", lambda: torchext.cam_pool(_maps, _maps, normalize="mean"), ValueError, "normalize: expected one of None, 'max', 'minmax', got 'mean'"),
        WrongCall("relu", lambda: torchext.cam_pool(_maps, _maps, relu="no"), TypeError, "relu: expected a bool, got str"),
        WrongCall("size", lambda: torchext.cam_pool(_maps, _maps, size=(2, 3, 4)), ValueError, "size: expected an int or 2 of them"),
        WrongCall("size zero", lambda: torchext.cam_pool(_maps, _maps, size=0), ValueError, "size: expected at least 1"),
        WrongCall("empty map", lambda: torchext.cam_pool(_maps[:, :, :0], _maps[:, :, :0], size=3), ValueError, "activations: expected a map to resize"),
    ),
    launches=3,
    random_call=random_cam_pool,
    random_calls_round=True,
    pieces_follow_index_width=True,
    other_sizes=tuple(Sample(f"{size}", ((4, 2, 8, 8),) * 2, {"size": size}) for size in (16, 4)),
)  # fmt: skip

OPERATIONS = (CAM_POOL,)
