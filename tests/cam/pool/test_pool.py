"""Tests of cam_pool beyond the conformance table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchext
from tests.cam.pool.cases import cam_by_einsum, cam_of
from tests.conformance.table import FLOATS

METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam_elementwise")


def test_the_maximum_of_a_map_is_one() -> None:
    maps = torchext.cam_pool(torch.rand(4, 6, 5, 5), torch.rand(4, 6, 5, 5))
    torch.testing.assert_close(maps.amax((1, 2)), torch.ones(4))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("normalize", ["max", "minmax", None])
@pytest.mark.parametrize("size", [None, (9, 8)])
def test_a_zero_map_is_zero(dtype: torch.dtype, normalize: Any, size: Any) -> None:
    zeros, ones = torch.zeros(2, 3, 4, 5, dtype=dtype), torch.ones(2, 3, 4, 5, dtype=dtype)
    for activations, gradients in ((zeros, ones), (ones, zeros), (ones, -ones)):
        maps = torchext.cam_pool(activations, gradients, normalize=normalize, size=size)
        assert torch.equal(maps, torch.zeros_like(maps))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_constant_map_has_no_contrast(dtype: torch.dtype) -> None:
    ones = torch.ones(2, 3, 4, 5, dtype=dtype)
    assert torchext.cam_pool(ones, ones, normalize="minmax").any() == 0
    assert bool((torchext.cam_pool(ones, ones, normalize="max") == 1).all())


@pytest.mark.parametrize("method", [*METHODS, "given"])
@pytest.mark.parametrize("targets", [(), (6,)])
@pytest.mark.parametrize("cam_pool", [torchext.cam_pool, torchext.reference.cam_pool], ids=["native", "reference"])
def test_equal_positions_have_equal_sums(cam_pool: Any, targets: tuple[int, ...], method: str) -> None:
    for channels in (3, 37, 64):
        activations = torch.randn(2, channels, 1, 1).expand(2, channels, 5, 7)
        gradients = torch.randn(*targets, 2, channels, 1, 1).expand(*targets, 2, channels, 5, 7)
        options: dict[str, Any] = {"weights": gradients[..., 0, 0]}
        if method != "given":
            options = {"gradients": gradients.contiguous(), "method": method}
        maps = cam_pool(activations.contiguous(), **options, normalize="minmax", relu=False)
        assert not maps.any()


def test_nan_passes_through_and_stays_in_its_sample() -> None:
    activations, gradients = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    activations[1, 2, 0, 0] = float("nan")
    for normalize in ("max", "minmax", None):
        maps = torchext.cam_pool(activations, gradients, normalize=normalize)
        assert maps[0].isfinite().all()
        assert maps[1].isnan().sum() == (1 if normalize is None else 20)


@pytest.mark.parametrize(("spatial", "size"), [((3,), (9,)), ((4,), (7,)), ((3, 3), (9, 9)), ((3, 4), (5, 8))])
def test_infinity_in_a_resized_map_gives_no_more_nan_than_interpolate(
    spatial: tuple[int, ...], size: tuple[int, ...]
) -> None:
    mode = {1: "linear", 2: "bilinear"}[len(size)]
    for place in range(spatial[-1]):
        activations = torch.randn(1, 1, *spatial)
        activations[..., place] = torch.inf
        expected = torch.nn.functional.interpolate(activations, size, mode=mode, align_corners=False)[0]
        maps = torchext.cam_pool(activations, weights=torch.ones(1, 1), normalize=None, relu=False, size=size)
        known = ~expected.isnan()
        torch.testing.assert_close(maps[known], expected[known])


def test_half_precision_does_not_overflow_internally() -> None:
    activations = torch.full((1, 64, 2, 2), 3e4, dtype=torch.float16)
    activations[0, :, 0, 0] = 6e4
    maps = torchext.cam_pool(activations, activations)
    torch.testing.assert_close(maps, torch.tensor([[[1, 0.5], [0.5, 0.5]]], dtype=torch.float16))


def test_mixed_dtypes_promote() -> None:
    a, g = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    assert torchext.cam_pool(a.bfloat16(), g).dtype == torch.float32
    assert torchext.cam_pool(a.bfloat16(), g.half()).dtype == torch.float32


def test_equal_maxima_share_the_gradient() -> None:
    activations = torch.tensor([[[[2.0, 2.0, 1.0]]]], requires_grad=True)
    torchext.cam_pool(activations, torch.ones(1, 1, 1, 3))[0, 0, 2].backward()
    torch.testing.assert_close(activations.grad, torch.tensor([[[[-0.125, -0.125, 0.5]]]]))


def test_a_zero_map_has_a_zero_gradient() -> None:
    activations = torch.zeros(1, 2, 3, 3, requires_grad=True)
    torchext.cam_pool(activations, torch.ones(1, 2, 3, 3)).sum().backward()
    assert torch.equal(activations.grad, torch.zeros(1, 2, 3, 3))


def test_tokens_are_read_in_place() -> None:
    tokens, gradients = torch.randn(2, 12, 7), torch.randn(2, 12, 7)

    def as_maps(values: Tensor) -> Tensor:
        return values.transpose(1, 2).unflatten(2, (3, 4))

    expected = torchext.cam_pool(as_maps(tokens).contiguous(), as_maps(gradients).contiguous())
    torch.testing.assert_close(torchext.cam_pool(as_maps(tokens), as_maps(gradients)), expected)


every_method = pytest.mark.parametrize("method", METHODS)


def _channels_last(maps: Tensor) -> Tensor:
    return maps.movedim(-3, -1).contiguous().movedim(-1, -3)


@every_method
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, _channels_last], ids=["rows", "channels last"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 1, 1), (2, 9, 5, 5), (8, 37, 14, 14), (1, 700, 7, 7), (2, 33, 56, 56), (1, 9, 130, 130)]
)
def test_every_method_equals_the_formula_of_its_paper(method: str, layout: Any, shape: tuple[int, ...]) -> None:
    activations, gradients = torch.rand(shape), torch.randn(6, *shape)
    options = {"method": method, "relu": False}
    expected = cam_by_einsum(activations.double(), gradients.double(), **options)
    actual = torchext.cam_pool(layout(activations), layout(gradients), **options)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-4, atol=1e-4)
    mixed = torchext.cam_pool(layout(activations), gradients, **options)
    torch.testing.assert_close(mixed, actual, rtol=1e-4, atol=1e-4)
    each = [torchext.cam_pool(layout(activations), layout(one), **options) for one in gradients]
    torch.testing.assert_close(actual, torch.stack(each))


@every_method
def test_a_zero_denominator_gives_zero(method: str) -> None:
    activations = torch.tensor([[[1.0, -1.0], [-2.0, 0.0]]])  # sums of 0 and of -2
    gradients = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]])
    maps = torchext.cam_pool(activations, gradients, method=method, relu=False, normalize=None)
    assert maps.isfinite().all()
    known = {
        "xgradcam": [-2.0, 0.0],  # the weight of the first channel is 0
        "gradcam++": [2.0, -2.0],  # the weights are 1/2 + 3/2, and 0 for the denominator 2 - 2·1
    }
    if method in known:
        torch.testing.assert_close(maps, torch.tensor([known[method]]))
    leaves = [activations.requires_grad_(), gradients.requires_grad_()]
    torchext.cam_pool(*leaves, method=method).sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@every_method
@pytest.mark.parametrize("at", [0, 1], ids=["activations", "gradients"])
def test_nan_passes_through_every_method(method: str, at: int) -> None:
    inputs = [torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)]
    inputs[at][1, 2, 0, 0] = float("nan")
    maps = torchext.cam_pool(*inputs, method=method, relu=False, normalize=None)
    assert maps[0].isfinite().all()
    assert maps[1, 0, 0].isnan()


def test_gradcam_plus_plus_handles_very_small_and_large_gradients() -> None:
    """The third powers of these gradients would underflow or overflow."""
    activations, gradients = torch.rand(1, 4, 5, 5), torch.rand(1, 4, 5, 5)
    for scale in (1e-20, 1e20):
        maps = torchext.cam_pool(activations, gradients * scale, method="gradcam++")
        assert maps.isfinite().all()
        torch.testing.assert_close(maps.amax(), torch.tensor(1.0))


def test_given_weights_are_used() -> None:
    activations, weights = torch.randn(2, 5, 4, 3), torch.randn(6, 2, 5)
    expected = torch.einsum("tbc,bchw->tbhw", weights, activations)
    actual = torchext.cam_pool(activations, weights=weights, relu=False, normalize=None)
    torch.testing.assert_close(actual, expected)
    half = torchext.cam_pool(activations.half(), weights=weights[0].half(), relu=False, normalize=None)
    assert half.dtype == torch.float16


def test_tokens_are_a_grid_after_a_prefix() -> None:
    tokens, gradients = torch.randn(2, 17, 7), torch.randn(3, 2, 17, 7)

    def as_maps(values: Tensor) -> Tensor:
        return values[..., 5:, :].mT.unflatten(-1, (3, 4)).contiguous()

    for method in METHODS:
        actual = torchext.cam_pool(tokens, gradients, method=method, grid=(3, 4), prefix_tokens=5)
        expected = torchext.cam_pool(as_maps(tokens), as_maps(gradients), method=method)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert torchext.cam_pool(tokens, weights=torch.rand(2, 7), grid=(17,)).shape == (2, 17)


@every_method
def test_double_backward_of_targets(method: str) -> None:
    """Maps as a training signal: differentiable twice, also if targets share activations in half precision."""
    activations = (torch.rand(2, 3, 3, 2, dtype=torch.float64) + 0.5).requires_grad_()
    gradients = torch.randn(2, 2, 3, 3, 2, dtype=torch.float64, requires_grad=True)

    def pooled(*inputs: Tensor) -> Tensor:
        return torchext.cam_pool(*inputs, method=method, size=(4, 3), normalize="minmax", relu=False)

    assert torch.autograd.gradcheck(pooled, (activations, gradients), fast_mode=True)
    assert torch.autograd.gradgradcheck(pooled, (activations, gradients), fast_mode=True)
    half = [x.detach().bfloat16().requires_grad_() for x in (activations, gradients)]
    (pooled(*half) ** 2).sum().backward()
    assert [x.grad.dtype for x in half] == [torch.bfloat16] * 2


@pytest.mark.parametrize("targets", [(), (6,)])
def test_derivatives_by_given_weights(targets: tuple[int, ...]) -> None:
    activations = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(*targets, 2, 3, dtype=torch.float64, requires_grad=True)

    def pooled(*inputs: Tensor) -> Tensor:
        return cam_of(*inputs, given=True, relu=False)

    assert torch.autograd.gradcheck(pooled, (activations, weights), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(pooled, (activations, weights), fast_mode=True)


@pytest.mark.parametrize("method", ["gradcam", "xgradcam"])
@pytest.mark.parametrize(("targets", "size"), [((), (5, 7)), ((3,), None), ((2,), (6, 2)), ((11,), (3, 4))])
def test_derivatives_without_matrix_products(
    monkeypatch: pytest.MonkeyPatch, targets: tuple[int, ...], size: Any, method: str
) -> None:
    activations = torch.rand(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    gradients = torch.rand(*targets, 2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    inputs = (activations, gradients)

    def function(activations: Tensor, gradients: Tensor) -> Tensor:
        return torchext.cam_pool(activations, gradients, method=method, size=size, normalize=None, relu=False)

    out = function(*inputs)
    of_out = torch.randn_like(out)
    expected = torch.autograd.grad(out, inputs, of_out)
    monkeypatch.setattr("torchext.cam.pool._may_multiply", lambda tensor: False)  # as on a GPU
    torch.testing.assert_close(torch.autograd.grad(function(*inputs), inputs, of_out), expected)
    of_each = torch.vmap(lambda one: torch.func.vjp(function, *inputs)[1](one))(torch.stack([of_out, -of_out]))
    torch.testing.assert_close(of_each, tuple(torch.stack([one, -one]) for one in expected))
    if len(targets) == 0 or targets[0] < 11:
        assert torch.autograd.gradgradcheck(function, inputs)
    curvature = torch.func.jacfwd(torch.func.grad(lambda a: function(a, gradients.detach()).square().sum()))
    again = torch.func.jacrev(torch.func.grad(lambda a: function(a, gradients.detach()).square().sum()))
    torch.testing.assert_close(curvature(activations.detach()), again(activations.detach()))


def test_mapped_gradients_are_targets() -> None:
    activations, gradients = torch.rand(2, 3, 4, 5), torch.randn(4, 6, 2, 3, 4, 5)

    def pooled(source: Tensor) -> Tensor:
        return torchext.cam_pool(activations, source, method="xgradcam")

    expected = torch.stack([pooled(one) for one in gradients])
    torch.testing.assert_close(torch.vmap(pooled)(gradients), expected)
    torch.testing.assert_close(torch.vmap(torch.vmap(pooled))(gradients), expected)
    torch.testing.assert_close(torch.vmap(pooled, in_dims=1, out_dims=1)(gradients), expected)
