"""Tests of patchify and unpatchify beyond the conformance table."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import torchext
from tests.conformance.table import FLOATS, LABELS, make_values
from torchext.windows import patches

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _every_byte(height: int = 32, width: int = 48) -> Tensor:
    return torch.arange(2 * 3 * height * width).mul(7).to(torch.uint8).reshape(2, 3, height, width)


def test_patchify_equals_the_einops_formulation() -> None:
    einops = pytest.importorskip("einops")
    images = _every_byte().permute(0, 2, 3, 1).contiguous()
    mean, std = (torch.tensor(IMAGENET[name]) for name in ("mean", "std"))
    floats = (images.float() / 255 - mean) / std
    for order, token in (("CPP", "(c p q)"), ("PPC", "(p q c)")):
        expected = einops.rearrange(floats, f"n (h p) (w q) c -> n (h w) {token}", p=16, q=16)
        tokens = torchext.patchify(images, 16, input_layout="NHWC", token_order=order, **IMAGENET)
        torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize("order", ["CPP", "PPC"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_unpatchify_restores_uint8_images_exactly(layout: Any, order: Any) -> None:
    images = _every_byte()
    if layout == "NHWC":
        images = images.permute(0, 2, 3, 1)
    for dtype in (torch.float32, torch.float64):
        for size, grid in ((16, (2, 3)), ((2, 3), (16, 16)), ((32, 1), (1, 48)), (1, (32, 48))):
            tokens = torchext.patchify(images, size, dtype=dtype, input_layout=layout, token_order=order, **IMAGENET)
            back = torchext.unpatchify(
                tokens, size, grid, dtype=torch.uint8, output_layout=layout, token_order=order, **IMAGENET
            )
            assert torch.equal(back, images)


def test_every_dtype_is_converted_to_every_other() -> None:
    generator = torch.Generator().manual_seed(0)
    for source in (*LABELS, *FLOATS):
        images = make_values((2, 3, 6, 34), source, "cpu", generator)
        for target in FLOATS:
            options: dict[str, Any] = {"dtype": target, **IMAGENET}
            for order in ("CPP", "PPC"):
                tokens = torchext.patchify(images, (3, 17), token_order=order, **options)
                expected = torchext.reference.patchify(images, (3, 17), token_order=order, **options)
                assert tokens.dtype == target
                torch.testing.assert_close(tokens, expected)
    for source in FLOATS:
        tokens = make_values((2, 4, 153), source, "cpu", generator)
        for written in (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, *FLOATS):
            for layout in ("NCHW", "NHWC"):
                options = {"dtype": written, "output_layout": layout, "std": 0.4, "scale": 0.01}
                images = torchext.unpatchify(tokens, (3, 17), 2, **options)
                expected = torchext.reference.unpatchify(tokens, (3, 17), 2, **options)
                assert images.dtype == written
                if written.is_floating_point:
                    torch.testing.assert_close(images, expected)
                else:  # a half may be rounded in either direction, since the kernel rounds once less
                    assert int((images.double() - expected.double()).abs().max()) <= 1


@pytest.mark.parametrize("function", [torchext.patchify, torchext.reference.patchify], ids=["kernel", "reference"])
def test_error_is_at_most_three_units_in_the_last_place_of_the_larger_term(function: Any) -> None:
    photo, noise = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), torch.randn(1, 1, 64, 64)
    cases = [(photo, mean, std) for mean, std in zip(IMAGENET["mean"], IMAGENET["std"], strict=True)]
    generator = random.Random(0)
    cases += [(noise, generator.uniform(-2, 2), generator.uniform(0.1, 1.1)) for _ in range(300)]
    for images, mean, std in cases:
        scaled = images.double().flatten() / (255 if images.dtype == torch.uint8 else 1)
        tokens = function(images, images.shape[2:], mean=mean, std=std).double().flatten()
        _, exponent = torch.frexp(torch.maximum(scaled.abs(), torch.tensor(mean).double().abs()) / std)
        unit = torch.exp2(exponent.double() - 24)
        assert float(((tokens - (scaled - mean) / std).abs() / unit).max()) <= 3


def test_values_are_copied_without_normalisation() -> None:
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, -3.5, 2.0])
    for dtype in FLOATS:
        images = special.to(dtype).repeat(4).reshape(1, 1, 4, 8)
        tokens = torchext.patchify(images, (2, 4))
        expected = images.reshape(2, 2, 2, 4).transpose(1, 2).reshape(1, 4, 8)
        torch.testing.assert_close(tokens, expected, rtol=0, atol=0, equal_nan=True)
        numbers = ~expected.isnan()  # the sign of a NaN is undefined
        assert torch.equal(tokens.signbit() & numbers, expected.signbit() & numbers)
        torch.testing.assert_close(torchext.unpatchify(tokens, (2, 4), 2), images, rtol=0, atol=0, equal_nan=True)


def test_integers_are_rounded_half_to_even_and_saturate() -> None:
    values = [0.5, 1.5, 2.5, 254.5, 255.5, 300.0, -0.5, -7.0, float("inf"), float("-inf"), float("nan"), 3.49]
    expected = [0, 2, 2, 254, 255, 255, 0, 0, 255, 0, 0, 3]
    for dtype in (torch.float16, torch.float32, torch.float64):
        tokens = torch.tensor(values, dtype=dtype).repeat(3).reshape(1, 1, 36)
        images = torchext.unpatchify(tokens, (1, 36), 1, scale=1, dtype=torch.uint8)
        assert images.flatten().tolist() == expected * 3
    wide = torch.tensor([[3e9, -3e9, 2.5, float("nan")]], dtype=torch.float64)
    assert torchext.unpatchify(wide, 2, 1, dtype=torch.int32).flatten().tolist() == [2**31 - 1, -(2**31), 2, 0]
    assert torchext.unpatchify(wide, 2, 1, dtype=torch.uint32).flatten().tolist() == [3 * 10**9, 0, 2, 0]


def test_integers_saturate_in_float32_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "widest_float", lambda device: torch.float32)
    tokens = torch.tensor([[3e9, -3e9, 2.5, float("inf")]])
    for dtype, expected in (
        (torch.int32, [2**31 - 1, -(2**31), 2, 2**31 - 1]),
        (torch.uint32, [3 * 10**9, 0, 2, 2**32 - 1]),
    ):
        assert torchext.reference.unpatchify(tokens, 2, 1, dtype=dtype).flatten().tolist() == expected


def test_integer_images_have_no_gradient() -> None:
    tokens = torch.randn(1, 4, 4, requires_grad=True)
    assert not torchext.unpatchify(tokens, 2, 2, dtype=torch.uint8).requires_grad
    assert torchext.unpatchify(tokens, 2, 2).requires_grad
    assert not torchext.patchify(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 2).requires_grad


def test_only_uint8_is_scaled_by_1_255_by_default() -> None:
    white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    assert float(torchext.patchify(white, 2).max()) == 1
    assert float(torchext.patchify(white.int(), 2).max()) == 255
    assert float(torchext.patchify(white, 2, scale=1.0).max()) == 255
    assert float(torchext.unpatchify(torchext.patchify(white, 2), 2, 1).max()) == 1


def test_tokens_of_integer_images_have_the_default_dtype() -> None:
    images = torch.zeros(1, 1, 2, 2, dtype=torch.int16)
    assert torchext.patchify(images, 2).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert torchext.patchify(images, 2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_cache_distinguishes_equal_numbers_of_other_types() -> None:
    images = torch.zeros(1, 1, 2, 2)
    torchext.patchify(images, 2, mean=1.0)
    with pytest.raises(TypeError, match="mean: expected a number or a sequence of numbers, got bool"):
        torchext.patchify(images, 2, mean=True)


def test_numbers_may_be_numpy_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    images = torch.rand(2, 3, 4, 6)
    expected = torchext.patchify(images, 2, mean=(0.5, 0.25, 0.125), std=0.5, scale=2.0)
    mean = numpy.array([0.5, 0.25, 0.125], dtype=numpy.float32)
    for means in (mean, list(mean), mean.astype(numpy.float64)):
        numbers = {"mean": means, "std": numpy.float32(0.5), "scale": numpy.int64(2)}
        tokens = torchext.patchify(images, 2, **numbers)
        assert torch.equal(tokens, expected)
        torch.testing.assert_close(torchext.unpatchify(tokens, 2, (2, 3), **numbers), images)
    for wrong in ("0.5", torch.ones(3), [True] * 3, ["0.5"] * 3):
        with pytest.raises(TypeError, match="mean: expected a number"):
            torchext.patchify(images, 2, mean=wrong)
    with pytest.raises(ValueError, match="scale: expected a number that float64 holds"):
        torchext.patchify(images, 2, scale=10**400)


def test_modules_call_the_functions() -> None:
    images = _every_byte()
    tokens = torchext.nn.Patchify(16, token_order="PPC", **IMAGENET)(images)
    assert torch.equal(tokens, torchext.patchify(images, 16, token_order="PPC", **IMAGENET))
    back = torchext.nn.Unpatchify(16, (2, 3), dtype=torch.uint8, token_order="PPC", **IMAGENET)
    assert torch.equal(back(tokens), images)
    assert "token_order='PPC'" in repr(back)


def test_nonzero_bytes_of_bool_are_true_in_patchify() -> None:
    images = torch.tensor([[[[2, 0], [255, 1]]]], dtype=torch.uint8).view(torch.bool)
    assert torchext.patchify(images, 2).tolist() == [[[1, 0, 1, 1]]]
    assert torchext.patchify(images, 2, mean=0.5).tolist() == [[[0.5, -0.5, 0.5, 0.5]]]


def test_the_cache_distinguishes_negative_zero() -> None:
    images = torch.full((1, 1, 1, 1), -0.0)
    for mean in (-0.0, 0.0, -0.0):
        for function in (torchext.patchify, torchext.reference.patchify):
            sign = torch.signbit(function(images, 1, mean=mean))
            assert sign.item() == torch.signbit(images - mean).item()
