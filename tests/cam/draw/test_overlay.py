"""Tests of overlay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import torchext

cv2 = pytest.importorskip("cv2")

COLORMAPS = ("jet", "turbo", "viridis", "magma")


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_colours_equal_those_of_opencv(colormap: Any) -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    expected = cv2.applyColorMap(levels, getattr(cv2, f"COLORMAP_{colormap.upper()}"))[0, :, ::-1]
    maps = torch.arange(256, dtype=torch.float64)[None, None] / 255
    found = torchext.overlay(torch.zeros(1, 3, 1, 256), maps, alpha=1.0, colormap=colormap)
    assert np.array_equal(found[0, :, 0].T.numpy(), expected)


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("blend", ["add", "mix"])
def test_blends(blend: Any, as_float: bool) -> None:
    photo, maps = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8), torch.rand(2, 5, 7)
    heat = torchext.overlay(torch.zeros_like(photo), maps, alpha=1.0, colormap="turbo").double()
    kept = 0.7 if blend == "mix" else 1.0
    expected = (0.3 * heat + kept * photo.double()).round().clamp(0, 255).to(torch.uint8)
    images = photo.double() / 255 if as_float else photo
    found = torchext.overlay(images, maps, alpha=0.3, colormap="turbo", blend=blend)
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (found == expected).double().mean() > 0.98


def test_alpha_may_be_a_numpy_number() -> None:
    photo, maps = torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4)
    assert torch.equal(torchext.overlay(photo, maps, alpha=np.float32(0.5)), torchext.overlay(photo, maps, alpha=0.5))


def test_maps_of_another_size_are_resized() -> None:
    maps = torch.rand(2, 3, 4)
    larger = torch.nn.functional.interpolate(maps[:, None], (9, 8), mode="bilinear", align_corners=False)[:, 0]
    photo = torch.rand(2, 3, 9, 8)
    assert torch.equal(torchext.overlay(photo, maps), torchext.overlay(photo, larger))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"colormap": "hot"}, ValueError, "colormap: expected one of 'jet', 'turbo', 'viridis', 'magma', got 'hot'"),
        ({"blend": "screen"}, ValueError, "blend: expected one of 'add', 'mix', got 'screen'"),
        ({"alpha": 1.5}, ValueError, r"alpha: expected a number in \[0, 1\], got 1.5"),
        ({"alpha": True}, TypeError, "alpha: expected a number, got bool"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchext.overlay(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), **options)


def test_the_default_blend_is_visible_on_every_image() -> None:
    maps = torch.linspace(0, 1, 64).view(1, 8, 8)
    heat = torchext.overlay(torch.zeros(1, 3, 8, 8), maps, alpha=1.0).double()
    for level in (0, 128, 255):
        photo = torch.full((1, 3, 8, 8), level, dtype=torch.uint8)
        found = torchext.overlay(photo, maps)
        assert torch.equal(found, torchext.overlay(photo, maps, alpha=0.4, blend="mix"))
        torch.testing.assert_close(found.double(), 0.4 * heat + 0.6 * level, rtol=0, atol=0.501)
        assert bool(((found.int() - level).abs().amax(1) > 40).all())


def test_an_added_overlay_is_the_weighted_colour_added_to_the_photo() -> None:
    photo = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    maps = torch.linspace(0, 1, 16).view(1, 4, 4)
    blended = torchext.overlay(photo, maps, blend="add")
    heat = torchext.overlay(torch.zeros_like(photo), maps, alpha=1.0)
    expected = (0.4 * heat.double() + photo.double()).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(blended, expected)
    # The colours of OpenCV's COLORMAP_JET at four levels, as red, green and blue.
    known = {0: (0, 0, 128), 64: (0, 128, 255), 128: (130, 255, 126), 255: (128, 0, 0)}
    for level, colour in known.items():
        image = torchext.overlay(photo[:, :, :1, :1] * 0, torch.full((1, 1, 1), level / 255), alpha=1.0)
        assert tuple(image.flatten().tolist()) == colour


def test_overlay_takes_float_images_and_smaller_maps() -> None:
    photo = torch.rand(2, 3, 8, 8)
    assert torch.equal(torchext.overlay(photo, torch.rand(2, 2, 2), alpha=0.0), (photo * 255).round().to(torch.uint8))


@pytest.mark.parametrize(
    ("images", "cams", "error", "message"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.int32), torch.zeros(1, 4, 4), TypeError, "images: expected uint8"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4), ValueError, r"images: expected \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 4, 4), ValueError, r"cams: expected \(1, h, w\), got \(2, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).int(), TypeError, "cams: expected float16, bfloat16"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, device="meta"), ValueError, "cams: expected device cpu"),
    ],
)
def test_overlay_of_wrong_input_raises(images: Tensor, cams: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchext.overlay(images, cams)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["images", "cams"])
def test_values_outside_0_to_1_are_refused(name: str, dtype: torch.dtype) -> None:
    call = {"images": torch.rand(1, 3, 4, 4, dtype=dtype), "cams": torch.rand(1, 4, 4, dtype=dtype)}
    remedy = {"images": "undo the normalisation of the model's input, .*", "cams": '.*normalize="minmax".*'}[name]
    flat = call[name].view(-1)
    for low, high, found in ((-0.5, 1, "from -0.5 to 1"), (0, 255, "from 0 to 255"), (0, torch.inf, "from 0 to inf")):
        flat[0], flat[1] = low, high
        with pytest.raises(ValueError, match=rf"^{name}: expected values in \[0, 1\], got values {found}; {remedy}$"):
            torchext.overlay(**call)
    flat[1] = torch.nan
    with pytest.raises(ValueError, match=rf"^{name}: expected values in \[0, 1\], got NaN$"):
        torchext.overlay(**call)


def test_a_normalised_image_is_refused_and_its_rounding_errors_are_not() -> None:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    photo, maps = torch.rand(2, 3, 16, 16), torch.rand(2, 4, 4)
    photo[:, :, 0, 0], photo[:, :, 0, 1] = 0, 1
    normalised = (photo - mean) / std
    with pytest.raises(ValueError, match=r"^images: expected values in \[0, 1\], got values from -2.1179 to 2.64;"):
        torchext.overlay(normalised, maps)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        torchext.overlay(normalised.to(dtype) * std.to(dtype) + mean.to(dtype), maps.to(dtype))
    for value in (-1 / 256, 1 + 1 / 256):
        torchext.overlay(torch.full((1, 3, 2, 2), value), torch.full((1, 2, 2), value))


def test_values_that_cannot_be_read_are_not_checked() -> None:
    images, maps = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)
    expected = torchext.overlay(images, maps)
    assert torchext.overlay(images.to("meta"), maps.to("meta")).shape == expected.shape
    assert torch.equal(torch.vmap(torchext.overlay)(images[:, None], maps[:, None])[:, 0], expected)
    with FakeTensorMode():
        assert torchext.overlay(torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)).shape == expected.shape
    for mode in ("real", "fake", "symbolic"):
        traced = make_fx(lambda images, maps: torchext.overlay(images, maps), tracing_mode=mode)(images, maps)
        assert torch.equal(traced(images, maps), expected)
    assert torchext.overlay(images[:0], maps[:0]).shape == (0, 3, 4, 4)


def test_the_colour_table_is_not_kept_from_a_trace() -> None:
    photo, maps = torch.zeros(1, 3, 4, 4), torch.rand(1, 4, 4)
    expected = torchext.overlay(photo, maps)
    with torch.device("meta"):
        assert torch.equal(torchext.overlay(photo, maps), expected)
    assert torch.equal(torch.compile(torchext.overlay, fullgraph=True, backend="aot_eager")(photo, maps), expected)
    assert torch.equal(torchext.overlay(photo, maps), expected)
